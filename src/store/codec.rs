//! What stands in the bodies of journal records. `docs/store.md` has the layouts as tables.
//!
//! Numbers are big-endian, texts and lists carry a u32 length. Reading never panics, whatever the bytes are, and never
//! sets memory aside for a length that the bytes do not cover.

use std::net::IpAddr;

use bytes::Bytes;

use super::{KeyClaim, KeyRecord};
use crate::clock::Timestamp;
use crate::mail::{
    Address, AttemptReply, Body, Envelope, Fingerprint, FingerprintMode, Handling, HoldCause, KeyKind,
    Message, Notify, Origin, Progress, QueueId, Recipient, RecipientProgress, RecipientState, Ret,
    ReversePath, Scope, ScopedKey,
};

/// The bytes are not what the layout says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not follow the record's layout")]
pub struct Malformed(pub &'static str);

/// Collects a body.
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A count or a length. Nothing that the relay takes comes near 4 GiB; what does is caught by the record's bound.
    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }

    fn optional_text(&mut self, text: Option<&str>) {
        self.u8(text.is_some().into());
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        self.u8(fingerprint.version);
        self.u8(match fingerprint.mode {
            FingerprintMode::Content => 0,
            FingerprintMode::Exact => 1,
        });
        self.raw(&fingerprint.envelope);
        self.raw(&fingerprint.content);
    }

    /// A key record: fingerprint, queue id, acceptance, expiry; [`KEY_VALUE_LEN`] bytes.
    pub fn key_record(&mut self, record: &KeyRecord) {
        self.fingerprint(&record.fingerprint);
        self.raw(&record.id.to_bytes());
        self.u64(record.accepted_at.as_millis());
        self.u64(record.expires_at.as_millis());
    }
}

/// Length of a key record in the index and in `Key` records, bytes.
pub const KEY_VALUE_LEN: usize = 66 + 16 + 8 + 8;

/// Takes a body apart.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed("a length"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed("a length"))
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A queue id.
    ///
    /// # Errors
    /// When fewer than 16 bytes are left.
    pub fn id(&mut self) -> Result<QueueId, Malformed> {
        Ok(QueueId::from_bytes(self.array()?))
    }

    /// A point in time.
    ///
    /// # Errors
    /// When fewer than 8 bytes are left.
    pub fn time(&mut self) -> Result<Timestamp, Malformed> {
        Ok(Timestamp::from_millis(self.u64()?))
    }

    fn text(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()? as usize;
        str::from_utf8(self.take(len)?).map_err(|_| Malformed("a text"))
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag")),
        }
    }

    fn optional_text(&mut self) -> Result<Option<String>, Malformed> {
        Ok(if self.flag()? { Some(self.text()?.to_owned()) } else { None })
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least {
            return Err(Malformed("a count"));
        }
        Ok(count)
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, Malformed> {
        let version = self.u8()?;
        let mode = match self.u8()? {
            0 => FingerprintMode::Content,
            1 => FingerprintMode::Exact,
            _ => return Err(Malformed("a fingerprint's mode")),
        };
        Ok(Fingerprint { version, mode, envelope: self.array()?, content: self.array()? })
    }

    /// What [`Writer::key_record`] wrote.
    ///
    /// # Errors
    /// When it is none.
    pub fn key_record(&mut self) -> Result<KeyRecord, Malformed> {
        let fingerprint = self.fingerprint()?;
        Ok(KeyRecord { id: self.id()?, fingerprint, accepted_at: self.time()?, expires_at: self.time()? })
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// When something does.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("the end")) }
    }
}

/// The body of an `Accepted` record up to its content, which follows it.
pub fn encode_accepted(out: Vec<u8>, message: &Message, claim: Option<&KeyClaim>) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&message.id.to_bytes());
    w.u64(message.accepted_at.as_millis());
    match (&message.key, claim) {
        (Some(key), Some(claim)) => {
            w.u8(1);
            w.optional_text(key.scope.name());
            w.u8(match key.kind {
                KeyKind::Header => 0,
                KeyKind::MessageId => 1,
                KeyKind::Content => 2,
            });
            w.text(&key.key);
            w.fingerprint(&claim.fingerprint);
            w.u64(claim.expires_at.as_millis());
        }
        _ => w.u8(0),
    }
    write_origin(&mut w, &message.origin);
    write_envelope(&mut w, &message.envelope);
    w.text(&message.message_id);
    w.count(message.content.len());
    w.0
}

/// What replay needs of an `Accepted` record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptedHead {
    /// The message.
    pub id: QueueId,
    /// When its final dot was read.
    pub accepted_at: Timestamp,
    /// Its key and what that remembers.
    pub key: Option<(ScopedKey, KeyRecord)>,
}

/// Reads the first part of an `Accepted` record's body.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_accepted_head(r: &mut Reader<'_>) -> Result<AcceptedHead, Malformed> {
    let id = r.id()?;
    let accepted_at = r.time()?;
    if !r.flag()? {
        return Ok(AcceptedHead { id, accepted_at, key: None });
    }
    let scope = r.optional_text()?.map_or(Scope::anonymous(), Scope::named);
    let kind = match r.u8()? {
        0 => KeyKind::Header,
        1 => KeyKind::MessageId,
        2 => KeyKind::Content,
        _ => return Err(Malformed("a key's kind")),
    };
    let key = ScopedKey { scope, kind, key: r.text()?.to_owned() };
    let record = KeyRecord { id, fingerprint: r.fingerprint()?, accepted_at, expires_at: r.time()? };
    Ok(AcceptedHead { id, accepted_at, key: Some((key, record)) })
}

/// Reads an `Accepted` record's body; the content shares its memory.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_accepted(body: &Bytes) -> Result<(Message, Option<KeyClaim>), Malformed> {
    let mut r = Reader(body);
    let head = decode_accepted_head(&mut r)?;
    let origin = read_origin(&mut r)?;
    let envelope = read_envelope(&mut r)?;
    let message_id = r.text()?.to_owned();
    let len = r.u32()? as usize;
    let content = body.slice_ref(r.take(len)?);
    r.end()?;
    let claim = head
        .key
        .as_ref()
        .map(|(_, record)| KeyClaim { fingerprint: record.fingerprint, expires_at: record.expires_at });
    let key = head.key.map(|(key, _)| key);
    let message =
        Message { id: head.id, accepted_at: head.accepted_at, envelope, origin, key, message_id, content };
    Ok((message, claim))
}

fn write_origin(w: &mut Writer, origin: &Origin) {
    w.text(&origin.listener);
    w.optional_text(origin.user.as_deref());
    match origin.client {
        None => w.u8(0),
        Some(IpAddr::V4(ip)) => {
            w.u8(4);
            w.raw(&ip.octets());
        }
        Some(IpAddr::V6(ip)) => {
            w.u8(6);
            w.raw(&ip.octets());
        }
    }
}

fn read_origin(r: &mut Reader<'_>) -> Result<Origin, Malformed> {
    let listener = r.text()?.to_owned();
    let user = r.optional_text()?;
    let client = match r.u8()? {
        0 => None,
        4 => Some(IpAddr::from(r.array::<4>()?)),
        6 => Some(IpAddr::from(r.array::<16>()?)),
        _ => return Err(Malformed("a client's address")),
    };
    Ok(Origin { listener, user, client })
}

/// Bits of the octet that says what follows in an envelope. A bit that stands for a field comes with it, in this order.
const SMTPUTF8: u8 = 1;
const REQUIRETLS: u8 = 2;
const PRIORITY: u8 = 4;
const RELEASE: u8 = 8;
/// In a recipient's NOTIFY octet: the check at RCPT time could not be made.
const UNVERIFIED: u8 = 16;
/// In an `Attempted` record's first flag: a recipient is queued, and the sender was warned of the delay.
const QUEUED: u8 = 1;
const WARNED: u8 = 2;
/// In the count of a reply: the encryption follows its text.
const OVER_TLS: u32 = 1 << 31;

fn write_envelope(w: &mut Writer, envelope: &Envelope) {
    w.optional_text(envelope.reverse_path.mailbox().map(Address::as_str));
    w.u8((envelope.body == Body::EightBitMime).into());
    let Handling { require_tls, priority, release_at } = envelope.handling;
    let marks = [
        (envelope.smtputf8, SMTPUTF8),
        (require_tls, REQUIRETLS),
        (priority != 0, PRIORITY),
        (release_at.is_some(), RELEASE),
    ];
    w.u8(marks.iter().filter(|(is_set, _)| *is_set).map(|(_, bit)| bit).sum());
    if priority != 0 {
        w.raw(&priority.to_be_bytes());
    }
    if let Some(release_at) = release_at {
        w.u64(release_at.as_millis());
    }
    w.u8(match envelope.ret {
        None => 0,
        Some(Ret::Full) => 1,
        Some(Ret::Headers) => 2,
    });
    w.optional_text(envelope.envid.as_deref());
    w.count(envelope.recipients.len());
    for recipient in &envelope.recipients {
        w.text(recipient.forward_path.as_str());
        let notify = recipient
            .notify
            .map_or(0, |n| 8 | u8::from(n.success) | (u8::from(n.failure) << 1) | (u8::from(n.delay) << 2));
        w.u8(notify | if recipient.unverified { UNVERIFIED } else { 0 });
        w.optional_text(recipient.orcpt.as_deref());
    }
}

fn read_envelope(r: &mut Reader<'_>) -> Result<Envelope, Malformed> {
    let reverse_path = match r.optional_text()? {
        None => ReversePath::Null,
        Some(text) => ReversePath::Mailbox(read_address(&text)?),
    };
    let body = if r.flag()? { Body::EightBitMime } else { Body::SevenBit };
    let marks = r.u8()?;
    if marks & !(SMTPUTF8 | REQUIRETLS | PRIORITY | RELEASE) != 0 {
        return Err(Malformed("the marks of an envelope"));
    }
    let handling = Handling {
        require_tls: marks & REQUIRETLS != 0,
        priority: if marks & PRIORITY != 0 { i8::from_be_bytes(r.array()?) } else { 0 },
        release_at: if marks & RELEASE != 0 { Some(r.time()?) } else { None },
    };
    let ret = match r.u8()? {
        0 => None,
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => return Err(Malformed("RET")),
    };
    let envid = r.optional_text()?;
    let recipients = (0..r.count(6)?).map(|_| read_recipient(r)).collect::<Result<_, _>>()?;
    Ok(Envelope { reverse_path, recipients, body, smtputf8: marks & SMTPUTF8 != 0, ret, envid, handling })
}

fn read_recipient(r: &mut Reader<'_>) -> Result<Recipient, Malformed> {
    let forward_path = read_address(r.text()?)?;
    let marks = r.u8()?;
    let unverified = marks & UNVERIFIED != 0;
    let notify = match marks & !UNVERIFIED {
        0 => None,
        bits @ 8..=15 => {
            Some(Notify { success: bits & 1 != 0, failure: bits & 2 != 0, delay: bits & 4 != 0 })
        }
        _ => return Err(Malformed("NOTIFY")),
    };
    Ok(Recipient { forward_path, notify, orcpt: r.optional_text()?, unverified })
}

fn read_address(text: &str) -> Result<Address, Malformed> {
    Address::parse(text).map_err(|_| Malformed("an address"))
}

/// The body of an `Attempted` record: what replay needs comes first.
pub fn encode_attempted(out: Vec<u8>, id: QueueId, progress: &Progress) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&id.to_bytes());
    w.u8((u8::from(progress.is_queued()) * QUEUED) | (u8::from(progress.warned) * WARNED));
    w.u64(progress.next_attempt.as_millis());
    w.u32(progress.attempts);
    w.count(progress.recipients.len());
    for recipient in &progress.recipients {
        w.u8(match recipient.state {
            RecipientState::Queued => 0,
            RecipientState::Delivered => 1,
            RecipientState::Bounced => 2,
            RecipientState::Held(HoldCause::Failed) => 3,
            RecipientState::Held(HoldCause::Expired) => 4,
            RecipientState::Held(HoldCause::InDoubt) => 5,
            RecipientState::Discarded => 6,
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
    w.0
}

/// What replay needs of an `Attempted` record: which message, whether a recipient is queued, and when it is due.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_attempted_head(r: &mut Reader<'_>) -> Result<(QueueId, bool, Timestamp), Malformed> {
    let (id, marks, next_attempt) = attempted_head(r)?;
    Ok((id, marks & QUEUED != 0, next_attempt))
}

fn attempted_head(r: &mut Reader<'_>) -> Result<(QueueId, u8, Timestamp), Malformed> {
    let (id, marks, next_attempt) = (r.id()?, r.u8()?, r.time()?);
    if marks & !(QUEUED | WARNED) != 0 {
        return Err(Malformed("the marks of a progress"));
    }
    Ok((id, marks, next_attempt))
}

/// Reads an `Attempted` record's body.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_attempted(body: &[u8]) -> Result<(QueueId, Progress), Malformed> {
    let mut r = Reader(body);
    let (id, marks, next_attempt) = attempted_head(&mut r)?;
    let attempts = r.u32()?;
    let recipients = (0..r.count(9)?).map(|_| read_progress(&mut r)).collect::<Result<_, _>>()?;
    r.end()?;
    Ok((id, Progress { attempts, next_attempt, warned: marks & WARNED != 0, recipients }))
}

fn read_progress(r: &mut Reader<'_>) -> Result<RecipientProgress, Malformed> {
    let state = match r.u8()? {
        0 => RecipientState::Queued,
        1 => RecipientState::Delivered,
        2 => RecipientState::Bounced,
        3 => RecipientState::Held(HoldCause::Failed),
        4 => RecipientState::Held(HoldCause::Expired),
        5 => RecipientState::Held(HoldCause::InDoubt),
        6 => RecipientState::Discarded,
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
