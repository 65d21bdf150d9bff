use super::*;
use crate::store::files::RealFiles;

const TTL: Duration = Duration::from_secs(30 * 86_400);

struct Bed {
    dir: tempfile::TempDir,
    clock: Clock,
}

impl Bed {
    fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        Self { dir: tempfile::tempdir().unwrap(), clock }
    }

    fn open(&self) -> Arc<Suppressions> {
        Suppressions::open(Arc::new(RealFiles), self.dir.path(), TTL, self.clock.clone()).unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("suppressed")).unwrap()
    }

    fn write(&self, bytes: &[u8]) {
        let file = RealFiles.create(&self.dir.path().join("suppressed")).unwrap();
        file.write_at(0, &[std::io::IoSlice::new(bytes)]).unwrap();
    }
}

fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

fn names(list: &Suppressions) -> Vec<String> {
    list.entries().into_iter().map(|(address, _)| address).collect()
}

#[test]
fn an_address_is_remembered_over_a_restart_until_it_expires() {
    let bed = Bed::new();
    let start = bed.clock.now();
    let list = bed.open();
    list.add(&address("Gone@Example.NET"), "550 5.1.1 no \"such\" user\n\u{e9}");
    let mut list = Some(list);
    for _ in 0..2 {
        let list = list.take().unwrap_or_else(|| bed.open());
        let found = list.find(&address("Gone@example.net")).unwrap();
        assert_eq!(found, Suppressed { since: start, reason: "550 5.1.1 no \"such\" user\n\u{e9}".into() });
        assert_eq!(list.find(&address("gone@example.net")), None, "a local part has its case");
    }
    bed.clock.advance(TTL);
    assert_eq!(bed.open().find(&address("Gone@example.net")), None);
}

#[test]
fn a_repeated_refusal_keeps_the_first_time_and_is_remembered_anew() {
    let bed = Bed::new();
    let start = bed.clock.now();
    let list = bed.open();
    list.add(&address("a@b.example"), "first");
    list.add(&address("other@b.example"), "other");
    bed.clock.advance(TTL / 2);
    list.add(&address("a@b.example"), "second");
    bed.clock.advance(TTL / 2);
    drop(list);
    let list = bed.open();
    assert_eq!(
        list.entries(),
        [("a@b.example".into(), Suppressed { since: start, reason: "second".into() })]
    );
    bed.clock.advance(TTL / 2);
    assert_eq!(list.entries(), []);
    list.add(&address("a@b.example"), "third");
    assert_eq!(list.find(&address("a@b.example")).unwrap().since, bed.clock.now(), "it was forgotten");
}

#[test]
fn a_removed_address_stays_removed() {
    let bed = Bed::new();
    let list = bed.open();
    list.add(&address("a@b.example"), "x");
    list.add(&address("c@b.example"), "x");
    assert!(list.remove(&address("a@B.example")));
    assert!(!list.remove(&address("a@b.example")));
    drop(list);
    assert_eq!(names(&bed.open()), ["c@b.example"]);
}

#[test]
fn d4_a_tail_torn_at_any_byte_is_cut_off_and_the_rest_counts() {
    let bed = Bed::new();
    let list = bed.open();
    for name in ["a@b.example", "c@b.example"] {
        list.add(&address(name), "x");
    }
    drop(list);
    let whole = bed.bytes();
    let first = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    for cut in first..whole.len() {
        bed.write(&whole[..cut]);
        assert_eq!(names(&bed.open()), ["a@b.example"], "{cut}");
        assert_eq!(bed.bytes().len(), first);
    }
    assert!(!bed.dir.path().join("suppressed.damaged").exists());
}

#[test]
fn d4_a_damaged_byte_anywhere_costs_one_line_at_most_two_and_they_are_kept() {
    let bed = Bed::new();
    let list = bed.open();
    for name in ["a@b.example", "c@b.example", "d@b.example"] {
        list.add(&address(name), "x");
    }
    drop(list);
    let whole = bed.bytes();
    let line = whole.len() / 3;
    for at in 0..line * 2 {
        let mut bytes = whole.clone();
        bytes[at] ^= 2;
        bed.write(&bytes);
        let left = names(&bed.open());
        let last = if at == line * 2 - 1 { "a@b.example" } else { "d@b.example" };
        assert_eq!(left.last().map(String::as_str), Some(last), "{at}");
        let expected = if at % line == line - 1 { 1 } else { 2 };
        assert!(left.len() >= expected, "{at}: {left:?}");
        let aside = std::fs::read(bed.dir.path().join("suppressed.damaged")).unwrap();
        assert!(whole.len() > aside.len() && bytes.windows(aside.len()).any(|window| window == aside));
        assert_eq!(names(&bed.open()), left, "and the file is whole again");
    }
}

#[test]
fn s2_the_oldest_leave_when_there_are_too_many() {
    let bed = Bed::new();
    let list = List::new(TTL, 3);
    let list = Suppressions::open_with(Arc::new(RealFiles), bed.dir.path(), list, bed.clock.clone()).unwrap();
    for name in ["a@x.example", "b@x.example", "c@x.example", "a@x.example", "d@x.example"] {
        list.add(&address(name), "x");
    }
    assert_eq!(names(&list), ["c@x.example", "a@x.example", "d@x.example"]);
    list.add(&address("e@x.example"), &"\u{e9}".repeat(500));
    assert_eq!(list.find(&address("e@x.example")).unwrap().reason.len(), MAX_REASON);
}

#[test]
fn the_file_does_not_grow_with_what_means_nothing_any_more() {
    let bed = Bed::new();
    let list = bed.open();
    for round in 0..20_000 {
        list.add(&address(&format!("user{}@x.example", round % 50)), "550 5.1.1 no");
        if round % 500 == 499 {
            bed.clock.advance(Duration::from_secs(1));
        }
    }
    drop(list);
    assert!(bed.bytes().len() < 4 * 4096 * 120, "{}", bed.bytes().len());
    let list = bed.open();
    assert_eq!(list.entries().len(), 50);
    drop(list);
    bed.clock.advance(TTL);
    drop(bed.open());
    drop(bed.open());
    assert!(bed.bytes().len() < 1024 * 120, "{}", bed.bytes().len());
}

#[test]
fn a_clock_that_is_set_forward_forgets_no_refusal() {
    let bed = Bed::new();
    let (start, list) = (bed.clock.now(), bed.open());
    list.add(&address("gone@example.net"), "550 5.1.1 no such user");
    bed.clock.set(start.plus(TTL * 2));
    assert!(list.find(&address("gone@example.net")).is_some());
    bed.clock.set(start);
    bed.clock.advance(TTL);
    assert!(list.find(&address("gone@example.net")).is_none());
}
