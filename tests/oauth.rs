//! AUTH with OAuth 2 tokens: they are fetched once, kept, fetched anew when they are refused, and trouble with them is
//! ours: mail waits.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oncemail::relay::options::{Auth, OAuth2, Options, Secret, Transport};

use crate::common::far_side::{FarSide, FarSideBuilder, say};
use crate::common::https_server::{HttpsServer, http};
use crate::common::relay_rig::{DELIVERED, Rig, changed, replies};

const SECRET: &str = "s3cr3t &=+%ü";

fn with_tokens(far: &FarSide, url: String) -> Options {
    changed(&[far.address], |smarthost| {
        smarthost.messages_per_connection = 1;
        smarthost.auth = Some(Auth {
            username: "sender@shop.example".into(),
            with: Secret::OAuth2(OAuth2 {
                token_url: url,
                client_id: "client id".into(),
                client_secret: SECRET.to_owned().into(),
                scope: Some("https://outlook.office365.com/.default".into()),
            }),
        });
    })
}

fn far_side() -> FarSideBuilder {
    FarSide::new().offers(&["PIPELINING", "AUTH LOGIN XOAUTH2"])
}

/// The command that shows `token`.
fn command(token: &str) -> String {
    let response = format!("user=sender@shop.example\x01auth=Bearer {token}\x01\x01");
    format!("AUTH XOAUTH2 {}", STANDARD.encode(response))
}

fn token(number: usize) -> Vec<u8> {
    let body = format!(r#"{{"token_type":"Bearer","expires_in":3599,"access_token":"token-{number}"}}"#);
    http("200 OK", "application/json; charset=utf-8", &body)
}

#[tokio::test]
async fn one_token_is_fetched_for_many_connections() {
    let server = HttpsServer::start(false, &[], |_, before| token(before)).await;
    let far = far_side().start().await;
    let rig = Rig::start(with_tokens(&far, format!("http://{}/tenant/token?x=1", server.address)));
    let mut sent = Vec::new();
    for number in 0..10 {
        sent.push(rig.send(&["b@x.example"], &format!("message {number}")).await);
    }
    for id in sent {
        assert!(rig.store.saved(id, 1).await.is_finished());
    }
    let log = far.log();
    assert_eq!((log.connections, log.said(&command("token-0"))), (10, 10));
    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].head.starts_with("POST /tenant/token?x=1 HTTP/1.1\r\n"), "{}", asked[0].head);
    let head = asked[0].head.to_ascii_lowercase();
    assert!(head.contains("\r\nuser-agent: oncemail\r\n"));
    assert!(head.contains(&format!("\r\nhost: {}\r\n", server.address)));
    assert!(head.contains("\r\ncontent-type: application/x-www-form-urlencoded\r\n"));
    assert_eq!(
        asked[0].body,
        "grant_type=client_credentials&client_id=client%20id&client_secret=s3cr3t%20%26%3D%2B%25%C3%BC&scope=https%3A%2F%2Foutlook.office365.com%2F.default"
    );
}

#[tokio::test]
async fn a_token_that_was_taken_back_is_fetched_anew_within_the_attempt() {
    let server = HttpsServer::start(false, &[], |_, before| token(before)).await;
    let far = far_side()
        .on_times(1, &command("token-0"), say("235 2.7.0 ok"))
        .on(&command("token-0"), say("334 eyJzdGF0dXMiOiI0MDEifQ=="))
        .start()
        .await;
    let rig = Rig::start(with_tokens(&far, format!("http://{}/", server.address)));
    for text in ["first", "second", "third"] {
        let id = rig.send(&["b@x.example"], text).await;
        let progress = rig.store.saved(id, 1).await;
        assert_eq!((progress.recipients[0].state, progress.attempts), (DELIVERED, 1), "{progress:?}");
    }
    assert_eq!(far.log().said(&command("token-1")), 2);
    assert_eq!((server.asked().len(), far.log().connections), (2, 3));
}

#[tokio::test]
async fn r2_a_refused_token_defers_with_the_far_sides_words_and_is_asked_for_once_per_attempt() {
    let server = HttpsServer::start(false, &[], |_, before| token(before)).await;
    let far = far_side().on(&command("token-0"), say("334 eyJzdGF0dXMiOiI0MDEifQ==")).start().await;
    let rig = Rig::start(with_tokens(&far, format!("http://{}/", server.address)));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 2).await;
    let reply = &progress.recipients[0].replies[0];
    assert_eq!((reply.code, reply.text.as_str()), (535, "5.7.8 token refused (in reply to AUTH)"));
    // The next attempt has a token of its own.
    assert_eq!(progress.recipients[0].state, DELIVERED);
    assert_eq!((far.log().said(&command("token-0")), far.log().said(&command("token-1"))), (1, 1));
}

#[tokio::test]
async fn r2_no_token_is_a_deferral_that_names_the_cause_and_never_the_secret() {
    let quoted = format!(r#"{{"error":"invalid_client","error_description":"wrong: {SECRET}"}}"#);
    let huge = format!(r#"{{"access_token":"{}"}}"#, "x".repeat(100_000));
    let answers: [(Vec<u8>, &str); 7] = [
        (http("401 Unauthorized", "application/json", &quoted), "HTTP status 401, invalid_client wrong: ***"),
        (http("503 Service Unavailable", "text/html", "<html>"), "HTTP status 503"),
        (http("302 Found\r\nLocation: http://192.0.2.1/", "text/html", ""), "HTTP status 302"),
        (http("200 OK", "application/json", &huge), "more than 65536 octets"),
        (b"220 mail.example ESMTP\r\n".to_vec(), "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_vec(), "broke off"),
        (Vec::new(), "closed without an answer"),
    ];
    for (answer, cause) in answers {
        let server = HttpsServer::start(false, &[], move |_, _| answer.clone()).await;
        let far = far_side().start().await;
        let rig = Rig::start(with_tokens(&far, format!("http://{}/", server.address)));
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        assert!(progress.is_queued());
        let reply = &replies(&progress)[0];
        assert!(reply.contains("AUTH: no OAuth 2 token from 127.0.0.1:"), "{reply}");
        assert!(reply.contains(cause) && !reply.contains("s3cr3t"), "{cause}: {reply}");
        assert_eq!(far.log().said("AUTH"), 0);
    }
}

#[tokio::test]
async fn r2_a_token_server_must_be_this_machine_or_prove_its_name() {
    let server = HttpsServer::start(true, &[], |_, before| token(before)).await;
    let other = HttpsServer::start(true, &[], |_, before| token(before)).await;
    let port = server.address.port();
    for (trusted, url, cause) in [
        (&server, format!("https://localhost:{port}/token"), None),
        (&other, format!("https://localhost:{port}/token"), Some("certificate")),
        (&server, format!("https://127.0.0.1:{port}/token"), Some("certificate")),
        (&server, "http://192.0.2.1/token".to_owned(), Some("plain HTTP goes only to this machine")),
        (&server, "nonsense".to_owned(), Some("is no http(s) URL")),
    ] {
        let far = far_side().start().await;
        let mut options = with_tokens(&far, url);
        for route in &mut options.routes {
            if let Transport::Smtp(smtp) = &mut route.transport {
                smtp.ca_file = Some(trusted.ca_file.clone());
            }
        }
        let rig = Rig::start(options);
        let id = rig.send(&["b@x.example"], "x").await;
        let progress = rig.store.saved(id, 1).await;
        match cause {
            None => assert!(progress.is_finished(), "{progress:?}"),
            Some(cause) => assert!(replies(&progress)[0].contains(cause), "{progress:?}"),
        }
    }
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn r2_a_far_side_without_xoauth2_is_a_deferral_and_gets_no_token() {
    let server = HttpsServer::start(false, &[], |_, before| token(before)).await;
    let far = FarSide::new().offers(&["AUTH PLAIN LOGIN"]).start().await;
    let rig = Rig::start(with_tokens(&far, format!("http://{}/", server.address)));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(replies(&progress)[0].contains("does not offer XOAUTH2"), "{progress:?}");
    assert_eq!((server.asked().len(), far.log().said("AUTH")), (0, 0));
}
