//! The reader of a far side's replies: the same replies and the same error from any pieces, nothing that is no reply,
//! and never more than its bounds.

use oncemail::smtp::Reply;
use oncemail::smtp::reply_reader::{MAX_LINES, MAX_REPLY, ReplyError, ReplyReader};

use crate::dice::{Dice, pieces};

/// How many pieces, then what the far side sends.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let plan = dice.bytes(8);
    let times = 1 + dice.below(200);
    let sent = dice.rest();
    // Long replies are many short lines, which a fuzzer does not write.
    let sent = if times > 150 { sent.repeat(times) } else { sent.to_vec() };
    let whole = read(&[&sent]);
    assert_eq!(read(&pieces(&sent, plan)), whole, "the pieces matter");
    let (replies, error) = &whole;
    check(&sent, replies, *error);
}

fn read(arriving: &[&[u8]]) -> (Vec<Reply>, Option<ReplyError>) {
    let mut reader = ReplyReader::default();
    let mut replies = Vec::new();
    for piece in arriving {
        let mut rest = *piece;
        while !rest.is_empty() {
            match reader.feed(rest) {
                Err(error) => return (replies, Some(error)),
                Ok((taken, reply)) => {
                    assert!(taken > 0 && taken <= rest.len());
                    assert!(reply.is_some() || taken == rest.len());
                    assert!(reply.is_none() || reader.is_empty());
                    replies.extend(reply);
                    rest = &rest[taken..];
                }
            }
        }
    }
    (replies, None)
}

/// Against a slow reading of RFC 5321 §4.2: whole lines, one code, the last one without a hyphen.
fn check(sent: &[u8], replies: &[Reply], error: Option<ReplyError>) {
    let mut rest = sent;
    for reply in replies {
        let mut octets = 0;
        for number in 0..reply.lines.len() {
            let len = rest.windows(2).position(|pair| pair == b"\r\n").expect("a line that was not sent");
            let line = &rest[..len];
            rest = &rest[len + 2..];
            octets += len;
            assert!(!line.iter().any(|b| matches!(b, b'\r' | b'\n')), "a bare line end");
            assert!(line.starts_with(reply.code.to_string().as_bytes()));
            let goes_on = number + 1 < reply.lines.len();
            assert_eq!(line.get(3) == Some(&b'-'), goes_on, "where a reply ends");
            assert!(goes_on || matches!(line.get(3), None | Some(b' ')));
            text(line.get(4..).unwrap_or_default(), reply, number);
        }
        assert!((200..600).contains(&reply.code));
        assert!(reply.lines.len() <= MAX_LINES && octets <= MAX_REPLY);
    }
    // Without an error all whole replies were read.
    if error.is_none() {
        let mut lines = rest.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
        assert!(lines.all(|line| line.get(3) == Some(&b'-')), "a reply was not read");
    }
}

fn text(said: &[u8], reply: &Reply, number: usize) {
    let kept = &reply.lines[number];
    assert!(!kept.contains(|c: char| c.is_control()), "{kept:?}");
    if said.is_ascii() && !said.iter().any(u8::is_ascii_control) {
        let said = String::from_utf8_lossy(said);
        let with_code = reply.enhanced.map(|code| format!("{code} {kept}"));
        let is_code_alone = reply.enhanced.is_some_and(|code| said == code.to_string() && kept.is_empty());
        // A code is known by its numbers: `5.01.1` is 5.1.1.
        let ends_so = reply.enhanced.is_some() && said.ends_with(kept.as_ref());
        assert!(said == *kept || with_code.as_deref() == Some(&said) || is_code_alone || ends_so);
    }
}
