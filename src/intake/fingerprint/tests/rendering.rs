//! Mails as property tests make them: what a mail is, apart from how a library happens to write it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

/// What a recipient sees.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) struct Mail {
    subject: String,
    to: Vec<String>,
    texts: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
}

/// How it is written.
#[derive(Clone, Debug)]
pub(in super::super) struct Style {
    boundary: String,
    message_id: String,
    folds: bool,
    reversed: bool,
    encodings: Vec<Encoding>,
    preamble: String,
}

#[derive(Clone, Copy, Debug)]
enum Encoding {
    EightBit,
    Base64,
    QuotedPrintable,
    Latin1,
}

/// One thing that is different in another mail.
#[derive(Clone, Debug)]
pub(in super::super) enum Change {
    Subject(char),
    Recipient,
    Text(usize, char),
    File(usize),
    FileName(usize),
    Without(usize),
}

pub(in super::super) fn mail() -> impl Strategy<Value = Mail> {
    let text = "[a-zA-Z0-9 =.,:<>é🔑ß-]{0,40}(\n[-a-z =.é]{0,90}){0,3}[a-z]";
    let file = ("[a-z]{1,8}\\.pdf", prop::collection::vec(any::<u8>(), 0..200));
    (
        "[a-zA-Z0-9é]{1,12}( [a-zß]{1,20}){0,5}",
        prop::collection::vec("[a-z]{1,8}@[a-z]{1,8}\\.example", 1..4),
        prop::collection::vec(text, 1..3),
        prop::collection::vec(file, 1..3),
    )
        .prop_map(|(subject, to, texts, files)| Mail { subject, to, texts, files })
}

/// Mails with so little in them that two are often nearly equal: the same words in other places.
pub(in super::super) fn small_mail() -> impl Strategy<Value = Mail> {
    let file = ("[ab]\\.pdf", prop::collection::vec(prop::sample::select(b"ab\r\n".to_vec()), 0..3));
    (
        "[ab]( [ab])?",
        prop::collection::vec("[ab]@[ab]\\.example", 1..3),
        prop::collection::vec("[ab]?\n?[ab]", 1..3),
        prop::collection::vec(file, 1..3),
    )
        .prop_map(|(subject, to, texts, files)| Mail { subject, to, texts, files })
}

pub(in super::super) fn style() -> impl Strategy<Value = Style> {
    let encoding = prop_oneof![
        Just(Encoding::EightBit),
        Just(Encoding::Base64),
        Just(Encoding::QuotedPrintable),
        Just(Encoding::Latin1)
    ];
    (
        "=_[a-zA-Z0-9.]{10,30}",
        "[a-z0-9]{5,20}",
        any::<bool>(),
        any::<bool>(),
        prop::collection::vec(encoding, 6),
        "[a-zA-Z ]{0,20}",
    )
        .prop_map(|(boundary, message_id, folds, reversed, encodings, preamble)| Style {
            boundary,
            message_id,
            folds,
            reversed,
            encodings,
            preamble,
        })
}

pub(in super::super) fn change() -> impl Strategy<Value = Change> {
    let letter = || prop::char::range('a', 'z');
    prop_oneof![
        letter().prop_map(Change::Subject),
        Just(Change::Recipient),
        (any::<usize>(), letter()).prop_map(|(at, letter)| Change::Text(at, letter)),
        any::<usize>().prop_map(Change::File),
        any::<usize>().prop_map(Change::FileName),
        any::<usize>().prop_map(Change::Without),
    ]
}

impl Mail {
    /// The same with one bit of a file changed.
    pub(in super::super) fn with_a_bit_flipped(&self, file: usize, at: usize) -> Option<Self> {
        let mut other = self.clone();
        let count = other.files.len();
        let bytes = &mut other.files[file % count].1;
        let bits = bytes.len() * 8;
        let bit = at.checked_rem(bits)?;
        bytes[bit / 8] ^= 1 << (bit % 8);
        Some(other)
    }

    pub(in super::super) fn changed(&self, change: &Change) -> Self {
        let mut other = self.clone();
        let (texts, files) = (other.texts.len(), other.files.len());
        match change {
            Change::Subject(letter) => other.subject.push(*letter),
            Change::Recipient => other.to[0].insert(0, 'x'),
            Change::Text(at, letter) => other.texts[at % texts].push(*letter),
            Change::File(at) => other.files[at % files].1.push(0),
            Change::FileName(at) => other.files[at % files].0.insert(0, 'x'),
            Change::Without(at) => drop(other.files.remove(at % files)),
        }
        other
    }

    pub(in super::super) fn render(&self, style: &Style) -> Vec<u8> {
        let white = if style.folds { "\r\n " } else { " " };
        let mut fields = [
            format!("Subject:{white}{}\r\n", style.subject(&self.subject)),
            format!("To: {}\r\n", self.to.join(&format!(",{white}"))),
            format!("Message-ID: <{}@x>\r\n", style.message_id),
            format!("Content-Type: multipart/mixed;{white}boundary=\"{}\"\r\n", style.boundary),
        ];
        if style.reversed {
            fields.reverse();
        }
        let mut out = fields.concat().into_bytes();
        out.extend(format!("\r\n{}", style.preamble).bytes());
        for (text, encoding) in self.texts.iter().zip(&style.encodings) {
            style.begin_part(&mut out);
            out.extend(text_part(text, *encoding));
        }
        for (name, bytes) in &self.files {
            style.begin_part(&mut out);
            let width = if style.folds { 76 } else { 60 };
            out.extend(file_part(name, bytes, width).bytes());
        }
        out.extend(format!("\r\n--{}--\r\n", style.boundary).bytes());
        out
    }
}

impl Style {
    fn begin_part(&self, out: &mut Vec<u8>) {
        out.extend(format!("\r\n--{}\r\n", self.boundary).bytes());
    }

    fn subject(&self, subject: &str) -> String {
        match self.encodings[5] {
            Encoding::Base64 => format!("=?utf-8?b?{}?=", STANDARD.encode(subject)),
            Encoding::QuotedPrintable => {
                let words = subject.as_bytes().chunks(9).map(|chunk| {
                    let hex: String = chunk.iter().map(|b| format!("={b:02X}")).collect();
                    format!("=?UTF-8?Q?{hex}?=")
                });
                words.collect::<Vec<_>>().join("\r\n\t")
            }
            Encoding::EightBit | Encoding::Latin1 => subject.to_owned(),
        }
    }
}

fn text_part(text: &str, encoding: Encoding) -> Vec<u8> {
    let text = text.replace('\n', "\r\n");
    let header = |charset: &str, transfer: &str| {
        format!(
            "Content-Type: text/plain; charset={charset}\r\nContent-Transfer-Encoding: {transfer}\r\n\r\n"
        )
    };
    match encoding {
        Encoding::EightBit => [header("UTF-8", "8bit"), text].concat().into_bytes(),
        Encoding::Base64 => {
            [header("utf-8", "base64"), wrapped(&STANDARD.encode(text), 76)].concat().into_bytes()
        }
        Encoding::QuotedPrintable => {
            [header("\"utf-8\"", "quoted-printable"), quoted(text.as_bytes())].concat().into_bytes()
        }
        Encoding::Latin1 if text.chars().all(|c| u32::from(c) < 256) => {
            let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            [header("iso-8859-1", "quoted-printable"), quoted(&bytes)].concat().into_bytes()
        }
        Encoding::Latin1 => [header("utf-8", "8bit"), text].concat().into_bytes(),
    }
}

fn quoted(bytes: &[u8]) -> String {
    let mut out = String::new();
    let mut column = 0;
    for (index, byte) in bytes.iter().enumerate() {
        let ends_line = bytes.get(index + 1).is_none_or(|next| *next == b'\r');
        match byte {
            b'\r' => continue,
            b'\n' => {
                out.push_str("\r\n");
                column = 0;
                continue;
            }
            b' ' if ends_line => out.push_str("=20"),
            b' '..=b'~' if *byte != b'=' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("={byte:02X}")),
        }
        column += 3;
        if column > 60 {
            out.push_str("=\r\n");
            column = 0;
        }
    }
    out
}

fn file_part(name: &str, bytes: &[u8], width: usize) -> String {
    format!(
        "Content-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{name}\"\r\n\r\n{}",
        wrapped(&STANDARD.encode(bytes), width)
    )
}

fn wrapped(text: &str, width: usize) -> String {
    let lines: Vec<_> = text.as_bytes().chunks(width).map(|line| String::from_utf8_lossy(line)).collect();
    lines.join("\r\n")
}
