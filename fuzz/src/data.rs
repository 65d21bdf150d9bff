//! DATA and BDAT: the product's reader against a slow one, in pieces of any size, and the dot writer against both.
//!
//! S1: only CRLF.CRLF ends DATA. S2: whatever was taken from the shared budget is given back.

use oncemail::smtp::content::{Budget, Content, ContentFault};
use oncemail::smtp::data::{Place, Receiver};
use oncemail::smtp::dot_writer::{Pieces, verify};

use crate::dice::{Dice, pieces};

/// More than any input needs, but for those that are to run out of it.
const BUDGET: usize = 1 << 20;

/// What a message is and where it ends, by the book.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    /// Octets of the stream, the end included; `None` when the end has not come.
    consumed: Option<usize>,
    content: Vec<u8>,
    bare: bool,
    nul: bool,
}

/// How, then how many pieces, then what arrives.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let kind = dice.below(3);
    let limit = if dice.flag() { dice.word() } else { BUDGET };
    let plan = dice.bytes(8);
    match kind {
        0 => dots(limit, plan, dice.rest()),
        1 => chunks(limit, plan, dice),
        _ => written(plan, dice),
    }
}

fn dots(limit: usize, plan: &[u8], stream: &[u8]) {
    let told = by_the_book(stream);
    let whole = receive(limit, &[stream]);
    assert_eq!(receive(limit, &pieces(stream, plan)), whole, "the pieces matter");
    let (consumed, done, fault, content) = whole;
    assert_eq!(told.consumed.is_some(), done);
    assert_eq!(consumed, told.consumed.unwrap_or(stream.len()));
    if done {
        let expected = fault_of(&told, limit);
        assert_eq!(fault, expected, "{:?}", String::from_utf8_lossy(stream));
        if fault.is_none() {
            assert_eq!(content, told.content);
            assert!(verify(&content).is_ok());
        }
    }
}

fn fault_of(told: &Told, limit: usize) -> Option<ContentFault> {
    [
        (told.bare, ContentFault::BareLineEnd),
        (told.nul, ContentFault::Nul),
        (told.content.len() > limit, ContentFault::TooLarge),
    ]
    .into_iter()
    .find_map(|(is_so, fault)| is_so.then_some(fault))
}

/// Reads line after line; a line ends with CRLF and with nothing else.
fn by_the_book(stream: &[u8]) -> Told {
    let mut told = Told { consumed: None, content: Vec::new(), bare: false, nul: false };
    let mut at = 0;
    while let Some(len) = stream[at..].windows(2).position(|pair| pair == b"\r\n") {
        let line = &stream[at..at + len];
        at += len + 2;
        if line == b"." {
            told.consumed = Some(at);
            break;
        }
        add_line(&mut told, line.strip_prefix(b".").unwrap_or(line));
        told.content.extend_from_slice(b"\r\n");
    }
    told
}

fn add_line(told: &mut Told, line: &[u8]) {
    told.bare |= line.iter().any(|b| matches!(b, b'\r' | b'\n'));
    told.nul |= line.contains(&0);
    told.content.extend_from_slice(line);
}

/// Octets taken, whether the end was reached, what is wrong, and the message.
fn receive(limit: usize, arriving: &[&[u8]]) -> (usize, bool, Option<ContentFault>, Vec<u8>) {
    let budget = Budget::new(BUDGET);
    let mut receiver = Receiver::dots(Content::new(limit, &budget));
    let (mut consumed, mut done) = (0, false);
    for piece in arriving {
        let fed = receiver.feed(piece);
        assert!(fed.consumed <= piece.len());
        assert!(fed.done || fed.consumed == piece.len(), "octets were left before the end");
        consumed += fed.consumed;
        done = fed.done;
        if done {
            break;
        }
    }
    let content = receiver.finish();
    let fault = content.fault();
    let (octets, memory) = content.into_parts();
    assert!(octets.len() <= BUDGET - budget.free(), "more is kept than was taken from the budget");
    assert!(fault.is_none() || octets.is_empty(), "a refused message is kept");
    drop(memory);
    assert_eq!(budget.free(), BUDGET, "not all was given back");
    (consumed, done, fault, octets)
}

/// BDAT: chunks of any size, each in pieces of any size.
fn chunks(limit: usize, plan: &[u8], mut dice: Dice<'_>) {
    let budget = Budget::new(BUDGET);
    let mut content = Content::new(limit, &budget);
    let mut place = Place::LineStart;
    let mut all = Vec::new();
    while !dice.is_empty() && content.fault().is_none() {
        let chunk = dice.bytes(300);
        let mut receiver = Receiver::chunk(content, place, chunk.len() as u64);
        // What follows a chunk belongs to the next command.
        let stream = [chunk, b".\r\nQUIT\r\n"].concat();
        let mut consumed = 0;
        for piece in pieces(&stream, plan) {
            let fed = receiver.feed(piece);
            consumed += fed.consumed;
            if fed.done {
                break;
            }
        }
        assert_eq!(consumed, chunk.len());
        all.extend_from_slice(chunk);
        (content, place) = receiver.pause();
    }
    let last = Receiver::chunk(content, place, 0).finish();
    let mut told = Told { consumed: None, content: Vec::new(), bare: false, nul: false };
    for (line, ends) in lines(&all) {
        add_line(&mut told, line);
        told.content.extend_from_slice(if ends || !line.is_empty() { b"\r\n" } else { b"" });
    }
    assert_eq!(last.fault(), fault_of(&told, limit));
    if last.fault().is_none() {
        assert_eq!(last.into_parts().0, told.content);
    }
    assert_eq!(budget.free(), BUDGET, "not all was given back");
}

/// What the dot writer says of a message is that message to a reader, and nothing behind it is.
fn written(plan: &[u8], mut dice: Dice<'_>) {
    let fields = dice.bytes(200);
    let content = dice.rest();
    if verify(fields).is_err() || verify(content).is_err() {
        return;
    }
    let mut wire = Pieces::new(fields, content).collect::<Vec<_>>().concat();
    assert!(wire.ends_with(b"\r\n.\r\n") || wire == b".\r\n");
    let end = wire.len();
    wire.extend_from_slice(b"MAIL FROM:<smuggled@example.com>\r\n");
    let (consumed, done, fault, received) = receive(BUDGET, &pieces(&wire, plan));
    assert!(done && consumed == end, "another end of the message");
    let mut expected = [fields, content].concat();
    if !expected.is_empty() && !expected.ends_with(b"\r\n") {
        expected.extend_from_slice(b"\r\n");
    }
    let has_nul = expected.contains(&0);
    assert_eq!(fault, has_nul.then_some(ContentFault::Nul));
    assert!(has_nul || received == expected);
    let without: Vec<u8> = Pieces::new(fields, content).without_final_dot().collect::<Vec<_>>().concat();
    assert_eq!([&without[..], b".\r\n"].concat(), wire[..end], "the final dot alone is missing");
}

/// Lines of a message whose end is told otherwise: each with whether CRLF ends it.
fn lines(mut rest: &[u8]) -> Vec<(&[u8], bool)> {
    let mut lines = Vec::new();
    while let Some(len) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push((&rest[..len], true));
        rest = &rest[len + 2..];
    }
    lines.push((rest, false));
    lines
}
