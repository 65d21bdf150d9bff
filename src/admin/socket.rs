//! Unix sockets in the data directory, for the server's own user.
//!
//! A socket belongs to whoever holds the data directory (D5): one that nobody listens to is left over and replaced, one
//! that answers is never taken away from its owner. A path that is too long for a socket address is reached through
//! the directory's file descriptor.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// The name of the API's socket in the data directory.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// `sun_path` of unix(7) without its final NUL, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// Why a socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another process answers there.
    #[error("another oncemail is running on {}", .0.display())]
    InUse(PathBuf),
    /// The system does not let us.
    #[error("cannot make the socket {}: {error}", .path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// The system's words.
        error: io::Error,
    },
}

/// A socket that is listened on; removed when it is dropped.
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    /// Makes the socket `name` in `data_dir`, which must exist. Only the server's own user can connect.
    ///
    /// # Errors
    /// [`SocketError::InUse`] when a server answers there already, [`SocketError::Bind`] otherwise.
    pub async fn bind(data_dir: &Path, name: &str) -> Result<Self, SocketError> {
        let is_in_use = match connect(data_dir, name).await {
            Ok(_) => true,
            // Somebody listens, but is busy.
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_in_use {
            return Err(SocketError::InUse(data_dir.to_owned()));
        }
        let path = data_dir.join(name);
        remove(&path);
        let bound = listen(data_dir, name, &path);
        bound
            .map(|listener| Self { listener, path: path.clone() })
            .map_err(|error| SocketError::Bind { path, error })
    }

    /// The next client.
    ///
    /// # Errors
    /// The system's, such as a lack of file descriptors.
    ///
    /// # Cancel safety
    /// A dropped future has accepted nobody.
    pub async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Connects to the socket `name` in `data_dir`.
///
/// # Errors
/// The system's words when nobody listens there.
pub async fn connect(data_dir: &Path, name: &str) -> io::Result<UnixStream> {
    let reachable = Reachable::new(data_dir, name)?;
    UnixStream::connect(&reachable.path).await
}

fn listen(data_dir: &Path, name: &str, path: &Path) -> io::Result<UnixListener> {
    let reachable = Reachable::new(data_dir, name)?;
    let listener = UnixListener::bind(&reachable.path)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[expect(clippy::disallowed_methods, reason = "the socket is this module's own; it holds nothing")]
fn remove(path: &Path) {
    // What cannot be removed makes the bind fail, with the system's words.
    let _ = std::fs::remove_file(path);
}

/// The socket's path in a form that fits into a socket address: a path that is too long goes through the directory's
/// file descriptor, which Linux shows under /proc.
struct Reachable {
    path: PathBuf,
    /// Keeps the descriptor open as long as the path is in use.
    _directory: Option<File>,
}

impl Reachable {
    fn new(data_dir: &Path, name: &str) -> io::Result<Self> {
        let path = data_dir.join(name);
        if path.as_os_str().len() <= MAX_SOCKET_PATH {
            return Ok(Self { path, _directory: None });
        }
        let directory = File::open(data_dir)?;
        let path = PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()));
        Ok(Self { path, _directory: Some(directory) })
    }
}
