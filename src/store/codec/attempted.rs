//! How far a message has come, and its end.
//!
//! Both may come with notices, whose records stand directly in front. They say with how many, so that a replay can
//! tell whether all of them are there (D2).

use super::{Malformed, Reader, Writer};
use crate::clock::Timestamp;
use crate::mail::{AttemptReply, HoldCause, Progress, QueueId, RecipientProgress, RecipientState};

/// Bits of the octet behind the queue id: a recipient is queued, and the sender was warned of the delay.
const QUEUED: u8 = 1;
const WARNED: u8 = 2;
/// The number of notices in front of the record follows the time of the next attempt.
const NOTICES: u8 = 4;
/// When an operator released the message follows that.
const RELEASED: u8 = 8;
/// Where that number stands: behind queue id, marks and time.
const NOTICES_AT: usize = 16 + 1 + 8;
/// In the count of a reply: the encryption follows its text.
const OVER_TLS: u32 = 1 << 31;

/// The body of an `Attempted` record, with `notices` in front of it: what replay needs comes first.
pub fn encode_attempted(out: Vec<u8>, id: QueueId, progress: &Progress, notices: u32) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&id.to_bytes());
    let marks = [
        (progress.is_queued(), QUEUED),
        (progress.warned, WARNED),
        (notices > 0, NOTICES),
        (progress.released_at.is_some(), RELEASED),
    ];
    w.u8(marks.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum());
    w.u64(progress.next_attempt.as_millis());
    if notices > 0 {
        w.u32(notices);
    }
    if let Some(released_at) = progress.released_at {
        w.u64(released_at.as_millis());
    }
    w.u32(progress.attempts);
    w.count(progress.recipients.len());
    for recipient in &progress.recipients {
        write_progress(&mut w, recipient);
    }
    w.0
}

/// One recipient's progress.
pub fn write_progress(w: &mut Writer, recipient: &RecipientProgress) {
    w.u8(match recipient.state {
        RecipientState::Queued => 0,
        RecipientState::Delivered => 1,
        RecipientState::Bounced => 2,
        RecipientState::Held(HoldCause::Failed) => 3,
        RecipientState::Held(HoldCause::Expired) => 4,
        RecipientState::Held(HoldCause::InDoubt) => 5,
        RecipientState::Discarded => 6,
        RecipientState::Held(HoldCause::Operator) => 7,
    });
    w.u32(recipient.attempts);
    w.count(recipient.replies.len());
    for reply in &recipient.replies {
        w.u64(reply.at.as_millis());
        w.raw(&reply.code.to_be_bytes());
        let over_tls = if reply.tls.is_empty() { 0 } else { OVER_TLS };
        w.u32(reply.times.min(OVER_TLS - 1) | over_tls);
        w.text(&reply.route);
        w.text(&reply.host);
        w.text(&reply.text);
        if over_tls != 0 {
            w.text(&reply.tls);
        }
    }
}

/// What replay needs of an `Attempted` record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttemptedHead {
    /// The message.
    pub id: QueueId,
    /// Whether a recipient of it is queued.
    pub queued: bool,
    /// When it is due.
    pub next_attempt: Timestamp,
    /// How many notices stand directly in front.
    pub notices: u32,
}

/// Reads the first part of an `Attempted` record's body.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_attempted_head(r: &mut Reader<'_>) -> Result<AttemptedHead, Malformed> {
    Ok(attempted_head(r)?.0)
}

fn attempted_head(r: &mut Reader<'_>) -> Result<(AttemptedHead, u8), Malformed> {
    let (id, marks, next_attempt) = (r.id()?, r.u8()?, r.time()?);
    if marks & !(QUEUED | WARNED | NOTICES | RELEASED) != 0 {
        return Err(Malformed("the marks of a progress"));
    }
    let notices = if marks & NOTICES != 0 { r.u32()? } else { 0 };
    Ok((AttemptedHead { id, queued: marks & QUEUED != 0, next_attempt, notices }, marks))
}

/// An `Attempted` record's body as it stands without its notices: how it is copied forward.
///
/// # Errors
/// When it does not follow the layout.
pub fn without_notices(body: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut out = body.to_vec();
    if decode_attempted_head(&mut Reader(body))?.notices > 0 {
        out.drain(NOTICES_AT..NOTICES_AT + 4);
        if let Some(marks) = out.get_mut(16) {
            *marks &= !NOTICES;
        }
    }
    Ok(out)
}

/// The body of a `Finished` record, with `notices` in front of it.
pub fn encode_finished(out: Vec<u8>, id: QueueId, notices: u32) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&id.to_bytes());
    if notices > 0 {
        w.u32(notices);
    }
    w.0
}

/// Which message has ended, and how many notices stand directly in front.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_finished(r: &mut Reader<'_>) -> Result<(QueueId, u32), Malformed> {
    let id = r.id()?;
    let notices = if r.end().is_ok() { 0 } else { r.u32()? };
    r.end()?;
    Ok((id, notices))
}

/// The body of a `Forgotten` record: whose key, and when that would have ended.
pub fn encode_forgotten(out: Vec<u8>, id: QueueId, expires_at: Timestamp) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&id.to_bytes());
    w.u64(expires_at.as_millis());
    w.0
}

/// What [`encode_forgotten`] wrote.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_forgotten(r: &mut Reader<'_>) -> Result<(QueueId, Timestamp), Malformed> {
    let forgotten = (r.id()?, r.time()?);
    r.end()?;
    Ok(forgotten)
}

/// Reads an `Attempted` record's body.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_attempted(body: &[u8]) -> Result<(QueueId, Progress), Malformed> {
    let mut r = Reader(body);
    let (AttemptedHead { id, next_attempt, .. }, marks) = attempted_head(&mut r)?;
    let released_at = if marks & RELEASED != 0 { Some(r.time()?) } else { None };
    let attempts = r.u32()?;
    let recipients = (0..r.count(9)?).map(|_| read_progress(&mut r)).collect::<Result<_, _>>()?;
    r.end()?;
    Ok((id, Progress { attempts, next_attempt, warned: marks & WARNED != 0, released_at, recipients }))
}

/// What [`write_progress`] wrote.
///
/// # Errors
/// When it is none.
pub fn read_progress(r: &mut Reader<'_>) -> Result<RecipientProgress, Malformed> {
    let state = match r.u8()? {
        0 => RecipientState::Queued,
        1 => RecipientState::Delivered,
        2 => RecipientState::Bounced,
        3 => RecipientState::Held(HoldCause::Failed),
        4 => RecipientState::Held(HoldCause::Expired),
        5 => RecipientState::Held(HoldCause::InDoubt),
        6 => RecipientState::Discarded,
        7 => RecipientState::Held(HoldCause::Operator),
        _ => return Err(Malformed("a recipient's state")),
    };
    let attempts = r.u32()?;
    let replies = (0..r.count(26)?).map(|_| read_reply(r)).collect::<Result<_, _>>()?;
    Ok(RecipientProgress { state, attempts, replies })
}

fn read_reply(r: &mut Reader<'_>) -> Result<AttemptReply, Malformed> {
    let (at, code, times) = (r.time()?, r.u16()?, r.u32()?);
    let (route, host, text) = (r.text()?.to_owned(), r.text()?.to_owned(), r.text()?.to_owned());
    let tls = if times & OVER_TLS == 0 { String::new() } else { r.text()?.to_owned() };
    Ok(AttemptReply { at, route, host, code, text, times: times & !OVER_TLS, tls })
}
