//! A mail as some library would write it: every freedom that a writer has is a choice.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::dice::Dice;
use crate::mails::{Mail, Part, Piece};

/// What every boundary begins with; texts that hold it are not sent as they are.
const BOUNDARY: &str = "=_b";

/// Writes mails, with choices of its own.
pub struct Writer<'a> {
    dice: Dice<'a>,
    boundaries: usize,
    /// Part of the names of inline files: libraries draw it anew each time.
    drawn: usize,
}

impl<'a> Writer<'a> {
    /// One that writes as `dice` say.
    pub fn new(mut dice: Dice<'a>) -> Self {
        let drawn = dice.word();
        Self { dice, boundaries: 0, drawn }
    }

    /// The message, under `key`.
    pub fn message(&mut self, mail: &Mail, key: &str) -> Vec<u8> {
        let mut fields = vec![
            format!("X-Idempotency-Key: {key}\r\n"),
            format!("Message-ID: <{}@x.example>\r\n", self.dice.word()),
            format!("Date: Sun, 22 Nov 2026 10:30:{:02} +0000\r\n", self.dice.below(60)),
            format!("x-ignored: {}\r\n", self.dice.byte()),
        ];
        if self.dice.flag() {
            fields.push(format!("Received: from a by b; {}\r\n", self.dice.byte()));
        }
        if self.dice.flag() {
            fields.push("MIME-Version: 1.0\r\n".to_owned());
        }
        let mut out = self.mail(mail, fields);
        if !out.ends_with(b"\r\n") {
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// Header and body, `fields` among the others.
    fn mail(&mut self, mail: &Mail, mut fields: Vec<String>) -> Vec<u8> {
        let subject = self.words(&mail.subject);
        // A blank line within a field is another thing.
        let fold = if subject.is_empty() { "" } else { self.fold() };
        fields.push(format!("{}:{fold}{subject}\r\n", self.case("Subject")));
        for (name, value) in &mail.fields {
            fields.push(format!("{}:{}{value}\r\n", self.case(name), self.fold()));
        }
        let (more, body) = self.part(&mail.root);
        fields.extend(more);
        if self.dice.flag() {
            fields.reverse();
        }
        let by = self.dice.below(fields.len());
        fields.rotate_left(by);
        let mut out = fields.concat().into_bytes();
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&body);
        out
    }

    /// Fields of a part, and its body.
    fn part(&mut self, part: &Part) -> (Vec<String>, Vec<u8>) {
        match part {
            Part::Text(kind, pieces) => self.text(kind, pieces),
            Part::File { name, bytes, inline } => self.file(name, bytes, *inline),
            Part::Multi(kind, parts) => self.multi(kind, parts),
            Part::Message(mail) => {
                let field = format!("Content-Type:{}message/rfc822\r\n", self.fold());
                let message_id = format!("Message-ID: <{}@y.example>\r\n", self.dice.word());
                (vec![field], self.mail(mail, vec![message_id]))
            }
        }
    }

    fn multi(&mut self, kind: &str, parts: &[Part]) -> (Vec<String>, Vec<u8>) {
        self.boundaries += 1;
        let boundary = format!("{BOUNDARY}{}_{}", self.boundaries, self.dice.word());
        let field = format!(
            "{}: multipart/{kind};{}boundary=\"{boundary}\"\r\n",
            self.case("Content-Type"),
            self.fold()
        );
        let mut body = match self.dice.flag() {
            true => b"This is a message in MIME format.\r\n".to_vec(),
            false => Vec::new(),
        };
        for part in parts {
            let blanks = if self.dice.flag() { "  " } else { "" };
            body.extend_from_slice(format!("--{boundary}{blanks}\r\n").as_bytes());
            let (mut fields, octets) = self.part(part);
            if self.dice.flag() {
                fields.reverse();
            }
            body.extend_from_slice(fields.concat().as_bytes());
            body.extend_from_slice(b"\r\n");
            body.extend_from_slice(&octets);
            body.extend_from_slice(b"\r\n");
        }
        let epilogue = if self.dice.flag() { "\r\nNothing follows." } else { "" };
        body.extend_from_slice(format!("--{boundary}--{epilogue}").as_bytes());
        (vec![field], body)
    }

    fn text(&mut self, kind: &str, pieces: &[Piece]) -> (Vec<String>, Vec<u8>) {
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Words(words) => text.push_str(words),
                Piece::Inline(number) => {
                    text.push_str(&format!("<img src=\"cid:{}\">", cid(*number, self.drawn)));
                }
            }
        }
        // The last line end may be there or not: encodings keep it or do not.
        let mut text = text.strip_suffix('\n').map(str::to_owned).unwrap_or(text);
        if self.dice.flag() || text.ends_with('\n') {
            text.push('\n');
        }
        let (charset, bytes) = self.charset(&text);
        let is_wide = charset.starts_with("utf-16");
        let parameter = match charset {
            "" => String::new(),
            charset => format!(";{}{}={charset}", self.fold(), self.case("charset")),
        };
        let content_type = format!("Content-Type: {}{parameter}\r\n", self.case(&format!("text/{kind}")));
        let crlf = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\n', "\r\n");
        let (name, body) = match self.dice.below(3) {
            0 if !is_wide && !text.contains(BOUNDARY) && std::str::from_utf8(&bytes).is_ok() => {
                ("8bit", crlf(&bytes).into_bytes())
            }
            1 if !is_wide => ("quoted-printable", self.quoted_text(&bytes).into_bytes()),
            // RFC 2045 §6.8 wants CRLF within; some libraries leave LF.
            _ if is_wide || self.dice.flag() => ("base64", self.base64(&bytes).into_bytes()),
            _ => {
                let lines: Vec<_> = bytes.split(|b| *b == b'\n').collect();
                ("base64", self.base64(&lines.join(&b"\r\n"[..])).into_bytes())
            }
        };
        (vec![content_type, format!("Content-Transfer-Encoding: {}\r\n", self.case(name))], body)
    }

    fn charset(&mut self, text: &str) -> (&'static str, Vec<u8>) {
        let utf_8 = ("utf-8", text.as_bytes().to_vec());
        match self.dice.below(5) {
            0 if text.is_ascii() => ("", text.as_bytes().to_vec()),
            1 if text.is_ascii() => ("\"us-ascii\"", text.as_bytes().to_vec()),
            2 if text.chars().all(|c| matches!(u32::from(c), 0..0x80 | 0xa0..0x100)) => {
                let bytes = text.chars().filter_map(|c| u8::try_from(u32::from(c)).ok()).collect();
                ("iso-8859-1", bytes)
            }
            3 => ("utf-16be", text.encode_utf16().flat_map(u16::to_be_bytes).collect()),
            _ => utf_8,
        }
    }

    fn file(&mut self, name: &str, bytes: &[u8], inline: Option<u8>) -> (Vec<String>, Vec<u8>) {
        let quote = if self.dice.flag() { "\"" } else { "" };
        let disposition = if inline.is_some() { "inline" } else { "attachment" };
        let mut fields = vec![
            format!("Content-Type: application/pdf;{}name={quote}{name}{quote}\r\n", self.fold()),
            format!("Content-Disposition: {};{}filename=\"{name}\"\r\n", self.case(disposition), self.fold()),
        ];
        if let Some(number) = inline {
            fields.push(format!("Content-ID:{}<{}>\r\n", self.fold(), cid(number, self.drawn)));
        }
        let (encoding, body) = match self.dice.flag() {
            true => ("quoted-printable", self.quoted_octets(bytes)),
            false => ("base64", self.base64(bytes)),
        };
        fields.push(format!("Content-Transfer-Encoding: {encoding}\r\n"));
        (fields, body.into_bytes())
    }

    fn base64(&mut self, bytes: &[u8]) -> String {
        let text = STANDARD.encode(bytes);
        let width = 4 * (1 + self.dice.below(19));
        let lines: Vec<_> = text.as_bytes().chunks(width).map(String::from_utf8_lossy).collect();
        lines.join("\r\n")
    }

    /// All octets encoded, and no line end but soft ones.
    fn quoted_octets(&mut self, bytes: &[u8]) -> String {
        let width = 1 + self.dice.below(24);
        let hex: Vec<String> = bytes.iter().map(|b| format!("={b:02X}")).collect();
        let mut text = hex.chunks(width).map(<[String]>::concat).collect::<Vec<_>>().join("=\r\n");
        text.push('=');
        text
    }

    /// Lines as they are; octets that may stand as they are do, or not.
    fn quoted_text(&mut self, bytes: &[u8]) -> String {
        let width = 10 + self.dice.below(60);
        let eager = self.dice.flag();
        let lower = self.dice.flag();
        let mut out = String::new();
        let mut column = 0;
        for (at, byte) in bytes.iter().enumerate() {
            if *byte == b'\n' {
                out.push_str("\r\n");
                column = 0;
                continue;
            }
            if column >= width {
                out.push_str("=\r\n");
                column = 0;
            }
            let ends_line = bytes.get(at + 1).is_none_or(|next| *next == b'\n');
            // RFC 2045 §6.7 rule 3: a blank must not end a line, nor stand before a soft break's `=` alone.
            let may_stand = matches!(byte, b'!'..=b'<' | b'>'..=b'~') && !(eager && byte.is_ascii_punctuation())
                || matches!(byte, b' ' | b'\t') && !ends_line
                // No library should, and some do not know better.
                || *byte == 0x0c && !eager;
            match may_stand {
                true => out.push(char::from(*byte)),
                false if lower => out.push_str(&format!("={byte:02x}")),
                false => out.push_str(&format!("={byte:02X}")),
            }
            column += 3;
        }
        out
    }

    /// A subject as it is or in encoded words (RFC 2047).
    fn words(&mut self, text: &str) -> String {
        let white = |dice: &mut Dice<'_>| if dice.flag() { "\r\n " } else { " " };
        match self.dice.below(3) {
            0 => {
                let words: Vec<_> = text.split(' ').collect();
                let white = if words.iter().all(|word| !word.trim().is_empty()) {
                    white(&mut self.dice)
                } else {
                    " "
                };
                words.join(white)
            }
            way => {
                let len = 1 + self.dice.below(30);
                let encode = |bytes: &[u8]| match way {
                    1 => format!("=?utf-8?b?{}?=", STANDARD.encode(bytes)),
                    _ => {
                        let hex: String = bytes.iter().map(|b| format!("={b:02X}")).collect();
                        format!("=?UTF-8?Q?{hex}?=")
                    }
                };
                let words: Vec<_> = text.as_bytes().chunks(len).map(encode).collect();
                words.join(white(&mut self.dice))
            }
        }
    }

    /// The space behind a colon or a semicolon.
    fn fold(&mut self) -> &'static str {
        self.dice.pick(&[" ", "\r\n ", "\r\n\t", "  "])
    }

    fn case(&mut self, name: &str) -> String {
        match self.dice.below(3) {
            0 => name.to_owned(),
            1 => name.to_ascii_lowercase(),
            _ => name.to_ascii_uppercase(),
        }
    }
}

/// What an inline file is called.
fn cid(number: u8, drawn: usize) -> String {
    format!("part{number}.{drawn}@x.example")
}
