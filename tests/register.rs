//! What the queue's register promises: a filter finds exactly what it names, newest first and page by page, also what an
//! earlier process has left; and numbers agree with what is there.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{Address, Handling, Message, Origin, QueueId, ReversePath};
use oncemail::queue::{Action, End, Found, Kind, Order, Queue, Routes, Standing, Wanted};
use oncemail::store::files::RealFiles;
use oncemail::store::{Recovered, Store};

use crate::common::far_side::PATIENCE;
use crate::common::history;
use crate::common::outcomes::outcome;
use crate::common::relay_rig::{message, patient};
use crate::common::watched_store::WatchedStore;

const START: Timestamp = Timestamp::from_millis(1_795_343_400_000);

/// To x.example over one route, everything else over another.
struct TwoRoutes;

impl Routes for TwoRoutes {
    fn route(
        &self,
        to: Option<&str>,
        from: Option<&str>,
        _: Option<&str>,
        listener: &str,
    ) -> Option<Arc<str>> {
        assert_eq!((from, listener), (Some("shop.example"), "main"));
        Some(if to == Some("x.example") { "x".into() } else { "other".into() })
    }
}

struct Bed {
    queue: Arc<Queue>,
    store: Arc<WatchedStore>,
    clock: Clock,
}

impl Bed {
    fn new() -> Self {
        let clock = Clock::manual(START);
        let queue = Queue::new(patient(), clock.clone());
        let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
        queue.start(store.clone(), Vec::new());
        Self { queue, store, clock }
    }

    async fn accept(&self, recipients: &[&str], change: impl FnOnce(&mut Message)) -> QueueId {
        self.clock.advance(Duration::from_millis(1));
        let mut sent = message(&self.clock, recipients, "x");
        change(&mut sent);
        let id = sent.id;
        self.store.accept(Arc::new(sent), None).await.unwrap();
        id
    }

    fn find(&self, change: impl FnOnce(&mut Wanted)) -> Vec<QueueId> {
        let mut wanted = Wanted::default();
        change(&mut wanted);
        let found = self.queue.find(&wanted, &TwoRoutes, None, usize::MAX);
        assert_eq!((found.matched, found.next), (found.messages.len() as u64, None));
        found.messages.into_iter().map(|(id, _)| id).collect()
    }
}

#[tokio::test]
async fn each_condition_finds_what_it_names() {
    let bed = Bed::new();
    let user = |name: &'static str| move |sent: &mut Message| sent.origin.user = Some(name.into());
    let first = bed.accept(&["a@x.example", "b@Mail.Y.example"], user("shop")).await;
    let null = bed.accept(&["a@X.EXAMPLE"], |sent| sent.envelope.reverse_path = ReversePath::Null).await;
    let other = bed.accept(&["c@y.example"], |sent| {
        sent.envelope.reverse_path = ReversePath::Mailbox(Address::parse("b@shop.example").unwrap());
    });
    let other = other.await;
    bed.clock.advance(Duration::from_secs(60));
    let late = bed.accept(&["a@büro.example"], user("x.example")).await;
    assert_eq!(bed.find(|_| {}), [late, other, null, first]);
    let to = |text: &str| bed.find(|wanted| wanted.to = Some(text.into()));
    assert_eq!(to("a@x.EXAMPLE"), [null, first]);
    assert_eq!(to("b@mail.y.example"), [first]);
    assert_eq!((to("A@x.example"), to("nonsense"), to("a@nowhere.example")), (vec![], vec![], vec![]));
    let to_domain = |text: &str| bed.find(|wanted| wanted.to_domain = Some(text.into()));
    assert_eq!(to_domain("X.example"), [null, first]);
    assert_eq!(to_domain("*.y.example"), [first]);
    assert_eq!(to_domain("*.example"), [late, other, null, first]);
    assert_eq!(to_domain("xn--bro-hoa.example"), [late]);
    let from = |text: &str| bed.find(|wanted| wanted.from = Some(text.into()));
    assert_eq!((from("<>"), from("@Shop.example")), (vec![null], vec![late, other, first]));
    assert_eq!((from("b@SHOP.example"), from("c@shop.example")), (vec![other], vec![]));
    assert_eq!(bed.find(|wanted| wanted.user = Some("x.example".into())), [late]);
    let before = START.plus(Duration::from_secs(1));
    assert_eq!(bed.find(|wanted| wanted.accepted_from = Some(before)), [late]);
    assert_eq!(bed.find(|wanted| wanted.accepted_before = Some(before)), [other, null, first]);
    // All of them have to hold.
    let both = bed.find(|wanted| {
        wanted.to = Some("a@x.example".into());
        wanted.from = Some("@shop.example".into());
    });
    assert_eq!(both, [first]);
}

#[tokio::test]
async fn routes_are_asked_once_for_each_way_and_only_about_whom_is_still_to_be_tried() {
    let bed = Bed::new();
    let mut ids = Vec::new();
    for n in 0..9_000 {
        ids.push(bed.accept(&[if n % 3 == 0 { "a@x.example" } else { "a@y.example" }], |_| {}).await);
    }
    let half = bed.accept(&["a@x.example", "a@y.example"], |_| {}).await;
    assert_eq!(bed.find(|wanted| wanted.route = Some("x".into())).len(), 3_001);
    assert_eq!(bed.find(|wanted| wanted.route = Some("other".into())).len(), 6_001);
    assert_eq!(bed.find(|wanted| wanted.route = Some("none".into())), []);
    loop {
        let leases = tokio::time::timeout(PATIENCE, bed.queue.next(64)).await.unwrap();
        let Some(lease) = leases.iter().find(|lease| lease.id() == half) else { continue };
        lease.open().await.unwrap();
        let mut delivered = outcome(0, End::Delivered);
        delivered.reply.route = "x".into();
        lease.settle(&[delivered], None).await.unwrap();
        break;
    }
    assert!(!bed.find(|wanted| wanted.route = Some("x".into())).contains(&half));
    assert!(bed.find(|wanted| wanted.route = Some("other".into())).contains(&half));
}

#[tokio::test]
async fn pages_follow_each_other_and_each_says_how_many_there_are() {
    let bed = Bed::new();
    let mut ids = Vec::new();
    for _ in 0..1_000 {
        ids.push(bed.accept(&["a@x.example"], |_| {}).await);
    }
    ids.reverse();
    let (mut pages, mut after) = (Vec::new(), None);
    loop {
        let Found { messages, next, matched, unread } =
            bed.queue.find(&Wanted::default(), &TwoRoutes, after, 300);
        assert_eq!((matched, unread), (1_000, 0));
        pages.extend(messages.into_iter().map(|(id, _)| id));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(pages, ids);
}

#[tokio::test]
async fn a_message_is_found_where_it_stands_and_counted_as_what_it_is() {
    let bed = Bed::new();
    let held = bed.accept(&["a@x.example"], |_| {}).await;
    let active = bed.accept(&["a@x.example"], |_| {}).await;
    let event = bed.accept(&["a@x.example"], |sent| sent.origin = Origin::event()).await;
    let hold = Order { action: Action::Hold, by: "ops".into(), reason: None };
    bed.queue.order(held, hold).await;
    let lease = tokio::time::timeout(PATIENCE, bed.queue.next(1)).await.unwrap().remove(0);
    assert_eq!(lease.id(), active);
    let queued = bed.accept(&["a@x.example"], |sent| sent.origin.listener.clear()).await;
    let standing = |standing| bed.find(|wanted| wanted.standings = vec![standing]);
    assert_eq!(standing(Standing::Held), [held]);
    assert_eq!(standing(Standing::Active), [active]);
    assert_eq!(standing(Standing::Queued), [queued, event]);
    let kind = |kind| bed.find(|wanted| wanted.kinds = vec![kind]);
    assert_eq!((kind(Kind::Notice), kind(Kind::Event)), (vec![queued], vec![event]));
    let depth = bed.queue.depth();
    assert_eq!((depth.queued, depth.held, depth.events), (2, 1, 1));
    // What is held does not make the queue old.
    assert_eq!(bed.queue.oldest(), Some(active.accepted_at()));
    assert_eq!(bed.queue.look(active).await.unwrap().unwrap().standing, Standing::Active);
    assert!(bed.queue.look(QueueId::new(START)).await.unwrap().is_none());
}

#[tokio::test]
async fn what_an_earlier_process_has_left_is_found_once_it_is_read() {
    let bed = Bed::new();
    let first = bed.accept(&["a@x.example"], |_| {}).await;
    let event = bed.accept(&["a@x.example"], |sent| sent.origin = Origin::event()).await;
    let queue = Queue::new(patient(), bed.clock.clone());
    let found = |id| Recovered { id, next_attempt: Some(START), priority: 0, held_back: false };
    queue.start(bed.store.clone(), vec![found(first), found(event)]);
    let wanted = Wanted { to_domain: Some("x.example".into()), ..Wanted::default() };
    let before = queue.find(&wanted, &TwoRoutes, None, 10);
    assert_eq!((before.matched, before.unread), (0, 2));
    assert_eq!(queue.find(&Wanted::default(), &TwoRoutes, None, 10).matched, 2);
    queue.read_register().await;
    let after = queue.find(&wanted, &TwoRoutes, None, 10);
    assert_eq!((after.matched, after.unread), (2, 0));
    let mail = Wanted { kinds: vec![Kind::Mail], ..wanted };
    assert_eq!(queue.find(&mail, &TwoRoutes, None, 10).messages, [(first, Standing::Queued)]);
    assert_eq!((queue.depth().queued, queue.depth().events), (1, 1));
}

#[tokio::test]
async fn what_nobody_has_read_yet_is_found_as_mail_and_events_of_it_are_counted_as_such() {
    let bed = Bed::new();
    let queue = Queue::new(patient(), bed.clock.clone());
    let found = |n, priority| Recovered {
        id: QueueId::new(START.plus(Duration::from_millis(n))),
        next_attempt: Some(START),
        priority,
        held_back: false,
    };
    let (mail, event) = (found(1, 0), found(2, Handling::EVENT_PRIORITY));
    queue.start(bed.store.clone(), vec![mail, event]);
    let of = |kinds: &[Kind]| {
        let wanted = Wanted { kinds: kinds.to_vec(), ..Wanted::default() };
        let Found { messages, unread, .. } = queue.find(&wanted, &TwoRoutes, None, 10);
        (messages.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), unread)
    };
    assert_eq!(of(&[Kind::Mail, Kind::Notice]), (vec![mail.id], 0));
    assert_eq!(of(&[Kind::Event]), (vec![event.id], 0));
    assert_eq!(of(&[Kind::Notice]), (vec![], 1), "it may be one");
    assert_eq!((queue.depth().queued, queue.depth().events), (1, 1));
    assert_eq!(queue.oldest(), Some(mail.id.accepted_at()));
}

#[tokio::test]
async fn a_store_describes_messages_as_it_gives_them_back() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Clock::manual(history::start());
    let (store, _) = history::open(dir.path(), Arc::new(RealFiles), &clock).unwrap();
    let many: Vec<_> = (0..500).map(|n| format!("r{n}@x.example")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    let mut ids = Vec::new();
    for recipients in [&["a@x.example", "b@x.example"][..], &many] {
        let mut sent = message(&clock, recipients, "x");
        sent.content = bytes::Bytes::from(vec![b'x'; 100_000]);
        ids.push(sent.id);
        store.accept(Arc::new(sent), None).await.unwrap();
    }
    let mut progress = store.load(ids[0]).await.unwrap().unwrap().1;
    progress.recipients[1].state = oncemail::mail::RecipientState::Delivered;
    progress.released_at = Some(START);
    store.save(ids[0], progress).await.unwrap();
    ids.push(QueueId::new(START));
    let described = store.describe(ids.clone()).await.unwrap();
    assert_eq!(described.len(), 2);
    for one in described {
        let (message, progress) = store.load(one.id).await.unwrap().unwrap();
        assert_eq!(
            (one.envelope, one.origin, one.progress),
            (message.envelope.clone(), message.origin.clone(), progress)
        );
    }
    store.close().await.unwrap();
    assert!(store.describe(ids).await.is_err());
}
