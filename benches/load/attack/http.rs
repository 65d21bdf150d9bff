//! Attacks on the administration.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use super::{Party, drain};

/// A head of which an octet comes each second.
pub async fn slowly(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.admin, false).await?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await?;
    loop {
        stream.write_all(b"x").await?;
        party.note();
        sleep(Duration::from_secs(1)).await;
    }
}

/// Asks for the stream, and never reads it.
pub async fn follow(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.admin, true).await?;
    let request = format!("GET /api/v1/stream HTTP/1.1\r\nHost: {}\r\n\r\n", party.targets.admin);
    stream.write_all(request.as_bytes()).await?;
    party.note();
    loop {
        // Noticed when the far side has closed.
        sleep(Duration::from_secs(1)).await;
        stream.write_all(b"\r\n").await?;
    }
}

/// A body that says it is long, and is.
pub async fn body(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.admin, false).await?;
    let request = format!(
        "POST /api/v1/reload HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n",
        party.targets.admin
    );
    stream.write_all(request.as_bytes()).await?;
    let some = vec![b' '; 64 * 1024];
    loop {
        stream.write_all(&some).await?;
        party.note();
    }
}

pub async fn token(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.admin, false).await?;
    let request = format!(
        "GET /api/v1/overview HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {:x}\r\nConnection: close\r\n\r\n",
        party.targets.admin,
        rand::random::<u64>()
    );
    stream.write_all(request.as_bytes()).await?;
    drain(&mut stream).await?;
    party.note();
    Ok(())
}
