//! A start over a journal that was damaged, or that nobody in their right mind has written (D4).
//!
//! `damaged`: records as the store writes them, and then bits, ranges and ends of the files are lost. Each record that
//! is still whole counts, nothing else does, and what does not is named. `strange`: records, checkpoint and index whose
//! checksums are right and whose contents are anything. Whatever they say, a start ends, and so does reading after it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::mail::{KeyKind, Message, QueueId, Scope, ScopedKey};
use oncemail::store::embedded::Options;
use oncemail::store::{Arrivals, EmbeddedStore, Recovery, Store};

use crate::dice::Dice;
use crate::intake::{NOW, wait};
use crate::journal::{self, Body, HEADER, Living, Segment};
use crate::memory_files::MemoryFiles;

/// There is nothing of this name on the disk, and nothing is made.
const PLACE: &str = "/nowhere/of/the/fuzzer";
const HOUR: u64 = 3_600_000;

/// Which of the two, then what is written, then what happens to it.
pub fn run(input: &[u8]) {
    let mut dice = Dice::new(input);
    match dice.flag() {
        false => damaged(dice),
        true => strange(dice),
    }
}

/// A message, as it should be found.
#[derive(Clone, PartialEq, Debug)]
struct Expected {
    content: Vec<u8>,
    recipients: usize,
    /// When it is due, if a recipient of it is queued.
    due: Option<u64>,
}

/// What a record, or an outcome with its notices, says.
enum Says {
    Accepted { id: u8, content: Vec<u8>, recipients: u32, has_key: bool },
    Attempted { id: u8, due: Option<u64>, notices: Vec<u8> },
    Finished { id: u8, notices: Vec<u8> },
    Forgotten { id: u8 },
}

/// Where it stands: segment, and from where to where.
struct Written {
    says: Says,
    at: (usize, usize, usize),
}

fn id(number: u8) -> [u8; 16] {
    let mut id = [7; 16];
    id[1] = number;
    id
}

fn key(number: u8) -> ScopedKey {
    ScopedKey { scope: Scope::anonymous(), kind: KeyKind::Header, key: format!("key {number}") }
}

struct NoArrivals;

impl Arrivals for NoArrivals {
    fn arrived(&self, _: Vec<Arc<Message>>) {}
}

fn open(files: &MemoryFiles) -> (EmbeddedStore, Recovery) {
    let options =
        Options { min_free: 0, segment_bytes: 4096, lock_wait: Duration::ZERO, ..Options::new(PLACE) };
    let files = Arc::new(files.clone());
    EmbeddedStore::open(options, files, Clock::manual(NOW), Arc::new(NoArrivals)).expect("a start")
}

fn journal_file(segment: &Segment) -> std::path::PathBuf {
    Path::new(PLACE).join("journal").join(segment.name())
}

fn damaged(mut dice: Dice<'_>) {
    let (segments, written) = write(&mut dice);
    let mut after: Vec<Vec<u8>> = segments.iter().map(|segment| segment.bytes.clone()).collect();
    for _ in 0..dice.below(4) {
        hurt(&mut dice, &mut after, &written);
    }
    let files = MemoryFiles::default();
    for (segment, bytes) in segments.iter().zip(&after) {
        files.put(journal_file(segment), bytes.clone());
    }
    let has_mark = segments.iter().zip(&after).any(|(segment, bytes)| is_whole(segment, bytes, (0, HEADER)));
    let counts = |written: &&Written| {
        let (segment, from, to) = written.at;
        has_mark && is_whole(&segments[segment], &after[segment], (from, to))
    };
    let whole: Vec<_> = written.iter().filter(counts).collect();
    let expected = replay(&whole);
    let asked = written.iter().filter_map(|written| match written.says {
        Says::Accepted { id, has_key: true, .. } => Some(id),
        _ => None,
    });
    let asked: Vec<u8> = asked.collect();

    let (store, recovery) = open(&files);
    compare(&store, &recovery, &expected, &asked);
    let is_said = recovery.torn_bytes > 0 || !recovery.set_aside.is_empty();
    assert!(is_said || !anything_left(&segments, &after, &whole), "dropped silently: {recovery}");
    assert!(
        !is_said || after.iter().zip(&segments).any(|(bytes, segment)| *bytes != segment.bytes),
        "{recovery}"
    );
    // A checkpoint, and the same from there; and once more, should a start have changed what it must not.
    wait(store.settle()).expect("upkeep");
    drop(store);
    for _ in 0..2 {
        let (store, recovery) = open(&files);
        compare(&store, &recovery, &expected, &asked);
        assert_eq!(recovery.torn_bytes, 0, "cut once");
    }
}

/// Whether a range of a segment is still as it was written.
fn is_whole(segment: &Segment, bytes: &[u8], (from, to): (usize, usize)) -> bool {
    bytes.get(from..to) == segment.bytes.get(from..to)
}

/// Whether there are octets, other than zeros, that belong to nothing that counts.
fn anything_left(segments: &[Segment], after: &[Vec<u8>], whole: &[&Written]) -> bool {
    segments.iter().zip(after).enumerate().any(|(number, (segment, bytes))| {
        let mut bytes = bytes.clone();
        let here =
            whole.iter().filter(|written| written.at.0 == number).map(|written| (written.at.1, written.at.2));
        // A newest segment that holds nothing but a part of its header was being made, and goes.
        let is_unborn = number + 1 == segments.len() && bytes.iter().skip(HEADER).all(|b| *b == 0);
        let end = HEADER.min(bytes.len());
        let header = Some((0, end)).filter(|_| is_unborn || is_whole(segment, &bytes, (0, HEADER)));
        for (from, to) in here.chain(header) {
            bytes[from..to].fill(0);
        }
        bytes.iter().any(|b| *b != 0)
    })
}

/// Records, some of them in the segment after the next.
fn write(dice: &mut Dice<'_>) -> (Vec<Segment>, Vec<Written>) {
    let mut segments = vec![Segment::new(1)];
    let mut written = Vec::new();
    let mut next = 0;
    for _ in 0..1 + dice.below(20) {
        if dice.below(6) == 5 && segments.len() < 4 {
            segments.push(Segment::new(u32::try_from(segments.len() + 1).unwrap_or(9)));
        }
        let number = segments.len() - 1;
        let Some(segment) = segments.last_mut() else { break };
        let from = segment.bytes.len();
        let says = add(segment, dice, &mut next);
        written.push(Written { says, at: (number, from, segment.bytes.len()) });
    }
    (segments, written)
}

fn add(segment: &mut Segment, dice: &mut Dice<'_>, next: &mut u8) -> Says {
    let about = if *next == 0 { 0 } else { dice.byte() % *next };
    let choice = if *next == 0 { 0 } else { dice.below(10) };
    let mut fresh = || {
        *next += 1;
        *next - 1
    };
    match choice {
        kind @ 4..=7 => {
            let notices: Vec<u8> = (0..dice.below(3)).map(|_| fresh()).collect();
            for notice in &notices {
                let body = Body::default().raw(&id(about));
                let body = body.accepted(id(*notice), NOW.as_millis(), None, 1, &[b'n', *notice]);
                segment.add(journal::NOTICE, &body.0);
            }
            let count = u32::try_from(notices.len()).unwrap_or(0);
            if kind == 7 {
                segment.add(journal::FINISHED, &Body::default().finished(id(about), count).0);
                return Says::Finished { id: about, notices };
            }
            let due = (kind != 6).then(|| NOW.as_millis() + u64::from(dice.byte()));
            // One recipient only: a progress of another number would be another message's.
            let body = Body::default().attempted(id(about), due.is_some(), due.unwrap_or(0), 1, count);
            segment.add(journal::ATTEMPTED, &body.0);
            Says::Attempted { id: about, due, notices }
        }
        9 => {
            let expires_at = NOW.as_millis() + HOUR;
            segment
                .add(journal::FORGOTTEN, &Body::default().raw(&id(about)).raw(&expires_at.to_be_bytes()).0);
            Says::Forgotten { id: about }
        }
        _ => {
            let (number, has_key, content) = (fresh(), dice.flag(), dice.bytes(700).to_vec());
            let text = format!("key {number}");
            let key = has_key.then(|| (text.as_bytes(), NOW.as_millis() + HOUR));
            let body = Body::default().accepted(id(number), NOW.as_millis(), key, 1, &content);
            segment.add(journal::ACCEPTED, &body.0);
            Says::Accepted { id: number, content, recipients: 1, has_key }
        }
    }
}

/// Bits, a range, all from somewhere on; or octets, or a whole record, in the place of others.
fn hurt(dice: &mut Dice<'_>, files: &mut [Vec<u8>], written: &[Written]) {
    let which = dice.below(files.len());
    let (segment, from, to) = written[dice.below(written.len())].at;
    let record = files[segment].get(from..to).unwrap_or_default().to_vec();
    let bytes = &mut files[which];
    if bytes.is_empty() {
        return;
    }
    // Half of the time where a record begins, or the first notice of an outcome.
    let at = if dice.flag() { from } else { dice.word() } % bytes.len();
    match dice.below(6) {
        0 => bytes[at] ^= 1 << dice.below(8),
        1 => {
            let to = (at + 1 + dice.byte() as usize).min(bytes.len());
            bytes[at..to].fill(0);
        }
        2 => bytes.truncate(at),
        3 => bytes.extend_from_slice(&[0; 40]),
        4 => {
            let from = dice.word() % bytes.len();
            let octets: Vec<u8> = bytes[from..].iter().take(64).copied().collect();
            put(bytes, at, &octets);
        }
        // As a disk does that writes to the right place of the wrong file, or to the wrong place.
        _ => put(bytes, at, &record),
    }
}

/// Puts octets in the place of others; what would be behind the end is lost.
fn put(bytes: &mut [u8], at: usize, octets: &[u8]) {
    bytes.iter_mut().skip(at).zip(octets).for_each(|(to, from)| *to = *from);
}

/// Messages that live, and those whose keys are known.
type Known = (BTreeMap<u8, Expected>, BTreeSet<u8>);

/// What records say, one after the other.
fn replay(whole: &[&Written]) -> Known {
    let (mut living, mut keys) = (BTreeMap::new(), BTreeSet::new());
    let fresh = |content: Vec<u8>, recipients: u32| Expected {
        content,
        recipients: recipients as usize,
        due: Some(NOW.as_millis()),
    };
    let mut forgotten = Vec::new();
    for written in whole {
        let notices = match &written.says {
            Says::Attempted { notices, .. } | Says::Finished { notices, .. } => &notices[..],
            _ => &[],
        };
        for notice in notices {
            living.insert(*notice, fresh(vec![b'n', *notice], 1));
        }
        match &written.says {
            Says::Accepted { id, content, recipients, has_key } => {
                living.insert(*id, fresh(content.clone(), *recipients));
                if *has_key {
                    keys.insert(*id);
                }
            }
            Says::Attempted { id, due, .. } => {
                if let Some(message) = living.get_mut(id) {
                    message.due = *due;
                }
            }
            Says::Finished { id, .. } => drop(living.remove(id)),
            Says::Forgotten { id } => forgotten.push(*id),
        }
    }
    keys.retain(|id| !forgotten.contains(id));
    (living, keys)
}

fn compare(store: &EmbeddedStore, recovery: &Recovery, (expected, keys): &Known, asked: &[u8]) {
    let found: BTreeMap<_, _> = recovery
        .messages
        .iter()
        .map(|message| (message.id.to_bytes(), message.next_attempt.map(|due| due.as_millis())))
        .collect();
    let wanted: BTreeMap<_, _> =
        expected.iter().map(|(number, message)| (id(*number), message.due)).collect();
    assert_eq!(found, wanted, "{recovery}");
    for (number, message) in expected {
        let loaded = wait(store.load(QueueId::from_bytes(id(*number)))).expect("a record that is whole");
        let (found, progress) = loaded.expect("a message that lives");
        assert_eq!(found.content, message.content);
        assert_eq!(progress.recipients.len(), message.recipients);
        assert_eq!(progress.is_queued(), message.due.is_some());
    }
    for number in asked {
        let record = wait(store.find_key(&key(*number))).expect("a lookup");
        let wanted = keys.contains(number).then(|| id(*number));
        assert_eq!(record.map(|record| record.id.to_bytes()), wanted, "key {number}");
    }
}

/// Contents that no store has written, under checksums that are right.
fn strange(mut dice: Dice<'_>) {
    let files = MemoryFiles::default();
    let numbers: &[u32] = dice.pick(&[&[1][..], &[1, 2], &[2, 9], &[7, 8, 9], &[99_999_999]]);
    let mut ends = Vec::new();
    for number in numbers {
        let mut segment = Segment::new(*number);
        for _ in 0..dice.below(6) {
            strange_record(&mut segment, &mut dice);
        }
        ends.push((*number, segment.bytes.len() as u64));
        files.put(journal_file(&segment), segment.bytes);
    }
    let place = Path::new(PLACE);
    if dice.flag() {
        let runs: Vec<u32> = (0..dice.below(3)).map(|_| 1 + u32::from(dice.byte() % 3)).collect();
        for number in &runs {
            let path = place.join("index").join(format!("{number:08}.run"));
            files.put(path, strange_run(&mut dice));
        }
        let position = dice.pick(&ends);
        let messages: Vec<Living> = (0..dice.below(4)).map(|_| living(&mut dice)).collect();
        let mut bytes = journal::checkpoint(&runs, position, numbers, &messages);
        twist(&mut bytes, &mut dice);
        files.put(place.join("checkpoint"), journal::sealed(bytes));
    }
    let (store, recovery) = open(&files);
    read_all(&store, &recovery);
    let _ = wait(store.settle());
    drop(store);
    let (store, again) = open(&files);
    read_all(&store, &again);
    let ids = |recovery: &Recovery| recovery.messages.iter().map(|message| message.id).collect::<Vec<_>>();
    assert!(ids(&again).iter().all(|id| ids(&recovery).contains(id)), "a message out of nothing");
    let _ = wait(store.close());
}

fn strange_record(segment: &mut Segment, dice: &mut Dice<'_>) {
    let (about, at) = (id(dice.byte() % 4), NOW.as_millis());
    let kind = 1 + dice.byte() % 7;
    let mut body = match kind {
        journal::ACCEPTED => {
            let text = [b'k', dice.byte() % 4];
            let key = dice.flag().then_some((&text[..], at + u64::from(dice.byte())));
            Body::default().accepted(about, at, key, 1 + u32::from(dice.byte() % 3), dice.bytes(60))
        }
        journal::ATTEMPTED => {
            let (recipients, notices) = (u32::from(dice.byte() % 4), u32::from(dice.byte() % 3));
            Body::default().attempted(about, dice.flag(), at, recipients, notices)
        }
        journal::FINISHED => Body::default().finished(about, u32::from(dice.byte() % 3)),
        journal::NOTICE => {
            let notice = id(dice.byte() % 4);
            Body::default().raw(&about).accepted(notice, at, None, 1, dice.bytes(20))
        }
        journal::KEY => Body::default().raw(&[dice.byte(); 16]).raw(&key_record(dice)),
        _ => Body::default().raw(&about).raw(&at.to_be_bytes()),
    }
    .0;
    twist(&mut body, dice);
    segment.add(kind, &body);
}

/// Fingerprint, queue id, accepted at, expires at.
fn key_record(dice: &mut Dice<'_>) -> Vec<u8> {
    let id = id(dice.byte() % 4);
    let at = NOW.as_millis();
    let expires_at = at + HOUR * u64::from(dice.byte() % 8);
    Body::default()
        .raw(&journal::fingerprint(id))
        .raw(&id)
        .raw(&at.to_be_bytes())
        .raw(&expires_at.to_be_bytes())
        .0
}

fn strange_run(dice: &mut Dice<'_>) -> Vec<u8> {
    let count = dice.below(70);
    let mut entries: Vec<_> = (0..count).map(|_| ([dice.byte(); 16], key_record(dice))).collect();
    if dice.flag() {
        entries.sort();
    }
    let bucket = NOW.as_millis() / (4 * HOUR) + u64::from(dice.byte() % 3);
    let bucket = if dice.below(8) == 7 { u32::MAX } else { u32::try_from(bucket).unwrap_or(0) };
    journal::run(bucket, &entries, dice.byte() as u64 % 4)
}

fn living(dice: &mut Dice<'_>) -> Living {
    let mut place = || {
        [
            u32::from(dice.byte() % 10),
            dice.pick(&[28, 0, 29, 100, u32::MAX]),
            dice.pick(&[100, 0, 17, u32::MAX, 1 << 30]),
        ]
    };
    let places = [place(), place()];
    let due = dice.pick(&[NOW.as_millis(), 0, u64::MAX]);
    Living {
        id: id(dice.byte() % 6),
        places,
        due,
        rest: (dice.byte() % 4, dice.pick(&[0, 1, u32::MAX]), dice.byte()),
    }
}

/// A few octets of another value, or fewer of them.
fn twist(bytes: &mut Vec<u8>, dice: &mut Dice<'_>) {
    for _ in 0..dice.below(8).saturating_sub(4) {
        if bytes.is_empty() {
            return;
        }
        let at = dice.word() % bytes.len();
        match dice.below(4) {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(8).for_each(|b| *b = 0xff),
            _ => bytes[at] = dice.byte(),
        }
    }
}

/// Everything that there is to be read. What is no message says so.
fn read_all(store: &EmbeddedStore, recovery: &Recovery) {
    for message in &recovery.messages {
        if let Ok(Some((found, progress))) = wait(store.load(message.id)) {
            assert_eq!(found.id, message.id);
            assert_eq!(progress.recipients.len(), found.envelope.recipients.len());
        }
    }
    let ids = recovery.messages.iter().map(|message| message.id).collect();
    let _ = wait(store.describe(ids));
    for number in 0..4 {
        let key = ScopedKey { key: String::from_utf8_lossy(&[b'k', number]).into_owned(), ..key(0) };
        let _ = wait(store.find_key(&key));
    }
    let _ = (store.figures(), store.status(), recovery.to_string());
}
