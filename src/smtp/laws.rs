//! What holds between the two ends of the protocol: what one writes the other reads, in whatever pieces it comes.

use proptest::prelude::*;

use super::content::{Budget, Content};
use super::data::{Place, Receiver};
use super::dot_writer::{FINAL_DOT, Pieces, verify};
use super::parameters::{MailParameters, RcptParameters};
use super::reply::{EnhancedCode, Reply};
use super::reply_reader::ReplyReader;

fn content() -> Content {
    Content::new(100_000, &Budget::new(1 << 20))
}

/// Lines, whole ones and broken off, with all the dots that matter.
fn octets() -> impl Strategy<Value = Vec<u8>> {
    let pieces =
        ["\r\n", "\r\n", ".", "..", "a", "\r\n.", "\r\n.\r\n", "\r\n..\r\n", "QUIT", " ", "é", "x.y"];
    let pieces = prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..30);
    (pieces, prop_oneof![4 => Just(0usize), 1 => 0..9_000usize])
        .prop_map(|(pieces, long)| [pieces.concat().into_bytes(), vec![b'z'; long]].concat())
}

/// Cuts `stream` at the sizes given, again and again.
fn pieces<'a>(mut stream: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().cycle();
    std::iter::from_fn(move || {
        if stream.is_empty() {
            return None;
        }
        let (piece, rest) = stream.split_at(sizes.next().copied().unwrap_or(1).min(stream.len()));
        stream = rest;
        Some(piece)
    })
}

fn ended(octets: &[u8]) -> Vec<u8> {
    let is_whole = octets.is_empty() || octets.ends_with(b"\r\n");
    if is_whole { octets.to_vec() } else { [octets, b"\r\n"].concat() }
}

proptest! {
    #[test]
    fn s1_what_the_writer_sends_the_receiver_reads_in_any_pieces_and_stops_at_its_end(
        fields in octets(),
        octets in octets(),
        sizes in prop::collection::vec(1..40usize, 1..8),
        follows in prop::sample::select(vec!["", "QUIT\r\n", ".\r\n", "\r\n.\r\n"]),
    ) {
        let fields = ended(&fields);
        prop_assume!(verify(&fields).is_ok() && verify(&octets).is_ok());
        let mut wire = Pieces::new(&fields, &octets).collect::<Vec<_>>().concat();
        let sent = wire.len();
        wire.extend_from_slice(follows.as_bytes());
        let (mut receiver, mut used, mut done) = (Receiver::dots(content()), 0, false);
        for piece in pieces(&wire, &sizes) {
            let fed = receiver.feed(piece);
            used += fed.consumed;
            done = fed.done;
            if done {
                break;
            }
        }
        prop_assert!(done && used == sent, "it ended at {used} of {sent}");
        let received = receiver.finish();
        prop_assert_eq!(received.fault(), None);
        prop_assert_eq!(received.into_parts().0, ended(&[fields.as_slice(), &octets].concat()));
        let halves = Pieces::new(&fields, &octets).without_final_dot().chain([FINAL_DOT]).collect::<Vec<_>>();
        prop_assert_eq!(halves.concat(), &wire[..sent]);
    }

    #[test]
    fn s1_chunks_are_one_message_wherever_they_are_cut(
        octets in octets(), chunks in prop::collection::vec(1..40usize, 1..8), packets in prop::collection::vec(1..40usize, 1..8),
    ) {
        let (mut content, mut place) = (content(), Place::LineStart);
        for chunk in pieces(&octets, &chunks) {
            let mut receiver = Receiver::chunk(content, place, chunk.len() as u64);
            for packet in pieces(chunk, &packets) {
                prop_assert_eq!(receiver.feed(packet).consumed, packet.len());
            }
            // What comes behind it is a command.
            prop_assert_eq!(receiver.feed(b"QUIT\r\n").consumed, 0);
            (content, place) = receiver.pause();
        }
        let received = Receiver::chunk(content, place, 0).finish();
        prop_assert_eq!(received.fault().is_none(), verify(&octets).is_ok());
        if received.fault().is_none() {
            prop_assert_eq!(received.into_parts().0, ended(&octets));
        }
    }

    #[test]
    fn a_reply_is_read_as_it_was_written_and_no_text_ends_a_line(
        code in 200..600u16,
        enhanced in prop::option::of((0..1000u16, 0..1000u16)),
        lines in prop::collection::vec("[a-zA-Z\\-\r\n\t\0 .<>@=é]{0,40}[a-z]", 1..6),
        sizes in prop::collection::vec(1..40usize, 1..8),
    ) {
        let class = u8::try_from(code / 100).unwrap();
        let enhanced = enhanced.filter(|_| class != 3).map(|(subject, detail)| EnhancedCode(class, subject, detail));
        let reply = Reply { code, enhanced, lines: lines.iter().cloned().map(Into::into).collect() };
        let mut wire = Vec::new();
        reply.write_to(&mut wire);
        prop_assert_eq!(wire.iter().filter(|octet| **octet == b'\n').count(), lines.len());
        prop_assert_eq!(verify(&wire), Ok(()));
        let (mut reader, mut read) = (ReplyReader::default(), None);
        for piece in pieces(&wire, &sizes) {
            prop_assert!(read.is_none(), "it ended early");
            read = reader.feed(piece).unwrap().1;
        }
        let read = read.unwrap();
        prop_assert!(reader.is_empty());
        prop_assert_eq!((read.code, read.enhanced), (code, enhanced));
        let shown = |line: &String| line.replace(|c: char| c.is_ascii_control(), "?");
        prop_assert_eq!(read.lines.len(), lines.len());
        for (read, line) in read.lines.iter().zip(&lines) {
            let shown = shown(line);
            prop_assert_eq!(read.trim(), shown.trim());
        }
    }

    #[test]
    fn s1_whatever_text_is_printable_can_be_an_envid_and_none_that_is_taken_can_end_a_line(
        text in "[ -~]{1,30}", wire in "([a-zA-Z+=;.]|\\+[0-9A-Fa-f]{2}|\\\\x\\{[0-9A-F]{1,7}\\}|é|\u{85}){1,20}",
    ) {
        let encoded = xtext(&text);
        let fits = encoded.len() <= 100;
        prop_assert_eq!(MailParameters::parse(&format!(" ENVID={encoded}")).is_ok(), fits);
        let rcpt = RcptParameters::parse(&format!(" ORCPT=rfc822;{encoded}")).unwrap();
        prop_assert_eq!(rcpt.orcpt, Some(format!("rfc822;{encoded}")));
        prop_assert_eq!(from_xtext(&encoded), text);
        if let Ok(MailParameters { envid: Some(envid), .. }) = MailParameters::parse(&format!(" ENVID={wire}")) {
            prop_assert_eq!(&envid, &wire);
            prop_assert!(!from_xtext(&envid).contains(|c: char| c.is_control()), "{envid:?}");
        }
        for kind in ["rfc822", "utf-8"] {
            if let Ok(RcptParameters { orcpt: Some(orcpt), .. }) = RcptParameters::parse(&format!(" ORCPT={kind};{wire}")) {
                prop_assert!(!orcpt.contains(|c: char| c.is_control() || c == ' '), "{orcpt:?}");
                prop_assert!(!from_xtext(&orcpt).contains(|c: char| c.is_control()), "{orcpt:?}");
            }
        }
    }
}

/// RFC 3461 §4, once more.
fn xtext(text: &str) -> String {
    let encode = |c: char| match c {
        '+' | '=' | ' ' => format!("+{:02X}", u32::from(c)),
        _ => c.to_string(),
    };
    text.chars().map(encode).collect()
}

fn from_xtext(text: &str) -> String {
    let mut parts = text.split('+');
    let mut decoded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(octet) => {
                decoded.push(char::from(octet));
                decoded.push_str(&part[2..]);
            }
            None => decoded.extend(["+", part]),
        }
    }
    decoded
}
