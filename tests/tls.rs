//! What a submission server promises about TLS: when it begins, what it forgets, which certificate, and what the
//! Received field says of it.

use std::time::Duration;

use oncemail::submission::options::{AuthMode, Tls, TlsMode};
use tokio_rustls::rustls::version::{TLS12, TLS13};

use crate::common::client::{AUTH, Client};
use crate::common::listener::{Running, user, write, write_certificate};
use crate::common::program::Setup;

async fn with_implicit_tls(tls: Tls) -> Running {
    Running::start(|options| {
        options.listeners[0].tls = TlsMode::Implicit;
        options.tls = Some(tls);
    })
    .await
}

#[tokio::test]
async fn starttls_begins_the_session_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::StartTls;
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
        options.tls = Some(tls);
    })
    .await;
    let (mut client, ehlo) = Client::greeted(server.address).await;
    assert!(ehlo.contains("STARTTLS"));
    // From loopback AUTH is offered in plain text too; TLS makes the server forget it.
    assert!(client.ask(AUTH).await.starts_with("235"));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("250"));
    assert!(client.ask("STARTTLS").await.starts_with("220 2.0.0"));
    let mut client = client.encrypt(&root).await.unwrap();
    assert!(client.ask("RCPT TO:<b@example.org>").await.starts_with("503 5.5.1"));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("503 5.5.1"));
    let ehlo = client.ask("EHLO client.example").await;
    assert!(!ehlo.contains("STARTTLS") && ehlo.contains("AUTH PLAIN LOGIN"));
    assert!(client.ask("STARTTLS").await.starts_with("503 5.5.1"));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("530 5.7.0"));
    assert!(client.ask(AUTH).await.starts_with("235"));
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    assert_eq!(server.messages()[0].origin.user.as_deref(), Some("ann"));
    assert!(client.ask("QUIT").await.starts_with("221"));
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn s1_nothing_from_before_the_handshake_is_read_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::StartTls;
        options.tls = Some(tls);
    })
    .await;
    // Behind STARTTLS in the same packet: refused, and the connection ends.
    let mut client = server.client().await;
    client.send("STARTTLS\r\nEHLO injected.example\r\nMAIL FROM:<evil@example.com>\r\n").await;
    assert!(client.reply().await.starts_with("503 5.5.1"));
    assert!(client.is_closed().await);
    // A moment later: the handshake reads it, and it is no handshake.
    let mut client = server.client().await;
    assert!(client.ask("STARTTLS").await.starts_with("220"));
    client.send("EHLO injected.example\r\n").await;
    assert!(client.encrypt(&root).await.is_err());
}

#[tokio::test]
async fn implicit_tls_greets_inside_tls() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = with_implicit_tls(tls).await;
    let mut client = Client::connect(server.address).await.encrypt(&root).await.unwrap();
    assert!(client.reply().await.starts_with("220 relay.example"));
    assert!(!client.ask("EHLO client.example").await.contains("STARTTLS"));
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
}

#[tokio::test]
async fn a_changed_certificate_is_used_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, first) = write_certificate(directory.path());
    let certificate_file = tls.certificate_file.clone();
    let server = with_implicit_tls(tls).await;
    let is_served = async |root: &_| {
        server.clock.advance(Duration::from_secs(10));
        Client::connect(server.address).await.encrypt(root).await.is_ok()
    };
    assert!(is_served(&first).await);
    write(&certificate_file, "no certificate at all");
    assert!(is_served(&first).await, "a broken file took the old certificate away");
    let (_, second) = write_certificate(directory.path());
    assert!(is_served(&second).await);
    assert!(!is_served(&first).await);
}

#[tokio::test]
async fn a_certificate_that_could_not_be_read_just_now_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, first) = write_certificate(directory.path());
    let certificate_file = tls.certificate_file.clone();
    let server = with_implicit_tls(tls).await;
    let is_served = async |root: &_| {
        server.clock.advance(Duration::from_secs(10));
        Client::connect(server.address).await.encrypt(root).await.is_ok()
    };
    let (_, second) = write_certificate(directory.path());
    let text = std::fs::read_to_string(&certificate_file).unwrap();
    write(&certificate_file, &"x".repeat(text.len()));
    let written = std::fs::metadata(&certificate_file).unwrap().modified().unwrap();
    assert!(is_served(&first).await);
    // Readable now, and for all that the file's times and length tell, it has not changed.
    write(&certificate_file, &text);
    std::fs::File::options().append(true).open(&certificate_file).unwrap().set_modified(written).unwrap();
    assert!(is_served(&second).await);
}

#[tokio::test]
async fn tls_1_2_is_taken_unless_the_configuration_refuses_it() {
    let directory = tempfile::tempdir().unwrap();
    for only_tls13 in [false, true] {
        let (tls, root) = write_certificate(directory.path());
        let server = Running::start(|options| {
            options.listeners[0].tls = TlsMode::Implicit;
            options.tls = Some(Tls { only_tls13, ..tls });
        })
        .await;
        let is_served = async |versions: &[_]| {
            let client = Client::connect(server.address).await.encrypt_with(&root, versions).await;
            match client {
                Ok(mut client) => client.line().await.is_some_and(|line| line.starts_with("220 ")),
                Err(_) => false,
            }
        };
        assert!(is_served(&[&TLS13]).await);
        assert_eq!(is_served(&[&TLS12]).await, !only_tls13);
    }
}

#[tokio::test]
async fn the_received_field_says_who_sent_how() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::StartTls;
        options.listeners[0].auth = AuthMode::Required;
        options.users = vec![user("ann")];
        options.tls = Some(tls);
    })
    .await;
    let mut client = server.client().await;
    client.ask("STARTTLS").await;
    let mut client = client.encrypt(&root).await.unwrap();
    client.ask("EHLO app.example").await;
    assert!(client.ask(AUTH).await.starts_with("235"));
    client.begin().await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    // Two recipients are not told of each other; SMTPUTF8 has keywords of its own; a long name is folded off.
    client.ask(&format!("EHLO {}.example", "x".repeat(60))).await;
    client.ask("MAIL FROM:<a@example.com> SMTPUTF8").await;
    client.ask("RCPT TO:<b@example.org>").await;
    client.ask("RCPT TO:<c@example.org>").await;
    client.ask("DATA").await;
    assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));

    let mut messages = server.messages();
    messages.sort_by_key(|message| message.envelope.smtputf8);
    let [first, second] = messages.try_into().unwrap();
    let received = |message: &oncemail::mail::Message| {
        let text = String::from_utf8(message.content.to_vec()).unwrap();
        text.split_once("\r\nMessage-ID:").unwrap().0.replace(&message.id.to_string(), "ID")
    };
    assert_eq!(
        received(&first),
        "Received: from app.example ([127.0.0.1]) (authenticated as ann) by\r\n\
         \trelay.example with ESMTPSA (TLSv1.3 TLS13_AES_256_GCM_SHA384)\r\n\
         \tid ID for <b@example.org>;\r\n\
         \tSun, 22 Nov 2026 10:30:00 +0000"
    );
    assert_eq!(
        received(&second),
        format!(
            "Received: from\r\n\
             \t{}.example\r\n\
             \t([127.0.0.1]) (authenticated as ann) by relay.example with UTF8SMTPSA\r\n\
             \t(TLSv1.3 TLS13_AES_256_GCM_SHA384) id ID;\r\n\
             \tSun, 22 Nov 2026 10:30:00 +0000",
            "x".repeat(60)
        )
    );
}

/// Measured: 19 KB each, most of it rustls's own. A read buffer that stays would make it 35 and more.
#[tokio::test]
async fn s2_an_idle_tls_connection_is_small() {
    const CONNECTIONS: u64 = 300;
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let more = format!(
        r#"
[[listener]]
name = "encrypted"
address = "127.0.0.1:0"
tls = "starttls"
auth = "none"
[tls]
certificate_file = {:?}
key_file = {:?}
"#,
        tls.certificate_file, tls.key_file
    );
    let setup = Setup::and(&more);
    let mut relay = setup.serve().await;
    let address = relay.listens().await;
    // Each has sent a message, and a command right behind it. The message is refused: none is to be in memory.
    let idle = async || {
        let (mut client, _) = Client::greeted(address).await;
        client.ask("STARTTLS").await;
        let mut client = client.encrypt(&root).await.unwrap();
        client.ask("EHLO client.example").await;
        client.begin().await;
        client.send(format!("{}\0\r\n.\r\nNOOP\r\n", "x".repeat(30_000))).await;
        assert!(client.reply().await.starts_with("550 5.6.0"));
        assert!(client.reply().await.starts_with("250"));
        client
    };
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(idle().await);
    }
    let before = relay.memory();
    for _ in 0..CONNECTIONS {
        clients.push(idle().await);
    }
    let each = relay.memory().saturating_sub(before) / CONNECTIONS;
    assert!(each < 32 * 1024, "{each} octets each");
}
