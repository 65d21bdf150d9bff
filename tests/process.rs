//! The real process: how it ends, what it starts on, and what it keeps for itself.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use oncemail::app::health;
use rustix::process::Signal;
use tokio::sync::Semaphore;

use crate::common::client::Client;
use crate::common::far_side::{Act, FarSide};
use crate::common::listener::write;
use crate::common::program::{Relay, Setup, oncemail};

fn towards(far: &FarSide) -> String {
    format!("transport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"", far.address)
}

/// Submits a message and gives back the reply to its final dot.
async fn submit(address: SocketAddr, key: &str) -> String {
    let (mut client, _) = Client::greeted(address).await;
    client.ask("MAIL FROM:<app@shop.example>").await;
    client.ask("RCPT TO:<customer@example.com>").await;
    client.ask("DATA").await;
    client.ask(&format!("X-Idempotency-Key: {key}\r\nSubject: {key}\r\n\r\nOn its way.\r\n.")).await
}

/// The first reply, and what the replay of it must be.
fn replay_of(reply: &str) -> String {
    let id = reply.strip_prefix("250 2.0.0 OK Message queued as ").unwrap_or_else(|| panic!("{reply}"));
    format!("250 2.0.0 OK Message already queued as {id} (idempotent replay)")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d1_r1_a_second_signal_in_a_slow_shutdown_ends_at_once_and_loses_nothing_acknowledged() {
    let far = FarSide::new().on_times(1, ".", Act::Silence).start().await;
    let setup = Setup::with_route(&towards(&far));
    let mut relay = setup.serve().await;
    let first = submit(relay.address(), "stalled").await;
    // The far side has the whole message and says nothing: the attempt is in doubt, and waited for.
    far.wait(|log| !log.wire.is_empty()).await;
    relay.signal(Signal::TERM);
    let stopping = loop {
        let health = health::ask(&setup.data_dir()).await.expect("it still runs");
        if !health.ready {
            break health;
        }
    };
    assert_eq!(stopping.reasons, ["oncemail is stopping"]);
    assert_eq!(relay.stop().await, Some(128 + 15));
    assert!(relay.log().await.contains("stopping at once"));

    let mut next = setup.serve().await;
    let address = next.address();
    // It was taken in silence, so it comes once more: that is what in doubt means.
    far.wait(|log| log.taken.len() == 2).await;
    assert_eq!(submit(address, "stalled").await, replay_of(&first));
    assert_eq!(next.stop().await, Some(0));
    assert_eq!(far.log().taken.len(), 2, "nothing is relayed for a replay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn r1_a_shutdown_waits_for_the_reply_to_a_final_dot() {
    let gate = Arc::new(Semaphore::new(0));
    let far = FarSide::new().on_times(1, ".", Act::Gate(gate.clone())).start().await;
    let setup = Setup::with_route(&towards(&far));
    let mut relay = setup.serve().await;
    let address = relay.address();
    // A client in the middle of its message is waited for at the same time, not before.
    let (mut client, _) = Client::greeted(address).await;
    client.ask("MAIL FROM:<app@shop.example>").await;
    client.ask("RCPT TO:<customer@example.com>").await;
    client.ask("DATA").await;
    submit(address, "slow").await;
    far.wait(|log| !log.wire.is_empty()).await;
    relay.signal(Signal::TERM);
    while health::ask(&setup.data_dir()).await.expect("it still runs").ready {}
    gate.add_permits(1);
    far.wait(|log| log.taken.len() == 1).await;
    let late = client.ask("Subject: late\r\n\r\nStill taken.\r\n.").await;
    assert!(late.starts_with("250 "), "{late}");
    assert_eq!(relay.ends().await.code(), Some(0));
    // What came in during the shutdown is kept, and leaves after the next start; the other one is done.
    let mut next = setup.serve().await;
    far.wait(|log| log.taken.len() == 2).await;
    next.stop().await;
    assert!(next.log().await.contains("recovered 1 queued and 0 held messages"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn d4_a_damaged_data_directory_is_named_in_the_log_and_the_rest_is_served() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let setup =
        Setup::with_route(&format!("transport = \"smarthost\"\nhosts = [\"{closed}\"]\ntls = \"none\""));
    let mut relay = setup.serve().await;
    let address = relay.address();
    let first = submit(address, "first").await;
    submit(address, "spoilt").await;
    let third = submit(address, "third").await;
    relay.kill().await;
    spoil(&setup.data_dir().join("journal"), b"Subject: spoilt");

    let mut next = setup.serve().await;
    let address = next.address();
    assert!(health::ask(&setup.data_dir()).await.unwrap().ready);
    for (key, reply) in [("first", &first), ("third", &third)] {
        assert_eq!(submit(address, key).await, replay_of(reply));
    }
    assert_eq!(next.stop().await, Some(0));
    let log = next.log().await;
    let line = log.lines().find(|line| line.contains("DAMAGED, set aside")).expect("a line that names it");
    assert!(line.contains("\"level\":\"ERROR\"") && line.contains("damaged/"), "{line}");
}

/// Changes a byte of `text`, wherever the journal has it.
fn spoil(journal: &Path, text: &[u8]) {
    for entry in std::fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(b"#", at as u64).unwrap();
            return;
        }
    }
    panic!("the journal does not have it");
}

#[tokio::test]
async fn what_cannot_start_is_exit_code_1_and_says_why() {
    // Something else stands where the journal should be.
    let setup = Setup::new();
    std::fs::create_dir(setup.data_dir()).unwrap();
    write(&setup.data_dir().join("journal"), "");
    assert_fails(setup.command(), "cannot open the store in").await;
    // The address is taken.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = Setup::new();
    let mut command = setup.command();
    command.env("ONCEMAIL__LISTENER__0__ADDRESS", &address);
    assert_fails(command, &format!("cannot listen on {address}")).await;
    // The store was closed nevertheless.
    assert!(!setup.data_dir().join("running").exists());
}

async fn assert_fails(command: Command, why: &str) {
    let mut relay = Relay::start(command);
    assert_eq!(relay.ends().await.code(), Some(1));
    let log = relay.log().await;
    assert!(log.lines().last().unwrap().contains("\"level\":\"ERROR\"") && log.contains(why), "{log}");
}

#[tokio::test]
async fn s2_clients_cannot_use_up_the_open_files_that_the_store_needs() {
    let setup = Setup::new();
    // A low soft limit is raised as far as the hard one allows.
    let mut raised = Relay::start(setup.command_after("ulimit -Sn 256"));
    raised.listens().await;
    let (soft, hard) = raised.limit("Max open files");
    assert_eq!(soft, hard);
    raised.stop().await;
    // A low hard limit lowers the number of connections, and says so.
    let mut lowered = Relay::start(setup.command_after("ulimit -n 1000"));
    lowered.listens().await;
    assert_eq!(lowered.stop().await, Some(0));
    let log = lowered.log().await;
    assert!(log.contains("limits.connections is lowered") && log.contains("\"connections\":360"), "{log}");
    assert_fails(setup.command_after("ulimit -n 256"), "open files").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_nearly_full_is_not_ready_and_new_mail_has_to_wait() {
    let setup = Setup::new();
    let mut command = setup.command();
    command.env("ONCEMAIL__LIMITS__MIN_FREE", "1000000GB");
    let mut relay = Relay::start(command);
    let (mut client, _) = Client::greeted(relay.listens().await).await;
    let refusal = client.ask("MAIL FROM:<app@shop.example>").await;
    assert!(refusal.starts_with("452 4.3.1 "), "{refusal}");
    let health = oncemail(&["health", "--config", &setup.config()]).output().unwrap();
    assert_eq!(health.status.code(), Some(1));
    let reason = String::from_utf8(health.stderr).unwrap();
    assert!(reason.starts_with("not ready: new mail is refused: only "), "{reason}");
    assert_eq!(relay.stop().await, Some(0));
}

#[tokio::test]
async fn nobody_else_can_read_mail_whoever_made_the_data_directory() {
    let setup = Setup::new();
    std::fs::create_dir(setup.data_dir()).unwrap();
    std::fs::set_permissions(setup.data_dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let _relay = setup.serve().await;
    for entry in std::fs::read_dir(setup.data_dir().join("journal")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o077, 0, "{entry:?}");
    }
}

#[tokio::test]
async fn a_log_output_that_was_never_open_does_not_stop_the_server() {
    let setup = Setup::new();
    let mut relay = Relay::start(setup.command_after("exec <&- >&- 2>&-"));
    setup.is_ready().await;
    assert_eq!(relay.stop().await, Some(0));
}
