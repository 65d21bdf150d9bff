//! The header of a message on its way through the intake: which key it is decided under, and what leaves the relay.
//!
//! The key never leaves; fields are added in front; every other octet stays as it came. What a field is and where the
//! header ends is read here once more, line by line.

use oncemail::intake::Decision;
use oncemail::mail::FingerprintMode;
use oncemail::mail::header::{Header, HeaderEnd};

use crate::intake::Bench;

const KEY: &[u8] = b"x-idempotency-key";

/// The input is a message.
pub fn run(input: &[u8]) {
    let told = by_the_book(input);
    let header = Header::split(input);
    let fields: Vec<_> = header.fields().map(|field| (field.name, field.raw)).collect();
    assert_eq!(fields, told.fields);
    assert_eq!((header.body, header.end), (told.body, told.end));
    for field in header.fields() {
        let unfolded = field.unfolded();
        assert!(!unfolded.windows(2).any(|pair| pair == b"\r\n"), "a fold is left");
        assert!(unfolded.len() <= field.value.len());
    }

    let bench = Bench::new(FingerprintMode::Content);
    let first = bench.send(input.to_vec());
    let queued = bench.queued();
    match first {
        Decision::Queued(id) => {
            let [message] = &queued[..] else { panic!("{} messages are queued", queued.len()) };
            assert_eq!(message.id, id);
            relayed(&told, &message.content);
            key(&told, message.key.as_ref().map(|scoped| scoped.key.as_str()));
            // I1: the same octets are the same message.
            let again = bench.send(input.to_vec());
            match &message.key {
                Some(_) => assert_eq!(again, Decision::Replayed(id)),
                None => assert!(matches!(again, Decision::Queued(other) if other != id)),
            }
        }
        Decision::InvalidKey(_) => {
            assert!(queued.is_empty());
            assert!(told.keys().count() > 0, "there is no key to be refused");
        }
        Decision::TooManyHops => assert!(queued.is_empty()),
        other => panic!("{other:?}"),
    }
}

struct Told<'a> {
    /// Name, and all of it.
    fields: Vec<(&'a [u8], &'a [u8])>,
    body: &'a [u8],
    end: HeaderEnd,
}

impl<'a> Told<'a> {
    fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        self.fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(KEY)).map(|(_, raw)| *raw)
    }

    fn has(&self, wanted: &str) -> bool {
        self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
    }
}

fn by_the_book(message: &[u8]) -> Told<'_> {
    let mut fields: Vec<(&[u8], &[u8])> = Vec::new();
    // Where the field that we are in begins, and where we are.
    let (mut start, mut at) = (0, 0);
    loop {
        let rest = &message[at..];
        let line_len = rest.windows(2).position(|pair| pair == b"\r\n").map_or(rest.len(), |len| len + 2);
        let line = &rest[..line_len];
        let told = |fields, body, end| Told { fields, body, end };
        if line.is_empty() {
            return told(fields, line, HeaderEnd::EndOfMessage);
        }
        if line == b"\r\n" {
            return told(fields, &rest[2..], HeaderEnd::EmptyLine);
        }
        let is_fold = matches!(line[0], b' ' | b'\t');
        if let Some((_, raw)) = fields.last_mut().filter(|_| is_fold) {
            *raw = &message[start..at + line_len];
        } else if let Some(name) = name(line).filter(|_| !is_fold) {
            start = at;
            fields.push((name, line));
        } else {
            return told(fields, rest, HeaderEnd::NoField);
        }
        at += line_len;
    }
}

/// `name` of `name: value`, white space before the colon left out.
fn name(line: &[u8]) -> Option<&[u8]> {
    let colon = line.iter().position(|b| *b == b':')?;
    let before = &line[..colon];
    let name = before.trim_ascii_end();
    let gap = &before[name.len()..];
    let is_name = !name.is_empty() && name.iter().all(|b| (33..=126).contains(b));
    (is_name && gap.iter().all(|b| matches!(b, b' ' | b'\t'))).then_some(name)
}

/// What goes to the next hop.
fn relayed(told: &Told<'_>, content: &[u8]) {
    let dropped = [KEY, b"return-path"];
    let mut expected: Vec<u8> = Vec::new();
    for (name, raw) in &told.fields {
        if !dropped.iter().any(|dropped| name.eq_ignore_ascii_case(dropped)) {
            expected.extend_from_slice(raw);
        }
    }
    if !expected.is_empty() {
        end_line(&mut expected);
    }
    if told.end != HeaderEnd::EndOfMessage {
        expected.extend_from_slice(b"\r\n");
        expected.extend_from_slice(told.body);
        end_line(&mut expected);
    }
    let added = content.strip_suffix(&expected[..]).unwrap_or_else(|| {
        panic!(
            "{:?}\nis not the end of\n{:?}",
            expected.escape_ascii().to_string(),
            content.escape_ascii().to_string()
        )
    });
    let added = by_the_book(added);
    assert_eq!(added.end, HeaderEnd::EndOfMessage);
    let names: Vec<_> = added.fields.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    let mut wanted = vec!["Received"];
    wanted.extend((!told.has("Message-ID")).then_some("Message-ID"));
    wanted.extend((!told.has("Date")).then_some("Date"));
    assert_eq!(names, wanted);
    assert_eq!(by_the_book(content).keys().count(), 0, "the key leaves");
}

fn end_line(out: &mut Vec<u8>) {
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
}

/// The key that was used, where it needs no decoding to know it.
fn key(told: &Told<'_>, used: Option<&str>) {
    let Some(used) = used else {
        let is_empty = |raw: &[u8]| {
            let value = &raw[raw.iter().position(|b| *b == b':').map_or(0, |at| at + 1)..];
            // An encoded word may stand for nothing.
            value.trim_ascii().is_empty() || value.windows(2).any(|pair| pair == b"=?")
        };
        assert!(told.keys().all(is_empty), "a key was not seen");
        return;
    };
    assert!(!used.is_empty() && used.chars().count() <= 256 && !used.contains(|c: char| c.is_control()));
    assert!(told.keys().count() > 0, "a key that nobody sent");
    for raw in told.keys() {
        let value = &raw[raw.iter().position(|b| *b == b':').map_or(0, |at| at + 1)..];
        let is_plain = value.is_ascii() && !value.windows(2).any(|pair| pair == b"=?");
        let line = value.strip_suffix(b"\r\n").unwrap_or(value);
        if is_plain && !line.contains(&b'\n') {
            let trimmed = String::from_utf8_lossy(line);
            assert_eq!(used, trimmed.trim_matches([' ', '\t']));
        }
    }
}
