//! SIGTERM and SIGINT: the first asks for an orderly end, the second ends the process at once.
//!
//! SIGHUP asks for the configuration to be read again.
//!
//! An end at once loses nothing that was acknowledged: that is the store's promise (D1), and the reason why it is
//! allowed here.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Listens for signals from now on; the token is cancelled by the first one.
///
/// # Errors
/// When the system refuses a handler. Must be called within a tokio runtime.
pub fn install() -> io::Result<CancellationToken> {
    listen(|exit_code| std::process::exit(exit_code))
}

/// SIGHUP, from now on; before it is listened for it ends the process.
///
/// # Errors
/// When the system refuses a handler. Must be called within a tokio runtime.
pub fn hangups() -> io::Result<Hangups> {
    signal(SignalKind::hangup()).map(Hangups)
}

/// See [`hangups`].
#[derive(Debug)]
pub struct Hangups(Signal);

impl Hangups {
    /// Waits for the next one. Those that come while nobody waits are one.
    ///
    /// # Cancel safety
    /// None is lost.
    pub async fn next(&mut self) {
        if self.0.recv().await.is_none() {
            // The runtime has let go of it.
            std::future::pending().await
        }
    }
}

fn listen(end_at_once: impl FnOnce(i32) + Send + 'static) -> io::Result<CancellationToken> {
    let mut signals =
        Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? };
    let token = CancellationToken::new();
    let first = token.clone();
    tokio::spawn(async move {
        let (name, _) = signals.next().await;
        tracing::info!(signal = name, "stopping; a second signal stops at once");
        first.cancel();
        let (name, exit_code) = signals.next().await;
        tracing::warn!(signal = name, "stopping at once");
        end_at_once(exit_code);
    });
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// The next signal: its name, and the exit code that a shell would report for it (128 and its number).
    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            Some(()) = self.terminate.recv() => ("SIGTERM", 128 + 15),
            Some(()) = self.interrupt.recv() => ("SIGINT", 128 + 2),
            // The runtime has let go of both: no signal can come any more.
            else => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{Signal, getpid, kill_process};
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_ends_at_once() {
        let (tell, ended) = oneshot::channel();
        let token = listen(move |exit_code| tell.send(exit_code).unwrap()).unwrap();
        assert!(!token.is_cancelled());
        kill_process(getpid(), Signal::TERM).unwrap();
        token.cancelled().await;
        kill_process(getpid(), Signal::INT).unwrap();
        assert_eq!(ended.await, Ok(130));
    }
}
