//! Applications: each submits one message after the other until it has its 250, and does what applications do to keys:
//! retries, races, mistakes. What a reply must be is checked when it comes.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::book::Book;
use crate::client::{Line, Told};
use crate::message::Draft;
use crate::process::Door;

/// Keys that an application remembers and uses again, over all rounds.
const MEMORY: usize = 200;
/// Of them, at the end of a round.
const RECITED: usize = 40;
/// Before a submission that was not taken is tried again, at most, in milliseconds.
const AGAIN: u64 = 60;
/// A message that nobody takes for so long never will be.
const LIMIT: Duration = Duration::from_secs(180);

/// One application.
pub struct Application {
    name: String,
    number: u64,
    rng: StdRng,
    door: watch::Receiver<Door>,
    book: Arc<Book>,
    /// Between two messages, on average.
    pace: Duration,
    line: Option<Line>,
    /// Keys of before, with their ids.
    known: Vec<(Draft, String)>,
}

/// The end of a submission that is tried until it is decided.
enum Decided {
    Queued { id: String },
    Replayed { id: String },
    Refused(String),
}

impl Decided {
    fn id(&self) -> Option<&str> {
        match self {
            Self::Queued { id } | Self::Replayed { id } => Some(id),
            Self::Refused(_) => None,
        }
    }
}

impl Application {
    pub fn new(number: u64, seed: u64, pace: Duration, door: watch::Receiver<Door>, book: Arc<Book>) -> Self {
        let rng = StdRng::seed_from_u64(seed.wrapping_add(number));
        Self { name: format!("a{number}"), number: 0, rng, door, book, pace, line: None, known: Vec::new() }
    }

    /// Submits until `running` says no; then ends what it has begun.
    pub async fn run(mut self, running: watch::Receiver<bool>) -> Self {
        while *running.borrow() {
            self.one().await;
            let pause = self.rng.random_range(0..=2 * self.pace.as_micros().max(1));
            sleep(Duration::from_micros(u64::try_from(pause).unwrap_or_default())).await;
        }
        self.line = None;
        self
    }

    /// I1: keys of all times, after everything that has been done to the relay, still have their ids.
    pub async fn recite(mut self) -> Self {
        let some: Vec<_> = self.known.choose_multiple(&mut self.rng, RECITED).cloned().collect();
        for (draft, id) in some {
            self.replayed(&draft, &id).await;
        }
        self.line = None;
        self
    }

    async fn one(&mut self) {
        match self.rng.random_range(0..100) {
            0..40 => self.plain().await,
            40..52 => self.twins().await,
            52..60 => self.rivals().await,
            60..72 => self.mistake().await,
            72..82 => self.remembered().await,
            _ => self.without_key().await,
        }
    }

    fn draft(&mut self, is_keyed: bool) -> Draft {
        self.number += 1;
        let uid = format!("{}-{}{}", self.name, if is_keyed { 'k' } else { 'n' }, self.number);
        let draft = Draft::random(uid, is_keyed, &mut self.rng);
        self.book.open(&draft);
        draft
    }

    /// A key, and now and then a retry that would not have been needed.
    async fn plain(&mut self) {
        let draft = self.draft(true);
        let Some(id) = self.acknowledged(&draft).await else { return };
        if self.rng.random_bool(0.3) {
            self.replayed(&draft, &id).await;
        }
        if self.known.len() < MEMORY {
            self.known.push((draft, id));
        } else if self.rng.random_bool(0.1) {
            let place = self.rng.random_range(0..MEMORY);
            if let Some(known) = self.known.get_mut(place) {
                *known = (draft, id);
            }
        }
    }

    /// The same message on two connections at a time: one message, one id.
    async fn twins(&mut self) {
        let draft = self.draft(true);
        let (ours, theirs) = self.at_once(&draft, ('a', 'a')).await;
        let (Some(ours), Some(theirs)) = (ours.id(), theirs.id()) else {
            return self.book.fault(format!("{}: the same message twice, and one was refused", draft.uid));
        };
        if ours != theirs {
            self.book.fault(format!("{}: at once, and queued as {ours} and as {theirs}", draft.uid));
        }
    }

    /// Two messages with one key on two connections at a time: one is queued, the other one refused.
    async fn rivals(&mut self) {
        let draft = self.draft(true);
        match self.at_once(&draft, ('a', 'b')).await {
            (Decided::Refused(reply), other) | (other, Decided::Refused(reply))
                if other.id().is_some() && is_about(&reply, "body") =>
            {
                self.book.count("rivals refused");
            }
            _ => self.book.fault(format!("{}: two contents, and not one of them was refused", draft.uid)),
        }
    }

    /// A key that is used again for something else: refused, and the first message stays what it was.
    async fn mistake(&mut self) {
        let draft = self.draft(true);
        let Some(id) = self.acknowledged(&draft).await else { return };
        let (other, variant, what) = if self.rng.random_bool(0.5) {
            (draft.clone(), 'b', "body")
        } else {
            (draft.with_another_recipient(&mut self.rng), 'a', "envelope")
        };
        match self.decided(&other, variant).await {
            Decided::Refused(reply) if is_about(&reply, what) => self.book.count("mistakes refused"),
            Decided::Refused(reply) => self.book.fault(format!("{}: another {what}: {reply}", draft.uid)),
            _ => self.book.fault(format!("{}: another {what} was taken", draft.uid)),
        }
        self.replayed(&draft, &id).await;
    }

    /// A retry of something that was long ago.
    async fn remembered(&mut self) {
        let Some((draft, id)) = self.known.choose(&mut self.rng).cloned() else { return self.plain().await };
        self.replayed(&draft, &id).await;
        self.book.count("old keys replayed");
    }

    /// Without a key a retry may be a second message: that is what keys are for.
    async fn without_key(&mut self) {
        let draft = self.draft(false);
        self.acknowledged(&draft).await;
    }

    async fn acknowledged(&mut self, draft: &Draft) -> Option<String> {
        let decided = self.decided(draft, 'a').await;
        if let Decided::Refused(reply) = &decided {
            self.book.fault(format!("{}: refused: {reply}", draft.uid));
        }
        decided.id().map(str::to_owned)
    }

    async fn replayed(&mut self, draft: &Draft, first: &str) {
        match self.decided(draft, 'a').await {
            Decided::Replayed { id } if id == first => {}
            Decided::Replayed { id } => {
                self.book.fault(format!("{}: first {first}, and replayed as {id}", draft.uid));
            }
            Decided::Queued { id } => {
                self.book.fault(format!("{}: first {first}, and queued again as {id}", draft.uid));
            }
            Decided::Refused(reply) => {
                self.book.fault(format!("{}: a retry was refused: {reply}", draft.uid))
            }
        }
    }

    async fn at_once(&mut self, draft: &Draft, variants: (char, char)) -> (Decided, Decided) {
        let mut ours = self.visit();
        let mut theirs = self.visit();
        ours.line = self.line.take();
        let both = tokio::join!(ours.decided(draft, variants.0), theirs.decided(draft, variants.1));
        self.line = ours.line;
        both
    }

    async fn decided(&mut self, draft: &Draft, variant: char) -> Decided {
        let mut visit = self.visit();
        visit.line = self.line.take();
        let decided = visit.decided(draft, variant).await;
        self.line = visit.line;
        decided
    }

    fn visit(&mut self) -> Visit {
        let rng = StdRng::from_rng(&mut self.rng);
        Visit { rng, door: self.door.clone(), book: self.book.clone(), line: None }
    }
}

/// One submission, over as many connections as it takes.
struct Visit {
    rng: StdRng,
    door: watch::Receiver<Door>,
    book: Arc<Book>,
    line: Option<Line>,
}

impl Visit {
    async fn decided(&mut self, draft: &Draft, variant: char) -> Decided {
        let decided = async {
            loop {
                if let Some(decided) = self.once(draft, variant).await {
                    return decided;
                }
                sleep(Duration::from_millis(self.rng.random_range(1..AGAIN))).await;
            }
        };
        match timeout(LIMIT, decided).await {
            Ok(decided) => decided,
            Err(_) => Decided::Refused(format!("nothing at all for {LIMIT:?}")),
        }
    }

    /// None when it is to be tried again.
    async fn once(&mut self, draft: &Draft, variant: char) -> Option<Decided> {
        let line = match self.line.take() {
            Some(line) => line,
            None => {
                let door = (*self.door.wait_for(Option::is_some).await.ok()?)?;
                Line::open(door).await?
            }
        };
        let (told, line) = line.submit(draft, variant, &mut self.rng).await;
        self.line = line;
        match told {
            Told::Unsent => None,
            Told::Unanswered => {
                self.book.unanswered(&draft.uid);
                None
            }
            Told::Reply(reply) if reply.starts_with('4') => {
                self.book.count(if reply.contains("in flight") { "451 in flight" } else { "other 4yz" });
                None
            }
            Told::Reply(reply) => Some(self.understood(draft, variant, reply)),
        }
    }

    fn understood(&self, draft: &Draft, variant: char, reply: String) -> Decided {
        let id = reply.split_once("queued as ").and_then(|(_, rest)| rest.split_whitespace().next());
        match id.filter(|_| reply.starts_with("250 2.0.0 OK Message ")) {
            Some(id) => {
                let is_replay = reply.contains("already queued") && reply.contains("(idempotent replay)");
                self.book.acknowledged(&draft.uid, variant, id, is_replay);
                let id = id.to_owned();
                if is_replay { Decided::Replayed { id } } else { Decided::Queued { id } }
            }
            None => Decided::Refused(reply),
        }
    }
}

/// Whether it is the refusal of another content or envelope.
fn is_about(reply: &str, what: &str) -> bool {
    reply == format!("554 5.5.0 X-Idempotency-Key reused with different {what}")
}
