//! The history's files after damage, and with contents that nobody has written: a start ends, nothing is made up, and
//! what is whole is found.

use std::collections::BTreeMap;
use std::ops::Range;
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
/// Of a segment.
const HEADER: usize = 20;
const ENDED: u8 = 1;
const REPLAYED: u8 = 2;

/// What must be found of a message, and what may be: a record behind one whose length is damaged is found only by luck.
#[derive(Default)]
struct Told {
    replays: Count,
    ends: Count,
}

#[derive(Default)]
struct Count {
    least: u64,
    most: u64,
}

/// A record, as it was written: from where to where, what it is, and of which message.
struct Written {
    place: Range<usize>,
    kind: u8,
    id: [u8; 16],
}

/// What is written, and what happens to it.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    let place = Path::new(PLACE).join("history");
    let files = MemoryFiles::default();
    let mut told = BTreeMap::new();
    // A record or an index says what no store has written, under a checksum that is right.
    let mut is_strange = false;
    for number in 1..=1 + u32::from(dice.byte() % 3) {
        let mut bytes = header(number);
        let mut written = Vec::new();
        for _ in 0..dice.below(8) {
            let (kind, id) = (if dice.flag() { ENDED } else { REPLAYED }, [1 + dice.byte() % 4; 16]);
            let mut body = if kind == ENDED { ended(id, &mut dice) } else { replayed(id, &mut dice) };
            let is_twisted = dice.below(4) == 3;
            is_strange |= is_twisted && twist(&mut body, &mut dice);
            let from = bytes.len();
            framed(&mut bytes, &body);
            written.push(Written { place: from..bytes.len(), kind, id });
        }
        let whole = bytes.clone();
        if dice.below(3) == 2 {
            twist(&mut bytes, &mut dice);
        }
        tell(&mut told, &written, &whole, &bytes);
        if dice.below(3) == 2 {
            let mut index = index(&mut dice, bytes.len());
            twist(&mut index, &mut dice);
            files.put(place.join(format!("{number:08}.idx")), sealed(index));
            is_strange = true;
        }
        files.put(place.join(format!("{number:08}.log")), bytes);
    }
    for _ in 0..2 {
        look(&files, &told, is_strange);
    }
}

/// Notes what can be found of a segment's records, which were `whole` and are `now` what is left.
fn tell(told: &mut BTreeMap<[u8; 16], Told>, written: &[Written], whole: &[u8], now: &[u8]) {
    let is_same = |place: Range<usize>| now.get(place.clone()) == whole.get(place);
    let mut is_reached = is_same(0..HEADER);
    for record in written {
        let from = record.place.start;
        // Nobody knows where the next one begins.
        is_reached &= is_same(from..from + 4);
        let about = told.entry(record.id).or_default();
        let count = if record.kind == ENDED { &mut about.ends } else { &mut about.replays };
        count.most += 1;
        count.least += u64::from(is_reached && is_same(record.place.clone()));
    }
}

fn look(files: &MemoryFiles, told: &BTreeMap<[u8; 16], Told>, is_strange: bool) {
    let options = Options { retention: Duration::from_secs(86_400), max_bytes: 64 << 20, min_free: 0 };
    let clock = Clock::manual(NOW);
    let history = History::open(Arc::new(files.clone()), Path::new(PLACE), options, clock).expect("a start");
    for (id, Told { replays, ends }) in told {
        let found = history.find(QueueId::from_bytes(*id));
        if is_strange {
            continue;
        }
        // Damage costs what is damaged, and is not found.
        let found = found.expect("records that are whole");
        let (count, has_ended) = found.map_or((0, false), |past| (past.replay_count, past.ended.is_some()));
        assert!((replays.least..=replays.most).contains(&count), "{count} replays");
        assert!((ends.least.min(1)..=ends.most).contains(&u64::from(has_ended)), "its end: {has_ended}");
    }
    let page = history.search(&PastWanted::default(), None, 10);
    if !is_strange {
        let found = page.expect("records that are whole").messages.len();
        assert!(found >= told.values().filter(|told| told.ends.least > 0).count());
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
