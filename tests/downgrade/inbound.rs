//! What somebody between a client and us may do before TLS: nothing of it is there inside.

use oncemail::submission::options::{AuthMode, TlsMode};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;

use super::client_hello;
use crate::common::client::{AUTH, Client};
use crate::common::far_side::PATIENCE;
use crate::common::listener::{Running, user, write_certificate};

const INJECTED: &str =
    "EHLO injected.example\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\r\n.\r\n";

async fn upgrading(auth: AuthMode) -> (Running, CertificateDer<'static>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::StartTls;
        options.listeners[0].auth = auth;
        options.users = vec![user("ann")];
        options.tls = Some(tls);
    })
    .await;
    (server, root, directory)
}

/// All that the server still says, up to the end of the connection.
async fn rest(client: Client) -> String {
    let mut said = Vec::new();
    // The end may be a reset: the client was still talking.
    let end = client.into_stream();
    let _ = tokio::time::timeout(PATIENCE, { end }.read_to_end(&mut said)).await.expect("an end");
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn s1_commands_behind_starttls_are_never_executed_wherever_packets_cut_them() {
    let (server, _, _directory) = upgrading(AuthMode::None).await;
    let all = format!("STARTTLS\r\n{INJECTED}");
    for cut in 0..=40 {
        for waits in [false, true] {
            let mut client = server.client().await;
            client.send(&all.as_bytes()[..cut]).await;
            let whole = cut >= "STARTTLS\r\n".len();
            // Either in the same breath, or when the server is already waiting for a handshake.
            if waits && cut == "STARTTLS\r\n".len() {
                assert!(client.reply().await.starts_with("220 "));
            }
            client.send(&all.as_bytes()[cut..]).await;
            let said = rest(client).await;
            let is_refused = said.starts_with("503 5.5.1 Nothing may follow STARTTLS before TLS\r\n");
            // Or TLS has read it, and it was no TLS.
            assert!(is_refused || said.starts_with("220 2.0.0 ") || (waits && whole), "{cut}: {said:?}");
            assert!(!said.contains("\r\n250") && !said.contains("354"), "{cut}: {said:?}");
        }
    }
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn nothing_of_a_session_is_left_after_the_handshake_whatever_it_was_in() {
    let (server, root, _directory) = upgrading(AuthMode::Required).await;
    let mail = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    for (before, replies) in [
        (format!("{AUTH}\r\n"), 1),
        (format!("{AUTH}\r\n{mail}"), 3),
        (format!("{AUTH}\r\n{mail}BDAT 22\r\nSubject: plain\r\n\r\nin c"), 4),
        // STARTTLS is an answer to the challenge, and a wrong one.
        ("AUTH PLAIN\r\nSTARTTLS\r\n".to_owned(), 2),
        ("AUTH LOGIN YW5u\r\n*\r\n".to_owned(), 2),
    ] {
        let mut client = server.client().await;
        client.send(&before).await;
        for _ in 0..replies {
            client.reply().await;
        }
        assert!(client.ask("STARTTLS").await.starts_with("220 "), "{before:?}");
        let mut client = client.encrypt(&root).await.unwrap();
        for (line, code) in [
            ("BDAT 4 LAST\r\ntext", "503 5.5.1 BDAT needs MAIL"),
            ("DATA\r\n", "503 5.5.1 "),
            ("RCPT TO:<c@example.org>\r\n", "503 5.5.1 "),
            ("MAIL FROM:<a@example.com>\r\n", "503 5.5.1 Send EHLO first"),
            // No longer whoever it was.
            ("EHLO client.example\r\n", "250-relay.example"),
            ("MAIL FROM:<a@example.com>\r\n", "530 5.7.0 "),
            ("STARTTLS\r\n", "503 5.5.1 TLS is on already"),
        ] {
            client.send(line).await;
            let reply = client.reply().await;
            assert!(reply.starts_with(code), "{before:?}, {line:?}: {reply}");
        }
    }
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn starttls_twice_is_one_too_many() {
    let (server, root, _directory) = upgrading(AuthMode::None).await;
    let mut client = server.client().await;
    client.send("STARTTLS\r\nSTARTTLS\r\n").await;
    assert!(client.reply().await.starts_with("503 5.5.1 Nothing may follow"));
    assert!(client.is_closed().await);
    for argument in ["STARTTLS now", "STARTTLS \t x"] {
        let mut client = server.client().await;
        assert!(client.ask(argument).await.starts_with("501 5.5.4 "), "{argument}");
    }
    // Before EHLO.
    let mut client = Client::connect(server.address).await;
    client.reply().await;
    assert!(client.ask("STARTTLS").await.starts_with("503 5.5.1 Send EHLO first"));
    // In TLS, with what would have been injected behind it: it stays a command like any other.
    let mut client = server.client().await;
    client.ask("STARTTLS").await;
    let mut client = client.encrypt(&root).await.unwrap();
    client.send("STARTTLS\r\nEHLO client.example\r\n").await;
    assert!(client.reply().await.starts_with("503 5.5.1 TLS is on already"));
    assert!(client.reply().await.starts_with("250-relay.example"));
}

/// From loopback AUTH in clear is allowed; this client comes through a proxy.
#[tokio::test]
async fn auth_from_elsewhere_is_neither_offered_nor_taken_before_tls_however_it_is_sent() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let server = Running::start(|options| {
        options.listeners[0].tls = TlsMode::StartTls;
        options.listeners[0].auth = AuthMode::Required;
        options.listeners[0].trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        options.users = vec![user("ann")];
        options.tls = Some(tls);
    })
    .await;
    let mut client = Client::connect(server.address).await;
    client.send("PROXY TCP4 192.0.2.7 198.51.100.1 40000 587\r\n").await;
    client.reply().await;
    let ehlo = client.ask("EHLO client.example").await;
    let has = |ehlo: &str, keyword: &str| ehlo.lines().any(|line| line[4..].starts_with(keyword));
    assert!(has(&ehlo, "STARTTLS") && !has(&ehlo, "AUTH") && !has(&ehlo, "REQUIRETLS"), "{ehlo}");
    // All in one packet, as a client does that asks nobody: the answer to a challenge that was never made is no command.
    client.send(format!("{AUTH}\r\nAUTH PLAIN\r\nAGFubgBzZWNyZXQ=\r\nMAIL FROM:<a@example.com>\r\n")).await;
    for code in ["538 5.7.11 ", "538 5.7.11 ", "500 5.5.1 ", "530 5.7.0 "] {
        let reply = client.reply().await;
        assert!(reply.starts_with(code), "{code}: {reply}");
    }
    assert!(client.ask("STARTTLS").await.starts_with("220 "));
    let mut client = client.encrypt(&root).await.unwrap();
    let ehlo = client.ask("EHLO client.example").await;
    assert!(!has(&ehlo, "STARTTLS") && has(&ehlo, "AUTH PLAIN LOGIN") && has(&ehlo, "REQUIRETLS"), "{ehlo}");
    assert!(client.ask(AUTH).await.starts_with("235 "));
    assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("250 "));
}

#[tokio::test]
async fn old_versions_weak_ciphers_and_other_protocols_end_in_the_handshake() {
    let (server, _, _directory) = upgrading(AuthMode::None).await;
    // ECDHE with an ECDSA certificate, as this server has one: with AES-GCM it is good.
    const GOOD: [u16; 1] = [0xc02b];
    const ALERT: u8 = 21;
    const HANDSHAKE: u8 = 22;
    for (about, hello, answer) in [
        ("TLS 1.2", client_hello([3, 3], &GOOD, &[]), HANDSHAKE),
        ("TLS 1.2 for SMTP", client_hello([3, 3], &GOOD, &["smtp"]), HANDSHAKE),
        ("TLS 1.1", client_hello([3, 2], &[0xc009, 0xc013, 0x002f], &[]), ALERT),
        ("TLS 1.0", client_hello([3, 1], &[0xc009, 0xc013, 0x002f], &[]), ALERT),
        ("SSL 3", client_hello([3, 0], &[0x000a, 0x0005], &[]), ALERT),
        ("NULL", client_hello([3, 3], &[0x0000, 0xc006, 0xc010], &[]), ALERT),
        ("export", client_hello([3, 3], &[0x0003, 0x0006, 0x0008], &[]), ALERT),
        ("RC4", client_hello([3, 3], &[0x0005, 0xc007, 0xc011], &[]), ALERT),
        ("3DES", client_hello([3, 3], &[0x000a, 0xc008, 0xc012], &[]), ALERT),
        ("CBC", client_hello([3, 3], &[0xc009, 0xc013, 0xc023], &[]), ALERT),
        ("without forward secrecy", client_hello([3, 3], &[0x002f, 0x009c], &[]), ALERT),
        ("anonymous", client_hello([3, 3], &[0x0034, 0xc018, 0x00a6], &[]), ALERT),
        ("HTTP/1.1", client_hello([3, 3], &GOOD, &["http/1.1"]), ALERT),
        ("HTTP/2", client_hello([3, 3], &GOOD, &["h2", "http/1.1"]), ALERT),
        ("FTP", client_hello([3, 3], &GOOD, &["ftp"]), ALERT),
        ("IMAP", client_hello([3, 3], &GOOD, &["imap"]), ALERT),
    ] {
        let mut client = server.client().await;
        assert!(client.ask("STARTTLS").await.starts_with("220 "));
        client.send(hello).await;
        let mut first = [0];
        client.into_stream().read_exact(&mut first).await.unwrap();
        assert_eq!(first[0], answer, "{about}");
    }
}
