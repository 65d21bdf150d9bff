//! Clients that speak something else, or SMTP in a way that no client does: each is answered or sent away, none gets in,
//! and none is told more than that.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncemail::submission::options::{AuthMode, Options, TlsMode};

use crate::api::rig::Rig;
use crate::common::client::{AUTH, Client};
use crate::common::listener::{Running, user, write_certificate};
use crate::downgrade::client_hello;

/// What a browser, a proxy or a fetcher that is sent here would have executed.
const LURE: &str = "EHLO browser.example\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n\
                    Subject: lured\r\n\r\nlured\r\n.\r\nQUIT\r\n";

fn with_ann(options: &mut Options) {
    options.listeners[0].auth = AuthMode::Optional;
    options.users = vec![user("ann")];
}

/// All replies up to the end of the connection.
async fn replies(client: &mut Client) -> Vec<String> {
    let mut said = Vec::new();
    while let Some(line) = client.line().await {
        said.push(line);
    }
    said
}

#[tokio::test]
async fn a_request_of_another_protocol_ends_the_connection_before_its_lure_is_read() {
    let server = Running::start(|_| ()).await;
    for request in [
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "POST /x HTTP/1.0\r\nContent-Type: text/plain\r\n\r\n",
        "CONNECT mail.example:25 HTTP/1.1\r\nHost: mail.example\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "OPTIONS * RTSP/1.0\r\nHost: x\r\n\r\n",
        "HOST: 127.0.0.1:25\r\n\r\n",
        "GET /\u{1}\u{7f}\u{9b} HTTP/1.1\r\nX: y\r\n\r\n",
    ] {
        let mut client = Client::connect(server.address).await;
        client.reply().await;
        client.send(format!("{request}{LURE}")).await;
        let said = replies(&mut client).await;
        assert!(
            said.last().unwrap().starts_with("421 4.7.0 This is SMTP, not HTTP"),
            "{request:?}: {said:?}"
        );
        // Nothing that was sent comes back: a page that is shown it would run it.
        assert!(!said.iter().any(|line| line.contains("HTTP/") || line.contains("lured")), "{said:?}");
    }
    assert!(server.messages().is_empty());
}

/// And the other way round: mail at the port of the API.
#[tokio::test]
async fn smtp_at_the_port_of_the_api_is_a_bad_request() {
    let rig = Rig::new().await;
    for words in [LURE, "MAIL FROM:<a@example.com>\r\n\r\n", "QUIT\r\n\r\n"] {
        let answer = rig.send_raw(words).await;
        assert_eq!(answer.status, 400, "{words:?}");
        assert!(answer.body.is_empty(), "{answer:?}");
    }
}

/// `https://` to this port, with commands in the name that TLS is asked for: the octets are those of a ClientHello, CRLF
/// and all.
#[tokio::test]
async fn s1_commands_within_a_tls_handshake_are_not_executed() {
    let server = Running::start(|_| ()).await;
    let lure = format!("\r\n{LURE}");
    let mut hello = client_hello([3, 3], &[0xc02b], &["http/1.1"]);
    for hello in [
        {
            hello.extend_from_slice(lure.as_bytes());
            hello.clone()
        },
        [b"\x16\x03\x01\x02\n\x00\x01\r\n", LURE.as_bytes()].concat(),
        [b"\x16\x03\x03\r\n", LURE.as_bytes()].concat(),
    ] {
        for slowly in [false, true] {
            let mut client = Client::connect(server.address).await;
            client.reply().await;
            match slowly {
                true => client.send_slowly(&hello).await,
                false => client.send(&hello).await,
            }
            let said = replies(&mut client).await;
            assert_eq!(said, ["421 4.7.0 TLS begins with STARTTLS here, if at all"]);
        }
    }
    assert!(server.messages().is_empty());
}

/// It is told at once, and does not wait for an answer to its handshake until one of them gives up.
#[tokio::test]
async fn tls_to_a_plain_port_and_plain_text_to_a_tls_port_end_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, root) = write_certificate(directory.path());
    let plain = Running::start(|_| ()).await;
    let started = tokio::time::Instant::now();
    assert!(Client::connect(plain.address).await.encrypt(&root).await.is_err());
    let encrypted = Running::start(|options| {
        options.listeners[0].tls = TlsMode::Implicit;
        options.tls = Some(tls);
    })
    .await;
    for words in [LURE, "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"] {
        let mut client = Client::connect(encrypted.address).await;
        client.send(words).await;
        let said = replies(&mut client).await;
        assert!(!said.iter().any(|line| line.starts_with('2')), "{said:?}");
    }
    // HTTP inside TLS, from a client that does not say what it wants to speak.
    let mut client = Client::connect(encrypted.address).await.encrypt(&root).await.unwrap();
    client.send(format!("GET / HTTP/1.1\r\nHost: relay.example\r\n\r\n{LURE}")).await;
    let said = replies(&mut client).await;
    assert_eq!(said, ["220 relay.example ESMTP oncemail", "421 4.7.0 This is SMTP, not HTTP"]);
    assert!(started.elapsed() < Duration::from_secs(30), "nobody waits for a time-out");
    assert!(encrypted.messages().is_empty() && plain.messages().is_empty());
}

#[tokio::test]
async fn a_proxy_header_where_none_is_expected_names_nobody() {
    let server = Running::start(|_| ()).await;
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02";
    for (header, codes) in [
        (&b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\n"[..], &["500 5.5.1 "][..]),
        // Empty lines, a NUL, and then a line that is no QUIT: the LF in it ends nothing.
        (&[v2, &b"\r\n"[..]].concat(), &["500 5.5.1 ", "500 5.5.1 ", "500 5.5.2 ", "500 5.5.2 "]),
    ] {
        let mut client = Client::connect(server.address).await;
        assert!(client.reply().await.starts_with("220 "));
        client.send(header).await;
        for code in codes {
            let reply = client.reply().await;
            assert!(reply.starts_with(code), "{code}: {reply}");
        }
        client.ask("EHLO client.example").await;
        client.begin().await;
        assert!(client.ask("Subject: x\r\n\r\n.").await.starts_with("250 "));
        let message = server.messages().pop().unwrap();
        assert!(message.origin.client.unwrap().is_loopback());
    }
}

fn plain(text: &[u8]) -> String {
    format!("AUTH PLAIN {}", STANDARD.encode(text))
}

#[tokio::test]
async fn auth_that_is_odd_lets_nobody_in_and_the_session_stays_in_step() {
    let server = Running::start(|options| {
        with_ann(options);
        options.listeners[0].auth = AuthMode::Required;
    })
    .await;
    let unpadded = plain(b"\0ann\0secret").trim_end_matches('=').to_owned();
    let long = "a".repeat(12_000);
    let tries: Vec<(String, &str)> = vec![
        // Somebody else's rights with one's own password, and the other way round.
        (plain(b"root\0ann\0secret"), "535 5.7.8 "),
        (plain(b"ann\0root\0secret"), "535 5.7.8 "),
        (plain(b"ANN\0ann\0secret"), "535 5.7.8 "),
        // NUL and controls in a name, or one part too many.
        (plain(b"\0an\0n\0secret"), "501 5.5.2 "),
        (plain(b"\0ann\0secret\0"), "501 5.5.2 "),
        (plain(b"\0ann\r\0secret"), "501 5.5.2 "),
        (plain(b"\0ann\n\0secret"), "501 5.5.2 "),
        (plain("\0ann\u{9b}\0secret".as_bytes()), "501 5.5.2 "),
        (plain(b"\0ann\xff\0secret"), "501 5.5.2 "),
        (plain(b"\0\0secret"), "501 5.5.2 "),
        (plain(b"\0ann"), "501 5.5.2 "),
        (plain(b""), "334 "),
        ("=".into(), "501 5.5.2 "),
        // A name that looks like the other one, or is one with a bit of space.
        (plain("\0аnn\0secret".as_bytes()), "535 5.7.8 "),
        (plain(b"\0ann \0secret"), "535 5.7.8 "),
        (plain(b"\0Ann\0secret"), "535 5.7.8 "),
        (plain("\0ann\u{ad}\0secret".as_bytes()), "535 5.7.8 "),
        (plain(b"\0ann\0"), "535 5.7.8 "),
        (plain(b"\0ann\0secret "), "535 5.7.8 "),
        (plain(format!("\0ann\0{}", "x".repeat(8_000)).as_bytes()), "535 5.7.8 "),
        // Base64 that some read as something.
        (unpadded, "501 5.5.2 "),
        (format!("{}AAAA", plain(b"\0ann\0secret")), "501 5.5.2 "),
        ("AUTH PLAIN AGFubgBzZWNyZXR=".into(), "501 5.5.2 "),
        ("AUTH PLAIN AGFubgBz ZWNyZXQ=".into(), "501 5.5.4 "),
        ("AUTH PLAIN AGFubgBz-_NyZXQ=".into(), "501 5.5.2 "),
        ("AUTH PLAIN *".into(), "501 5.7.0 "),
        ("AUTH PLAIN ==".into(), "501 5.5.2 "),
        (format!("AUTH PLAIN {long}{long}"), "500 5.5.2 "),
        (format!("AUTH {long}"), "504 5.5.4 "),
        ("AUTH".into(), "501 5.5.4 "),
        ("AUTH LOGIN =".into(), "501 5.5.2 "),
        ("AUTH LOGIN AGE=".into(), "501 5.5.2 "),
        ("AUTH CRAM-MD5".into(), "504 5.5.4 "),
        ("AUTH EXTERNAL =".into(), "504 5.5.4 "),
        ("AUTH ANONYMOUS".into(), "504 5.5.4 "),
        ("AUTH XOAUTH2 dXNlcj1hbm4BYXV0aD1CZWFyZXIgeAEB".into(), "504 5.5.4 "),
        ("AUTH PLAIN\u{b}AGFubgBzZWNyZXQ=".into(), "500 5.5.2 "),
        ("AUTH=PLAIN AGFubgBzZWNyZXQ=".into(), "500 5.5.1 "),
    ];
    for (line, code) in tries {
        let mut client = server.client().await;
        let about = &line[..line.len().min(60)];
        let mut reply = client.ask(&line).await;
        if code == "334 " && reply.starts_with("334") {
            reply = "334 ".to_owned();
            assert!(client.ask("*").await.starts_with("501 5.7.0 "));
        }
        assert!(reply.starts_with(code) || line == "=" && reply.starts_with("500 "), "{about}: {reply}");
        assert!(client.ask("MAIL FROM:<a@example.com>").await.starts_with("530 5.7.0 "), "{about}");
        // The right one still works.
        assert!(client.ask(AUTH).await.starts_with("235 "), "{about}");
    }
}

/// AUTH is no command that may be pipelined (RFC 4954 §4): whoever does it all the same learns nothing early.
#[tokio::test]
async fn what_is_pipelined_behind_auth_is_read_after_it_has_ended() {
    let server = Running::start(|options| {
        with_ann(options);
        options.listeners[0].auth = AuthMode::Required;
    })
    .await;
    let wrong = plain(b"\0ann\0wrong");
    for (packet, codes) in [
        (format!("{AUTH}\r\nMAIL FROM:<a@example.com>\r\n"), &["235", "250 2.1.0"][..]),
        (format!("{wrong}\r\nMAIL FROM:<a@example.com>\r\n"), &["535", "530"]),
        // The next line is the answer to the challenge, whatever it looks like.
        ("AUTH PLAIN\r\nMAIL FROM:<a@example.com>\r\nNOOP\r\n".into(), &["334", "501 5.5.2", "250 2.0.0"]),
        ("AUTH LOGIN\r\nYW5u\r\nQUIT\r\nNOOP\r\n".into(), &["334", "334", "535", "250 2.0.0"]),
        // LOGIN the wrong way round: the password is no user.
        ("AUTH LOGIN\r\nc2VjcmV0\r\nYW5u\r\nNOOP\r\n".into(), &["334", "334", "535", "250 2.0.0"]),
        (
            "AUTH LOGIN\r\n*\r\nAUTH LOGIN\r\nYW5u\r\n*\r\nNOOP\r\n".into(),
            &["334", "501", "334", "334", "501", "250"],
        ),
        (format!("{wrong}\r\n{AUTH}\r\n{AUTH}\r\n"), &["535", "235", "503"]),
        // A chunk in place of an answer is no chunk, and its octets are commands, each refused.
        ("AUTH PLAIN\r\nBDAT 6 LAST\r\nRSET\r\n".into(), &["334", "501 5.5.2", "250 2.0.0"]),
    ] {
        let mut client = server.client().await;
        client.send(&packet).await;
        for code in codes {
            let reply = client.reply().await;
            assert!(reply.starts_with(code), "{packet:?}: {reply}");
        }
    }
    assert!(server.messages().is_empty());
}

#[tokio::test]
async fn a_chunked_message_that_changes_its_mind_is_dropped_or_kept_whole() {
    let server = Running::start(|options| options.limits.message_size = 1000).await;
    let mut client = server.client().await;
    const MAIL: &str = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    for (packet, codes) in [
        (
            "BDAT 0\r\nBDAT 0\r\nBDAT 0 LAST\r\n",
            &["250 2.0.0 0 ", "250 2.0.0 0 ", "250 2.0.0 OK Message"][..],
        ),
        ("BDAT 3\r\nabcRSET\r\nBDAT 3 LAST\r\nabc", &["250", "250", "503"]),
        ("BDAT 3\r\nabcDATA\r\nRSET\r\n", &["250", "503", "250"]),
        ("DATA\r\nBDAT 3 LAST\r\n.\r\n", &["354", "250 2.0.0 OK Message"]),
        ("BDAT 3\r\nabcEHLO again.example\r\nBDAT 0 LAST\r\n", &["250", "250-", "503"]),
        ("BDAT 1001\r\n", &[]),
    ] {
        client.send(format!("{MAIL}{packet}")).await;
        assert!(
            client.reply().await.starts_with("250 2.1.0") && client.reply().await.starts_with("250 2.1.5")
        );
        for code in codes {
            let reply = client.reply().await;
            assert!(reply.starts_with(code), "{packet:?}: {reply}");
        }
    }
    client.send("x".repeat(1001)).await;
    assert!(client.reply().await.starts_with("552 5.3.4 "));
    assert_eq!(server.messages().len(), 2);
}

#[tokio::test]
async fn sizes_that_no_number_holds_are_over_every_limit() {
    let server = Running::start(|options| options.limits.message_size = 1000).await;
    let mut client = server.client().await;
    for (size, code) in [
        ("1001", "552 5.3.4 "),
        ("4294967296", "552 5.3.4 "),
        ("18446744073709551615", "552 5.3.4 "),
        ("18446744073709551616", "552 5.3.4 "),
        ("99999999999999999999", "552 5.3.4 "),
        ("000000000000000000000", "501 5.5.4 "),
        ("-1", "501 5.5.4 "),
        ("+1", "501 5.5.4 "),
        ("1e3", "501 5.5.4 "),
        ("0x10", "501 5.5.4 "),
        ("١", "501 5.5.4 "),
        ("", "501 5.5.4 "),
        ("00000000000000001000", "250 2.1.0 "),
    ] {
        let reply = client.ask(&format!("MAIL FROM:<a@example.com> SIZE={size}")).await;
        assert!(reply.starts_with(code), "{size}: {reply}");
    }
}

/// Nobody finds out who exists here, however he asks.
#[tokio::test]
async fn no_command_tells_whether_somebody_exists() {
    let server = Running::start(with_ann).await;
    let mut client = server.client().await;
    for name in ["ann", "<ann>", "nobody", "root@localhost", "a@b\u{e9}", "x y z", "|/bin/sh"] {
        assert_eq!(
            client.ask(&format!("VRFY {name}")).await,
            "252 2.5.2 Cannot verify; send and see what comes back"
        );
        assert_eq!(client.ask(&format!("EXPN {name}")).await, "502 5.5.1 Command not implemented");
    }
    let (known, unknown) = (plain(b"\0ann\0wrong"), plain(b"\0bob\0wrong"));
    assert_eq!(client.ask(&known).await, client.ask(&unknown).await);
}

/// What costs us an answer each comes to its end; a client that is only there now and then stays for as long as it likes.
#[tokio::test]
async fn s2_commands_without_a_message_end_and_a_quiet_client_stays_all_day() {
    let server = Running::start(|options| options.limits.message_size = 1000).await;
    const MAIL: &str = "MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n";
    for (before, command) in [
        ("", "NOOP"),
        ("", "RSET"),
        ("", "HELP"),
        ("", "VRFY x"),
        ("", "EHLO client.example"),
        ("", "HELO client.example"),
        ("", "MAIL FROM:<a@example.com> SIZE=1001"),
        (MAIL, "BDAT 0"),
    ] {
        let mut client = server.client().await;
        client.send(format!("{before}{}", format!("{command}\r\n").repeat(200))).await;
        let mut said = replies(&mut client).await;
        said.retain(|line| line.as_bytes()[3] == b' ');
        assert_eq!(said.last().unwrap(), "421 4.7.0 Too many commands without a message", "{command}");
        // EHLO is one of the hundred, unless a message has been begun since.
        assert_eq!(said.len(), if before.is_empty() { 100 } else { 103 }, "{command}");
    }
    let mut quiet = server.client().await;
    for _ in 0..24 * 60 {
        server.clock.advance(Duration::from_secs(60));
        assert!(quiet.ask("NOOP").await.starts_with("250 "));
    }
    // A connection that is tested before each message.
    for _ in 0..20 {
        quiet.send("NOOP\r\n".repeat(90)).await;
        for _ in 0..90 {
            assert!(quiet.reply().await.starts_with("250 "));
        }
        quiet.begin().await;
        assert!(quiet.ask("Subject: x\r\n\r\n.").await.starts_with("250 2.0.0"));
    }
}

#[tokio::test]
async fn s2_no_error_goes_uncounted() {
    let server = Running::start(|_| ()).await;
    for wrong in [
        "XXXX",
        "MAIL",
        "RCPT TO:<b@example.org>",
        "DATA",
        "BDAT 1\r\nx",
        "AUTH PLAIN",
        "STARTTLS",
        "EXPN x",
        "a\nb",
    ] {
        let mut client = server.client().await;
        client.send(format!("{wrong}\r\n").repeat(30)).await;
        let said = replies(&mut client).await;
        assert_eq!(said.last().unwrap(), "421 4.7.0 Too many errors", "{wrong}: {said:?}");
        assert_eq!(said.len(), 21, "{wrong}: {said:?}");
    }
}
