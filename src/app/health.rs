//! Whether the server is ready, told over a unix socket in the data directory.
//!
//! Whoever connects gets one JSON line, `{"ready":true,"reasons":[]}`, and the connection is closed; nothing is read.
//! Who the socket belongs to, and how a long path is reached, is `admin::socket`'s.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::admin::socket::{Socket, SocketError, connect};

/// The socket's name in the data directory.
pub const SOCKET_NAME: &str = "health.sock";

/// A client that does not take its line by then is dropped.
const WRITE_TIMEOUT: Duration = Duration::from_secs(1);
/// A server that has not answered by then is not ready.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// After a failed accept, so that a lack of file descriptors does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// No answer is longer, in bytes.
const MAX_ANSWER: u64 = 64 * 1024;

/// Whether mail is taken and relayed, and if not, why not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Health {
    /// Whether all is well.
    pub ready: bool,
    /// One sentence for each thing that is not; may also be there when `ready`, as a note.
    pub reasons: Vec<String>,
}

/// What can go wrong with the socket.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// It cannot be made, or is another server's.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Nobody listens.
    #[error("no oncemail is running on {}: {error}", .path.display())]
    NotRunning {
        /// The data directory.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// A server is there but does not answer.
    #[error("oncemail did not answer within {} seconds", ASK_TIMEOUT.as_secs())]
    NoAnswer,
    /// What came is no answer.
    #[error("the answer of the health socket cannot be read: {0}")]
    BadAnswer(String),
}

/// The socket of a running server; removed when it is dropped.
pub struct HealthSocket(Socket);

impl HealthSocket {
    /// Makes the socket in `data_dir`, which must exist. Only the server's own user can connect.
    ///
    /// # Errors
    /// When a server answers there already, or it cannot be made.
    pub async fn bind(data_dir: &Path) -> Result<Self, HealthError> {
        Ok(Self(Socket::bind(data_dir, SOCKET_NAME).await?))
    }

    /// Answers with what `report` says at that moment, until `shutdown`.
    pub async fn serve(self, report: impl Fn() -> Health + Send, shutdown: CancellationToken) {
        while let Some(accepted) = shutdown.run_until_cancelled(self.0.accept()).await {
            match accepted {
                Ok(stream) => answer(stream, &report()).await,
                Err(error) => {
                    tracing::warn!(%error, "the health socket cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Writes the line. A client that is gone or slow is its own problem.
async fn answer(mut stream: UnixStream, health: &Health) {
    let Ok(mut line) = serde_json::to_vec(health) else { return };
    line.push(b'\n');
    let _ = timeout(WRITE_TIMEOUT, stream.write_all(&line)).await;
}

/// Asks the server that runs on `data_dir`.
///
/// # Errors
/// When there is none, or it does not answer within 5 seconds.
pub async fn ask(data_dir: &Path) -> Result<Health, HealthError> {
    let not_running = |error| HealthError::NotRunning { path: data_dir.to_owned(), error };
    let exchange = async {
        let stream = connect(data_dir, SOCKET_NAME).await.map_err(not_running)?;
        let mut line = Vec::new();
        let read = stream.take(MAX_ANSWER).read_to_end(&mut line).await;
        read.map_err(|error| HealthError::BadAnswer(error.to_string()))?;
        serde_json::from_slice(&line).map_err(|error| HealthError::BadAnswer(error.to_string()))
    };
    timeout(ASK_TIMEOUT, exchange).await.unwrap_or(Err(HealthError::NoAnswer))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn not_ready() -> Health {
        Health { ready: false, reasons: vec!["the disk is nearly full".to_owned()] }
    }

    #[tokio::test]
    async fn the_answer_is_what_the_server_says_at_that_moment() {
        let dir = tempfile::tempdir().unwrap();
        let socket = HealthSocket::bind(dir.path()).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(socket.serve(not_ready, shutdown.clone()));
        assert_eq!(ask(dir.path()).await.unwrap(), not_ready());
        shutdown.cancel();
        server.await.unwrap();
        assert!(matches!(ask(dir.path()).await, Err(HealthError::NotRunning { .. })));
        assert!(!dir.path().join(SOCKET_NAME).exists());
    }

    #[tokio::test]
    async fn a_socket_that_is_left_over_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SOCKET_NAME);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = HealthSocket::bind(dir.path()).await.unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(
            HealthSocket::bind(dir.path()).await,
            Err(HealthError::Socket(SocketError::InUse(_)))
        ));
        drop(socket);
    }

    #[tokio::test]
    async fn a_data_directory_with_a_long_path_is_reachable() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let socket = HealthSocket::bind(&deep).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(socket.serve(not_ready, shutdown.clone()));
        assert_eq!(ask(&deep).await.unwrap(), not_ready());
        shutdown.cancel();
        server.await.unwrap();
        assert!(!deep.join(SOCKET_NAME).exists());
    }
}
