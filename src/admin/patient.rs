//! A connection whose far side has to take what it is given: one that takes nothing for a while is given up.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// Nothing was taken for so long: nobody is there.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Patient<S> {
    stream: S,
    /// Runs while a write waits.
    deadline: Pin<Box<Sleep>>,
    waits: bool,
    patience: Duration,
}

impl<S> Patient<S> {
    pub fn new(stream: S) -> Self {
        Self::with(stream, WRITE_TIMEOUT)
    }

    fn with(stream: S, patience: Duration) -> Self {
        Self { stream, deadline: Box::pin(sleep_until(Instant::now())), waits: false, patience }
    }

    /// Lets a write that waits go on waiting, but not for ever.
    fn judge<T>(&mut self, poll: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waits = false;
            return poll;
        }
        if !self.waits {
            self.waits = true;
            let until = Instant::now() + self.patience;
            self.deadline.as_mut().reset(until);
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(poll, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.judge(poll, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn s2_a_far_side_that_takes_nothing_is_given_up() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut ours = Patient::with(ours, Duration::from_millis(50));
        ours.write_all(&[7; 16]).await.unwrap();
        tokio::io::AsyncReadExt::read_exact(&mut theirs, &mut [0; 16]).await.unwrap();
        let error = ours.write_all(&[7; 80]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
