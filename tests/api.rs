//! The HTTP API answers whom it should, and does nothing for anybody else.

mod document;
mod endpoints;
mod hostile;
mod real;
pub mod rig;

use std::time::Duration;

use oncemail::admin::{Role, Token};
use rig::{OPERATOR, READER, Rig};

const HOLD: &str = r#"{"action":"hold"}"#;
const SOMEBODY: &str = "01KAPZ0000000000000000000A";

#[tokio::test]
async fn who_may_do_what() {
    let rig = Rig::new().await;
    let action = format!("POST /api/v1/messages/{SOMEBODY}/actions");
    // Without a token: only whether we are well.
    for open in ["/healthz", "/readyz"] {
        assert_eq!(rig.send(&format!("GET {open}"), &[], "").await.status, 200);
    }
    for closed in ["/metrics", "/api/v1/overview", "/api/v1/openapi.json", "/api/v1/nothing"] {
        let answer = rig.send(&format!("GET {closed}"), &[], "").await;
        answer.problem(401);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"oncemail\""));
    }
    // With one that may read.
    rig.read("/api/v1/overview").await.ok();
    assert_eq!(rig.read("/metrics").await.status, 200);
    assert!(rig.with_token(READER, &action, HOLD).await.problem(403).contains("operate"));
    let changes = [
        "POST /api/v1/reload",
        "DELETE /api/v1/keys?key=a",
        "DELETE /api/v1/suppressions?address=a@b.example",
    ];
    for change in changes {
        rig.with_token(READER, change, "").await.problem(403);
    }
    rig.read(&format!("/api/v1/messages/{SOMEBODY}/content")).await.problem(403);
    // With one that may do everything: it is let in, and there is no such message.
    rig.operate(&action, HOLD).await.problem(404);
    rig.operate(&format!("GET /api/v1/messages/{SOMEBODY}/content"), "").await.problem(404);
    // And with the wrong one.
    rig.with_token("operator-0123456789abcdeF", &action, HOLD).await.problem(401);
}

#[tokio::test]
async fn the_unix_socket_needs_no_token_and_is_only_for_its_owner() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new().await;
    rig.local("POST /api/v1/reload", "").await.ok();
    assert_eq!(*rig.invented.reloads.lock().unwrap(), ["local"]);
    let session = rig.local("GET /session", "").await.ok();
    assert_eq!(session, serde_json::json!({ "name": "local", "role": "operate", "contents": true }));
    let mode = rig.data_dir().join("admin.sock").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    rig.shutdown.cancel();
    rig.running.await.unwrap();
    assert!(!rig.directory.path().join("admin.sock").exists());
}

#[tokio::test]
async fn without_any_token_this_machine_may_act_but_not_read_contents() {
    let rig = Rig::with(Vec::new()).await;
    rig.send("POST /api/v1/reload", &["Content-Type: application/json"], "").await.ok();
    assert_eq!(*rig.invented.reloads.lock().unwrap(), ["loopback"]);
    rig.send(&format!("GET /api/v1/messages/{SOMEBODY}/content"), &[], "").await.problem(403);
}

#[tokio::test]
async fn a_name_that_was_rebound_to_this_machine_reaches_nothing() {
    let rig = Rig::with(Vec::new()).await;
    for path in ["/api/v1/overview", "/healthz", "/metrics", "/session"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert!(rig.send_raw(&request).await.problem(421).contains("localhost"));
    }
    let absolute = "GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    rig.send_raw(absolute).await.problem(421);
    rig.send_raw("GET /metrics HTTP/1.0\r\n\r\n").await.problem(421);
    let ours = "GET /api/v1/overview HTTP/1.1\r\nHost: LocalHost:1\r\nConnection: close\r\n\r\n";
    rig.send_raw(ours).await.ok();
}

#[tokio::test]
async fn a_hostile_page_changes_nothing() {
    let rig = Rig::with(Vec::new()).await;
    let json = "Content-Type: application/json";
    for fields in
        [vec!["Content-Type: text/plain"], vec!["Content-Type: application/x-www-form-urlencoded"], vec![]]
    {
        rig.send("POST /api/v1/reload", &fields, "").await.problem(415);
    }
    for theirs in [
        "Origin: http://evil.example",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ] {
        rig.send("POST /api/v1/reload", &[json, theirs], "").await.problem(403);
        rig.send("DELETE /api/v1/suppressions?address=a@b.example", &[theirs], "").await.problem(403);
        rig.send("POST /session", &[json, theirs], r#"{"token":"x"}"#).await.problem(403);
    }
    // Nor does it open what it cannot read.
    rig.send("GET /api/v1/stream", &["Sec-Fetch-Site: cross-site"], "").await.problem(403);
    assert!(rig.invented.reloads.lock().unwrap().is_empty());
    let ours = format!("Origin: http://{}", rig.address);
    rig.send("POST /api/v1/reload", &[json, &ours, "Sec-Fetch-Site: same-origin"], "").await.ok();
}

#[tokio::test]
async fn a_browser_session_is_a_cookie_that_no_script_and_no_other_site_has() {
    let rig = Rig::new().await;
    let json = "Content-Type: application/json";
    let login = format!(r#"{{"token":"{OPERATOR}"}}"#);
    let answer = rig.send("POST /session", &[json], &login).await;
    assert_eq!(answer.ok(), serde_json::json!({ "name": "operator", "role": "operate", "contents": true }));
    let set = answer.header("set-cookie").unwrap();
    for word in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(set.contains(word), "{set}");
    }
    assert!(!set.contains("Secure"));
    let cookie = format!("Cookie: {}", set.split(';').next().unwrap());
    rig.send("GET /api/v1/overview", &[&cookie], "").await.ok();
    rig.send("POST /api/v1/reload", &[&cookie, json], "").await.ok();
    // The cookie alone never suffices for another site.
    rig.send("POST /api/v1/reload", &[&cookie, json, "Origin: https://evil.example"], "").await.problem(403);
    rig.send("POST /api/v1/reload", &[&cookie, "Content-Type: text/plain"], "").await.problem(415);
    assert_eq!(rig.send("DELETE /session", &[&cookie], "").await.status, 204);
    rig.send("GET /api/v1/overview", &[&cookie], "").await.problem(401);
    let https = rig.send("POST /session", &[json, &format!("Origin: https://{}", rig.address)], &login).await;
    assert!(https.header("set-cookie").unwrap().contains("Secure"));
    rig.send("POST /session", &[json], r#"{"token":"wrong"}"#).await.problem(401);
}

#[tokio::test]
async fn a_session_ends_with_its_token() {
    let rig = Rig::new().await;
    let login = format!(r#"{{"token":"{READER}"}}"#);
    let answer = rig.send("POST /session", &["Content-Type: application/json"], &login).await;
    let cookie = format!("Cookie: {}", answer.header("set-cookie").unwrap().split(';').next().unwrap());
    rig.send("GET /api/v1/overview", &[&cookie], "").await.ok();
    rig.control.set_tokens(vec![Token::new("other", "another-0123456789", Role::Read, false)]);
    rig.send("GET /api/v1/overview", &[&cookie], "").await.problem(401);
    rig.read("/api/v1/overview").await.problem(401);
}

#[tokio::test]
async fn who_guesses_tokens_has_to_wait() {
    let rig = Rig::new().await;
    for _ in 0..10 {
        rig.with_token("guess", "GET /metrics", "").await.problem(401);
    }
    let answer = rig.read("/metrics").await;
    answer.problem(429);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds));
    // Whoever is not let in at all is not the one who guesses, and the machine's own operator never waits.
    assert_eq!(rig.send("GET /healthz", &[], "").await.status, 200);
    rig.local("GET /api/v1/overview", "").await.ok();
    rig.clock.advance(Duration::from_secs(seconds));
    assert_eq!(rig.read("/metrics").await.status, 200);
}
