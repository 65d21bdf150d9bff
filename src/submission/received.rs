//! What a client has sent and nobody has used yet.
//!
//! A line may hold a password, whole or in part, well-formed or not. So every line is wiped from memory when it has been
//! used, what must move to a larger buffer is wiped where it was, and what nobody used is wiped at the end. The octets of
//! a message are not: they are on their way to a disk.

use std::ops::Deref;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroize;

/// Read at a time between messages: all that an idle connection holds.
pub(super) const COMMAND_BLOCK: usize = 2 * 1024;

/// See the module.
#[derive(Default)]
pub(super) struct Received(BytesMut);

impl Received {
    /// Reads more, into the room that there is; how much came.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read_from(
        &mut self,
        stream: &mut (impl AsyncRead + Unpin),
    ) -> std::io::Result<usize> {
        stream.read_buf(&mut self.0).await
    }

    /// Drops octets of a message.
    pub(super) fn advance(&mut self, octets: usize) {
        self.0.advance(octets.min(self.0.len()));
    }

    /// Wipes and drops a line, or what was skipped of one.
    pub(super) fn wipe(&mut self, octets: usize) {
        let octets = octets.min(self.0.len());
        self.0.get_mut(..octets).unwrap_or_default().zeroize();
        self.0.advance(octets);
    }

    /// Wipes and drops everything.
    pub(super) fn wipe_all(&mut self) {
        self.wipe(self.0.len());
    }

    /// Room for the next read of a message.
    pub(super) fn make_room_for(&mut self, block: usize) {
        if self.0.is_empty() {
            self.0.reserve(block);
        } else {
            self.grow(block);
        }
    }

    /// Room for the next read between messages, and no more than that where nothing waits to be used. The buffer of a
    /// message shows its whole size only when room is asked for.
    pub(super) fn make_room(&mut self) {
        self.make_room_for(COMMAND_BLOCK);
        if self.0.is_empty() && self.0.capacity() > 2 * COMMAND_BLOCK {
            self.0 = BytesMut::with_capacity(COMMAND_BLOCK);
        }
    }

    /// Gives back the memory of a message.
    pub(super) fn shrink(&mut self) {
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
    }

    /// `BytesMut` would leave the octets behind that it moves. Half a block of room is enough, and a buffer at least
    /// doubles, so that a client that sends single octets does not have them moved each time.
    fn grow(&mut self, block: usize) {
        if self.0.capacity() - self.0.len() >= block / 2 {
            return;
        }
        let mut larger = BytesMut::with_capacity(2 * self.0.len() + block);
        larger.extend_from_slice(&self.0);
        self.wipe_all();
        self.0 = larger;
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        self.wipe_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_that_grows_octet_by_octet_moves_seldom_and_stays_whole() {
        let (mut received, mut moves, line) = (Received::default(), 0, [b'x'; 12_288]);
        for octet in line {
            let before = received.as_ptr();
            received.make_room();
            moves += usize::from(received.as_ptr() != before);
            received.read_from(&mut [octet].as_slice()).await.unwrap();
        }
        assert_eq!(&*received, line);
        assert!(moves <= 8, "{moves}");
        assert!(received.0.capacity() <= 3 * line.len(), "{}", received.0.capacity());
    }

    #[tokio::test]
    async fn s2_an_idle_connection_does_not_keep_the_buffer_of_a_message() {
        const MESSAGE: usize = 32 * 1024;
        let mut received = Received::default();
        received.make_room_for(MESSAGE);
        received.read_from(&mut [b'x'; MESSAGE].as_slice()).await.unwrap();
        // The message's end, and then the commands behind it.
        received.advance(MESSAGE - 10);
        received.wipe(10);
        received.make_room();
        let capacity = received.0.capacity();
        assert!((COMMAND_BLOCK..=2 * COMMAND_BLOCK).contains(&capacity), "{capacity}");
        // What waits to be used stays.
        received.read_from(&mut b"MAIL".as_slice()).await.unwrap();
        received.make_room();
        assert_eq!(&*received, b"MAIL");
    }
}
