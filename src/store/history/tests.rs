use std::net::Ipv4Addr;

use super::*;
use crate::mail::{
    AttemptReply, Body, Envelope, Handling, KeyKind, Origin, Recipient, RecipientState, Scope,
};
use crate::store::files::RealFiles;

const DAY: Duration = Duration::from_secs(86_400);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

pub(super) struct Bed {
    dir: tempfile::TempDir,
    pub(super) clock: Clock,
    options: Options,
}

impl Bed {
    pub(super) fn new() -> Self {
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let options = Options { retention: 7 * DAY, max_bytes: 2 << 20, min_free: 0 };
        Self { dir: tempfile::tempdir().unwrap(), clock, options }
    }

    pub(super) fn open(&self) -> Arc<History> {
        History::open(Arc::new(RealFiles), self.dir.path(), self.options.clone(), self.clock.clone()).unwrap()
    }

    pub(super) fn message(&self, to: &[&str]) -> Arc<Message> {
        let recipient = |to: &&str| Recipient {
            forward_path: crate::mail::Address::parse(to).unwrap(),
            notify: None,
            orcpt: None,
            unverified: false,
        };
        let id = QueueId::new(self.clock.now());
        let sender = crate::mail::Address::parse("a@shop.example").unwrap();
        Arc::new(Message {
            id,
            accepted_at: self.clock.now(),
            envelope: Envelope {
                reverse_path: ReversePath::Mailbox(sender),
                recipients: to.iter().map(recipient).collect(),
                body: Body::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling { priority: -3, ..Handling::default() },
            },
            origin: Origin { listener: "in".into(), user: Some("shop".into()), client: Some(client()) },
            key: Some(ScopedKey {
                scope: Scope::named("shop"),
                kind: KeyKind::Header,
                key: "order 1".into(),
            }),
            message_id: format!("<{id}@shop.example>"),
            content: format!("traceparent: {TRACE}\r\n\r\nbody\r\n").into_bytes().into(),
        })
    }

    pub(super) fn progress(&self, states: &[RecipientState]) -> Progress {
        let mut progress = Progress::fresh(states.len(), self.clock.now());
        progress.attempts = 2;
        progress.warned = true;
        for (recipient, state) in progress.recipients.iter_mut().zip(states) {
            recipient.state = *state;
            recipient.note(self.reply("out", "250 ok"));
        }
        progress
    }

    pub(super) fn reply(&self, route: &str, text: &str) -> AttemptReply {
        AttemptReply {
            at: self.clock.now(),
            route: route.into(),
            host: "mx.x.example:25".into(),
            code: 250,
            text: text.into(),
            times: 1,
            tls: "TLSv1.3".into(),
        }
    }

    /// Remembers a delivered message, and gives back its id.
    fn delivered(&self, history: &History) -> QueueId {
        let message = self.message(&["b@x.example"]);
        history.ended(&message, &self.progress(&[RecipientState::Delivered]));
        message.id
    }

    fn names(&self, suffix: &str) -> Vec<String> {
        let names = RealFiles.list(&self.dir.path().join("history")).unwrap_or_default();
        names.into_iter().filter(|name| name.ends_with(suffix)).collect()
    }

    /// All ends, page by page.
    pub(super) fn all(history: &History, wanted: &PastWanted, most: usize) -> Vec<QueueId> {
        let (mut all, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = history.search(wanted, after.as_deref(), most).unwrap();
            assert!(page.messages.len() <= most);
            all.extend(page.messages.into_iter().map(|(id, _)| id));
            match page.next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
    }
}

fn client() -> IpAddr {
    Ipv4Addr::new(192, 0, 2, 7).into()
}

#[test]
fn what_became_of_a_message_is_told_whole_at_once_and_over_restarts() {
    let bed = Bed::new();
    let history = bed.open();
    let message = bed.message(&["b@x.example", "c@y.example"]);
    bed.clock.advance(Duration::from_secs(60));
    let progress = bed.progress(&[RecipientState::Delivered, RecipientState::Bounced]);
    history.ended(&message, &progress);
    bed.clock.advance(Duration::from_secs(60));
    history.replayed(message.id, Some(client()));
    history.replayed(message.id, None);
    let mut history = Some(history);
    for _ in 0..3 {
        let history = history.take().unwrap_or_else(|| bed.open());
        let past = history.find(message.id).unwrap().unwrap();
        let ended = past.ended.unwrap();
        assert_eq!(ended.at, message.accepted_at.plus(Duration::from_secs(60)));
        assert_eq!(
            (ended.accepted_at, &ended.reverse_path),
            (message.accepted_at, &message.envelope.reverse_path)
        );
        let recipients = [
            ("b@x.example".to_owned(), progress.recipients[0].clone()),
            ("c@y.example".to_owned(), progress.recipients[1].clone()),
        ];
        assert_eq!(ended.recipients, recipients);
        assert_eq!(
            (ended.listener.as_str(), ended.user.as_deref(), ended.client),
            ("in", Some("shop"), Some(client()))
        );
        assert_eq!((&ended.key, &ended.message_id), (&message.key, &message.message_id));
        assert_eq!(ended.traceparent.as_deref(), Some(TRACE));
        assert_eq!(
            (ended.size, ended.attempts, ended.warned, ended.priority),
            (message.content.len() as u64, 2, true, -3)
        );
        assert_eq!(past.replays, [(bed.clock.now(), Some(client())), (bed.clock.now(), None)]);
        assert_eq!(past.replay_count, 2);
        assert_eq!(history.find(QueueId::new(bed.clock.now())).unwrap(), None);
    }
}

#[test]
fn every_message_of_many_segments_is_found_and_paged_newest_first() {
    let bed = Bed::new();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let history = bed.open();
        for _ in 0..1200 {
            bed.clock.advance(Duration::from_millis(5));
            ids.push(bed.delivered(&history));
            history.replayed(ids[0], None);
        }
    }
    let history = bed.open();
    assert!(history.figures().segments > 5, "{:?}", history.figures());
    for id in &ids {
        assert!(history.find(*id).unwrap().unwrap().ended.is_some(), "{id}");
    }
    let first = history.find(ids[0]).unwrap().unwrap();
    assert_eq!((first.replay_count, first.replays.len()), (3600, 100));
    assert!(first.replays.is_sorted() && first.replays.last().unwrap().0 == bed.clock.now());
    ids.reverse();
    for most in [7, 1000, 100_000] {
        assert_eq!(Bed::all(&history, &PastWanted::default(), most), ids);
    }
    let history = {
        drop(history);
        bed.open()
    };
    let from = ids[100].accepted_at();
    let wanted = PastWanted { accepted_from: Some(from), ..PastWanted::default() };
    assert_eq!(Bed::all(&history, &wanted, 60), ids[..=100]);
    let wanted = PastWanted { accepted_before: Some(from), ..PastWanted::default() };
    assert_eq!(Bed::all(&history, &wanted, 5000), ids[101..]);
}

#[test]
fn a_search_finds_what_all_conditions_hold_for() {
    let bed = Bed::new();
    let history = bed.open();
    let message = bed.message(&["b@x.example", "c@sub.bücher.example"]);
    let mut progress = bed.progress(&[RecipientState::Delivered, RecipientState::Bounced]);
    progress.recipients[1].note(bed.reply("other", "550 no"));
    history.ended(&message, &progress);
    let none = PastWanted::default;
    let text = |text: &str| Some(text.to_owned());
    for (wanted, expected) in [
        (none(), true),
        (PastWanted { to: text("b@X.example"), ..none() }, true),
        (PastWanted { to: text("B@x.example"), ..none() }, false),
        (PastWanted { to_domain: text("*.xn--bcher-kva.example"), ..none() }, true),
        (PastWanted { to_domain: text("bücher.example"), ..none() }, false),
        (PastWanted { from: text("@shop.example"), user: text("shop"), ..none() }, true),
        (PastWanted { user: text("other"), ..none() }, false),
        (PastWanted { from: text("<>"), ..none() }, false),
        (PastWanted { states: vec![RecipientState::Bounced], ..none() }, true),
        (PastWanted { states: vec![RecipientState::Discarded], ..none() }, false),
        (PastWanted { states: vec![RecipientState::Bounced], to: text("b@x.example"), ..none() }, false),
        (PastWanted { route: text("other"), to: text("c@sub.bücher.example"), ..none() }, true),
        (PastWanted { route: text("out"), to: text("c@sub.bücher.example"), ..none() }, false),
    ] {
        let found = history.search(&wanted, None, 10).unwrap().messages;
        assert_eq!(found.len(), usize::from(expected), "{wanted:?}");
    }
    assert_eq!(
        history.search(&none(), Some("nonsense"), 10).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(
        history.search(&none(), Some("77:20"), 10).unwrap().messages.len(),
        1,
        "a segment that is none"
    );
}

#[test]
fn whole_segments_go_when_their_time_is_up_or_too_many_are_there() {
    let bed = Bed::new();
    let history = bed.open();
    let old = bed.delivered(&history);
    bed.clock.advance(DAY);
    history.set_options(bed.options.clone());
    let young = bed.delivered(&history);
    bed.clock.advance(6 * DAY);
    history.set_options(bed.options.clone());
    assert_eq!(history.find(old).unwrap(), None);
    assert!(history.find(young).unwrap().is_some());
    bed.clock.advance(DAY);
    drop(history);
    let history = bed.open();
    assert_eq!((history.find(young).unwrap(), bed.names("")), (None, vec![]));
    let ids: Vec<_> = (0..20_000).map(|_| bed.delivered(&history)).collect();
    let _ = history.find(ids[0]).unwrap();
    history.set_options(bed.options.clone());
    let figures = history.figures();
    assert!(figures.bytes <= bed.options.max_bytes && figures.segments < 64, "{figures:?}");
    assert!(history.find(ids[0]).unwrap().is_none() && history.find(ids[19_999]).unwrap().is_some());
    history.set_options(Options { retention: Duration::ZERO, ..bed.options.clone() });
    assert_eq!(bed.names(""), Vec::<String>::new(), "off keeps nothing");
    bed.delivered(&history);
    assert_eq!(history.search(&PastWanted::default(), None, 10).unwrap(), PastPage::default());
}

#[test]
fn d4_a_history_torn_at_any_byte_keeps_every_whole_record() {
    let bed = Bed::new();
    let history = bed.open();
    let ids = [bed.delivered(&history), bed.delivered(&history), bed.delivered(&history)];
    drop(history);
    let path = bed.dir.path().join("history/00000001.log");
    let whole = std::fs::read(&path).unwrap();
    let record = (whole.len() - segment::HEADER) / 3;
    for cut in 0..whole.len() {
        let file = RealFiles.create(&path).unwrap();
        file.write_at(0, &[io::IoSlice::new(&whole[..cut])]).unwrap();
        let expected = cut.saturating_sub(segment::HEADER) / record;
        let mut found = Bed::all(&bed.open(), &PastWanted::default(), 10);
        found.reverse();
        assert_eq!(found, ids[..expected], "{cut}");
    }
    assert_eq!(bed.names(".damaged"), Vec::<String>::new());
}

#[test]
fn d4_a_damaged_byte_costs_what_it_is_in_and_is_set_aside() {
    let bed = Bed::new();
    let history = bed.open();
    let ids = [bed.delivered(&history), bed.delivered(&history), bed.delivered(&history)];
    drop(history);
    let path = bed.dir.path().join("history/00000001.log");
    let whole = std::fs::read(&path).unwrap();
    let record = (whole.len() - segment::HEADER) / 3;
    for at in (segment::HEADER..segment::HEADER + record).step_by(3) {
        let file = RealFiles.create(&path).unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        file.write_at(0, &[io::IoSlice::new(&bytes)]).unwrap();
        let history = bed.open();
        // In the body, the others are still found; in its length, what follows cannot be.
        let found = Bed::all(&history, &PastWanted::default(), 10);
        assert!(found.is_empty() || found == [ids[2], ids[1]], "{at}: {found:?}");
        assert!(at < segment::HEADER + 4 || found.len() == 2, "{at}");
        let late = bed.delivered(&history);
        assert_eq!(Bed::all(&history, &PastWanted::default(), 1)[0], late);
        drop(history);
        for name in bed.names(".damaged") {
            let aside = std::fs::read(bed.dir.path().join("history").join(&name)).unwrap();
            assert!(bytes.windows(aside.len()).any(|window| window == aside));
            RealFiles.remove(&bed.dir.path().join("history").join(&name)).unwrap();
        }
    }
}

#[test]
fn d4_a_lost_or_damaged_index_is_made_again() {
    let bed = Bed::new();
    let history = bed.open();
    let mut ids: Vec<_> = (0..3000).map(|_| bed.delivered(&history)).collect();
    drop(history);
    ids.reverse();
    let index = bed.dir.path().join("history").join(&bed.names(".idx")[0]);
    for at in [3, 20_000] {
        let file = RealFiles.open(&index).unwrap();
        let at = at.min(file.size().unwrap() - 1);
        let mut byte = [0];
        file.read_at(at, &mut byte).unwrap();
        file.write_at(at, &[io::IoSlice::new(&[byte[0] ^ 1])]).unwrap();
        assert_eq!(Bed::all(&bed.open(), &PastWanted::default(), 500), ids);
        RealFiles.remove(&index).unwrap();
        let history = bed.open();
        assert_eq!(Bed::all(&history, &PastWanted::default(), 500), ids);
        assert!(ids.iter().all(|id| history.find(*id).unwrap().is_some()));
    }
}

#[test]
fn s2_what_is_too_much_is_dropped_and_counted_and_a_long_record_loses_replies_first() {
    let bed = Bed::new();
    let history = bed.open();
    let to: Vec<String> = (0..300).map(|n| format!("user{n}@x.example")).collect();
    let message = bed.message(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let mut progress = bed.progress(&vec![RecipientState::Delivered; 300]);
    for n in 0..20 {
        let reply = bed.reply("out", &format!("{n} {}", "x".repeat(300)));
        progress.recipients.iter_mut().for_each(|recipient| recipient.note(reply.clone()));
    }
    history.ended(&message, &progress);
    let ended = history.find(message.id).unwrap().unwrap().ended.unwrap();
    assert!(
        ended.recipients.iter().all(|(_, r)| r.replies.len() == 1 && r.replies[0].text.starts_with("19 "))
    );
    // While the log is held, as by a slow disk, nobody waits.
    let log = history.inner.log.lock().unwrap();
    let mut record = Vec::new();
    record::add_replayed(&mut record, message.id, None, bed.clock.now());
    let record = record.len();
    for _ in 0..MOST_BYTES / record + 150 {
        history.replayed(message.id, None);
    }
    assert!(history.inner.waiting.len() <= MOST_BYTES + record);
    assert!((100..=200).contains(&history.figures().dropped), "{:?}", history.figures());
    drop(log);
}

#[test]
fn events_are_not_remembered() {
    let bed = Bed::new();
    let history = bed.open();
    let mut message = Message::clone(&bed.message(&["b@x.example"]));
    message.origin = Origin::event();
    history.ended(&Arc::new(message), &bed.progress(&[RecipientState::Delivered]));
    assert_eq!(Bed::all(&history, &PastWanted::default(), 10), []);
}

#[test]
fn a_left_over_index_is_never_taken_for_that_of_a_later_segment() {
    let bed = Bed::new();
    let history = bed.open();
    (0..3000).for_each(|_| {
        bed.delivered(&history);
    });
    drop(history);
    // What a power cut leaves of a removal: the records went, the index did not.
    let at = |name: &str| bed.dir.path().join("history").join(name);
    let index = bed.names(".idx").into_iter().max().unwrap();
    for name in bed.names(".log").iter().filter(|name| **name != "00000001.log") {
        RealFiles.remove(&at(name)).unwrap();
    }
    assert_ne!(index, "00000001.idx");
    RealFiles.create(&at("00000003.idx.new")).unwrap();
    let history = bed.open();
    assert_eq!(bed.names(".idx"), ["00000001.idx"]);
    assert_eq!(bed.names(".new"), Vec::<String>::new());
    let id = bed.delivered(&history);
    drop(history);
    assert!(
        bed.names(".log").into_iter().max() > Some(index),
        "a number is used twice: {:?}",
        bed.names(".log")
    );
    assert!(bed.open().find(id).unwrap().is_some());
}

#[test]
fn what_was_written_while_the_clock_was_ahead_goes_with_what_came_behind_it() {
    let bed = Bed::new();
    let (history, now) = (bed.open(), bed.clock.now());
    let seal = || {
        bed.clock.advance(DAY);
        history.set_options(bed.options.clone());
    };
    bed.clock.set(now.plus(365 * DAY));
    let ahead = bed.delivered(&history);
    let _ = history.find(ahead).unwrap();
    seal();
    bed.clock.set(now);
    let behind = bed.delivered(&history);
    let _ = history.find(behind).unwrap();
    seal();
    assert!(history.find(ahead).unwrap().is_some() && history.find(behind).unwrap().is_some());
    bed.clock.advance(6 * DAY);
    history.set_options(bed.options.clone());
    assert_eq!((history.find(ahead).unwrap(), history.find(behind).unwrap()), (None, None));
}

#[test]
fn a_clock_that_is_set_forward_deletes_no_history() {
    let bed = Bed::new();
    let (history, now) = (bed.open(), bed.clock.now());
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(bed.delivered(&history));
        let _ = history.find(ids[0]).unwrap();
        bed.clock.advance(DAY);
        history.set_options(bed.options.clone());
    }
    for ahead in [DAY, 30 * DAY] {
        bed.clock.set(now.plus(3 * DAY).plus(ahead));
        history.set_options(bed.options.clone());
        assert!(ids.iter().all(|id| history.find(*id).unwrap().is_some()), "{ahead:?} ahead");
    }
    // It was right after all.
    bed.clock.advance(DAY);
    history.set_options(bed.options.clone());
    assert!(ids.iter().all(|id| history.find(*id).unwrap().is_none()));
}

#[test]
fn what_was_set_aside_is_kept_no_longer_than_what_is_remembered() {
    let bed = Bed::new();
    let history = bed.open();
    (0..3).for_each(|_| {
        bed.delivered(&history);
    });
    drop(history);
    let log = bed.dir.path().join("history/00000001.log");
    RealFiles.open(&log).unwrap().write_at(0, &[io::IoSlice::new(b"nonsense")]).unwrap();
    let history = bed.open();
    assert_eq!(bed.names(".damaged"), ["00000001.damaged"]);
    bed.delivered(&history);
    let _ = history.search(&PastWanted::default(), None, 1).unwrap();
    for _ in 0..2 {
        bed.clock.advance(7 * DAY);
        history.set_options(bed.options.clone());
    }
    assert_eq!(bed.names(""), Vec::<String>::new());
}

#[test]
fn a_segment_that_cannot_be_read_is_left_alone_and_keeps_nothing_from_starting() {
    let bed = Bed::new();
    let history = bed.open();
    (0..3000).for_each(|_| {
        bed.delivered(&history);
    });
    drop(history);
    let first = bed.dir.path().join("history/00000001.log");
    let before = std::fs::read(&first).unwrap();
    // Its index is gone, and there is no room for another: a directory stands where it would be made.
    RealFiles.remove(&first.with_extension("idx")).unwrap();
    RealFiles.create_dir(&first.with_extension("idx.new")).unwrap();
    let history = bed.open();
    let late = bed.delivered(&history);
    assert_eq!(Bed::all(&history, &PastWanted::default(), 10_000)[0], late);
    assert!(std::fs::read(&first).unwrap() == before);
}

#[test]
fn a_clock_that_was_set_back_after_a_failure_does_not_end_the_writing() {
    let bed = Bed::new();
    let history = bed.open();
    history.set_options(Options { min_free: u64::MAX, ..bed.options.clone() });
    let lost = bed.delivered(&history);
    assert_eq!(history.find(lost).unwrap(), None);
    history.set_options(bed.options.clone());
    bed.clock.set(Timestamp::from_millis(bed.clock.now().as_millis() - 3_600_000));
    let id = bed.delivered(&history);
    assert!(history.find(id).unwrap().is_some());
}
