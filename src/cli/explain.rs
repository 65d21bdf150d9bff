//! `oncemail explain`: what would happen to a message for an address now.

use super::client::{Client, Remote, path_with};
use super::destinations;
use super::failure::Failure;
use super::paper::{Paint, Paper, say, say_json};
use super::story::named;
use super::text::escaped;
use super::words::{self, counted, distance, grouped, long};
use crate::admin::model::{BreakerState, ExplainedHost, Explanation};
use crate::clock::Timestamp;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail explain someone@example.com
  oncemail explain someone@example.com --from orders@shop.example --user shop

Nothing is sent; the server asks DNS as it would for a message.
Exit codes: 0 done, 1 failed, 2 wrong usage";

/// Whose message.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    pub(super) remote: Remote,

    /// The recipient
    #[arg(value_name = "ADDRESS")]
    address: String,
    /// The sender (reverse-path)
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// The user that submits it
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The listener that it comes through
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
}

/// Asks and prints.
pub(super) async fn run(client: &mut Client, arguments: Arguments) -> Result<(), Failure> {
    let mut query = vec![("address", arguments.address.as_str())];
    let rest = [("from", &arguments.from), ("user", &arguments.user), ("listener", &arguments.listener)];
    query.extend(rest.iter().filter_map(|(name, value)| value.as_deref().map(|value| (*name, value))));
    let answer = client.get::<Explanation>(path_with("/api/v1/explain", &query)).await?;
    if arguments.remote.json {
        return say_json(&answer.text);
    }
    say(&told(&answer.document, words::now(), Paper::detect()))
}

fn told(explanation: &Explanation, now: Timestamp, paper: Paper) -> String {
    let e = explanation;
    let mut text = String::new();
    paper.paint(&mut text, &escaped(&e.address), Paint::Title);
    text.push('\n');
    let mut fact = |name: &str, value: &str| named(name, value, paper, &mut text);
    fact(
        "Suppressed",
        &e.suppressed.as_deref().map(|why| format!("no mail is taken for it: {why}")).unwrap_or_default(),
    );
    fact(
        "Route",
        e.route.as_deref().unwrap_or("none takes it: a message would wait until one does, or it expires"),
    );
    list("Passed over", &e.passed_over, &mut fact);
    fact("Transport", e.transport.as_deref().unwrap_or_default());
    fact("TLS", e.tls.as_deref().unwrap_or_default());
    fact("Trouble", e.trouble.as_deref().unwrap_or_default());
    let hosts: Vec<_> = e.hosts.iter().map(host_line).collect();
    list("Hosts", &hosts, &mut fact);
    list("Limits", &e.limits, &mut fact);
    list("DKIM", &e.dkim, &mut fact);
    fact("In doubt", in_doubt(e.in_doubt.as_deref()));
    fact("Attempts", &attempts(e));
    if let Some(destination) = &e.destination {
        let (breaker, _) = words::breaker(destination.breaker);
        let mut line = format!(
            "{} waiting for {}, {} of {} in use, breaker {breaker}",
            counted(destination.waiting, "message"),
            destinations::named(destination),
            grouped(destination.connections),
            counted(destination.connection_limit, "connection"),
        );
        if let Some(until) = &destination.paused_until {
            line.push_str(&format!(", paused: goes on {}", distance(until, now)));
        }
        fact("Line", &line);
        fact("Last trouble", destination.last_trouble.as_deref().unwrap_or_default());
    }
    text
}

fn list(name: &str, lines: &[String], fact: &mut impl FnMut(&str, &str)) {
    for (index, line) in lines.iter().enumerate() {
        fact(if index == 0 { name } else { " " }, line);
    }
}

fn host_line(host: &ExplainedHost) -> String {
    let mut line = host.host.clone();
    if let Some(preference) = host.preference {
        line.push_str(&format!(" (preference {preference})"));
    }
    if !host.addresses.is_empty() {
        line.push_str(&format!(" at {}", host.addresses.join(", ")));
    }
    for note in [&host.policy, &host.trouble].into_iter().flatten() {
        line.push_str(&format!("; {note}"));
    }
    if host.breaker != BreakerState::Closed {
        line.push_str(&format!("; breaker {}", words::breaker(host.breaker).0));
    }
    line
}

fn in_doubt(policy: Option<&str>) -> &str {
    match policy {
        Some("hold") => "held, when no reply comes to the final dot",
        Some("resend") => "sent again, when no reply comes to the final dot",
        other => other.unwrap_or_default(),
    }
}

fn attempts(explanation: &Explanation) -> String {
    let times: Vec<_> = explanation.retry_after_seconds.iter().map(|seconds| long(*seconds)).collect();
    if times.is_empty() {
        return String::new();
    }
    format!(
        "at the latest after {}; expires after {}",
        times.join(", "),
        long(explanation.expires_after_seconds)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explanation_names_everything_that_decides() {
        let some = |text: &str| Some(text.to_owned());
        let explanation = Explanation {
            address: "someone@example.com".into(),
            route: some("world"),
            passed_over: vec!["provider: from shop.example".into(), "internal: to corp.example".into()],
            transport: some("mx"),
            tls: some("TLS where it can be had"),
            hosts: vec![
                ExplainedHost {
                    host: "mx1.example.com:25".into(),
                    preference: Some(10),
                    addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
                    breaker: BreakerState::Open,
                    policy: some("MTA-STS enforce"),
                    trouble: None,
                },
                ExplainedHost {
                    host: "mx2.\x1b[2Jexample.com:25".into(),
                    preference: None,
                    addresses: Vec::new(),
                    breaker: BreakerState::Closed,
                    policy: None,
                    trouble: some("has no address"),
                },
            ],
            limits: vec!["20 connections".into()],
            dkim: vec!["s1._domainkey.shop.example".into()],
            in_doubt: some("resend"),
            retry_after_seconds: vec![0, 60, 300],
            expires_after_seconds: 432_000,
            destination: Some(destinations::tests::example("example.com", BreakerState::Open)),
            ..Explanation::default()
        };
        let now = words::time("2026-11-22T10:30:00Z").unwrap();
        let expected = "\
someone@example.com
  Route         world
  Passed over   provider: from shop.example
                internal: to corp.example
  Transport     mx
  TLS           TLS where it can be had
  Hosts         mx1.example.com:25 (preference 10) at 192.0.2.1, 2001:db8::1; MTA-STS enforce; breaker open
                mx2.\\u{1b}[2Jexample.com:25; has no address
  Limits        20 connections
  DKIM          s1._domainkey.shop.example
  In doubt      sent again, when no reply comes to the final dot
  Attempts      at the latest after 0 s, 1 min, 5 min; expires after 5 days
  Line          1,234 messages waiting for example.com, 2 of 20 connections in use, breaker open
  Last trouble  421 4.7.0 \\u{1b}[31mtoo many connections\\u{202e}
";
        assert_eq!(told(&explanation, now, Paper { width: None, colours: false }), expected);
        let nothing = told(
            &Explanation { address: "a@b".into(), ..Explanation::default() },
            now,
            Paper { width: None, colours: false },
        );
        assert!(nothing.contains("none takes it"), "{nothing}");
    }
}
