//! What "the same message" means, asked of the whole intake: a mail that is written anew by another library is a
//! replay, and a mail in which one thing is different is never taken for the first one (I1).

use oncemail::intake::Decision;
use oncemail::mail::FingerprintMode;

use crate::dice::Dice;
use crate::intake::Bench;
use crate::mails::{Mail, is_same};
use crate::rendering::Writer;

/// The mail, two ways of writing it, and what is different in another one.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let ways = [dice.bytes(120), dice.bytes(120)];
    let changes = dice.bytes(12);
    let mail = Mail::generate(&mut dice);
    let bench = Bench::new(FingerprintMode::Content);
    let [first, again] = ways.map(|way| Writer::new(Dice::new(way)).message(&mail, "key"));
    let shown = || format!("{}\n---\n{}", first.escape_ascii(), again.escape_ascii());
    let Decision::Queued(id) = bench.send(first.clone()) else { panic!("not queued: {}", shown()) };
    assert_eq!(bench.send(again.clone()), Decision::Replayed(id), "{}", shown());

    let mut changes = Dice::new(changes);
    let other = mail.changed(&mut changes);
    if is_same(&mail, &other) {
        return;
    }
    for way in ways {
        let changed = Writer::new(Dice::new(way)).message(&other, "key");
        let decision = bench.send(changed.clone());
        assert_eq!(
            decision,
            Decision::DifferentBody,
            "{}\n---\n{}",
            first.escape_ascii(),
            changed.escape_ascii()
        );
    }
    // `exact`: what is not the same octets, apart from the key's field wherever it stands, is not the same message.
    let exact = Bench::new(FingerprintMode::Exact);
    let Decision::Queued(id) = exact.send(first.clone()) else { panic!("not queued") };
    let is_same = without_key(&first) == without_key(&again);
    let expected = if is_same { Decision::Replayed(id) } else { Decision::DifferentBody };
    assert_eq!(exact.send(again), expected);
}

/// All lines but the key's.
fn without_key(message: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<_> = message.split_inclusive(|octet| *octet == b'\n').collect();
    let place = lines.iter().position(|line| *line == b"X-Idempotency-Key: key\r\n").expect("a key");
    lines.remove(place);
    lines
}
