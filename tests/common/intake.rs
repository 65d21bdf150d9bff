//! Submissions, and an intake in front of a store that forgets.

use std::sync::Arc;
use std::time::Duration;

use oncemail::clock::{Clock, Timestamp};
use oncemail::intake::{Decision, Fallback, Intake, Options, Receipt, Submission, Trace};
use oncemail::mail::{
    Address, Body, Envelope, FingerprintMode, Handling, Message, Origin, Recipient, ReversePath, Scope,
};
use oncemail::store::Store;
use oncemail::store::memory::MemoryStore;

/// Sunday, 22 November 2026, 10:30 UTC.
pub const START: Timestamp = Timestamp::from_millis(1_795_343_400_000);
/// How long keys live here.
pub const TTL: Duration = Duration::from_secs(24 * 3600);

/// An intake, its store and its clock.
pub struct Bench {
    pub intake: Arc<Intake>,
    pub store: Arc<MemoryStore>,
    pub clock: Clock,
}

pub fn options() -> Options {
    Options {
        hostname: "relay.example".to_owned(),
        header: "X-Idempotency-Key".to_owned(),
        ttl: TTL,
        fingerprint: FingerprintMode::Content,
        ignore_headers: Vec::new(),
        fallback: Fallback::None,
        observe: false,
        drop_bcc: false,
    }
}

impl Bench {
    pub fn new(options: Options) -> Self {
        let clock = Clock::manual(START);
        let store = Arc::new(MemoryStore::new(clock.clone(), None));
        Self::over(store.clone(), store, clock, options)
    }

    /// In front of `seam`, which ends in `store`.
    pub fn over(seam: Arc<dyn Store>, store: Arc<MemoryStore>, clock: Clock, options: Options) -> Self {
        let intake = Arc::new(Intake::new(seam, options, clock.clone()));
        Self { intake, store, clock }
    }

    /// Bounded: a decision that waits for another one is a failure.
    pub async fn send(&self, submission: Submission) -> Receipt {
        let decision = self.intake.accept(submission);
        tokio::time::timeout(Duration::from_secs(20), decision).await.expect("no decision")
    }

    /// The reply after the final dot.
    pub async fn reply(&self, submission: Submission) -> String {
        let receipt = self.send(submission).await;
        self.intake.reply(&receipt.decision).to_string()
    }

    pub async fn decide(&self, submission: Submission) -> Decision {
        self.send(submission).await.decision
    }

    pub fn queued(&self) -> Vec<Arc<Message>> {
        self.store.messages().into_iter().map(|(message, _)| message).collect()
    }
}

/// A submission of `content` (LF line ends) from the user `shop`.
pub fn submission(content: &str) -> Submission {
    Submission {
        origin: Origin {
            listener: "submission".to_owned(),
            user: Some("shop".to_owned()),
            client: Some("192.0.2.1".parse().unwrap()),
        },
        trace: Trace { helo: "app.example".to_owned(), with: "ESMTPSA", tls: None },
        scope: Scope::named("shop"),
        envelope: envelope("shop@app.example", &["one@dest.example"]),
        refused: Vec::new(),
        content: content.replace('\n', "\r\n").into_bytes(),
    }
}

/// `body` under `key`, as a library would write it.
pub fn keyed(key: &str, body: &str) -> Submission {
    submission(&format!(
        "X-Idempotency-Key: {key}\nMessage-ID: <1@app.example>\nDate: Sun, 22 Nov 2026 10:29:59 +0000\n\
         Subject: s\n\n{body}\n"
    ))
}

pub fn envelope(reverse_path: &str, forward_paths: &[&str]) -> Envelope {
    let recipient = |path: &&str| Recipient {
        forward_path: Address::parse(path).unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    Envelope {
        reverse_path: ReversePath::Mailbox(Address::parse(reverse_path).unwrap()),
        recipients: forward_paths.iter().map(recipient).collect(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        handling: Handling::default(),
    }
}
