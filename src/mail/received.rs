//! The Received field that this relay puts on top of each message (RFC 5321 §4.4).
//!
//! Everything in it that a client has chosen (its EHLO name, the user, an address) is cut to length and loses each
//! character that could end a line, a comment or a word: the field can never become two fields.

use std::net::IpAddr;

use super::queue_id::QueueId;
use crate::clock::Timestamp;

/// A longer name or comment is cut here, in characters.
const MAX_WORD: usize = 128;
/// RFC 5322 §2.1.1: lines should not be longer, CRLF not counted.
const MAX_LINE: usize = 78;

/// What the field tells.
#[derive(Clone, Debug)]
pub struct Received<'a> {
    /// What the client called itself.
    pub helo: &'a str,
    /// Its address; `None` for messages made here.
    pub client: Option<IpAddr>,
    /// Who it authenticated as.
    pub user: Option<&'a str>,
    /// Our name.
    pub hostname: &'a str,
    /// The `with` keyword (RFC 3848).
    pub with: &'a str,
    /// TLS version and cipher suite.
    pub tls: Option<&'a str>,
    /// The queue id.
    pub id: QueueId,
    /// The only recipient: with several, naming one would tell the others of it (RFC 5321 §7.2).
    pub only_recipient: Option<&'a str>,
    /// MT-PRIORITY; 0 is what mail has that says nothing, and is not mentioned.
    pub priority: i8,
    /// When the message was accepted.
    pub at: Timestamp,
}

impl Received<'_> {
    /// Appends the whole field with its CRLF.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let mut line = Folder { out, column: 0 };
        line.start("Received:");
        self.write_from(&mut line);
        line.word("by");
        line.word(&domain_word(self.hostname));
        line.word("with");
        line.word(&domain_word(self.with));
        if let Some(tls) = self.tls {
            line.word(&format!("({})", comment(tls)));
        }
        line.word(&format!("id {}", self.id));
        // An address beyond ASCII would make the whole message need SMTPUTF8.
        if let Some(recipient) = self.only_recipient.filter(|r| r.bytes().all(|b| (32..127).contains(&b))) {
            line.word(&format!("for <{recipient}>"));
        }
        // RFC 6710 §6, an additional clause of RFC 5321 §4.4.
        if self.priority != 0 {
            line.word(&format!("PRIORITY {}", self.priority));
        }
        line.end_with(';');
        line.word(&date(self.at));
        line.out.extend_from_slice(b"\r\n");
    }

    fn write_from(&self, line: &mut Folder<'_>) {
        if let Some(client) = self.client {
            line.word("from");
            line.word(&domain_word(self.helo));
            line.word(&match client.to_canonical() {
                IpAddr::V4(v4) => format!("([{v4}])"),
                IpAddr::V6(v6) => format!("([IPv6:{v6}])"),
            });
        }
        if let Some(user) = self.user {
            line.word(&format!("(authenticated as {})", comment(user)));
        }
    }
}

/// RFC 5322 §3.3, UTC: `Sun, 22 Nov 2026 10:30:00 +0000`.
pub fn date(at: Timestamp) -> String {
    let secs = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    mail_parser::DateTime::from_timestamp(secs).to_rfc822()
}

/// A name as a client gave it, fit to stand where a domain or an address literal stands.
fn domain_word(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    let word: String = name.chars().take(MAX_WORD).map(|c| if fits(c) { c } else { '_' }).collect();
    if word.is_empty() { "unknown".to_owned() } else { word }
}

/// A text fit to stand in a comment; without semicolons, as some programs look for the date after the first one.
fn comment(text: &str) -> String {
    let fits = |c: char| (' '..='~').contains(&c) && !"()\\\";".contains(c);
    text.chars().take(MAX_WORD).map(|c| if fits(c) { c } else { '_' }).collect()
}

/// Puts words on lines that are not longer than they need to be.
struct Folder<'a> {
    out: &'a mut Vec<u8>,
    column: usize,
}

impl Folder<'_> {
    fn start(&mut self, name: &str) {
        self.out.extend_from_slice(name.as_bytes());
        self.column = name.len();
    }

    fn word(&mut self, word: &str) {
        // One place is kept for the semicolon.
        if self.column + 1 + word.len() + 1 > MAX_LINE {
            self.out.extend_from_slice(b"\r\n\t");
            self.column = 1;
        } else {
            self.out.push(b' ');
            self.column += 1;
        }
        self.out.extend_from_slice(word.as_bytes());
        self.column += word.len();
    }

    fn end_with(&mut self, mark: char) {
        self.out.extend(mark.to_string().as_bytes());
        self.column += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::header::Header;

    fn field<'a>(change: impl FnOnce(&mut Received<'a>)) -> String {
        let mut received = Received {
            helo: "app.example",
            client: Some("192.0.2.1".parse().unwrap()),
            user: Some("shop"),
            hostname: "relay.example",
            with: "ESMTPSA",
            tls: Some("TLSv1.3 TLS13_AES_256_GCM_SHA384"),
            id: QueueId::from_bytes([7; 16]),
            only_recipient: Some("one@dest.example"),
            priority: 0,
            at: Timestamp::from_millis(1_795_343_400_000),
        };
        change(&mut received);
        let mut out = Vec::new();
        received.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_field_tells_where_a_message_came_from() {
        let id = QueueId::from_bytes([7; 16]);
        assert_eq!(
            field(|_| {}),
            format!(
                "Received: from app.example ([192.0.2.1]) (authenticated as shop) by\r\n\
                 \trelay.example with ESMTPSA (TLSv1.3 TLS13_AES_256_GCM_SHA384)\r\n\
                 \tid {id} for <one@dest.example>;\r\n\
                 \tSun, 22 Nov 2026 10:30:00 +0000\r\n"
            )
        );
        let v6 = field(|r| r.client = Some("2001:db8::1".parse().unwrap()));
        assert!(v6.contains("([IPv6:2001:db8::1])"), "{v6}");
        let urgent = field(|r| r.priority = -9);
        assert!(urgent.contains(" for <one@dest.example> PRIORITY -9;"), "{urgent}");
        let local = field(|r| r.client = None);
        assert!(!local.contains("from"), "{local}");
    }

    #[test]
    fn nothing_that_a_client_chooses_can_leave_its_place() {
        let evil = "a)b(c\\\"\r\nX-Evil: 1\r\n\r\n\u{2028}é\0;";
        let text = field(|r| {
            r.helo = evil;
            r.user = Some(evil);
            r.tls = Some(evil);
            r.only_recipient = Some("é@x\r\n");
        });
        let header = Header::split(text.as_bytes());
        assert_eq!(header.fields().count(), 1, "{text}");
        assert_eq!(header.len(), text.len());
        assert!(text.is_ascii() && !text.contains("for <"), "{text}");
        assert_eq!(text.matches('(').count(), text.matches(')').count());
        assert_eq!(text.matches(';').count(), 1);
    }

    #[test]
    fn lines_are_short_and_words_bounded() {
        let long = "x".repeat(10_000);
        let text = field(|r| {
            r.helo = &long;
            r.user = Some(&long);
        });
        assert!(text.len() < 700, "{text}");
        assert!(field(|_| {}).lines().all(|line| line.len() <= MAX_LINE));
        assert!(field(|r| r.helo = "").contains("from unknown "));
    }
}
