//! Every address says what it should, and refuses what it cannot understand in a sentence that helps.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use oncemail::clock::Timestamp;
use oncemail::mail::{
    Address, Body, Envelope, Fingerprint, FingerprintMode, Handling, KeyKind, Message, Origin, QueueId,
    Recipient, ReversePath, Scope, ScopedKey,
};
use oncemail::store::{KeyClaim, Store};

use super::rig::Rig;

#[tokio::test]
async fn health_and_readiness() {
    let rig = Rig::new().await;
    assert_eq!(rig.send("GET /healthz", &[], "").await.ok()["ok"], true);
    assert_eq!(rig.send("GET /readyz", &[], "").await.ok()["ready"], true);
    rig.invented.ready.store(false, Ordering::SeqCst);
    let answer = rig.send("GET /readyz", &[], "").await;
    assert_eq!((answer.status, answer.json()["reasons"][0].as_str()), (503, Some("the disk is nearly full")));
    assert_eq!(rig.send("GET /healthz", &[], "").await.status, 200);
}

#[tokio::test]
async fn what_the_parts_say_is_passed_on() {
    let rig = Rig::new().await;
    let metrics = rig.read("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        Some("application/openmetrics-text; version=1.0.0; charset=utf-8")
    );
    assert!(metrics.body.starts_with(b"oncemail_up 1"));
    assert_eq!(rig.read("/api/v1/config").await.ok()["hostname"], "relay.example");
    assert_eq!(rig.read("/api/v1/destinations").await.ok()["total"], 7);
    assert_eq!(rig.read("/api/v1/tls-report").await.ok()["policies"], serde_json::json!([]));
    let overview = rig.read("/api/v1/overview").await.ok();
    assert_eq!(
        (overview["accepted"].as_u64(), overview["at"].as_str()),
        (Some(42), Some("2026-11-22T10:30:00Z"))
    );
    for (range, step) in [("1h", 5), ("24h", 120)] {
        assert_eq!(rig.read(&format!("/api/v1/series?range={range}")).await.ok()["step_seconds"], step);
    }
    assert!(rig.read("/api/v1/series?range=7d").await.problem(400).contains("1h, 24h"));
}

#[tokio::test]
async fn a_list_is_empty_where_there_is_nothing_and_each_mistake_is_named() {
    let rig = Rig::new().await;
    let list = rig
        .read("/api/v1/messages?state=held,delivered&kind=mail&to_domain=*.example.com&older=1h&limit=500")
        .await;
    assert_eq!(list.ok(), serde_json::json!({ "messages": [], "matched": 0, "unread": 0 }));
    for (query, words) in [
        ("limit=0", "1 to 500"),
        ("limit=501", "1 to 500"),
        ("limit=many", "1 to 500"),
        ("limit=18446744073709551616", "1 to 500"),
        ("state=lost", "queued, active, held, delivered, bounced, discarded"),
        ("kind=spam", "mail, notice, event"),
        ("to=nobody", "`to` is no address"),
        ("to_domain=%20", "`to_domain`"),
        ("from=%40", "`from` is an address"),
        ("older=2", "90s, 15m, 2h, 3d"),
        ("sort=age", "`sort` is unknown here"),
        ("limit=1&limit=2", "twice"),
        ("after=nonsense", "`after`"),
        ("after=q:nonsense", "`after`"),
        ("user=%00", "control characters"),
        ("user=%ff", "UTF-8"),
    ] {
        let said = rig.read(&format!("/api/v1/messages?{query}")).await.problem(400);
        assert!(said.contains(words), "{query}: {said}");
    }
}

#[tokio::test]
async fn ids_are_judged_before_they_are_looked_for() {
    let rig = Rig::new().await;
    for bad in [
        "x",
        "01KAPZ000000000000000000",
        "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
        "01KAPZ00000000000000000ILO",
        "%ff",
        "..%2f",
    ] {
        rig.read(&format!("/api/v1/messages/{bad}")).await.problem(400);
    }
    assert!(rig.read("/api/v1/messages/01KAPZ0000000000000000000A").await.problem(404).contains("01KAPZ"));
    rig.read("/api/v1/messages/01KAPZ0000000000000000000A?x=1").await.problem(400);
}

#[tokio::test]
async fn orders_are_judged_before_anything_is_done() {
    let rig = Rig::new().await;
    let one = "POST /api/v1/messages/01KAPZ0000000000000000000A/actions";
    rig.operate(one, r#"{"action":"hold","reason":"asked for"}"#).await.problem(404);
    let long = format!(r#"{{"action":"hold","reason":"{}"}}"#, "x".repeat(201));
    for (body, status, words) in [
        ("", 400, ""),
        ("{", 400, ""),
        (r#"{"action":"explode"}"#, 422, "retry"),
        (r#"{"reason":"x"}"#, 422, "action"),
        (r#"{"action":"hold","force":true}"#, 422, "force"),
        (r#"{"action":7}"#, 400, "action"),
        (r#"{"action":"hold","reason":7}"#, 422, "reason"),
        (r#"{"action":"hold","reason":"a\u0007b"}"#, 422, "control"),
        (&long, 422, "200"),
        ("[]", 422, ""),
    ] {
        let said = rig.operate(one, body).await.problem(status);
        assert!(said.contains(words), "{body}: {said}");
    }
    let many = "POST /api/v1/messages/actions";
    let nothing = rig
        .operate(many, r#"{"action":"hold","filter":{"to_domain":"x.example"},"dry_run":true}"#)
        .await
        .ok();
    assert_eq!((nothing["dry_run"].as_bool(), nothing["matched"].as_u64()), (Some(true), Some(0)));
    rig.operate(many, r#"{"action":"discard","filter":{},"dry_run":false}"#).await.ok();
    for (body, words) in [
        (r#"{"action":"hold","filter":{}}"#, "dry_run"),
        (r#"{"action":"hold","dry_run":true}"#, "filter"),
        (r#"{"action":"hold","filter":{"state":["delivered"]},"dry_run":true}"#, "over"),
        (r#"{"action":"hold","filter":{"too":"x"},"dry_run":true}"#, "too"),
        (r#"{"action":"hold","filter":{"older":"soon"},"dry_run":true}"#, "`older`"),
        (r#"{"action":"hold","filter":{"to":"nobody"},"dry_run":true}"#, "`to`"),
    ] {
        let said = rig.operate(many, body).await.problem(422);
        assert!(said.contains(words), "{body}: {said}");
    }
}

#[tokio::test]
async fn a_key_tells_what_became_of_it() {
    let rig = Rig::new().await;
    let accepted_at = rig.clock.now();
    let id = QueueId::new(accepted_at);
    let key =
        ScopedKey { scope: Scope::named("shop"), kind: KeyKind::Header, key: "order 123/é".to_owned() };
    let claim = KeyClaim {
        fingerprint: Fingerprint {
            version: 1,
            mode: FingerprintMode::Content,
            envelope: [0; 32],
            content: [0; 32],
        },
        expires_at: Timestamp::from_millis(1_795_429_800_000),
    };
    rig.store.accept(Arc::new(message(id, accepted_at, key)), Some(claim)).await.unwrap();
    let story = rig.read("/api/v1/keys?key=order+123%2F%C3%A9&scope=shop").await.ok();
    assert_eq!((story["id"].as_str(), story["scope"].as_str()), (Some(&*id.to_string()), Some("shop")));
    assert_eq!(
        (story["expires_at"].as_str(), story["replays"].as_u64()),
        (Some("2026-11-23T10:30:00Z"), Some(0))
    );
    assert!(rig.read("/api/v1/keys?key=order+123%2F%C3%A9").await.problem(404).contains("scope"));
    rig.read("/api/v1/keys?key=order+123%2F%C3%A9&scope=shop&kind=content").await.problem(404);
    assert!(rig.read("/api/v1/keys?scope=shop").await.problem(400).contains("`key` is missing"));
    assert!(rig.read("/api/v1/keys?key=a&kind=b").await.problem(400).contains("header, message-id, content"));
    rig.operate("DELETE /api/v1/keys?key=other&scope=shop", "").await.problem(404);
    assert_eq!(rig.operate("DELETE /api/v1/keys?key=order+123%2F%C3%A9&scope=shop", "").await.status, 204);
    rig.read("/api/v1/keys?key=order+123%2F%C3%A9&scope=shop").await.problem(404);
}

fn message(id: QueueId, accepted_at: Timestamp, key: ScopedKey) -> Message {
    let recipient = Recipient {
        forward_path: Address::parse("anna@example.com").unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    Message {
        id,
        accepted_at,
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            recipients: vec![recipient],
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: "in".to_owned(), user: Some("shop".to_owned()), client: None },
        key: Some(key),
        message_id: String::new(),
        content: Bytes::from_static(b"Subject: x\r\n\r\n"),
    }
}

#[tokio::test]
async fn suppressions_are_listed_added_and_removed() {
    let rig = Rig::new().await;
    let add = "POST /api/v1/suppressions";
    let added = rig.operate(add, r#"{"address":"Anna@EXAMPLE.com","reason":"she asked"}"#).await.ok();
    assert_eq!(
        (added["address"].as_str(), added["reason"].as_str()),
        (Some("Anna@example.com"), Some("she asked"))
    );
    let added = rig.operate(add, r#"{"address":"bob@example.com"}"#).await.ok();
    assert_eq!(added["reason"], "added by operator");
    let first = rig.read("/api/v1/suppressions?limit=1").await.ok();
    assert_eq!((first["total"].as_u64(), first["next"].as_str()), (Some(2), Some("Anna@example.com")));
    let second = rig.read("/api/v1/suppressions?limit=1&after=Anna@example.com").await.ok();
    assert_eq!(
        (second["suppressions"][0]["address"].as_str(), second.get("next")),
        (Some("bob@example.com"), None)
    );
    rig.operate(add, r#"{"address":"nobody"}"#).await.problem(422);
    rig.operate(add, r#"{"address":"a@b.example","since":"2026-11-22T10:30:00Z"}"#).await.problem(422);
    rig.operate(add, r#"{"address":"a@b.example","reason":"a\nb"}"#).await.problem(422);
    assert_eq!(rig.operate("DELETE /api/v1/suppressions?address=anna@example.com", "").await.status, 404);
    assert_eq!(rig.operate("DELETE /api/v1/suppressions?address=Anna@example.com", "").await.status, 204);
    rig.operate("DELETE /api/v1/suppressions?address=nobody", "").await.problem(400);
    assert_eq!(rig.read("/api/v1/suppressions").await.ok()["total"], 1);
}

#[tokio::test]
async fn destinations_are_reset_and_addresses_explained() {
    let rig = Rig::new().await;
    let reset = "POST /api/v1/destinations/reset";
    let done = rig.operate(reset, r#"{"route":"out","destination":"x.example"}"#).await.ok();
    assert_eq!(done, serde_json::json!({ "breakers": 1, "destinations": 2 }));
    rig.operate(reset, r#"{"route":"nowhere"}"#).await.problem(404);
    rig.operate(reset, r#"{"rout":"out"}"#).await.problem(422);
    assert_eq!(
        rig.read("/api/v1/explain?address=anna@example.com").await.ok()["address"],
        "anna@example.com"
    );
    rig.read("/api/v1/explain?address=anna@example.com&from=%3C%3E&user=shop&listener=in").await.ok();
    let asked = rig.invented.questions.lock().unwrap().clone();
    assert_eq!((asked[0].from.as_deref(), asked[1].from.as_deref()), (None, Some("")));
    assert_eq!((asked[1].user.as_deref(), asked[1].listener.as_deref()), (Some("shop"), Some("in")));
    assert!(rig.read("/api/v1/explain").await.problem(400).contains("`address` is missing"));
    assert!(
        rig.read("/api/v1/explain?address=nobody").await.problem(400).contains("`address` is no address")
    );
    assert!(rig.read("/api/v1/explain?address=a@b.example&from=x").await.problem(400).contains("`from`"));
}

#[tokio::test]
async fn a_reload_says_what_changed_or_everything_that_is_wrong() {
    let rig = Rig::new().await;
    let done = rig.operate("POST /api/v1/reload", "{}").await.ok();
    assert_eq!(done["changed"][0], "route \"out\"");
    assert_eq!(*rig.invented.reloads.lock().unwrap(), ["operator"]);
    rig.operate("POST /api/v1/reload", r#"{"now":true}"#).await.problem(422);
    rig.invented.bad_configuration.store(true, Ordering::SeqCst);
    let answer = rig.operate("POST /api/v1/reload", "").await;
    answer.problem(422);
    let problem = answer.json();
    assert_eq!(problem["type"], "urn:oncemail:configuration");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 2);
    assert_eq!(rig.invented.reloads.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn every_answer_says_that_it_is_not_to_be_kept_or_guessed_at() {
    let rig = Rig::new().await;
    for answer in [
        rig.read("/api/v1/overview").await,
        rig.read("/nothing").await,
        rig.send("GET /api/v1/x", &[], "").await,
    ] {
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
        assert!(answer.header("server").is_none());
    }
}
