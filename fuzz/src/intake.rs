//! The intake in front of a store in memory: one decision after the other, on this thread.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::intake::{Decision, Fallback, Intake, Options, Submission, Trace};
use oncemail::mail::{
    Address, Body, Envelope, FingerprintMode, Handling, Message, Origin, Recipient, ReversePath, Scope,
};
use oncemail::store::memory::MemoryStore;
use tokio::runtime::{Builder, Runtime};

/// Sunday, 22 November 2026, 10:30 UTC.
pub const NOW: Timestamp = Timestamp::from_millis(1_795_343_400_000);

thread_local! {
    static RUNTIME: RefCell<Runtime> =
        RefCell::new(Builder::new_current_thread().build().expect("a runtime"));
}

/// Waits for a future that needs no timer and no socket.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with_borrow(|runtime| runtime.block_on(future))
}

/// See the module.
pub struct Bench {
    intake: Intake,
    store: Arc<MemoryStore>,
}

impl Bench {
    /// An empty store.
    pub fn new(fingerprint: FingerprintMode) -> Self {
        let clock = Clock::manual(NOW);
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        let options = Options {
            hostname: "relay.example".to_owned(),
            header: "X-Idempotency-Key".to_owned(),
            ttl: Duration::from_secs(24 * 3600),
            fingerprint,
            ignore_headers: vec!["X-Ignored".to_owned()],
            fallback: Fallback::None,
            observe: false,
            drop_bcc: false,
        };
        Self { intake: Intake::new(store.clone(), options, clock), store }
    }

    /// Submits `content` from one client to one recipient.
    pub fn send(&self, content: Vec<u8>) -> Decision {
        let submission = Submission {
            origin: Origin { listener: "submission".to_owned(), user: None, client: None },
            trace: Trace { helo: "app.example".to_owned(), with: "ESMTP", tls: None },
            scope: Scope::anonymous(),
            envelope: envelope(),
            refused: Vec::new(),
            content,
        };
        wait(self.intake.accept(submission)).decision
    }

    /// What is queued.
    pub fn queued(&self) -> Vec<Arc<Message>> {
        self.store.messages().into_iter().map(|(message, _)| message).collect()
    }
}

/// From one to one.
pub fn envelope() -> Envelope {
    let address = |text: &str| Address::parse(text).expect("an address");
    let recipient =
        Recipient { forward_path: address("b@example.org"), notify: None, orcpt: None, unverified: false };
    Envelope {
        reverse_path: ReversePath::Mailbox(address("a@example.com")),
        recipients: vec![recipient],
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        handling: Handling::default(),
    }
}
