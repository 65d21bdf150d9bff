//! The command lines of one transaction, with the parameters that the far side offers. Pure.

use std::fmt::Write as _;

use crate::mail::{Message, Notify, Recipient, Ret, ReversePath};
use crate::smtp::capabilities::{Capabilities, Size};
use crate::smtp::dot_writer;

/// Why nothing that is not ASCII can be offered to a far side without RFC 6531.
pub(super) const NEEDS_SMTPUTF8: &str =
    "5.6.7 the message needs SMTPUTF8, and the next hop does not offer it";

/// Why a message that asked for REQUIRETLS is not offered (RFC 8689 §4.2.1).
const NEEDS_REQUIRETLS: &str = "5.7.30 REQUIRETLS support required: the message may only go on over verified TLS to a next hop that promises the same";

/// What a far side offers, and how sure it is that it is the one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered {
    pub(super) capabilities: Capabilities,
    /// As in [`Ready`](super::opening::Ready).
    pub(super) is_verified: bool,
}

/// What a message asks of a far side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Needs {
    /// Octets above 127 in the content (RFC 6152).
    pub(super) eight_bit_mime: bool,
    /// An address or a header that is not ASCII (RFC 6531 §3.4).
    pub(super) smtputf8: bool,
}

impl Needs {
    /// Judged by the octets of the message and the fields in front of it, not by what the client announced: a client
    /// that was wrong must not make mail fail.
    pub(super) fn of(message: &Message, fields: &[u8], recipients: &[usize]) -> Self {
        let eight_bit_mime = !message.content.is_ascii() || !fields.is_ascii();
        let envelope = &message.envelope;
        let sender_is_ascii = envelope.reverse_path.mailbox().is_none_or(|mailbox| mailbox.is_ascii());
        let recipients_are_ascii = recipients
            .iter()
            .filter_map(|number| envelope.recipients.get(*number))
            .all(|recipient| recipient.forward_path.is_ascii());
        // Octets above 127 in a header that nobody called SMTPUTF8 are an old habit, and 8BITMIME carries them.
        let header_is_ascii = || fields.is_ascii() && header(&message.content).is_ascii();
        let utf8_header = envelope.smtputf8 && eight_bit_mime && !header_is_ascii();
        Self { eight_bit_mime, smtputf8: !sender_is_ascii || !recipients_are_ascii || utf8_header }
    }
}

/// Why a message cannot be offered to a far side at all: text with its enhanced code.
pub(super) fn obstacle(message: &Message, fields: &[u8], needs: Needs, offered: Offered) -> Option<String> {
    // S1: far sides disagree about where such lines end, which is how mail is smuggled.
    if let Err(bare) = dot_writer::verify(&message.content) {
        return Some(format!("5.6.11 not sent: the message has {bare}"));
    }
    if let Err(bare) = dot_writer::verify(fields) {
        return Some(format!("5.6.11 not sent: the fields in front of the message have {bare}"));
    }
    let Offered { capabilities, is_verified } = offered;
    if message.envelope.handling.require_tls && !(capabilities.requiretls && is_verified) {
        return Some(NEEDS_REQUIRETLS.to_owned());
    }
    if needs.eight_bit_mime && !capabilities.eight_bit_mime {
        return Some(
            "5.6.3 the message has 8-bit content, and the next hop does not offer 8BITMIME".to_owned(),
        );
    }
    if needs.smtputf8 && !capabilities.smtputf8 {
        return Some(NEEDS_SMTPUTF8.to_owned());
    }
    let size = fields.len() + message.content.len();
    match capabilities.size {
        Size::Limit(limit) if u64::try_from(size).is_ok_and(|size| size > limit) => {
            Some(format!("5.3.4 the next hop takes at most {limit} octets, the message has {size}"))
        }
        _ => None,
    }
}

/// Appends `MAIL FROM:<…> …`, of a message that takes `size` octets with the fields in front of it. What it was held
/// back for (RFC 4865) has been honoured here, and goes no further.
pub(super) fn mail(out: &mut String, message: &Message, size: usize, needs: Needs, offered: &Capabilities) {
    let envelope = &message.envelope;
    out.push_str("MAIL FROM:<");
    if let ReversePath::Mailbox(mailbox) = &envelope.reverse_path {
        out.push_str(mailbox.as_str());
    }
    out.push('>');
    if offered.size != Size::NotOffered {
        let _ = write!(out, " SIZE={size}");
    }
    if needs.eight_bit_mime {
        out.push_str(" BODY=8BITMIME");
    }
    if needs.smtputf8 {
        out.push_str(" SMTPUTF8");
    }
    if offered.dsn {
        match envelope.ret {
            Some(Ret::Full) => out.push_str(" RET=FULL"),
            Some(Ret::Headers) => out.push_str(" RET=HDRS"),
            None => {}
        }
        parameter(out, "ENVID", envelope.envid.as_deref());
    }
    if envelope.handling.require_tls && offered.requiretls {
        out.push_str(" REQUIRETLS");
    }
    // RFC 6710 §4.1: mail without the parameter has priority 0.
    if offered.mt_priority && envelope.handling.priority != 0 {
        let _ = write!(out, " MT-PRIORITY={}", envelope.handling.priority);
    }
    out.push_str("\r\n");
}

/// Appends `RCPT TO:<…> …`.
pub(super) fn rcpt(out: &mut String, recipient: &Recipient, offered: &Capabilities) {
    out.push_str("RCPT TO:<");
    out.push_str(recipient.forward_path.as_str());
    out.push('>');
    if offered.dsn {
        if let Some(notify) = recipient.notify {
            let _ = write!(out, " NOTIFY={}", notify_words(notify));
        }
        parameter(out, "ORCPT", recipient.orcpt.as_deref());
    }
    out.push_str("\r\n");
}

/// Leaves out a value that could not have come through MAIL or RCPT: it would change the command.
fn parameter(out: &mut String, name: &str, value: Option<&str>) {
    if let Some(value) =
        value.filter(|value| !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic()))
    {
        let _ = write!(out, " {name}={value}");
    }
}

fn notify_words(notify: Notify) -> String {
    let words = [(notify.success, "SUCCESS"), (notify.failure, "FAILURE"), (notify.delay, "DELAY")];
    let wanted: Vec<_> = words.iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, word)| *word).collect();
    if wanted.is_empty() { "NEVER".to_owned() } else { wanted.join(",") }
}

/// The header, or everything when there is no empty line.
fn header(content: &[u8]) -> &[u8] {
    memchr::memmem::find(content, b"\r\n\r\n").and_then(|end| content.get(..end)).unwrap_or(content)
}
