//! A server that answers the command line with the documents that a test gives it, on a socket in a data directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::{oneshot, watch};

use super::https_server::{Asked, http, serve};

/// Runs in a thread of its own, so that a test may wait for a process.
pub struct AdminServer {
    asked: watch::Receiver<Vec<Asked>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Listens on `admin.sock` in `data_dir`, which is made.
    pub fn start(data_dir: &Path, answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        std::fs::create_dir_all(data_dir).unwrap();
        let path = data_dir.join("admin.sock");
        let (sender, asked) = watch::channel(Vec::new());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = listen(&path);
                ready.send(()).unwrap();
                let shared = Arc::new((answer, sender));
                tokio::select! {
                    _ = stopped => {}
                    () = accept(listener, shared) => {}
                }
            });
        });
        is_ready.recv().unwrap();
        Self { asked, stop: Some(stop), thread: Some(thread) }
    }

    /// Request lines so far, such as `GET /api/v1/overview`.
    pub fn lines(&self) -> Vec<String> {
        self.asked().iter().map(line).collect()
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.borrow().clone()
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept<F>(listener: UnixListener, shared: Arc<(F, watch::Sender<Vec<Asked>>)>)
where
    F: Fn(&Asked) -> Vec<u8> + Send + Sync + 'static,
{
    while let Ok((mut stream, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(
            async move { serve(&mut stream, &|asked: &Asked, _| (shared.0)(asked), &shared.1).await },
        );
    }
}

/// A path that is too long for a socket's address goes through /proc, as it does in the server.
fn listen(path: &Path) -> UnixListener {
    if path.as_os_str().len() <= 107 {
        return UnixListener::bind(path).unwrap();
    }
    use std::os::fd::AsRawFd;
    let directory = std::fs::File::open(path.parent().unwrap()).unwrap();
    let short = PathBuf::from(format!("/proc/self/fd/{}/admin.sock", directory.as_raw_fd()));
    UnixListener::bind(short).unwrap()
}

/// Method and target.
pub fn line(asked: &Asked) -> String {
    let line = asked.head.lines().next().unwrap_or_default();
    line.trim_end_matches(" HTTP/1.1").to_owned()
}

/// 200 with a document.
pub fn ok(document: &impl Serialize) -> Vec<u8> {
    http("200 OK", "application/json", &serde_json::to_string(document).unwrap())
}

/// A problem document.
pub fn problem(status: &str, detail: &str) -> Vec<u8> {
    let number: u16 = status.split(' ').next().unwrap().parse().unwrap();
    let body =
        serde_json::json!({"type": "about:blank", "title": status, "status": number, "detail": detail});
    http(status, "application/problem+json", &body.to_string())
}
