//! What the process knows of passwords: as little as it needs, for as long as it needs it, and nobody else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use argon2::password_hash::PasswordHasher;
use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use memchr::memmem;
use rustix::process::Signal;

use crate::common::client::Client;
use crate::common::eventually::eventually_so;
use crate::common::far_side::{FarSide, say};
use crate::common::listener::write;
use crate::common::program::{Relay, Setup, oncemail_after};

/// The whole writable memory of another process, searched.
struct Memory {
    pid: u32,
    needles: Vec<(&'static str, Vec<u8>)>,
}

impl Memory {
    /// What is searched for: the password, and what base64 makes of it in the lines in which it is said.
    fn searched_for(pid: u32, user: &str, password: &str) -> Self {
        let plain = STANDARD.encode(format!("\0{user}\0{password}"));
        // Without its ends, where the user and the padding are.
        let plain = plain.as_bytes()[12..plain.len() - 4].to_vec();
        let login = STANDARD.encode(password).trim_end_matches('=').as_bytes()[..16].to_vec();
        let needles = vec![("plain text", password.into()), ("PLAIN", plain), ("LOGIN", login)];
        Self { pid, needles }
    }

    /// How often each of them is there. `None`: we may not look, which is as good.
    fn found(&self) -> Option<Vec<usize>> {
        let memory = match File::open(format!("/proc/{}/mem", self.pid)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            opened => opened.unwrap(),
        };
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.pid)).unwrap();
        let mut counts = vec![0; self.needles.len()];
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let (start, end) =
                (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
            let mut octets = vec![0; usize::try_from(end - start).unwrap()];
            // A mapping may go while it is looked at; the next look is another.
            if memory.read_exact_at(&mut octets, start).is_ok() {
                for (count, (_, needle)) in counts.iter_mut().zip(&self.needles) {
                    *count += memmem::find_iter(&octets, needle).count();
                }
            }
        }
        Some(counts)
    }

    /// Waits until none is there: a connection's end reaches the server in its own time.
    async fn must_forget(&self, about: &str) {
        let is_gone = || self.found().is_none_or(|found| found.iter().all(|&count| count == 0));
        eventually_so(&format!("nothing of it is in memory: {about}"), is_gone).await;
    }
}

fn password() -> String {
    STANDARD.encode(rand::random::<[u8; 30]>()).replace(['+', '/'], "x")
}

fn argon2id(password: &str) -> String {
    let params = Params::new(Params::MIN_M_COST, 1, 1, None).unwrap();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password(password.as_bytes()).unwrap().to_string()
}

/// A relay for one user, on a plain loopback listener.
async fn relay_for(user: &str, hash: &str, directory: &Path) -> Relay {
    let config = directory.join("oncemail.toml");
    let base = directory.display();
    let text = format!(
        "hostname = \"relay.example\"\ndata_dir = \"{base}/var\"\n[log]\nformat = \"json\"\nlevel = \"trace\"\n\
         [limits]\nmin_free = \"1MB\"\n[[user]]\nname = \"{user}\"\npassword_hash = \"{hash}\"\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"required\"\n\
         [[route]]\nname = \"out\"\ntransport = \"directory\"\npath = \"{base}/mail\"\n"
    );
    write(&config, &text);
    Relay::serve(&config).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_a_client_has_said_does_not_stay_in_memory() {
    for hash in [argon2id, |password: &str| bcrypt::hash(password, 4).unwrap()] {
        let (directory, password) = (tempfile::tempdir().unwrap(), password());
        let relay = relay_for("ann", &hash(&password), directory.path()).await;
        let memory = Memory::searched_for(relay.pid(), "ann", &password);
        let (plain, login) = (STANDARD.encode(format!("\0ann\0{password}")), STANDARD.encode(&password));

        // That it would be found: a line that has no end yet.
        let (mut client, _) = Client::greeted(relay.address()).await;
        client.send(format!("AUTH PLAIN {plain}")).await;
        let is_found = || memory.found().is_none_or(|found| found[1] > 0);
        eventually_so("the search finds what is there", is_found).await;
        drop(client);
        memory.must_forget("a line that had no end").await;

        let (mut client, _) = Client::greeted(relay.address()).await;
        assert_eq!(client.ask(&format!("AUTH PLAIN {plain}")).await.get(..4), Some("235 "));
        memory.must_forget("AUTH PLAIN").await;

        let (mut client, _) = Client::greeted(relay.address()).await;
        client.send_slowly(format!("AUTH PLAIN {plain}\r\n").as_bytes()).await;
        assert_eq!(client.reply().await.get(..4), Some("235 "));
        memory.must_forget("AUTH PLAIN octet by octet").await;

        let (mut client, _) = Client::greeted(relay.address()).await;
        assert_eq!(client.ask("AUTH LOGIN").await.get(..4), Some("334 "));
        assert_eq!(client.ask(&STANDARD.encode("ann")).await.get(..4), Some("334 "));
        assert_eq!(client.ask(&login).await.get(..4), Some("235 "));
        memory.must_forget("AUTH LOGIN").await;

        for (line, code, about) in [
            (format!("AUTH PLAIN {plain}\n\r\n"), "500", "a bare line end"),
            (format!("AUTH PLAIN {plain}!\r\n"), "501", "no base64"),
            (format!("AUTH PLAIN {plain} {plain}\r\n"), "501", "one word too many"),
            (format!("AUTH XOAUTH2 {plain}\r\n"), "504", "an unknown mechanism"),
            (format!("AUTG PLAIN {plain}\r\n"), "500", "a slip of the pen"),
            (format!("MAIL FROM:<a@b.example> AUTH={plain}\r\n"), "530", "in another command"),
        ] {
            let (mut client, _) = Client::greeted(relay.address()).await;
            client.send(line).await;
            assert_eq!(client.reply().await.get(..3), Some(code), "{about}");
            memory.must_forget(about).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_ours_is_kept_once_and_what_was_said_with_it_is_wiped() {
    let (directory, password) = (tempfile::tempdir().unwrap(), password());
    let login = STANDARD.encode(&password);
    let far = |offers: &'static [&'static str]| FarSide::new().offers(offers);
    let (plain, other) = (
        far(&["AUTH PLAIN"]).start().await,
        far(&["AUTH LOGIN"])
            .on("YW5u", say("334 UGFzc3dvcmQ6"))
            .on(Box::leak(login.into_boxed_str()), say("235 2.7.0 ok"))
            .start()
            .await,
    );
    let file = directory.path().join("password");
    write(&file, &format!("{password}\n"));
    let route = |name: &str, at: std::net::SocketAddr, secret: &str| {
        format!(
            "[[route]]\nname = \"{name}\"\nrecipient_domains = [\"{name}.example\"]\ntransport = \"smarthost\"\n\
             hosts = [\"{at}\"]\ntls = \"none\"\nusername = \"ann\"\n{secret}\n"
        )
    };
    let config = directory.path().join("oncemail.toml");
    let text = format!(
        "hostname = \"relay.example\"\ndata_dir = \"{0}/var\"\n[limits]\nmin_free = \"1MB\"\n\
         [[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\nauth = \"none\"\n{1}{2}\
         [[route]]\nname = \"rest\"\ntransport = \"discard\"\n",
        directory.path().display(),
        route("plain", plain.address, &format!("password = \"{password}\"")),
        route("login", other.address, &format!("password_file = \"{}\"", file.display())),
    );
    write(&config, &text);
    let mut relay = Relay::serve(&config).await;
    let memory = Memory::searched_for(relay.pid(), "ann", &password);
    let (mut client, _) = Client::greeted(relay.address()).await;
    for domain in ["plain.example", "login.example"] {
        client.ask("MAIL FROM:<a@shop.example>").await;
        client.ask(&format!("RCPT TO:<b@{domain}>")).await;
        client.ask("DATA").await;
        assert!(client.ask("Subject: x\r\n\r\nx\r\n.").await.starts_with("250 "));
        assert_eq!(relay.says("delivery").await["outcome"], "delivered");
    }
    assert_eq!((plain.log().said("AUTH PLAIN"), other.log().said("AUTH LOGIN")), (1, 1));
    // Whoever asks what is in force, or has it read again, makes no copies either.
    relay.hang_up();
    relay.says("the configuration was read again").await;
    let Some(found) = memory.found() else { return };
    // For each of two routes one; and those of the configuration that was read first, which may still be in use.
    assert!((2..=4).contains(&found[0]), "{found:?} copies");
    assert_eq!(found[1..], [0, 0], "lines with it are left");
}

#[tokio::test]
async fn no_core_dump_holds_what_was_in_memory() {
    let setup = Setup::new();
    let shell = format!("ulimit -c unlimited; cd '{}'", setup.dir.path().display());
    let mut relay = Relay::start(setup.command_after(&shell));
    relay.listens().await;
    // What the shell allowed is taken back …
    assert_eq!(relay.limit("Max core file size").0, "0");
    // … and where cores are dumped at all, this leaves none.
    relay.signal(Signal::QUIT);
    let status = relay.ends().await;
    assert!(status.signal() == Some(Signal::QUIT.as_raw()) && !status.core_dumped(), "{status}");
    let names = std::fs::read_dir(setup.dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name.to_string_lossy().starts_with("core")).count(), 0);
}

/// Every file and directory below, but not the sockets' peers.
fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(&path, found);
        }
        found.insert(path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_the_owners_alone_whatever_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    let base = directory.path().display();
    let more = format!(
        "[events]\nfile = \"{base}/var/events.jsonl\"\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [idempotency]\nttl = \"1h\"\n[suppression]\non_hard_bounce = true\n"
    );
    let config = directory.path().join("oncemail.toml");
    let text = format!(
        "hostname = \"relay.example\"\ndata_dir = \"{base}/var\"\n[log]\nformat = \"json\"\naddresses = \"hashed\"\n\
         [limits]\nmin_free = \"1MB\"\n[[listener]]\nname = \"in\"\naddress = \"127.0.0.1:0\"\ntls = \"none\"\n\
         auth = \"none\"\n[[route]]\nname = \"out\"\ntransport = \"directory\"\npath = \"{base}/var/mail\"\n{more}"
    );
    write(&config, &text);
    let serve = ["serve", "--config", &config.display().to_string()];
    let mut relay = Relay::start(oncemail_after("umask 000", &serve));
    relay.listens().await;
    let (mut client, _) = Client::greeted(relay.address()).await;
    client.begin().await;
    assert!(client.ask("Subject: x\r\nX-Idempotency-Key: k\r\n\r\nx\r\n.").await.starts_with("250 "));
    assert_eq!(relay.says("delivery").await["outcome"], "delivered");
    assert_eq!(relay.stop().await, Some(0));
    let mut found = BTreeSet::new();
    let data_dir = directory.path().join("var");
    walk(&data_dir, &mut found);
    found.insert(data_dir.clone());
    for path in &found {
        let mode = path.symlink_metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} may be used by others: {mode:o}", path.display());
    }
    for name in ["log.key", "mail", "events.jsonl", "history"] {
        assert!(found.contains(&data_dir.join(name)), "{name} is not there: {found:?}");
    }
}
