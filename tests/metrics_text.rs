//! What is promised about the text of the metrics: it is one that Prometheus reads; names and labels follow its rules;
//! everything that is written about it is so; and to look at it holds up nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oncemail::admin::socket::{ADMIN_SOCKET, connect};
use oncemail::submission::options::TlsMode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::common::client::Client;
use crate::common::listener::write_certificate;
use crate::common::openmetrics::Scrape;
use crate::common::program::Setup;
use crate::common::whole::Whole;
use crate::metrics::{discarding, submit};

/// All families of the program itself, with a certificate and the HTTP API.
async fn of_the_program() -> Scrape {
    let directory = tempfile::tempdir().unwrap();
    let tls = write_certificate(directory.path()).0;
    let more = format!(
        "[tls]\ncertificate_file = {:?}\nkey_file = {:?}\n[[listener]]\nname = \"tls\"\naddress = \"127.0.0.1:0\"\n\
         tls = \"starttls\"\nauth = \"none\"\n",
        tls.certificate_file, tls.key_file
    );
    let setup = Setup::and(&more);
    let mut relay = setup.serve().await;
    let mut stream = connect(&setup.data_dir(), ADMIN_SOCKET).await.unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    relay.stop().await;
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length"), "{head}");
    Scrape::read(text)
}

/// All families: of a relay that has a listener with TLS and a route.
async fn families() -> (Whole, Scrape) {
    let directory = tempfile::tempdir().unwrap();
    let mut plan = discarding();
    plan.submission.listeners[0].tls = TlsMode::StartTls;
    plan.submission.tls = Some(write_certificate(directory.path()).0);
    let whole = plan.start().await;
    let now = whole.scrape();
    (whole, now)
}

#[tokio::test]
async fn names_and_labels_follow_the_rules() {
    let (whole, now) = families().await;
    assert!(whole.metrics.text().1.starts_with("application/openmetrics-text; version=1.0.0"));
    let program = of_the_program().await;
    let known = [
        "code", "kind", "listener", "outcome", "reason", "result", "route", "state", "tls", "to", "type",
        "version",
    ];
    let all = now.families.iter().chain(&program.families);
    for (name, family) in all {
        assert!(name.starts_with("oncemail_") || name.starts_with("process_"), "{name}");
        assert!(!name.ends_with("_total"), "{name}: the suffix is not of the family");
        if family.kind == "histogram" {
            assert!(
                ["_seconds", "_bytes", "_messages", "_records"].iter().any(|unit| name.ends_with(unit)),
                "{name}"
            );
        }
        for unit in ["_ms", "_millis", "_kb", "_minutes", "_percent"] {
            assert!(!name.contains(unit), "{name} is not in a base unit");
        }
        // A new label is a decision: nobody outside may be able to make up its values.
        for label in &family.labels {
            assert!(known.contains(&label.as_str()), "{name}: {label}");
        }
    }
}

/// The words of `text` that look like metrics.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|w| w.starts_with("oncemail_") || w.starts_with("process_")).map(str::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_only_for_what_there_is() {
    let known = families().await.1.names();
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("docker/grafana/dashboards/oncemail.json")).unwrap();
    let mut asked = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            asked.extend(named(target["expr"].as_str().unwrap()));
        }
    }
    assert!(asked.len() > 30, "{asked:?}");
    asked.extend(named(&read("docker/grafana/alerts.yml")));
    let missing: Vec<_> = asked.difference(&known).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[tokio::test]
async fn every_metric_is_described_with_its_type_and_labels_and_no_other() {
    let now = of_the_program().await;
    let mut described = BTreeMap::new();
    for line in read("docs/metrics.md").lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, name, kind, labels, ..] = cells.as_slice()
            && (name.starts_with("`oncemail_") || name.starts_with("`process_"))
        {
            let labels: BTreeSet<_> = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
            described.insert(name.trim_matches('`').to_owned(), ((*kind).to_owned(), labels));
        }
    }
    let shown = now.families.into_iter().map(|(name, family)| {
        let name = if family.kind == "counter" { format!("{name}_total") } else { name };
        (name, (family.kind, family.labels))
    });
    assert_eq!(described, shown.collect());
}

#[tokio::test]
async fn s2_no_client_message_or_far_side_makes_up_a_label() {
    let whole = discarding().start().await;
    let before: Vec<_> = whole.scrape().samples.into_keys().collect();
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    for n in 0..20 {
        let to = format!("b{n}@d{n}.example");
        assert!(submit(&mut client, &to, &format!("key{n}"), "text").await.starts_with("250"));
        client.ask(&format!("NOISE{n}")).await;
    }
    let delivered = "oncemail_deliveries_total{route=\"nowhere\",outcome=\"delivered\"}";
    let after = whole.until(|now| now.value(delivered) == 20.0).await;
    assert_eq!(after.samples.into_keys().collect::<Vec<_>>(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_at_the_metrics_holds_up_nobody() {
    let whole = Arc::new(discarding().start().await);
    let stop = Arc::new(AtomicBool::new(false));
    let looking = std::thread::spawn({
        let (whole, stop) = (whole.clone(), stop.clone());
        move || {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                whole.metrics.text();
                looks += 1;
            }
            looks
        }
    });
    let mut client = Client::greeted(whole.addresses[0]).await.0;
    let mut took = Vec::new();
    for n in 0..200 {
        let began = Instant::now();
        let _ = whole.queue.depth();
        took.push(began.elapsed());
        assert!(submit(&mut client, "b@x.example", &n.to_string(), "text").await.starts_with("250"));
    }
    stop.store(true, Ordering::Relaxed);
    assert!(looking.join().unwrap() > 0);
    took.sort();
    // The median: a busy machine may stop anybody for a while.
    assert!(took[took.len() / 2] < Duration::from_millis(1), "{took:?}");
}
