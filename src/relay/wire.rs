//! A connection to a far side as lines out and replies in.
//!
//! Everything is bounded: a reply in size by the reader and in time by its time-out, a write in time by block. After
//! any error the connection must not be used again.

use std::io::{self, IoSlice};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use crate::smtp::Reply;
use crate::smtp::reply_reader::{ReplyError, ReplyReader};

/// Replies are short: two kilobytes take a full EHLO.
const READ_BUFFER: usize = 2048;
/// What has to be written within one time-out (RFC 5321 §4.5.3.2.5), so that a far side that takes an octet now and
/// then cannot keep a connection for days.
const BLOCK: usize = 64 << 10;
/// Slices that go into one vectored write.
const SLICES_PER_WRITE: usize = 32;

/// A plain or an encrypted stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// See the module.
pub(super) struct Wire<S = Box<dyn Duplex>> {
    stream: S,
    reader: ReplyReader,
    buffer: Box<[u8]>,
    /// What of `buffer` has been read from the stream, and not by the reply reader.
    unread: std::ops::Range<usize>,
}

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// End of file.
    #[error("the far side closed the connection")]
    Closed,
    /// Silence.
    #[error("no answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Reset, unreachable, or broken TLS.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// No SMTP.
    #[error("the far side sent {0}")]
    Protocol(#[from] ReplyError),
    /// A reply to nothing, so that no later reply could be told from it.
    #[error("the far side sent a reply that was not asked for")]
    Unasked,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Over a stream from which nothing has been read.
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            reader: ReplyReader::default(),
            buffer: vec![0; READ_BUFFER].into_boxed_slice(),
            unread: 0..0,
        }
    }

    /// The stream.
    ///
    /// # Errors
    /// S1: something was read that nobody asked for, and would be lost or, worse, trusted.
    pub(super) fn into_stream(self) -> Result<S, WireError> {
        self.expect_quiet()?;
        Ok(self.stream)
    }

    /// Checks that no reply has come early.
    ///
    /// # Errors
    /// [`WireError::Unasked`].
    pub(super) fn expect_quiet(&self) -> Result<(), WireError> {
        if self.unread.is_empty() && self.reader.is_empty() { Ok(()) } else { Err(WireError::Unasked) }
    }

    /// The same, and looks at the stream as well, without waiting: for what has come while nobody read, and for the
    /// end of a connection that was kept.
    ///
    /// # Errors
    /// [`WireError::Unasked`], or what became of the connection.
    pub(super) async fn expect_silence(&mut self) -> Result<(), WireError> {
        self.expect_quiet()?;
        tokio::select! {
            biased;
            read = self.stream.read(&mut self.buffer) => {
                let read = read?;
                // It can still be read: a far side may say why it is about to close.
                self.unread = 0..read;
                if read == 0 { Err(WireError::Closed) } else { Err(WireError::Unasked) }
            }
            () = std::future::ready(()) => Ok(()),
        }
    }

    /// Waits for one whole reply, at most `limit`.
    ///
    /// # Errors
    /// There is none, or it is no reply.
    pub(super) async fn reply(&mut self, limit: Duration) -> Result<Reply, WireError> {
        // What has come already needs no timer.
        if let Some(reply) = self.take_unread()? {
            return Ok(reply);
        }
        timeout(limit, self.read_reply()).await.map_err(|_| WireError::TimedOut(limit))?
    }

    async fn read_reply(&mut self) -> Result<Reply, WireError> {
        loop {
            let read = self.stream.read(&mut self.buffer).await?;
            if read == 0 {
                return Err(WireError::Closed);
            }
            self.unread = 0..read;
            if let Some(reply) = self.take_unread()? {
                return Ok(reply);
            }
        }
    }

    fn take_unread(&mut self) -> Result<Option<Reply>, WireError> {
        let unread = self.buffer.get(self.unread.clone()).unwrap_or_default();
        let (taken, reply) = self.reader.feed(unread)?;
        self.unread.start += taken;
        Ok(reply)
    }

    /// Writes commands, at most `limit`.
    ///
    /// # Errors
    /// They were not all written.
    pub(super) async fn send(&mut self, bytes: &[u8], limit: Duration) -> Result<(), WireError> {
        let all = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(limit, all).await.map_err(|_| WireError::TimedOut(limit))??)
    }

    /// Writes a message, at most `limit` for each block.
    ///
    /// # Errors
    /// They were not all written: the last octet has not left.
    pub(super) async fn send_pieces<'a>(
        &mut self,
        mut pieces: impl Iterator<Item = &'a [u8]>,
        limit: Duration,
    ) -> Result<(), WireError> {
        let mut deadline = Instant::now() + limit;
        let mut in_block = 0;
        loop {
            let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
            let mut count = 0;
            for (slot, piece) in slices.iter_mut().zip(pieces.by_ref()) {
                *slot = IoSlice::new(piece);
                count += 1;
            }
            let mut left = slices.get_mut(..count).unwrap_or_default();
            if left.is_empty() {
                return Ok(());
            }
            while !left.is_empty() {
                let written = timeout_at(deadline, self.stream.write_vectored(left))
                    .await
                    .map_err(|_| WireError::TimedOut(limit))??;
                if written == 0 {
                    return Err(WireError::Io(io::ErrorKind::WriteZero.into()));
                }
                IoSlice::advance_slices(&mut left, written);
                in_block += written;
                if in_block >= BLOCK {
                    (in_block, deadline) = (0, Instant::now() + limit);
                }
            }
        }
    }

    /// Hands everything that was written to the network, at most `limit`.
    ///
    /// # Errors
    /// It may or may not have left.
    pub(super) async fn flush(&mut self, limit: Duration) -> Result<(), WireError> {
        Ok(timeout(limit, self.stream.flush()).await.map_err(|_| WireError::TimedOut(limit))??)
    }

    /// One command and its reply, each within `limit`.
    ///
    /// # Errors
    /// There is none, or it is no reply.
    pub(super) async fn command(&mut self, line: &str, limit: Duration) -> Result<Reply, WireError> {
        self.expect_quiet()?;
        self.send(line.as_bytes(), limit).await?;
        self.reply(limit).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_far_side_that_takes_an_octet_now_and_then_is_given_up() {
        let (near, mut far) = tokio::io::duplex(1);
        let trickle = tokio::spawn(async move {
            while far.read_u8().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        let content = vec![b'x'; 30_000];
        let sent =
            Wire::new(near).send_pieces([content.as_slice()].into_iter(), Duration::from_millis(100)).await;
        assert!(matches!(sent, Err(WireError::TimedOut(_))), "{sent:?}");
        trickle.await.unwrap();
    }

    #[tokio::test]
    async fn a_large_message_has_its_time_for_each_block() {
        let (near, mut far) = tokio::io::duplex(BLOCK);
        let slow = tokio::spawn(async move {
            let mut block = vec![0; BLOCK];
            while far.read_exact(&mut block).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let content = vec![b'x'; 20 * BLOCK];
        let sent =
            Wire::new(near).send_pieces([content.as_slice()].into_iter(), Duration::from_millis(300)).await;
        assert!(sent.is_ok(), "{sent:?}");
        slow.await.unwrap();
    }

    #[tokio::test]
    async fn what_came_unasked_is_noticed_before_it_is_read() {
        let (near, mut far) = tokio::io::duplex(100);
        let mut wire = Wire::new(near);
        assert!(wire.expect_silence().await.is_ok());
        far.write_all(b"451 4.4.2 you were idle\r\n").await.unwrap();
        assert!(matches!(wire.expect_silence().await, Err(WireError::Unasked)));
        // It is not lost: it may say why the connection ends.
        assert_eq!(wire.reply(Duration::from_secs(1)).await.unwrap().code, 451);
        drop(far);
        assert!(matches!(wire.expect_silence().await, Err(WireError::Closed)));
    }
}
