//! How a record of the history stands in its segment: `length of the body (4) | CRC32C of the body (4) | body`, and the
//! body is `kind (1) | queue id (16) | time (8)` and what the kind adds.
//!
//! It must never make a record that cannot be read back: what would be too long loses replies first.

use std::net::IpAddr;

use super::Ended;
use crate::clock::Timestamp;
use crate::mail::{Address, Message, Progress, QueueId, RecipientProgress, ReversePath};
use crate::store::codec::{self, Malformed, Reader, Writer};

/// Length and checksum.
pub const FRAME: usize = 8;
/// Kind, queue id, time: the least that a body has.
pub const HEAD: usize = 1 + 16 + 8;
/// No body is longer, bytes.
pub const MAX_BODY: usize = 4 << 20;
/// Beyond this many bytes, a record keeps only the last reply of each recipient.
const LONG_BODY: usize = 64 << 10;

const ENDED: u8 = 1;
const REPLAYED: u8 = 2;

/// What every record says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The message.
    pub id: QueueId,
    /// The end of a message, or a replay.
    pub is_end: bool,
    /// When that was.
    pub at: Timestamp,
}

/// Adds a record, framed, of the end of a message to `records`; false, and nothing is added, when it would be too long
/// even without replies.
pub fn add_ended(
    records: &mut Vec<u8>,
    message: &Message,
    progress: &Progress,
    traceparent: Option<&str>,
    at: Timestamp,
) -> bool {
    let end = End { message, progress, traceparent, at };
    // The whole of it nearly always fits, and is then encoded once. What a thousand recipients were told is megabytes,
    // and not even tried.
    let replies = progress.recipients.iter().flat_map(|recipient| &recipient.replies);
    let may_fit = replies.map(|reply| reply.text.len()).sum::<usize>() <= LONG_BODY;
    (may_fit && end.add(records, LONG_BODY, |recipient| recipient.replies.len()))
        || end.add(records, MAX_BODY, |recipient| recipient.replies.len().min(1))
        || end.add(records, MAX_BODY, |_| 0)
}

/// What a record of the end of a message is made from.
struct End<'a> {
    message: &'a Message,
    progress: &'a Progress,
    traceparent: Option<&'a str>,
    at: Timestamp,
}

impl End<'_> {
    /// Adds it with so many of each recipient's last replies, if its body is then no longer than `most`.
    fn add(&self, records: &mut Vec<u8>, most: usize, replies: impl Fn(&RecipientProgress) -> usize) -> bool {
        let begin = records.len();
        let mut w = Writer(std::mem::take(records));
        self.write(&mut w, replies);
        finish(&mut w, begin);
        *records = w.0;
        let fits = records.len() - begin <= FRAME + most;
        if !fits {
            records.truncate(begin);
        }
        fits
    }

    fn write(&self, w: &mut Writer, replies: impl Fn(&RecipientProgress) -> usize) {
        let Self { message, progress, traceparent, at } = *self;
        start(w, ENDED, message.id, at);
        w.u64(message.accepted_at.as_millis());
        w.optional_text(message.envelope.reverse_path.mailbox().map(Address::as_str));
        w.text(&message.origin.listener);
        w.optional_text(message.origin.user.as_deref());
        codec::write_client(w, message.origin.client);
        w.u8(message.key.is_some().into());
        if let Some(key) = &message.key {
            codec::write_scoped_key(w, key);
        }
        w.text(&message.message_id);
        w.optional_text(traceparent);
        w.u64(message.content.len() as u64);
        w.u32(progress.attempts);
        w.u8(progress.warned.into());
        w.raw(&message.envelope.handling.priority.to_be_bytes());
        let recipients = message.envelope.recipients.iter().zip(&progress.recipients);
        w.count(recipients.len());
        for (recipient, reached) in recipients {
            w.text(recipient.forward_path.as_str());
            let dropped = reached.replies.len().saturating_sub(replies(reached));
            if dropped == 0 {
                codec::write_progress(w, reached);
            } else {
                let replies = reached.replies.get(dropped..).unwrap_or_default().to_vec();
                codec::write_progress(w, &RecipientProgress { replies, ..*reached });
            }
        }
    }
}

/// Adds a record, framed, of a retry that was answered to `records`.
pub fn add_replayed(records: &mut Vec<u8>, first: QueueId, client: Option<IpAddr>, at: Timestamp) {
    let begin = records.len();
    let mut w = Writer(std::mem::take(records));
    start(&mut w, REPLAYED, first, at);
    codec::write_client(&mut w, client);
    finish(&mut w, begin);
    *records = w.0;
}

fn start(w: &mut Writer, kind: u8, id: QueueId, at: Timestamp) {
    w.raw(&[0; FRAME]);
    w.u8(kind);
    w.raw(&id.to_bytes());
    w.u64(at.as_millis());
}

/// Fills in the frame of the record that begins at `begin`.
fn finish(w: &mut Writer, begin: usize) {
    let record = w.0.get_mut(begin..).unwrap_or_default();
    if let Some((frame, body)) = record.split_first_chunk_mut::<FRAME>() {
        let len = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
        let crc = crc32c::crc32c(body).to_be_bytes();
        frame.iter_mut().zip(len.into_iter().chain(crc)).for_each(|(to, from)| *to = from);
    }
}

/// The length of a body and its checksum, as a frame says; `None` for a length that no body has.
pub fn read_frame(frame: &[u8]) -> Option<(usize, u32)> {
    let mut r = Reader(frame);
    let (len, crc) = (r.u32().ok()? as usize, r.u32().ok()?);
    (HEAD..=MAX_BODY).contains(&len).then_some((len, crc))
}

/// The first record of `bytes`, and what follows it.
pub enum Next<'a> {
    /// Its body, verified.
    Record(&'a [u8], &'a [u8]),
    /// A record of which the frame is credible and the body is not.
    Damaged(&'a [u8]),
    /// There are no more bytes, too few for what the frame says, or it says nothing that can be.
    None,
}

/// Takes the first record off.
pub fn next(bytes: &[u8]) -> Next<'_> {
    let Some((frame, rest)) = bytes.split_at_checked(FRAME) else { return Next::None };
    let Some((len, crc)) = read_frame(frame) else { return Next::None };
    let Some((body, rest)) = rest.split_at_checked(len) else { return Next::None };
    if crc32c::crc32c(body) == crc && decode_head(&mut Reader(body)).is_ok() {
        Next::Record(body, rest)
    } else {
        Next::Damaged(rest)
    }
}

/// What every record says first.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_head(r: &mut Reader<'_>) -> Result<Head, Malformed> {
    let is_end = match r.u8()? {
        ENDED => true,
        REPLAYED => false,
        _ => return Err(Malformed("a record of the history")),
    };
    Ok(Head { is_end, id: r.id()?, at: r.time()? })
}

/// When the message of an end was accepted: read without the rest of it.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_accepted_at(body: &[u8]) -> Result<Timestamp, Malformed> {
    let mut r = Reader(body);
    decode_head(&mut r)?;
    r.time()
}

/// The end of a message.
///
/// # Errors
/// When it does not follow the layout, or is none.
pub fn decode_ended(body: &[u8]) -> Result<(QueueId, Ended), Malformed> {
    let mut r = Reader(body);
    let head = decode_head(&mut r)?;
    if !head.is_end {
        return Err(Malformed("the end of a message"));
    }
    let accepted_at = r.time()?;
    let reverse_path = match r.optional_text()? {
        None => ReversePath::Null,
        Some(text) => ReversePath::Mailbox(Address::parse(text).map_err(|_| Malformed("an address"))?),
    };
    let (listener, user) = (r.text()?.to_owned(), r.optional_text()?.map(str::to_owned));
    let client = codec::read_client(&mut r)?;
    let key = if r.flag()? { Some(codec::read_scoped_key(&mut r)?) } else { None };
    let (message_id, traceparent) = (r.text()?.to_owned(), r.optional_text()?.map(str::to_owned));
    let (size, attempts, warned) = (r.u64()?, r.u32()?, r.flag()?);
    let priority = i8::from_be_bytes(r.array()?);
    let recipients = (0..r.count(13)?)
        .map(|_| Ok((r.text()?.to_owned(), codec::read_progress(&mut r)?)))
        .collect::<Result<_, Malformed>>()?;
    r.end()?;
    let ended = Ended {
        at: head.at,
        accepted_at,
        reverse_path,
        recipients,
        listener,
        user,
        client,
        key,
        message_id,
        traceparent,
        size,
        attempts,
        warned,
        priority,
    };
    Ok((head.id, ended))
}

/// When a retry was answered, and where it came from.
///
/// # Errors
/// When it does not follow the layout, or is none.
pub fn decode_replayed(body: &[u8]) -> Result<(QueueId, Timestamp, Option<IpAddr>), Malformed> {
    let mut r = Reader(body);
    let head = decode_head(&mut r)?;
    if head.is_end {
        return Err(Malformed("a replay"));
    }
    let client = codec::read_client(&mut r)?;
    r.end()?;
    Ok((head.id, head.at, client))
}
