//! The history's files after damage, and with contents that nobody has written: a start ends, nothing is made up, and
//! what is whole is found.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::QueueId;
use oncemail::store::history::{History, Options, PastWanted};

use crate::dice::Dice;
use crate::intake::NOW;
use crate::journal::{Body, sealed};
use crate::memory_files::MemoryFiles;

const PLACE: &str = "/nowhere/of/the/fuzzer";
const ENDED: u8 = 1;
const REPLAYED: u8 = 2;

/// What is written, and what happens to it.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let place = Path::new(PLACE).join("history");
    let files = MemoryFiles::default();
    // How often each message was written about: replays, and whether it has ended.
    let mut written: BTreeMap<[u8; 16], (u64, bool)> = BTreeMap::new();
    let mut is_hurt = false;
    for number in 1..=1 + u32::from(dice.byte() % 3) {
        let mut bytes = header(number);
        for _ in 0..dice.below(8) {
            let (kind, id) = (if dice.flag() { ENDED } else { REPLAYED }, [1 + dice.byte() % 4; 16]);
            let mut body = if kind == ENDED { ended(id, &mut dice) } else { replayed(id, &mut dice) };
            let is_twisted = dice.below(4) == 3;
            is_hurt |= is_twisted && twist(&mut body, &mut dice);
            let about = written.entry(id).or_default();
            match kind {
                ENDED => about.1 = true,
                _ => about.0 += 1,
            }
            framed(&mut bytes, &body);
        }
        if dice.below(3) == 2 {
            is_hurt |= twist(&mut bytes, &mut dice);
        }
        if dice.below(3) == 2 {
            let mut index = index(&mut dice, bytes.len());
            twist(&mut index, &mut dice);
            files.put(place.join(format!("{number:08}.idx")), sealed(index));
            is_hurt = true;
        }
        files.put(place.join(format!("{number:08}.log")), bytes);
    }
    for _ in 0..2 {
        look(&files, &written, is_hurt);
    }
}

fn look(files: &MemoryFiles, written: &BTreeMap<[u8; 16], (u64, bool)>, is_hurt: bool) {
    let options = Options { retention: Duration::from_secs(86_400), max_bytes: 64 << 20, min_free: 0 };
    let clock = Clock::manual(NOW);
    let history = History::open(Arc::new(files.clone()), Path::new(PLACE), options, clock).expect("a start");
    for (id, (replays, has_ended)) in written {
        let found = history.find(QueueId::from_bytes(*id));
        if is_hurt {
            continue;
        }
        let past = found.expect("files that are whole").expect("a message that was written about");
        assert_eq!((past.replay_count, past.ended.is_some()), (*replays, *has_ended));
    }
    let page = history.search(&PastWanted::default(), None, 10);
    if !is_hurt {
        let found = page.expect("files that are whole").messages.len();
        assert!(found >= written.values().filter(|(_, has_ended)| *has_ended).count());
    }
    let _ = history.figures();
    history.close();
}

fn header(number: u32) -> Vec<u8> {
    sealed([&b"oncehist"[..], &1u32.to_be_bytes(), &number.to_be_bytes()].concat())
}

fn framed(out: &mut Vec<u8>, body: &[u8]) {
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or_default().to_be_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_be_bytes());
    out.extend_from_slice(body);
}

fn head(kind: u8, id: [u8; 16], dice: &mut Dice<'_>) -> Body {
    let at = NOW.as_millis() - u64::from(dice.byte());
    Body::default().raw(&[kind]).raw(&id).raw(&at.to_be_bytes())
}

fn replayed(id: [u8; 16], dice: &mut Dice<'_>) -> Vec<u8> {
    let client: &[u8] = dice.pick(&[
        &[0][..],
        &[4, 192, 0, 2, 1],
        &[6, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
    ]);
    head(REPLAYED, id, dice).raw(client).0
}

fn ended(id: [u8; 16], dice: &mut Dice<'_>) -> Vec<u8> {
    let body = head(ENDED, id, dice).raw(&NOW.as_millis().to_be_bytes()).optional(Some(b"a@example.com"));
    // Listener, user, client, no key; Message-ID, trace.
    let body = body.text(b"submission").optional(None).raw(&[0, 0]).text(b"<1@example.com>").optional(None);
    // Size, attempts, warned, priority.
    let body = body.raw(&700u64.to_be_bytes()).raw(&1u32.to_be_bytes()).raw(&[0, 0]);
    let recipients = u32::from(dice.byte() % 3);
    let mut body = body.raw(&recipients.to_be_bytes());
    for _ in 0..recipients {
        body = body.text(b"b@example.org").raw(&[1]).raw(&1u32.to_be_bytes()).raw(&1u32.to_be_bytes());
        body = body.raw(&NOW.as_millis().to_be_bytes()).raw(&250u16.to_be_bytes()).raw(&1u32.to_be_bytes());
        body = body.text(b"default").text(b"mx.example.org").text(b"taken");
    }
    body.0
}

/// An index without its checksum: entries of queue id and place, and the end.
fn index(dice: &mut Dice<'_>, len: usize) -> Vec<u8> {
    let count = dice.below(6);
    let mut body = Body::default();
    for _ in 0..count {
        let end = if dice.flag() { 1u32 << 31 } else { 0 };
        let place = u32::try_from(dice.word() % (len + 1)).unwrap_or(0) | end;
        body = body.raw(&[1 + dice.byte() % 4; 16]).raw(&place.to_be_bytes());
    }
    body = body.raw(&(count as u64).to_be_bytes()).raw(&(len as u64).to_be_bytes());
    body = body.raw(&(NOW.as_millis() - 300).to_be_bytes()).raw(&NOW.as_millis().to_be_bytes());
    body.raw(&1u32.to_be_bytes()).raw(b"oncehidx").0
}

/// Changes something; whether it did.
fn twist(bytes: &mut Vec<u8>, dice: &mut Dice<'_>) -> bool {
    if bytes.is_empty() {
        return false;
    }
    let at = dice.word() % bytes.len();
    match dice.below(4) {
        0 => bytes.truncate(at),
        1 => bytes[at..].iter_mut().take(8).for_each(|b| *b = 0xff),
        _ => bytes[at] ^= 1 << dice.below(8),
    }
    true
}
