//! The sections that are numbers and words: `[limits]`, `[idempotency]`, `[header]`, `[retry]`, `[breaker]`,
//! `[store]`. Each value has its default and its range here.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use governor::Quota;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use crate::mail::FingerprintMode;
use crate::queue::options::{Jitter, OnFailure};
use crate::{intake, queue, relay, submission};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

const KB: u64 = 1_000;
const MB: u64 = 1_000_000;
const GB: u64 = 1_000_000_000;

/// No wait of `[retry]` is shorter: the queue would do nothing else.
const SHORTEST: Duration = Duration::from_millis(10);
/// Between two reads within DATA, and never more than the whole of `data_timeout` (RFC 5321 §4.5.3.2.5 gives the
/// sender of a block 3 minutes).
const DATA_BLOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// `auth_failures`, per minute.
const DEFAULT_AUTH_FAILURES: NonZeroU32 = NonZeroU32::new(10).unwrap();

/// `[limits]`, for those whom it concerns.
pub(super) struct Limits {
    pub submission: submission::options::Limits,
    pub queue_memory: usize,
    pub min_free: u64,
}

/// Reads `[limits]`.
pub(super) fn limits(root: &Table, problems: &Problems) -> Limits {
    let section = Section::once(root, "limits", problems);
    let memory = |key: &str, default: u64, range: &RangeInclusive<u64>| {
        usize::try_from(section.size(key, default, range)).unwrap_or(usize::MAX)
    };
    let message_size = memory("message_size", 25 * MB, &(KB..=GB));
    let receive_memory = memory("receive_memory", 256 * MB, &(KB..=1_000 * GB));
    if receive_memory < message_size {
        let what = "`receive_memory` is smaller than `message_size`: no message of that size could come in";
        let key = if section.has("receive_memory") { "receive_memory" } else { "message_size" };
        section.problem(key, what, "make `receive_memory` several times `message_size`");
    }
    let data_timeout = section.duration("data_timeout", 10 * MINUTE, &(SECOND..=DAY));
    Limits {
        queue_memory: memory("queue_memory", 64 * MB, &(0..=1_000 * GB)),
        min_free: section.size("min_free", GB, &(MB..=1_000_000 * GB)),
        submission: submission::options::Limits {
            message_size,
            recipients: count(&section, "recipients", 1_000, 100_000),
            messages_per_connection: section.number("messages_per_connection", 1_000, &(1..=1_000_000)),
            connections: count(&section, "connections", 2_000, 1_000_000),
            connections_per_ip: count(&section, "connections_per_ip", 200, 1_000_000),
            receive_memory,
            auth_failures: section
                .rate("auth_failures")
                .unwrap_or_else(|| Quota::per_minute(DEFAULT_AUTH_FAILURES)),
            command_timeout: section.duration("command_timeout", 5 * MINUTE, &(SECOND..=DAY)),
            data_timeout,
            data_block_timeout: data_timeout.min(DATA_BLOCK_TIMEOUT),
        },
    }
}

/// A number of things, at least one.
fn count(section: &Section<'_>, key: &str, default: u32, max: u32) -> usize {
    usize::try_from(section.number(key, default, &(1..=max))).unwrap_or(usize::MAX)
}

/// Reads `[idempotency]` and `[header]`.
pub(super) fn intake(root: &Table, problems: &Problems, hostname: String) -> intake::Options {
    use intake::Fallback;
    let section = Section::once(root, "idempotency", problems);
    let options = intake::Options {
        hostname,
        header: section.parsed("header", key_field_name).unwrap_or_else(|| "X-Idempotency-Key".to_owned()),
        ttl: section.duration("ttl", DAY, &(SECOND..=366 * DAY)),
        fingerprint: section.choice(
            "fingerprint",
            FingerprintMode::Content,
            &[("content", FingerprintMode::Content), ("exact", FingerprintMode::Exact)],
        ),
        ignore_headers: section.parsed_list("ignore_headers", field_name).unwrap_or_default(),
        fallback: section.choice(
            "fallback_key",
            Fallback::None,
            &[("none", Fallback::None), ("message-id", Fallback::MessageId), ("content", Fallback::Content)],
        ),
        observe: section.flag("observe", false),
        drop_bcc: Section::once(root, "header", problems).flag("drop_bcc", false),
    };
    if options.observe && options.fallback == Fallback::None {
        let what = "`observe` without `fallback_key` observes nothing";
        section.problem("observe", what, "add fallback_key = \"message-id\" or \"content\"");
    }
    options
}

/// RFC 5322 §2.2: a header field's name.
fn field_name(text: &str) -> Result<String, String> {
    let is_name =
        !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic() && b != b':');
    is_name.then(|| text.to_owned()).ok_or_else(|| "a header field's name without the colon".to_owned())
}

/// The key's field is taken out of each message: a field that belongs to the mail would be lost.
fn key_field_name(text: &str) -> Result<String, String> {
    let name = field_name(text)?;
    if is_mail_field(&name) {
        return Err(
            "a field that mails do not have already, for it is never relayed (fallback_key = \"message-id\" \
                    needs no field of its own)"
                .to_owned(),
        );
    }
    Ok(name)
}

/// `forward_key_as`: the key stands in front of the mail's own fields, and must not be taken for one of them.
pub(super) fn forwarded_field_name(text: &str) -> Result<String, String> {
    let name = field_name(text)?;
    if is_mail_field(&name) {
        return Err("a field that mails do not have already, the one that the next hop asks for".to_owned());
    }
    Ok(name)
}

fn is_mail_field(name: &str) -> bool {
    MAIL_FIELDS.into_iter().any(|own| match own.strip_suffix('*') {
        Some(prefix) => name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix)),
        None => name.eq_ignore_ascii_case(own),
    })
}

/// Fields that mails have (RFC 5322 §3.6, RFC 2045, RFC 6376, RFC 2369).
const MAIL_FIELDS: [&str; 19] = [
    "From",
    "Sender",
    "Reply-To",
    "To",
    "Cc",
    "Bcc",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Subject",
    "Comments",
    "Keywords",
    "Date",
    "Received",
    "Return-Path",
    "MIME-Version",
    "DKIM-Signature",
    "Content-*",
    "Resent-*",
];

/// Reads `[retry]`.
pub(super) fn queue(
    root: &Table,
    problems: &Problems,
    hostname: String,
    fresh_bytes: usize,
) -> queue::options::Options {
    let section = Section::once(root, "retry", problems);
    let options = queue::options::Options {
        base: section.duration("base", 30 * SECOND, &(SHORTEST..=DAY)),
        cap: section.duration("cap", HOUR, &(SHORTEST..=7 * DAY)),
        jitter: section.choice("jitter", Jitter::Full, &[("full", Jitter::Full), ("none", Jitter::None)]),
        expire_after: section.duration("expire_after", 5 * DAY, &(SECOND..=366 * DAY)),
        warn_after: warn_after(&section),
        on_failure: section.choice(
            "on_failure",
            OnFailure::Bounce,
            &[("bounce", OnFailure::Bounce), ("hold", OnFailure::Hold), ("discard", OnFailure::Discard)],
        ),
        hostname,
        fresh_bytes,
    };
    let is_late = options.warn_after.is_some_and(|after| after >= options.expire_after);
    if is_late && section.has("warn_after") {
        let what = "`warn_after` is not before `expire_after`: the notice would never be sent";
        section.problem("warn_after", what, "make it shorter, or say warn_after = \"never\"");
    }
    if options.cap < options.base {
        let key = if section.has("cap") { "cap" } else { "base" };
        section.problem(
            key,
            "`cap` is shorter than `base`",
            "the first wait is `base`, the longest is `cap`",
        );
    }
    options
}

/// A time, or `never`.
fn warn_after(section: &Section<'_>) -> Option<Duration> {
    if section.says("warn_after", "never") {
        return None;
    }
    Some(section.duration("warn_after", 4 * HOUR, &(SHORTEST..=366 * DAY)))
}

/// Reads `[breaker]`.
pub(super) fn breaker(root: &Table, problems: &Problems) -> relay::options::Breaker {
    let section = Section::once(root, "breaker", problems);
    let default = relay::options::Breaker::default();
    let times = Duration::from_millis(100)..=DAY;
    let counts = 1..=1_000;
    relay::options::Breaker {
        failures: section.number("failures", default.failures, &counts),
        window: section.duration("window", default.window, &times),
        open_for: section.duration("open_for", default.open_for, &times),
        probes: section.number("probes", default.probes, &counts),
        successes: section.number("successes", default.successes, &counts),
    }
}

/// Checks `[store]`: there is only one store to choose.
pub(super) fn store(root: &Table, problems: &Problems) {
    Section::once(root, "store", problems).choice("backend", (), &[("embedded", ())]);
}
