//! `oncemail status`: the state of things in ten lines.

use super::client::Client;
use super::failure::{Failure, Outcome};
use super::paper::{Paint, Paper, say, say_json};
use super::text::{cut, escaped};
use super::words::{counted, grouped, latency, long};
use crate::admin::model::Overview;

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail status
  oncemail status --json | jq .queued

Exit codes: 0 the server is ready, 1 it is not, or cannot be asked";

/// Asks once and prints.
pub(super) async fn run(client: &mut Client, json: bool) -> Result<(), Failure> {
    let answer = client.get::<Overview>("/api/v1/overview").await?;
    if json {
        say_json(&answer.text)?;
    } else {
        say(&summary(&answer.document, Paper::detect()))?;
    }
    if answer.document.ready { Ok(()) } else { Outcome::Failed.finish() }
}

fn summary(overview: &Overview, paper: Paper) -> String {
    let o = overview;
    let (word, paint) = if o.ready { ("ready", Paint::Good) } else { ("NOT READY", Paint::Bad) };
    let mut text = String::new();
    let mut line = |title: &str, content: &str, paint: Paint| {
        let content =
            cut(&escaped(content), paper.width.map_or(usize::MAX, |width| width.saturating_sub(12)));
        text.push_str(&format!("{title:<12}"));
        paper.paint(&mut text, &content, paint);
        text.push('\n');
    };
    let name = format!("{}, oncemail {}, up for {}", o.hostname, o.version, long(o.uptime_seconds));
    line("server", &name, Paint::Plain);
    line("state", word, paint);
    for reason in &o.reasons {
        line("", reason, if o.ready { Paint::Warning } else { Paint::Bad });
    }
    let oldest =
        if o.queued == 0 { String::new() } else { format!(", the oldest for {}", long(o.oldest_seconds)) };
    line("queue", &format!("{}{oldest}", counted(o.queued, "message")), Paint::Plain);
    let held = if o.held == 0 { Paint::Plain } else { Paint::Warning };
    line("held", &counted(o.held, "message"), held);
    line("events", &format!("{} waiting", grouped(o.events)), Paint::Plain);
    let taken = [(o.accepted, "queued"), (o.replayed, "replayed"), (o.refused, "refused")];
    line("submissions", &counts(&taken), Paint::Plain);
    let sent = [(o.delivered, "delivered"), (o.deferred, "deferred"), (o.failed, "failed")];
    line("recipients", &counts(&sent), Paint::Plain);
    let connected = format!("{}, {} to far sides", counted(o.clients, "client"), grouped(o.connections));
    line("connections", &connected, Paint::Plain);
    let breakers = if o.open_breakers == 0 { Paint::Plain } else { Paint::Warning };
    line("breakers", &format!("{} not closed", grouped(o.open_breakers)), breakers);
    let median = |p50, p99| format!("{} median, {} at most for 99 %", latency(p50), latency(p99));
    line("accept", &median(o.accept_p50_seconds, o.accept_p99_seconds), Paint::Plain);
    line("deliver", &median(o.deliver_p50_seconds, o.deliver_p99_seconds), Paint::Plain);
    text
}

fn counts(list: &[(u64, &str)]) -> String {
    list.iter().map(|(count, what)| format!("{} {what}", grouped(*count))).collect::<Vec<_>>().join(", ")
}
