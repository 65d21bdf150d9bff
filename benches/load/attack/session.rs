//! Attacks on the SMTP session.

use std::io;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::{Party, drain};

/// Up to the content of a message, in one write.
pub const TO_CONTENT: &[u8] =
    b"EHLO siege.invalid\r\nMAIL FROM:<a@siege.invalid>\r\nRCPT TO:<b@siege.invalid>\r\nDATA\r\n";
/// Up to its first chunk.
pub const TO_CHUNKS: &[u8] =
    b"EHLO siege.invalid\r\nMAIL FROM:<a@siege.invalid>\r\nRCPT TO:<b@siege.invalid>\r\n";
const SECOND: Duration = Duration::from_secs(1);
/// A connection without a greeting by then is given up.
const GREETED_WITHIN: Duration = Duration::from_secs(5);
/// 50 connections that pause for so long make no more than 5,000 a second.
const BETWEEN_CONNECTS: Duration = Duration::from_millis(10);
/// Commands in one write of a flood.
const AT_ONCE: usize = 200;
/// Octets of an AUTH command.
const GIANT: usize = 1 << 20;

pub async fn idle(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.open, false).await?;
    // In a burst the system may call a connection established that the relay never hears of (SYN cookies).
    timeout(GREETED_WITHIN, stream.read_exact(&mut [0; 3])).await??;
    party.note();
    drain(&mut stream).await
}

pub async fn connect(party: &Party, reads: bool) -> io::Result<()> {
    let mut stream = party.open(party.targets.open, false).await?;
    if reads {
        stream.read_exact(&mut [0; 3]).await?;
    }
    party.note();
    drop(stream);
    sleep(BETWEEN_CONNECTS).await;
    Ok(())
}

/// Says `first`, and then an octet each second; what comes back is read.
pub async fn slow(party: &Party, first: &[u8], octet: u8) -> io::Result<()> {
    let stream = party.open(party.targets.open, false).await?;
    let (mut reader, mut writer) = stream.into_split();
    let reading = tokio::task::spawn_local(async move {
        let mut some = vec![0; 1_024];
        while reader.read(&mut some).await.is_ok_and(|read| read > 0) {}
    });
    writer.write_all(first).await?;
    while !reading.is_finished() {
        writer.write_all(&[octet]).await?;
        party.note();
        sleep(SECOND).await;
    }
    Ok(())
}

pub async fn never_reads(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.open, true).await?;
    let commands = b"NOOP\r\n".repeat(AT_ONCE);
    loop {
        stream.write_all(&commands).await?;
        party.note();
    }
}

/// `again` and again, as fast as it is answered.
pub async fn flood(party: &Party, first: &[u8], again: &[u8]) -> io::Result<()> {
    let stream = party.open(party.targets.open, false).await?;
    let (mut reader, mut writer) = stream.into_split();
    let commands = again.repeat(AT_ONCE);
    let writing = async {
        writer.write_all(first).await?;
        loop {
            writer.write_all(&commands).await?;
            party.note();
        }
    };
    let reading = async {
        let mut some = vec![0; 16 * 1024];
        while reader.read(&mut some).await? > 0 {}
        io::Result::<()>::Err(io::ErrorKind::UnexpectedEof.into())
    };
    tokio::select! {
        ended = writing => ended,
        ended = reading => ended,
    }
}

/// One wrong password a connection: an address may have several, and there are many addresses.
pub async fn guess(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.guarded, false).await?;
    let guess = BASE64_STANDARD.encode(format!("\0honest\0{}", rand::random::<u64>()));
    stream.read_exact(&mut [0; 3]).await?;
    stream.write_all(format!("EHLO siege.invalid\r\nAUTH PLAIN {guess}\r\nQUIT\r\n").as_bytes()).await?;
    drain(&mut stream).await?;
    party.note();
    Ok(())
}

pub async fn giant_auth(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.guarded, false).await?;
    stream.write_all(b"EHLO siege.invalid\r\nAUTH PLAIN ").await?;
    let said = stream.write_all(&vec![b'A'; GIANT]).await;
    party.note();
    said?;
    stream.write_all(b"\r\nQUIT\r\n").await?;
    drain(&mut stream).await
}
