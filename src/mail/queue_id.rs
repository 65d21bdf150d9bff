//! The name a message has from its first 250 to its end.

use std::fmt;
use std::str::FromStr;

use ulid::Ulid;

use crate::chance;
use crate::clock::Timestamp;

/// A queue id: 26 characters of Crockford base32 (a ULID), sortable by time of acceptance, unique over all nodes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(Ulid);

impl QueueId {
    /// A new id for a message accepted at `now`; 80 of its 128 bits are random.
    pub fn new(now: Timestamp) -> Self {
        Self(Ulid::from_parts(now.as_millis(), chance::random()))
    }

    /// When the message was accepted: the time that the id was made with.
    pub fn accepted_at(self) -> Timestamp {
        Timestamp::from_millis(self.0.timestamp_ms())
    }

    /// The 16 bytes kept in records, big-endian, so that they sort as the ids do.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The id that [`QueueId::to_bytes`] gave.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Ulid::from_bytes(bytes))
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not a queue id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a queue id is 26 characters of 0-9 and A-Z without I, L, O and U, the first of them 0 to 7")]
pub struct InvalidQueueId;

impl FromStr for QueueId {
    type Err = InvalidQueueId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // 26 characters hold 130 bits. What is over 128 would be dropped, and the text name another message.
        let fits = text.starts_with(|first| matches!(first, '0'..='7'));
        Ulid::from_string(text).ok().filter(|_| fits).map(Self).ok_or(InvalidQueueId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_text_and_bytes() {
        let id = QueueId::new(Timestamp::from_millis(1_795_343_400_000));
        assert_eq!(id.accepted_at(), Timestamp::from_millis(1_795_343_400_000));
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(QueueId::from_bytes(id.to_bytes()), id);
        assert_eq!("nonsense".parse::<QueueId>(), Err(InvalidQueueId));
    }

    #[test]
    fn later_ids_sort_later() {
        let early = QueueId::new(Timestamp::from_millis(1));
        let late = QueueId::new(Timestamp::from_millis(2));
        assert!(early < late && early.to_bytes() < late.to_bytes() && early.to_string() < late.to_string());
    }
}
