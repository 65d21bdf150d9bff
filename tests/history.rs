//! What became of messages, and which retries were answered, is remembered and never in the way; a key that an operator
//! has forgotten stays forgotten, whatever happens.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::Clock;
use oncemail::intake::Decision;
use oncemail::mail::{QueueId, RecipientState};
use oncemail::queue;
use oncemail::store::files::{Files, RealFiles};
use oncemail::store::history::{History, Options, Past, PastWanted};
use oncemail::store::{Acceptance, EmbeddedStore, Forgotten, Store};

use crate::common::client::Client;
use crate::common::eventually::{eventually, eventually_so};
use crate::common::far_side::{FarSide, say};
use crate::common::faulty_files::FaultyFiles;
use crate::common::history::{accept, finished, key, message, open, start};
use crate::common::intake::{Bench, keyed, options as intake_options};
use crate::common::memory_disk::MemoryDisk;
use crate::common::platter::Cut;
use crate::common::program::Setup;
use crate::common::relay_rig::{Rig, queue_options, to_hosts};

const RETENTION: Duration = Duration::from_secs(7 * 86_400);

fn options() -> Options {
    Options { retention: RETENTION, max_bytes: 8 << 20, min_free: 0 }
}

fn remember(dir: &Path, files: Arc<dyn Files>, clock: &Clock) -> Arc<History> {
    History::open(files, dir, options(), clock.clone()).unwrap()
}

/// Waits until a message has ended.
async fn ended(history: &History, id: QueueId) -> Past {
    let past = async || history.find(id).unwrap().filter(|past| past.ended.is_some());
    eventually("the history has the message's end", past).await
}

#[tokio::test]
async fn the_end_of_a_message_is_remembered_with_every_reply() {
    let far = FarSide::new()
        .on("RCPT TO:<gone@", say("550 5.1.1 User unknown"))
        .on_times(1, "RCPT TO:<later@", say("450 4.2.1 Later"))
        .start()
        .await;
    // The content is not kept in memory, so it is read back before the end forgets it.
    let queue_options =
        queue::Options { fresh_bytes: 0, on_failure: queue::OnFailure::Bounce, ..queue_options() };
    let rig = Rig::start_with(to_hosts(&[far.address]), queue_options);
    let dir = tempfile::tempdir().unwrap();
    let history = remember(dir.path(), Arc::new(RealFiles), &rig.clock);
    rig.queue.remember_into(history.clone());
    let id = rig.send(&["fine@x.example", "gone@x.example", "later@x.example"], "hello").await;
    let told = ended(&history, id).await.ended.unwrap();
    let states: Vec<_> = told.recipients.iter().map(|(to, reached)| (to.as_str(), reached.state)).collect();
    assert_eq!(
        states,
        [
            ("fine@x.example", RecipientState::Delivered),
            ("gone@x.example", RecipientState::Bounced),
            ("later@x.example", RecipientState::Delivered)
        ]
    );
    assert!(told.recipients[1].1.replies[0].text.contains("User unknown"), "{told:?}");
    let later: Vec<_> = told.recipients[2].1.replies.iter().map(|reply| reply.code).collect();
    assert_eq!(later, [450, 250]);
    // The notice about it is a message like any other.
    far.wait(|log| log.taken.iter().any(|taken| taken.mail.starts_with("MAIL FROM:<>"))).await;
    let wanted = PastWanted { from: Some("<>".into()), ..PastWanted::default() };
    let has_it = || !history.search(&wanted, None, 10).unwrap().messages.is_empty();
    eventually_so("the history has the notice's end", has_it).await;
}

#[tokio::test]
async fn a_retry_that_was_answered_is_remembered_and_nothing_else_is() {
    let bench = Bench::new(intake_options());
    let dir = tempfile::tempdir().unwrap();
    let history = remember(dir.path(), Arc::new(RealFiles), &bench.clock);
    bench.intake.remember_into(history.clone());
    let Decision::Queued(id) = bench.decide(keyed("order 123", "hello")).await else { panic!("it is new") };
    assert_eq!(history.find(id).unwrap(), None);
    bench.clock.advance(Duration::from_secs(5));
    assert_eq!(bench.decide(keyed("order 123", "hello")).await, Decision::Replayed(id));
    assert_eq!(bench.decide(keyed("order 123", "other")).await, Decision::DifferentBody);
    let past = history.find(id).unwrap().unwrap();
    assert_eq!(past.replays, [(bench.clock.now(), Some("192.0.2.1".parse().unwrap()))]);
    assert_eq!((past.replay_count, past.ended), (1, None));
}

#[test]
fn a_full_disk_costs_what_comes_meanwhile_and_nothing_else() {
    let (dir, clock, files) = (tempfile::tempdir().unwrap(), Clock::manual(start()), FaultyFiles::sound());
    let history = remember(dir.path(), files.clone(), &clock);
    let end = || {
        let message = message(clock.now(), None, 10);
        history.ended(&message, &finished(clock.now()));
        history.find(message.id).unwrap().map(|_| message.id)
    };
    let before = end().unwrap();
    files.set_full(true);
    assert_eq!((end(), history.figures().dropped), (None, 1));
    files.set_full(false);
    assert_eq!((end(), history.figures().dropped), (None, 2), "not before a minute is over");
    clock.advance(Duration::from_secs(61));
    let after = end().unwrap();
    files.set_free(1000);
    history.set_options(Options { min_free: 1001, ..options() });
    assert_eq!((end(), history.figures().dropped), (None, 3), "the last of the room is for mail");
    history.close();
    let history = remember(dir.path(), Arc::new(RealFiles), &clock);
    assert!([before, after].iter().all(|id| history.find(*id).unwrap().is_some()));
    assert_eq!(history.search(&PastWanted::default(), None, 10).unwrap().messages.len(), 2);
}

#[test]
fn d4_after_any_one_failure_what_is_there_is_whole_and_the_history_goes_on() {
    let mut n = 0;
    loop {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
        let files = FaultyFiles::new(n, io::ErrorKind::Other);
        let small = Options { max_bytes: 1, ..options() };
        let history = History::open(files.clone(), dir.path(), options(), clock.clone()).unwrap();
        let mut ids = Vec::new();
        for round in 0..3 {
            for _ in 0..1000 {
                let message = message(clock.now(), Some("k"), 10);
                history.ended(&message, &finished(clock.now()));
                ids.push(message.id);
            }
            let _ = history.search(&PastWanted::default(), None, 1).unwrap();
            // Segments end, and with the last the oldest go.
            clock.advance(RETENTION / 20);
            history.set_options(if round == 2 { small.clone() } else { options() });
        }
        history.close();
        let counted = history.figures();
        assert_eq!(counted.records + counted.dropped, 3000, "failure {n}");
        let history = remember(dir.path(), Arc::new(RealFiles), &clock);
        for (id, ended) in history.search(&PastWanted::default(), None, 5000).unwrap().messages {
            assert!(ids.contains(&id) && ended.recipients.len() == 2);
        }
        let message = message(clock.now(), None, 10);
        history.ended(&message, &finished(clock.now()));
        assert!(history.find(message.id).unwrap().is_some(), "failure {n}");
        if !files.has_failed() {
            break;
        }
        n += 1;
    }
    assert!(n > 10, "only {n} operations");
}

#[tokio::test]
async fn the_program_remembers_what_became_of_an_order() {
    let far = FarSide::new().start().await;
    let setup = Setup::with_route(&format!(
        "transport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"",
        far.address
    ));
    let mut relay = setup.serve().await;
    let mut client = Client::greeted(relay.address()).await.0;
    let mut replies = Vec::new();
    for _ in 0..2 {
        client.ask("MAIL FROM:<a@shop.example>").await;
        client.ask("RCPT TO:<b@x.example>").await;
        client.ask("DATA").await;
        replies.push(client.ask("X-Idempotency-Key: order 123\r\nSubject: x\r\n\r\nhello\r\n.").await);
        if replies.len() == 1 {
            assert_eq!(relay.says("delivery").await["outcome"], "delivered");
        }
    }
    assert_eq!(relay.stop().await, Some(0));
    let mut words = replies[0].split(|c: char| !c.is_ascii_alphanumeric());
    let id: QueueId = words.find_map(|word| word.parse().ok()).expect("the reply tells the queue id");
    assert!(replies[1].contains(&id.to_string()), "{replies:?}");
    let history = remember(&setup.data_dir(), Arc::new(RealFiles), &Clock::system());
    let past = history.find(id).unwrap().unwrap();
    let ended = past.ended.unwrap();
    assert_eq!((ended.key.unwrap().key.as_str(), past.replay_count), ("order 123", 1));
    assert_eq!(ended.recipients[0].1.state, RecipientState::Delivered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figures_tell_what_the_store_has() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    let (store, _) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    for n in 0..3 {
        accept(&store, &message(clock.now(), Some(&format!("key {n}")), 100)).await.unwrap();
    }
    let before = store.figures();
    assert_eq!((before.messages, before.keys, before.index_runs), (3, 3, 0));
    assert!(before.journal_bytes > 300 && before.needed_bytes <= before.journal_bytes);
    store.settle().await.unwrap();
    let Forgotten::Key(_) = store.forget_key(&key("key 1")).await.unwrap() else { panic!("it was there") };
    let after = store.figures();
    assert_eq!((after.keys, after.index_runs, after.forgotten_keys), (3, 1, 1));
    assert_eq!(after.keys_by_expiry.iter().map(|(_, count)| count).sum::<u64>(), 3);
    assert!(after.index_bytes > 300 && after.segments >= 1);
    let (mut registry, mut text) = (oncemail::metrics::Registry::default(), String::new());
    store.metrics().register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("store_commit_seconds_count 3\n"), "{text}");
}

/// What forgets a key is in a segment that goes; the message, which goes on living with the key in its record, is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d4_i1_a_key_that_was_forgotten_does_not_come_back_with_the_copy_of_its_message() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(start()));
    let (store, _) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    let (living, text) = (message(clock.now(), Some("living"), 500), key("living"));
    accept(&store, &living).await.unwrap();
    assert!(matches!(store.forget_key(&text).await, Ok(Forgotten::Key(_))));
    for n in 1..=20 {
        let other = message(clock.now(), None, 1500);
        accept(&store, &other).await.unwrap();
        store.save(other.id, finished(clock.now())).await.unwrap();
        if n % 4 == 0 {
            store.settle().await.unwrap();
        }
    }
    drop(store);
    assert!(!dir.path().join("journal/00000001.seg").exists(), "its segment is gone");
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let (store, recovery) = open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    assert!(recovery.index_rebuilt && recovery.messages.len() == 1);
    assert_eq!(store.find_key(&text).await, Ok(None));
}

/// A message that lives and one that has ended, both with a key that is forgotten and taken again, and then so much mail
/// that everything is copied and moved; with the number of operations when each step was asked for and acknowledged.
struct Forgetting {
    first: [QueueId; 2],
    second: [QueueId; 2],
    accepted: usize,
    forget: (usize, usize),
    taken_again: usize,
}

const KEYS: [&str; 2] = ["living", "ended"];

impl Forgetting {
    async fn run(store: &EmbeddedStore, clock: &Clock, operations: impl Fn() -> usize) -> Self {
        let now = clock.now();
        let first = KEYS.map(|text| message(now, Some(text), 500));
        let second = KEYS.map(|text| message(now, Some(text), 300));
        for message in &first {
            accept(store, message).await.unwrap();
        }
        store.save(first[1].id, finished(now)).await.unwrap();
        store.settle().await.unwrap();
        let accepted = operations();
        for (text, message) in KEYS.iter().zip(&first) {
            let forgotten = store.forget_key(&key(text)).await.unwrap();
            assert!(matches!(forgotten, Forgotten::Key(record) if record.id == message.id));
            assert_eq!(store.forget_key(&key(text)).await, Ok(Forgotten::Unknown));
            assert_eq!(store.find_key(&key(text)).await, Ok(None));
        }
        let forget = (accepted, operations());
        for message in &second {
            assert_eq!(accept(store, message).await, Ok(Acceptance::Queued));
        }
        let taken_again = operations();
        for n in 0..10 {
            let other = message(now, None, 1500);
            accept(store, &other).await.unwrap();
            store.save(other.id, finished(now)).await.unwrap();
            if n % 3 == 0 {
                store.settle().await.unwrap();
            }
        }
        store.settle().await.unwrap();
        let [first, second] = [first, second].map(|pair| pair.map(|message| message.id));
        Self { first, second, accepted, forget, taken_again }
    }

    /// What a store tells after a crash at operation `at`.
    async fn check(&self, at: usize, store: &EmbeddedStore) {
        assert!(store.load(self.first[0]).await.unwrap().is_some(), "D6: only its key was forgotten");
        for (number, text) in KEYS.iter().enumerate() {
            let (first, second) = (self.first[number], self.second[number]);
            let found = store.find_key(&key(text)).await.unwrap().map(|record| record.id);
            let possible: &[Option<QueueId>] = match at {
                _ if at >= self.taken_again => &[Some(second)],
                _ if at >= self.forget.1 => &[None, Some(second)],
                _ if at > self.forget.0 => &[Some(first), None],
                _ => &[Some(first)],
            };
            assert!(possible.contains(&found), "{text} at {at}: {found:?} is none of {possible:?}");
        }
    }
}

async fn cut(cut: Cut, with_index: bool) {
    let (root, clock) = (Path::new("/store"), Clock::manual(start()));
    let index = root.join("index");
    let disk = MemoryDisk::new(root);
    let (store, _) = open(root, Arc::new(disk.clone()), &clock).unwrap();
    let run = Forgetting::run(&store, &clock, || disk.operations()).await;
    drop(store);
    assert_eq!(disk.len(&root.join("journal/00000001.seg")), None, "the run reclaims segments");
    let (mut platter, log) = disk.recording();
    log[..run.accepted].iter().for_each(|op| platter.apply(op));
    for at in run.accepted..=log.len() {
        let mut after = platter.after(cut, at as u64 * 7919 + 1);
        log.get(at).into_iter().for_each(|op| platter.apply(op));
        // Three times: what a start leaves must do for the next, with the index and without it.
        for round in 0..3 {
            if round == 2 || round == 0 && !with_index {
                after.lose(&index);
            }
            let disk = MemoryDisk::from(after);
            let (store, _) = open(root, Arc::new(disk.clone()), &clock).unwrap();
            run.check(at, &store).await;
            drop(store);
            after = disk.platter();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_i1_a_forgotten_key_stays_forgotten_over_a_power_cut_that_loses_what_was_not_synced() {
    cut(Cut::Lost, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_i1_a_forgotten_key_stays_forgotten_over_a_power_cut_that_takes_the_index_along() {
    cut(Cut::Lost, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_i1_a_forgotten_key_stays_forgotten_over_a_power_cut_that_tears() {
    cut(Cut::Torn(512), true).await;
}
