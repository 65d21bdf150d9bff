//! A message with its envelope and its key, and the same as a notice about another message.

use std::net::IpAddr;

use bytes::Bytes;

use super::{Malformed, Reader, Writer};
use crate::clock::Timestamp;
use crate::mail::{
    Address, Body, Envelope, Handling, KeyKind, Message, Notify, Origin, QueueId, Recipient, Ret,
    ReversePath, Scope, ScopedKey,
};
use crate::store::record::Kind;
use crate::store::{KeyClaim, KeyRecord};

/// A notice starts with the queue id of the message that it is about; the rest is as in `Accepted`.
const NOTICE_PREFIX: usize = 16;

/// The body of an `Accepted` record up to its content, which follows it.
pub fn encode_accepted(out: Vec<u8>, message: &Message, claim: Option<&KeyClaim>) -> Vec<u8> {
    let mut w = Writer(out);
    w.raw(&message.id.to_bytes());
    w.u64(message.accepted_at.as_millis());
    match (&message.key, claim) {
        (Some(key), Some(claim)) => {
            w.u8(1);
            write_scoped_key(&mut w, key);
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
    let key = read_scoped_key(r)?;
    let record = KeyRecord { id, fingerprint: r.fingerprint()?, accepted_at, expires_at: r.time()? };
    Ok(AcceptedHead { id, accepted_at, key: Some((key, record)) })
}

/// A key within its scope.
pub fn write_scoped_key(w: &mut Writer, key: &ScopedKey) {
    w.optional_text(key.scope.name());
    w.u8(match key.kind {
        KeyKind::Header => 0,
        KeyKind::MessageId => 1,
        KeyKind::Content => 2,
    });
    w.text(&key.key);
}

/// What [`write_scoped_key`] wrote.
///
/// # Errors
/// When it is none.
pub fn read_scoped_key(r: &mut Reader<'_>) -> Result<ScopedKey, Malformed> {
    let scope = r.optional_text()?.map_or(Scope::anonymous(), Scope::named);
    let kind = match r.u8()? {
        0 => KeyKind::Header,
        1 => KeyKind::MessageId,
        2 => KeyKind::Content,
        _ => return Err(Malformed("a key's kind")),
    };
    Ok(ScopedKey { scope, kind, key: r.text()?.to_owned() })
}

/// Reads on behind [`decode_accepted_head`], as far as the handling: when the message is due, and before which others.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_handling(r: &mut Reader<'_>) -> Result<Handling, Malformed> {
    origin_parts(r)?;
    r.optional_text()?;
    r.flag()?;
    Ok(marks_and_handling(r)?.1)
}

/// The body of a `Notice` record up to its content: a message about `original`, without a key.
pub fn encode_notice(mut out: Vec<u8>, original: QueueId, notice: &Message) -> Vec<u8> {
    out.extend_from_slice(&original.to_bytes());
    encode_accepted(out, notice, None)
}

/// Which message a notice is about; what follows is as in an `Accepted` record.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_notice_head(r: &mut Reader<'_>) -> Result<QueueId, Malformed> {
    r.id()
}

/// The part of a record's body that is laid out as `Accepted`.
///
/// # Errors
/// When it is no message's record.
pub fn accepted_body(kind: Kind, mut body: Bytes) -> Result<Bytes, Malformed> {
    match kind {
        Kind::Accepted => Ok(body),
        Kind::Notice if body.len() >= NOTICE_PREFIX => Ok(body.split_off(NOTICE_PREFIX)),
        _ => Err(Malformed("a message")),
    }
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

/// Reads an `Accepted` record's body as far as its envelope; what follows may be missing.
///
/// # Errors
/// When it does not follow the layout.
pub fn decode_envelope(body: &[u8]) -> Result<(QueueId, Origin, Envelope), Malformed> {
    let mut r = Reader(body);
    let id = decode_accepted_head(&mut r)?.id;
    let origin = read_origin(&mut r)?;
    Ok((id, origin, read_envelope(&mut r)?))
}

fn write_origin(w: &mut Writer, origin: &Origin) {
    w.text(&origin.listener);
    w.optional_text(origin.user.as_deref());
    write_client(w, origin.client);
}

/// A client's address, if there is one.
pub fn write_client(w: &mut Writer, client: Option<IpAddr>) {
    match client {
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
    let (listener, user, client) = origin_parts(r)?;
    Ok(Origin { listener: listener.to_owned(), user: user.map(str::to_owned), client })
}

fn origin_parts<'a>(r: &mut Reader<'a>) -> Result<(&'a str, Option<&'a str>, Option<IpAddr>), Malformed> {
    let (listener, user) = (r.text()?, r.optional_text()?);
    Ok((listener, user, read_client(r)?))
}

/// What [`write_client`] wrote.
///
/// # Errors
/// When it is none.
pub fn read_client(r: &mut Reader<'_>) -> Result<Option<IpAddr>, Malformed> {
    Ok(match r.u8()? {
        0 => None,
        4 => Some(IpAddr::from(r.array::<4>()?)),
        6 => Some(IpAddr::from(r.array::<16>()?)),
        _ => return Err(Malformed("a client's address")),
    })
}

/// Bits of the octet that says what follows in an envelope. A bit that stands for a field comes with it, in this order.
const SMTPUTF8: u8 = 1;
const REQUIRETLS: u8 = 2;
const PRIORITY: u8 = 4;
const RELEASE: u8 = 8;
/// In a recipient's NOTIFY octet: the check at RCPT time could not be made.
const UNVERIFIED: u8 = 16;

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
        Some(text) => ReversePath::Mailbox(read_address(text)?),
    };
    let body = if r.flag()? { Body::EightBitMime } else { Body::SevenBit };
    let (marks, handling) = marks_and_handling(r)?;
    let ret = match r.u8()? {
        0 => None,
        1 => Some(Ret::Full),
        2 => Some(Ret::Headers),
        _ => return Err(Malformed("RET")),
    };
    let envid = r.optional_text()?.map(str::to_owned);
    let recipients = (0..r.count(6)?).map(|_| read_recipient(r)).collect::<Result<_, _>>()?;
    Ok(Envelope { reverse_path, recipients, body, smtputf8: marks & SMTPUTF8 != 0, ret, envid, handling })
}

fn marks_and_handling(r: &mut Reader<'_>) -> Result<(u8, Handling), Malformed> {
    let marks = r.u8()?;
    if marks & !(SMTPUTF8 | REQUIRETLS | PRIORITY | RELEASE) != 0 {
        return Err(Malformed("the marks of an envelope"));
    }
    let handling = Handling {
        require_tls: marks & REQUIRETLS != 0,
        priority: if marks & PRIORITY != 0 { i8::from_be_bytes(r.array()?) } else { 0 },
        release_at: if marks & RELEASE != 0 { Some(r.time()?) } else { None },
    };
    Ok((marks, handling))
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
    Ok(Recipient { forward_path, notify, orcpt: r.optional_text()?.map(str::to_owned), unverified })
}

fn read_address(text: &str) -> Result<Address, Malformed> {
    Address::parse(text).map_err(|_| Malformed("an address"))
}
