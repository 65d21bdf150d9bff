//! A kill at a moment that counts: whoever sees it pulls the trigger, so that the process dies within microseconds of
//! its own 250, of its final dot, or of the reply to that.

use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

/// A moment at which a promise is at stake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// An application has read a 250.
    Acknowledged,
    /// A far side has read a final dot.
    Dot,
    /// A far side has written its reply to one.
    Replied,
}

/// See the module.
#[derive(Default)]
pub struct Trap(Mutex<Option<(Moment, Pid, oneshot::Sender<()>)>>);

impl Trap {
    /// The next such moment kills the process; then what is given back resolves.
    pub fn set(&self, moment: Moment, pid: Pid) -> oneshot::Receiver<()> {
        let (sprung, springs) = oneshot::channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((moment, pid, sprung));
        springs
    }

    /// Must be called before the process is waited for: its number may be somebody else's then.
    pub fn disarm(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The moment has come.
    pub fn spring(&self, moment: Moment) {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if armed.as_ref().is_some_and(|(wanted, ..)| *wanted == moment)
            && let Some((_, pid, sprung)) = armed.take()
        {
            let _ = kill_process(pid, Signal::KILL);
            let _ = sprung.send(());
        }
    }
}
