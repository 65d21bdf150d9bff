//! The content as it is relayed (RFC 6409 §8): the trace field on top, Message-ID and Date added when they are
//! missing, fields that must not leave the relay taken out. Every other byte stays as it came.

use super::arrival::Arrival;
use super::options::Options;
use crate::mail::QueueId;
use crate::mail::header::{Field, Header, HeaderEnd};
use crate::mail::received::{self, Received};

/// Room for the fields that are added; longer ones only cost a second allocation.
const ADDED_BYTES: usize = 1024;

/// The Message-ID that a message without one gets.
pub(super) fn message_id(id: QueueId, hostname: &str) -> String {
    format!("<{id}@{hostname}>")
}

/// The content as it is relayed.
pub(super) fn relayed(arrival: &Arrival) -> Vec<u8> {
    let options = &*arrival.options;
    let header = Header::split(&arrival.content);
    let mut out = Vec::with_capacity(arrival.content.len() + ADDED_BYTES);
    received_field(arrival).write_to(&mut out);
    add_missing(&header, arrival, &mut out);
    for field in header.fields().filter(|field| !is_dropped(field, options)) {
        out.extend_from_slice(field.raw);
    }
    end_line(&mut out);
    // Where the body began without an empty line it gets one: its first line would be read as part of the fields.
    if header.end != HeaderEnd::EndOfMessage {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(header.body);
    end_line(&mut out);
    out
}

fn received_field(arrival: &Arrival) -> Received<'_> {
    let only_recipient = match arrival.envelope.recipients.as_slice() {
        [only] => Some(only.forward_path.as_str()),
        _ => None,
    };
    Received {
        helo: &arrival.trace.helo,
        client: arrival.origin.client,
        user: arrival.origin.user.as_deref(),
        hostname: &arrival.options.hostname,
        with: arrival.trace.with,
        tls: arrival.trace.tls.as_deref(),
        id: arrival.id,
        only_recipient,
        at: arrival.at,
    }
}

/// RFC 6409 §8.2 and §8.3. The fields are made from what is durable, so that they need no state of their own.
fn add_missing(header: &Header<'_>, arrival: &Arrival, out: &mut Vec<u8>) {
    let has = |name: &str| header.fields().any(|field| field.is(name));
    if !has("Message-ID") {
        let field = format!("Message-ID: {}\r\n", message_id(arrival.id, &arrival.options.hostname));
        out.extend_from_slice(field.as_bytes());
    }
    if !has("Date") {
        out.extend_from_slice(format!("Date: {}\r\n", received::date(arrival.at)).as_bytes());
    }
}

/// The key never leaves the relay; Return-Path is for the last hop alone to add (RFC 5321 §4.4).
fn is_dropped(field: &Field<'_>, options: &Options) -> bool {
    field.is(&options.header) || field.is("Return-Path") || (options.drop_bcc && field.is("Bcc"))
}

fn end_line(out: &mut Vec<u8>) {
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
}
