//! Attacks on the TLS handshake.

use std::io;
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;

use super::{Party, drain};

/// A whole ClientHello; whatever comes back is read and never answered.
pub async fn silence(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.encrypted, false).await?;
    let name = ServerName::try_from("relay.load.invalid").map_err(io::Error::other)?;
    let config = Arc::clone(party.tls.config());
    let mut client = ClientConnection::new(config, name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    stream.write_all(&hello).await?;
    party.note();
    drain(&mut stream).await
}

/// The head of a record that announces more than ever comes.
pub async fn garbage(party: &Party) -> io::Result<()> {
    let mut stream = party.open(party.targets.encrypted, false).await?;
    stream.write_all(&[22, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc]).await?;
    party.note();
    drain(&mut stream).await
}

pub async fn handshake(party: &Party) -> io::Result<()> {
    let stream = party.open(party.targets.encrypted, false).await?;
    let name = ServerName::try_from("relay.load.invalid").map_err(io::Error::other)?;
    let encrypted = party.tls.connect(name, stream).await?;
    party.note();
    drop(encrypted);
    Ok(())
}
