//! What senders are told, by the real binary and its configuration file: once, over kill -9 at any point, and of nothing that
//! is in doubt. And what the sender has asked for: reports of success, and not to be relayed before a time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mail_parser::{MessageParser, MimeHeaders};
use oncemail::clock::Clock;
use oncemail::mail::{HoldCause, Progress, RecipientState};
use oncemail::queue::{End, Lease, OnFailure, Options, Outcome, Queue};
use oncemail::store::Store;
use oncemail::store::files::RealFiles;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::common::client::Client;
use crate::common::eventually::eventually;
use crate::common::far_side::{Act, FarSide, PATIENCE, say};
use crate::common::history;
use crate::common::outcomes::{outcome, reply};
use crate::common::program::{Relay, Setup};
use crate::common::relay_rig::{message, queue_options};

const IN_DOUBT: RecipientState = RecipientState::Held(HoldCause::InDoubt);

/// A relay whose reports to shop.example go into a directory, and everything else to a far side.
struct Reporting(Setup);

impl Reporting {
    /// `retry` and `routes` are added to the configuration; the routes stand behind the one for reports.
    fn new(retry: &str, routes: &str) -> Self {
        Self(Setup::with(&format!(
            r#"
[retry]
base = "10ms"
cap = "10ms"
{retry}
[[route]]
name = "reports"
recipient_domains = ["shop.example"]
transport = "directory"
path = "{{base}}/mail"
{routes}
"#
        )))
    }

    fn to(retry: &str, far: &FarSide) -> Self {
        Self::new(retry, &route("next", "", far.address, ""))
    }

    async fn serve(&self) -> Relay {
        self.0.serve().await
    }

    /// Whole messages in the directory for reports.
    fn reports(&self) -> Vec<String> {
        let Ok(files) = std::fs::read_dir(self.0.dir.path().join("mail")) else { return Vec::new() };
        let paths = files.map(|file| file.unwrap().path());
        let messages = paths.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
        messages.map(|path| std::fs::read_to_string(path).unwrap()).collect()
    }

    /// Waits until there is a report: the relay is another process, and says nothing of files.
    async fn report(&self) -> String {
        eventually("there is a report", async || self.reports().pop()).await
    }

    async fn left(&self) -> Vec<Progress> {
        self.0.left().await
    }
}

fn route(name: &str, domain: &str, far: SocketAddr, more: &str) -> String {
    let domain =
        if domain.is_empty() { String::new() } else { format!("recipient_domains = [\"{domain}\"]") };
    format!(
        "[[route]]\nname = \"{name}\"\n{domain}\ntransport = \"smarthost\"\nhosts = [\"{far}\"]\ntls = \"none\"\n{more}\n"
    )
}

/// Submits a message from a@shop.example with these parameters; gives back the last reply.
async fn submit(relay: &Relay, mail: &str, rcpts: &[&str], key: &str) -> String {
    let (mut client, _) = Client::greeted(relay.address()).await;
    for line in std::iter::once(format!("MAIL FROM:<a@shop.example>{mail}"))
        .chain(rcpts.iter().map(|rcpt| format!("RCPT TO:{rcpt}")))
    {
        let reply = client.ask(&line).await;
        assert!(reply.starts_with("250"), "{line}: {reply}");
    }
    assert!(client.ask("DATA").await.starts_with("354"));
    client.ask(&format!("X-Idempotency-Key: {key}\r\nSubject: hello\r\n\r\nthe body\r\n.")).await
}

fn states(progress: &Progress) -> Vec<RecipientState> {
    progress.recipients.iter().map(|recipient| recipient.state).collect()
}

/// When the relay is killed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Point {
    /// The far side has RCPT, and has not answered.
    Asked,
    /// It has answered just now.
    Answered,
    /// The log says that the report is queued.
    Queued,
    /// The log says that the report is delivered.
    Delivered,
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_killed_at_any_point_a_failure_is_told_exactly_once() {
    for point in [Point::Asked, Point::Answered, Point::Queued, Point::Delivered] {
        let gate = Arc::new(Semaphore::new(0));
        let far = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 no such user"));
        let far = match point {
            // The first connection ends with the relay.
            Point::Asked => FarSide::new()
                .on_times(1, "RCPT TO:<b@", Act::Gate(gate.clone()))
                .on("RCPT TO:<b@", say("550 5.1.1 no such user")),
            _ => far,
        };
        let far = far.start().await;
        let setup = Reporting::to("", &far);
        let mut relay = setup.serve().await;
        assert!(submit(&relay, "", &["<b@x.example>"], "k").await.starts_with("250"));
        far.wait(|log| log.said("RCPT TO:<b@") == 1).await;
        match point {
            Point::Asked | Point::Answered => {}
            Point::Queued => assert_eq!(relay.says("notice").await["kind"], "failure"),
            Point::Delivered => while relay.says("delivery").await["outcome"] != "delivered" {},
        }
        relay.kill().await;
        gate.add_permits(1);
        let mut relay = setup.serve().await;
        let report = setup.report().await;
        // A retry of the application is a replay, and tells nobody anything again.
        let reply = submit(&relay, "", &["<b@x.example>"], "k").await;
        assert!(reply.contains("(idempotent replay)"), "{point:?}: {reply}");
        assert_eq!(relay.stop().await, Some(0));
        assert!(setup.left().await.is_empty(), "{point:?}");
        assert_eq!(setup.reports(), std::slice::from_ref(&report), "{point:?}");
        let parsed = MessageParser::default().parse(report.as_bytes()).unwrap();
        assert_eq!(parsed.to().unwrap().first().unwrap().address(), Some("a@shop.example"));
        assert!(parsed.parts.iter().any(|part| part.is_content_type("message", "delivery-status")));
        assert!(report.contains("\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n"), "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_killed_while_all_others_are_in_doubt_a_failure_is_told_and_the_others_are_held() {
    let refusing = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 no such user")).start().await;
    let doubtful = FarSide::new().on(".", Act::Silence).start().await;
    let routes = route("first", "x.example", refusing.address, "")
        + &route("second", "", doubtful.address, "in_doubt = \"hold\"");
    let setup = Reporting::new("", &routes);
    let mut relay = setup.serve().await;
    assert!(submit(&relay, "", &["<b@x.example>", "<c@y.example>"], "k").await.starts_with("250"));
    assert_eq!(relay.says("delivery").await["outcome"], "held");
    doubtful.wait(|log| log.wire.len() == 1).await;
    relay.kill().await;
    assert!(setup.reports().is_empty());
    let mut relay = setup.serve().await;
    let report = setup.report().await;
    assert!(report.contains("rfc822; b@x.example") && !report.contains("c@y.example"), "{report}");
    assert_eq!(relay.stop().await, Some(0));
    let left = setup.left().await;
    assert_eq!(left.iter().map(states).collect::<Vec<_>>(), [[RecipientState::Bounced, IN_DOUBT]]);
    assert_eq!((setup.reports().len(), doubtful.log().wire.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_nobody_else_tells_of_is_told_by_configuration_alone() {
    let far = FarSide::new().start().await;
    let setup = Reporting::to("", &far);
    let relay = setup.serve().await;
    let asked = "<b@x.example> NOTIFY=SUCCESS ORCPT=rfc822;Bob@x.example";
    submit(&relay, " RET=HDRS ENVID=order-1", &[asked, "<c@x.example>"], "k").await;
    let report = setup.report().await;
    for field in
        ["Action: relayed", "Original-Envelope-Id: order-1", "Original-Recipient: rfc822; Bob@x.example"]
    {
        assert!(report.contains(&format!("\r\n{field}\r\n")), "{report}");
    }
    assert!(!report.contains("c@x.example"));
    assert_eq!(far.log().taken.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_told_after_the_time_that_is_configured() {
    let far = FarSide::new().on("RCPT TO:<b@", say("451 4.2.1 later")).start().await;
    let setup = Reporting::to("warn_after = \"1s\"", &far);
    let mut relay = setup.serve().await;
    submit(&relay, "", &["<b@x.example>"], "k").await;
    let report = setup.report().await;
    assert!(report.contains("\r\nAction: delayed\r\nStatus: 4.2.1\r\n"), "{report}");
    assert_eq!(relay.stop().await, Some(0));
    let left = setup.left().await;
    assert!(left.len() == 1 && left[0].warned && left[0].is_queued(), "{left:?}");
    assert_eq!(setup.reports().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_leaves_not_before_its_time_and_replays_meanwhile() {
    let far = FarSide::new().start().await;
    let setup = Reporting::to("", &far);
    let mut relay = setup.serve().await;
    let begun = Instant::now();
    let reply = submit(&relay, " HOLDFOR=3", &["<b@x.example>"], "k").await;
    assert!(reply.starts_with("250 2.0.0 OK Message queued as "), "{reply}");
    let id = reply.rsplit(' ').next().unwrap().to_owned();
    let replayed = format!("250 2.0.0 OK Message already queued as {id} (idempotent replay)");
    assert_eq!(submit(&relay, " HOLDFOR=3", &["<b@x.example>"], "k").await, replayed);
    submit(&relay, " HOLDFOR=600", &["<d@x.example>"], "long").await;
    relay.kill().await;
    let relay = setup.serve().await;
    assert_eq!(submit(&relay, " HOLDFOR=3", &["<b@x.example>"], "k").await, replayed);
    submit(&relay, "", &["<c@x.example>"], "other").await;
    far.wait(|log| log.taken.len() == 2).await;
    // Whole milliseconds are kept.
    assert!(begun.elapsed() > Duration::from_millis(2_990), "{:?}", begun.elapsed());
    let mut rcpts: Vec<_> = far.log().taken.into_iter().flat_map(|taken| taken.rcpts).collect();
    rcpts.sort_unstable();
    // What comes later does not wait for what is held back.
    assert_eq!(rcpts, ["RCPT TO:<b@x.example>", "RCPT TO:<c@x.example>"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_kept_with_its_replies_where_the_configuration_says_so() {
    let far = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 no such user")).start().await;
    let setup = Reporting::to("on_failure = \"hold\"", &far);
    let mut relay = setup.serve().await;
    submit(&relay, "", &["<b@x.example>"], "k").await;
    assert_eq!(relay.says("delivery").await["outcome"], "held");
    assert_eq!(relay.stop().await, Some(0));
    let left = setup.left().await;
    assert_eq!(states(&left[0]), [RecipientState::Held(HoldCause::Failed)]);
    assert_eq!(left[0].recipients[0].replies[0].text, "5.1.1 no such user");
    assert!(setup.reports().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_nobody_is_told_of_is_in_the_log_and_gone() {
    let far = FarSide::new().on("RCPT TO:<b@", say("550 5.1.1 no such user")).start().await;
    for (retry, rcpt) in [("on_failure = \"discard\"", "<b@x.example>"), ("", "<b@x.example> NOTIFY=NEVER")] {
        let setup = Reporting::to(retry, &far);
        let mut relay = setup.serve().await;
        submit(&relay, "", &[rcpt], "k").await;
        let line = relay.says("delivery").await;
        assert_eq!(
            (&line["outcome"], &line["reply"]),
            (&"discarded".into(), &"550 5.1.1 no such user".into())
        );
        assert_eq!(relay.stop().await, Some(0));
        assert!(setup.left().await.is_empty() && setup.reports().is_empty(), "{retry}");
    }
}

fn refused(recipient: usize) -> Outcome {
    outcome(recipient, End::Failed)
}

/// Opens the store of a process that was killed, and a queue over it.
fn reopened(dir: &Path) -> (Arc<Queue>, usize) {
    let clock = Clock::system();
    let (store, recovery) = history::open(dir, Arc::new(RealFiles), &clock).unwrap();
    let queue = Queue::new(Options { on_failure: OnFailure::Bounce, ..queue_options() }, clock);
    let messages = recovery.messages.len();
    queue.start(Arc::new(store), recovery.messages);
    (queue, messages)
}

async fn leased(queue: &Arc<Queue>) -> Lease {
    let lease = tokio::time::timeout(PATIENCE, queue.next(1)).await.unwrap().remove(0);
    lease.open().await.unwrap();
    lease
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_a_failure_beside_doubts_is_told_after_a_crash_whichever_was_saved_first() {
    for fails_first in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = history::open(dir.path(), Arc::new(RealFiles), &Clock::system()).unwrap();
        let sent = message(&Clock::system(), &["b@x.example", "c@y.example", "d@z.example"], "x");
        store.accept(Arc::new(sent), None).await.unwrap();
        drop(store);

        let (queue, _) = reopened(dir.path());
        let lease = leased(&queue).await;
        lease.split(3);
        let doubt = reply(0, "in doubt: about to be sent");
        if !fails_first {
            lease.doubt(&[1], doubt.clone()).await.unwrap();
        }
        lease.settle(&[refused(0)], None).await.unwrap();
        // This process knows what it knows.
        let settled = lease.settle(&[refused(2)], None).await.unwrap();
        assert_eq!(states(&settled.progress)[0], RecipientState::Held(HoldCause::Failed));
        if fails_first {
            lease.doubt(&[1], doubt).await.unwrap();
        }
        // Nor is it told here, if the attempt breaks off: the message is tried again.
        drop(lease);
        assert_eq!((queue.depth().queued, queue.depth().held), (1, 0));
        drop(queue);

        let (queue, messages) = reopened(dir.path());
        assert_eq!((messages, queue.depth().queued), (1, 1));
        let lease = leased(&queue).await;
        assert_eq!(lease.queued().await, [0, 2]);
        let progress = lease.settle(&[refused(0), refused(2)], None).await.unwrap().progress;
        assert_eq!(states(&progress), [RecipientState::Bounced, IN_DOUBT, RecipientState::Bounced]);
        assert_eq!((queue.depth().queued, queue.depth().held), (0, 1));
        drop((lease, queue));
        // The original and one report.
        let (queue, messages) = reopened(dir.path());
        assert_eq!((messages, queue.depth().queued, queue.depth().held), (2, 1, 1));
    }
}
