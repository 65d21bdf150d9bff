//! The configuration is read again while everything runs: all of it or nothing, with the words of `check-config`, and open
//! sessions live on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::Semaphore;

use crate::common::client::{AUTH, Client};
use crate::common::eventually::{eventually, eventually_so};
use crate::common::far_side::{Act, FarSide};
use crate::common::listener::{PASSWORD_HASH, write};
use crate::common::program::{Relay, oncemail};

const DONE: &str = "the configuration was read again";
const REFUSED: &str = "the configuration stays as it was: the new one is wrong";

/// A relay whose configuration changes.
struct Changing {
    dir: TempDir,
    relay: Relay,
    address: SocketAddr,
}

/// A configuration, plain and open, with `more` of it.
fn text(dir: &Path, top: &str, more: &str) -> String {
    format!(
        "hostname = \"relay.example\"\ndata_dir = \"{}/var\"\n{top}\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"optional\"\n{more}",
        dir.display()
    )
}

/// What a user, a route and limits amount to.
fn parts(user: &str, far: &FarSide, limits: &str) -> String {
    format!(
        "[[user]]\nname = \"{user}\"\npassword_hash = \"{}\"\n\
         [[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"{}\"]\ntls = \"none\"\n\
         [limits]\nmin_free = \"1MB\"\nconnections_per_ip = 1000\n{limits}\n",
        &*PASSWORD_HASH, far.address
    )
}

impl Changing {
    async fn start(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("oncemail.toml");
        write(&config, &text(dir.path(), "", more));
        let relay = Relay::serve(&config).await;
        let address = relay.address();
        Self { dir, relay, address }
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("oncemail.toml")
    }

    fn write(&self, top: &str, more: &str) {
        write(&self.config(), &text(self.dir.path(), top, more));
    }

    /// Brings it into force; gives back what has changed, and what needs a restart.
    async fn reload(&mut self, top: &str, more: &str) -> (String, String) {
        self.write(top, more);
        self.relay.hang_up();
        let event = self.relay.says(DONE).await;
        assert_eq!(event["by"], "SIGHUP");
        let said = |key: &str| event[key].as_str().unwrap().to_owned();
        (said("changed"), said("needs_restart"))
    }
}

/// A whole message; gives back the reply to its final dot.
async fn submit(client: &mut Client, subject: &str) -> String {
    client.ask("MAIL FROM:<a@shop.example>").await;
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("DATA").await;
    client.ask(&format!("Subject: {subject}\r\n\r\nOn its way.\r\n.")).await
}

async fn submit_to(address: SocketAddr, subject: &str) -> String {
    submit(&mut Client::greeted(address).await.0, subject).await
}

fn is_queued(reply: &str) -> bool {
    reply.starts_with("250 2.0.0 OK Message queued as ")
}

#[tokio::test]
async fn an_open_session_keeps_what_it_was_told_and_a_new_one_is_told_anew() {
    let far = FarSide::new().start().await;
    let mut it = Changing::start(&parts("ann", &far, "message_size = \"1MB\"")).await;
    let (mut open, ehlo) = Client::greeted(it.address).await;
    assert!(ehlo.contains("SIZE 1000000"), "{ehlo}");
    let (changed, restart) =
        it.reload("", &parts("ann", &far, "message_size = \"2KB\"\nrecipients = 7")).await;
    assert_eq!((changed.as_str(), restart.as_str()), ("limits.message_size, limits.recipients", ""));
    let (mut new, ehlo) = Client::greeted(it.address).await;
    assert!(ehlo.contains("SIZE 2000") && ehlo.contains("RCPTMAX=7"), "{ehlo}");
    let large = format!("large\r\nX-Fill: {}", "x".repeat(900)).repeat(4);
    assert!(is_queued(&submit(&mut open, &large).await));
    assert!(submit(&mut new, &large).await.starts_with("552 "));
    far.wait(|log| log.taken.len() == 1).await;
}

#[tokio::test]
async fn a_users_password_counts_at_the_next_auth_and_a_user_that_is_gone_starts_no_message() {
    let far = FarSide::new().start().await;
    let mut it = Changing::start(&parts("ann", &far, "")).await;
    let (mut authenticated, _) = Client::greeted(it.address).await;
    assert!(authenticated.ask(AUTH).await.starts_with("235 "));
    let (mut waiting, _) = Client::greeted(it.address).await;
    assert!(is_queued(&submit(&mut authenticated, "one").await));
    let mut receiving = Client::greeted(it.address).await.0;
    assert!(receiving.ask(AUTH).await.starts_with("235 "));
    receiving.begin().await;
    let (changed, _) = it.reload("", &parts("bob", &far, "")).await;
    assert_eq!(changed, "user \"ann\", user \"bob\"");
    assert!(waiting.ask(AUTH).await.starts_with("535 "));
    assert!(waiting.ask("AUTH PLAIN AGJvYgBzZWNyZXQ=").await.starts_with("235 "));
    // What was begun may end.
    assert!(is_queued(&receiving.ask("Subject: two\r\n\r\n.").await));
    let refused = authenticated.ask("MAIL FROM:<a@shop.example>").await;
    assert_eq!(refused, "530 5.7.0 This user is not known any more; authenticate again");
    assert!(is_queued(&submit(&mut waiting, "three").await));
    far.wait(|log| log.taken.len() == 3).await;
}

#[tokio::test]
async fn d6_r1_mail_that_waits_goes_by_the_new_route_and_what_is_in_doubt_is_not_sent_twice() {
    let gate = Arc::new(Semaphore::new(0));
    let old = FarSide::new().on(".", Act::Gate(gate.clone())).start().await;
    let new = FarSide::new().start().await;
    let one = |far: &FarSide| {
        parts("ann", far, "").replace("tls = \"none\"\n[l", "tls = \"none\"\nconnections = 1\n[l")
    };
    let mut it = Changing::start(&one(&old)).await;
    assert!(is_queued(&submit_to(it.address, "first").await));
    old.wait(|log| !log.wire.is_empty()).await;
    for number in 0..5 {
        assert!(is_queued(&submit_to(it.address, &format!("waiting {number}")).await));
    }
    let added = format!(
        "{}[[route]]\nname = \"unused\"\ntransport = \"discard\"\nrecipient_domains = [\"d.example\"]\n",
        one(&new)
    );
    // A route that takes everything is the last.
    let (first, rest) = added.split_at(added.find("[[route]]").unwrap());
    let (out, unused) = rest.split_at(rest.rfind("[[route]]").unwrap());
    let (changed, _) = it.reload("", &format!("{first}{unused}{out}")).await;
    assert_eq!(changed, "route \"out\", route \"unused\"");
    new.wait(|log| log.taken.len() == 5).await;
    gate.add_permits(1);
    old.wait(|log| log.open == 0).await;
    assert_eq!((old.log().copies("Subject: first"), new.log().copies("Subject: first")), (1, 0));
    // A route that is gone is gone.
    let (changed, _) = it.reload("", &one(&new)).await;
    assert_eq!(changed, "route \"unused\"");
    assert!(is_queued(&submit_to(it.address, "last").await));
    let log = new.wait(|log| log.taken.len() == 6).await;
    assert_eq!(log.connections, 1, "what has not changed keeps its connection");
}

/// Each problem as `check-config` prints it.
async fn problems(config: &Path) -> String {
    let mut command = tokio::process::Command::from(oncemail(&["check-config", "--config"]));
    let output = command.arg(config).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    let (problems, _count) = said.trim_end().rsplit_once('\n').unwrap();
    problems.to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_configuration_changes_nothing_and_is_told_in_the_words_of_check_config() {
    let far = FarSide::new().start().await;
    let good = parts("ann", &far, "");
    let mut it = Changing::start(&good).await;
    let garbage = it.dir.path().join("garbage.pem");
    write(&garbage, "no key, no certificate");
    let garbage = garbage.display();
    let other = good.replace("connections_per_ip = 1000", "connections_per_ip = 1");
    let broken = [
        "limits]".to_owned(),
        format!("{other}recipients = \"many\"\nmesage_size = \"1MB\"\n"),
        format!("{other}[[dkim]]\ndomain = \"d.example\"\nselector = \"s\"\nkey_file = \"{garbage}\"\n"),
        format!("{other}[tls]\ncertificate_file = \"{garbage}\"\nkey_file = \"/nowhere\"\n"),
        format!("{other}[verify]\ndisposable_file = \"/nowhere\"\n"),
        format!("{other}[log]\nlevel = \"loud\"\n"),
        other.replace("tls = \"none\"\n[l", "ca_file = \"/nowhere\"\n[l"),
        other.replace("tls = \"none\"\n[l", "username = \"u\"\npassword_file = \"/nowhere\"\n[l"),
        other.replace("$argon2id", "$argon3"),
        other.replace("transport = \"smarthost\"", "transport = \"pigeon\""),
        String::new(),
    ];
    for more in &broken {
        it.write("", more);
        let expected = problems(&it.config()).await;
        it.relay.hang_up();
        let mut said: Vec<String> = Vec::new();
        while said.join("\n").len() < expected.len() {
            said.push(it.relay.says(REFUSED).await["problem"].as_str().unwrap().to_owned());
        }
        assert_eq!(said.join("\n"), expected);
    }
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::rename(it.config(), it.dir.path().join("away")).unwrap();
    it.relay.hang_up();
    let problem = it.relay.says(REFUSED).await["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("cannot read"), "{problem}");
    // As it was: two connections of one address, the old route, the old user.
    let (mut one, _) = Client::greeted(it.address).await;
    assert!(one.ask(AUTH).await.starts_with("235 "));
    assert!(is_queued(&submit_to(it.address, "still here").await));
    far.wait(|log| log.taken.len() == 1).await;
    assert_eq!(it.reload("", &good).await, (String::new(), String::new()));
}

#[tokio::test]
async fn what_fails_only_when_it_is_made_changes_nothing_either() {
    let far = FarSide::new().start().await;
    let mut it = Changing::start(&parts("ann", &far, "")).await;
    let more = format!(
        "{}[[route]]\nname = \"files\"\ntransport = \"directory\"\npath = \"/dev/null/mail\"\nrecipient_domains = [\"f.example\"]\n",
        parts("bob", &far, "")
    );
    let (first, rest) = more.split_at(more.find("[[route]]").unwrap());
    let (out, files) = rest.split_at(rest.rfind("[[route]]").unwrap());
    it.write("", &format!("{first}{files}{out}"));
    it.relay.hang_up();
    let problem = it.relay.says(REFUSED).await["problem"].as_str().unwrap().to_owned();
    assert!(problem.contains("route files: /dev/null/mail"), "{problem}");
    let (mut client, _) = Client::greeted(it.address).await;
    assert!(client.ask(AUTH).await.starts_with("235 "), "ann is still a user");
}

#[tokio::test]
async fn what_needs_a_restart_is_named_and_the_rest_takes_effect() {
    let far = FarSide::new().start().await;
    let mut it = Changing::start(&parts("ann", &far, "")).await;
    let more = format!(
        "{}recipients = 7\n[log]\nformat = \"text\"\n[[listener]]\nname = \"more\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n",
        parts("ann", &far, "")
    );
    for _ in 0..2 {
        it.write("", &more);
        let changed = std::fs::read_to_string(it.config()).unwrap();
        write(
            &it.config(),
            &changed.replace("relay.example", "other.example").replace("/var\"", "/elsewhere\""),
        );
        it.relay.hang_up();
        let event = it.relay.says(DONE).await;
        assert_eq!(event["needs_restart"], "data_dir, hostname, listener \"more\", log.format");
    }
    let (_, ehlo) = Client::greeted(it.address).await;
    assert!(ehlo.contains("relay.example") && ehlo.contains("RCPTMAX=7"), "{ehlo}");
    assert!(!it.dir.path().join("elsewhere").exists());
    let restored = it.reload("", &parts("ann", &far, "")).await;
    assert_eq!(restored, ("limits.recipients".to_owned(), String::new()));
}

#[tokio::test]
async fn a_listener_that_stays_where_it_is_is_told_anew() {
    let far = FarSide::new().start().await;
    let more = parts("ann", &far, "");
    let mut it = Changing::start(&more).await;
    assert!(is_queued(&submit_to(it.address, "one").await));
    it.write("", &more);
    let strict =
        std::fs::read_to_string(it.config()).unwrap().replace("auth = \"optional\"", "auth = \"required\"");
    write(&it.config(), &strict);
    it.relay.hang_up();
    assert_eq!(it.relay.says(DONE).await["changed"], "listener \"in\"");
    let (mut client, _) = Client::greeted(it.address).await;
    assert!(client.ask("MAIL FROM:<a@shop.example>").await.starts_with("530 "));
    let closed = strict.replace("auth = \"required\"", "auth = \"required\"\nallow = [\"192.0.2.1\"]");
    write(&it.config(), &closed);
    it.relay.hang_up();
    it.relay.says(DONE).await;
    assert!(Client::connect(it.address).await.reply().await.starts_with("554 "));
    assert!(client.ask(AUTH).await.starts_with("235 "), "who is in stays");
}

#[tokio::test]
async fn level_disk_limit_and_grace_follow_without_a_restart() {
    let far = FarSide::new().on(".", Act::Silence).start().await;
    let mut it = Changing::start(&parts("ann", &far, "")).await;
    let full = parts("ann", &far, "").replace("min_free = \"1MB\"", "min_free = \"900000GB\"");
    let (changed, _) =
        it.reload("shutdown_grace = \"1s\"", &format!("{full}[log]\nlevel = \"debug\"\n")).await;
    assert_eq!(changed, "limits.min_free, log.level, shutdown_grace");
    let (mut client, _) = Client::greeted(it.address).await;
    assert!(client.ask("MAIL FROM:<a@shop.example>").await.starts_with("452 "));
    assert!(client.ask(AUTH).await.starts_with("235 "));
    it.relay.says("a password is being hashed").await;
    it.reload("shutdown_grace = \"1s\"", &parts("ann", &far, "")).await;
    assert!(is_queued(&submit(&mut client, "never answered").await));
    far.wait(|log| !log.wire.is_empty()).await;
    // Half a minute was said first, which is longer than a test waits.
    assert_eq!(it.relay.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d6_a_storm_of_hangups_loses_no_mail_and_ends_with_the_last_file() {
    const MESSAGES: usize = 60;
    let (one, two) = (FarSide::new().start().await, FarSide::new().start().await);
    let mut it = Changing::start(&parts("ann", &one, "")).await;
    let address = it.address;
    let sending = tokio::spawn(async move {
        let (mut client, _) = Client::greeted(address).await;
        for number in 0..MESSAGES {
            assert!(is_queued(&submit(&mut client, &format!("number {number}.")).await));
        }
    });
    let mut round = 0;
    while !sending.is_finished() {
        round += 1;
        // Half of them are broken.
        match round % 4 {
            0 => it.write("", &parts("ann", &one, "")),
            2 => it.write("", &parts("ann", &two, "recipients = 8")),
            _ => it.write("", "["),
        }
        it.relay.hang_up();
        tokio::task::yield_now().await;
    }
    sending.await.unwrap();
    it.write("", &parts("ann", &two, "recipients = 9"));
    it.relay.hang_up();
    let told = async || Client::greeted(address).await.1.contains("RCPTMAX=9").then_some(());
    eventually("the last configuration is in force", told).await;
    let copies = |log: &crate::common::far_side::Log, number| log.copies(&format!("number {number}."));
    eventually_so("every message is at one of the two", || {
        let (first, second) = (one.log(), two.log());
        let counts: Vec<_> = (0..MESSAGES).map(|n| copies(&first, n) + copies(&second, n)).collect();
        assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");
        counts.iter().all(|count| *count == 1)
    })
    .await;
    assert_eq!(it.relay.stop().await, Some(0));
}

#[test]
fn the_configuration_in_force_is_shown_without_its_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("oncemail.toml");
    let more = format!(
        "[[user]]\nname = \"ann\"\npassword_hash = \"{}\"\n[[route]]\nname = \"out\"\ntransport = \"smarthost\"\nhosts = [\"h.example\"]\nusername = \"u\"\npassword = \"hunter2\"\n",
        &*PASSWORD_HASH
    );
    write(&config, &text(dir.path(), "", &more));
    let env = [("ONCEMAIL__LIMITS__RECIPIENTS".to_owned(), "7".to_owned())];
    let shown: Value = oncemail::config::load(Some(&config), env.into_iter()).unwrap().said.shown();
    assert_eq!(shown["route"][0]["password"], "…");
    assert_eq!(shown["user"][0]["password_hash"], "…");
    assert_eq!(
        (&shown["limits"]["recipients"], &shown["route"][0]["hosts"][0]),
        (&"7".into(), &"h.example".into())
    );
    assert!(!shown.to_string().contains("hunter2") && !shown.to_string().contains("argon2"));
}
