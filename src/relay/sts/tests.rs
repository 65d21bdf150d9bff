//! What is fetched, when, and what becomes of it while DNS or the policy server are away.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::clock::Clock;
use crate::relay::tls_report::Policy as Counted;

/// A domain's record and policy, to be changed as a test goes on.
#[derive(Default)]
struct Script {
    record: Mutex<Option<Result<String, Fault>>>,
    answer: Mutex<Option<Result<String, String>>>,
    fetches: AtomicUsize,
}

impl Script {
    fn record(&self, id: &str) {
        *self.record.lock().unwrap() = Some(Ok(format!("v=STSv1; id={id};")));
    }

    fn policy(&self, mode: &str, max_age: u64) {
        let text = format!("version: STSv1\nmode: {mode}\nmx: mx.x.example\nmax_age: {max_age}\n");
        self.answers(Ok(&text));
    }

    fn answers(&self, answer: Result<&str, &str>) {
        *self.answer.lock().unwrap() = Some(answer.map(str::to_owned).map_err(str::to_owned));
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

impl Source for Arc<Script> {
    async fn txt(&self, name: &str) -> Result<Vec<String>, Fault> {
        assert!(name.starts_with("_mta-sts."), "{name}");
        match self.record.lock().unwrap().clone() {
            Some(Ok(record)) => Ok(vec!["unrelated".to_owned(), record]),
            Some(Err(fault)) => Err(fault),
            None => Err(Fault::NoRecords(name.to_owned())),
        }
    }

    async fn fetch(&self, _domain: &str) -> Result<Response, String> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        // Others may come and wait meanwhile.
        tokio::task::yield_now().await;
        let answer = self.answer.lock().unwrap().clone().expect("a test says what is answered");
        answer.map(|body| Response {
            status: 200,
            content_type: Some("text/plain".to_owned()),
            body: body.into(),
        })
    }
}

struct Bed {
    script: Arc<Script>,
    clock: Clock,
    report: Arc<TlsReport>,
    sts: Sts<Arc<Script>>,
}

impl Bed {
    fn new() -> Self {
        let (script, clock) =
            (Arc::<Script>::default(), Clock::manual(Timestamp::from_millis(1_795_343_400_000)));
        let report = Arc::new(TlsReport::new(clock.clone()));
        let sts = Sts::new(script.clone(), report.clone());
        Self { script, clock, report, sts }
    }

    async fn mode(&self) -> Option<Mode> {
        self.sts.policy("x.example").await.map(|policy| policy.mode)
    }

    fn failed(&self, failure: Failure) -> u64 {
        let key = ("x.example".to_owned(), Counted::Sts);
        let days = self.report.snapshot();
        let count = |day: &tls_report::Day| day.sessions.get(&key)?.failures.get(&failure).copied();
        days.iter().filter_map(count).sum()
    }
}

const DAY: u64 = 86_400;

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[tokio::test]
async fn a_policy_is_fetched_once_and_again_when_its_id_changes() {
    let bed = Bed::new();
    assert_eq!((bed.mode().await, bed.script.fetches()), (None, 0));
    bed.script.record("one");
    bed.script.policy("enforce", 7 * DAY);
    assert_eq!(bed.mode().await, Some(Mode::Enforce));
    bed.script.policy("testing", 7 * DAY);
    assert_eq!((bed.mode().await, bed.script.fetches()), (Some(Mode::Enforce), 1));
    bed.script.record("two");
    assert_eq!((bed.mode().await, bed.script.fetches()), (Some(Mode::Testing), 2));
}

#[tokio::test]
async fn who_cuts_off_dns_or_the_server_does_not_switch_a_policy_off() {
    let bed = Bed::new();
    bed.script.record("one");
    bed.script.policy("enforce", 7 * DAY);
    assert_eq!(bed.mode().await, Some(Mode::Enforce));
    *bed.script.record.lock().unwrap() = None;
    assert_eq!(bed.mode().await, Some(Mode::Enforce), "the record is gone");
    *bed.script.record.lock().unwrap() = Some(Err(Fault::Temporary("no answer".into())));
    assert_eq!(bed.mode().await, Some(Mode::Enforce), "DNS is gone");
    bed.script.record("two");
    bed.script.answers(Err("no route to host"));
    assert_eq!(bed.mode().await, Some(Mode::Enforce), "the server is gone");
    bed.clock.advance(secs(7 * DAY));
    assert_eq!(bed.mode().await, None, "its age is over");
}

#[tokio::test]
async fn a_failed_fetch_is_counted_and_not_repeated_at_once() {
    let bed = Bed::new();
    bed.script.record("one");
    for (answer, failure) in [
        (Err("no route to host"), Failure::StsPolicyFetchError),
        (Err("TLS: the certificate is self-signed"), Failure::StsWebpkiInvalid),
        (Ok("<html>"), Failure::StsPolicyInvalid),
    ] {
        let before = bed.script.fetches();
        bed.script.answers(answer);
        assert_eq!((bed.mode().await, bed.mode().await), (None, None));
        assert_eq!((bed.script.fetches() - before, bed.failed(failure)), (1, 1));
        bed.clock.advance(FETCH_PAUSE);
    }
    bed.script.policy("enforce", DAY);
    assert_eq!(bed.mode().await, Some(Mode::Enforce));
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_make_a_pause_last() {
    let bed = Bed::new();
    bed.script.record("one");
    bed.script.answers(Err("no route to host"));
    assert_eq!((bed.mode().await, bed.mode().await, bed.script.fetches()), (None, None, 1));
    bed.clock.set(Timestamp::from_millis(bed.clock.now().as_millis() - DAY * 1_000));
    bed.script.policy("enforce", DAY);
    assert_eq!(bed.mode().await, Some(Mode::Enforce));
}

#[tokio::test]
async fn a_policy_is_renewed_before_its_age_is_over() {
    let bed = Bed::new();
    bed.script.record("one");
    bed.script.policy("enforce", 7 * DAY);
    bed.mode().await;
    bed.clock.advance(REFRESH);
    assert_eq!((bed.mode().await, bed.script.fetches()), (Some(Mode::Enforce), 2));
    bed.clock.advance(secs(6 * DAY + 10));
    bed.script.answers(Err("no route to host"));
    assert_eq!((bed.mode().await, bed.script.fetches()), (Some(Mode::Enforce), 3), "it was renewed");
}

#[tokio::test]
async fn many_messages_wait_for_one_fetch() {
    let bed = Bed::new();
    bed.script.record("one");
    bed.script.policy("enforce", DAY);
    let modes = tokio::join!(bed.mode(), bed.mode(), bed.mode());
    assert_eq!(modes, (Some(Mode::Enforce), Some(Mode::Enforce), Some(Mode::Enforce)));
    assert_eq!(bed.script.fetches(), 1);
}

#[tokio::test]
async fn s2_domains_are_bounded_and_the_least_worth_keeping_goes_first() {
    let bed = Bed::new();
    bed.script.record("one");
    bed.script.policy("enforce", 30 * DAY);
    bed.mode().await;
    bed.script.policy("enforce", DAY);
    for n in 0..MAX_DOMAINS + 5 {
        bed.sts.policy(&format!("{n}.example")).await;
    }
    let before = bed.script.fetches();
    assert_eq!(bed.sts.cells.lock().unwrap().len(), MAX_DOMAINS);
    assert_eq!((bed.mode().await, bed.script.fetches()), (Some(Mode::Enforce), before));
}

/// Many domains with a policy, on slow servers.
#[derive(Default)]
struct Slow {
    now: AtomicUsize,
    most: AtomicUsize,
    all: AtomicUsize,
}

impl Source for Arc<Slow> {
    async fn txt(&self, _name: &str) -> Result<Vec<String>, Fault> {
        Ok(vec!["v=STSv1; id=1;".to_owned()])
    }

    async fn fetch(&self, _domain: &str) -> Result<Response, String> {
        self.all.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.now.fetch_sub(1, Ordering::SeqCst);
        Err("too slow".to_owned())
    }
}

#[tokio::test]
async fn s2_the_policies_of_a_thousand_domains_are_fetched_once_each_and_not_all_at_a_time() {
    let slow = Arc::<Slow>::default();
    let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
    let sts = Arc::new(Sts::new(slow.clone(), Arc::new(TlsReport::new(clock))));
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..2_000 {
        let sts = sts.clone();
        asking.spawn(async move { sts.policy(&format!("d{}.example", number % 1_000)).await });
    }
    while let Some(policy) = asking.join_next().await {
        assert_eq!(policy.unwrap(), None);
    }
    assert_eq!((slow.all.load(Ordering::SeqCst), slow.most.load(Ordering::SeqCst)), (1_000, MAX_FETCHES));
}
