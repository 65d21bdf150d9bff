//! A message's whole story as people read it: what it is, who gets it, and a time line of everything that happened.

use super::paper::{Paint, Paper};
use super::text::{escaped, width, wrapped};
use super::words::{self, counted, distance, grouped, plain_time};
use crate::admin::model::{RecipientStory, Reply, State, Story, Summary};
use crate::clock::Timestamp;

/// Cells before the values of the first part.
const NAMES: usize = 16;
/// Recipients that are listed; the time line has all of them.
const RECIPIENTS: usize = 100;
/// Replays that stand in the time line, the latest ones; more would push the rest off the screen.
const REPLAYS: usize = 10;

/// Something that happened, or will.
struct Event {
    at: String,
    what: &'static str,
    paint: Paint,
    text: String,
}

/// The story, told at `now`.
pub(super) fn told(story: &Story, now: Timestamp, paper: Paper) -> String {
    let mut text = String::new();
    heading(&story.summary, now, paper, &mut text);
    facts(story, now, paper, &mut text);
    recipients(story, paper, &mut text);
    text.push('\n');
    paper.paint(&mut text, "Time line (UTC)", Paint::Title);
    text.push('\n');
    for event in time_line(story, now) {
        line(&event, paper, &mut text);
    }
    text
}

fn heading(summary: &Summary, now: Timestamp, paper: Paper, text: &mut String) {
    let (state, paint) = words::state(summary.state);
    paper.paint(text, &escaped(&summary.id), Paint::Title);
    text.push_str("  ");
    paper.paint(text, state, paint);
    text.push_str(&format!(", accepted {} ago", words::long(summary.age_seconds)));
    text.push_str(&format!(", {}", counted(summary.attempts.into(), "attempt")));
    if let Some(next) = &summary.next_attempt {
        text.push_str(&format!(", next {}", escaped(&distance(next, now))));
    }
    text.push('\n');
}

fn facts(story: &Story, now: Timestamp, paper: Paper, text: &mut String) {
    let summary = &story.summary;
    let mut fact = |name: &str, value: &str| named(name, value, paper, text);
    fact("Kind", words::kind(summary.kind));
    fact("From", words::sender(&summary.from));
    fact("Message-ID", &story.message_id);
    fact("Subject", story.subject.as_deref().unwrap_or_default());
    fact("Submitted", &submitted(story));
    if let Some(key) = &summary.key {
        let scope = story.key_scope.as_deref().map(|scope| format!(" (scope {scope})")).unwrap_or_default();
        fact("Key", &format!("{key}{scope}"));
    }
    fact("Size", &words::size(summary.size));
    fact("Route", summary.route.as_deref().unwrap_or_default());
    if story.priority != 0 {
        fact("Priority", &story.priority.to_string());
    }
    fact("Trace", story.traceparent.as_deref().unwrap_or_default());
    if story.replay_count > 0 {
        fact("Replays", &counted(story.replay_count, "time"));
    }
    let is_over = story.finished_at.is_some() || story.summary.state == State::Held;
    if let Some(expires) = story.expires_at.as_deref().filter(|_| !is_over) {
        fact("Expires", &distance(expires, now));
    }
    if story.warned {
        fact("Warned", "the sender was told that it takes long");
    }
}

fn submitted(story: &Story) -> String {
    let parts = [
        story.summary.user.as_deref().map(|user| format!("by {user}")),
        story.client.as_deref().map(|client| format!("from {client}")),
        story.summary.listener.as_deref().map(|listener| format!("through {listener}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A name and its value, wrapped; nothing for an empty one.
pub(super) fn named(name: &str, value: &str, paper: Paper, text: &mut String) {
    if value.is_empty() {
        return;
    }
    let room = paper.text_width().saturating_sub(NAMES);
    for (index, part) in wrapped(&escaped(value), room).into_iter().enumerate() {
        let name = if index == 0 { name } else { "" };
        text.push_str("  ");
        paper.paint(text, name, Paint::Aside);
        text.extend(std::iter::repeat_n(' ', NAMES.saturating_sub(2 + width(name))));
        text.push_str(&part);
        text.push('\n');
    }
}

fn recipients(story: &Story, paper: Paper, text: &mut String) {
    for (index, recipient) in story.recipient_stories.iter().take(RECIPIENTS).enumerate() {
        named(if index == 0 { "To" } else { " " }, &standing(recipient), paper, text);
    }
    let more = story.recipient_stories.len().saturating_sub(RECIPIENTS);
    if more > 0 {
        named(" ", &format!("… and {} more", grouped(more as u64)), paper, text);
    }
}

fn standing(recipient: &RecipientStory) -> String {
    let (state, _) = words::state(recipient.state);
    let cause = match recipient.hold_cause.as_deref() {
        Some("in_doubt") => " (in doubt: it may have been delivered)".to_owned(),
        Some(cause) => format!(" ({cause})"),
        None => String::new(),
    };
    let attempts = counted(recipient.attempts.into(), "attempt");
    let route = recipient.route.as_deref().map(|route| format!(", route {route}")).unwrap_or_default();
    format!("{}: {state}{cause}, {attempts}{route}", recipient.address)
}

/// Everything, oldest first; what is at the same time in the order in which it is told.
fn time_line(story: &Story, now: Timestamp) -> Vec<Event> {
    let mut events = vec![event(&story.summary.accepted_at, "accepted", Paint::Good, submitted(story))];
    for recipient in &story.recipient_stories {
        events.extend(recipient.replies.iter().map(|reply| said(&recipient.address, reply)));
    }
    if let Some(finished) = &story.finished_at {
        let (state, paint) = words::state(story.summary.state);
        events.push(event(finished, "finished", paint, state.to_owned()));
    }
    let shown = || story.replays.iter().skip(story.replays.len().saturating_sub(REPLAYS));
    let earlier = story.replay_count.saturating_sub(shown().count() as u64);
    if let Some(first) = shown().next().filter(|_| earlier > 0) {
        let text = format!("{} before the ones that follow", counted(earlier, "earlier replay"));
        events.push(event(&first.at, "replayed", Paint::Aside, text));
    }
    for replay in shown() {
        let from = replay.client.as_deref().map(|client| format!(" from {client}")).unwrap_or_default();
        let text = format!("a retry{from} got this id again; nothing was sent twice");
        events.push(event(&replay.at, "replayed", Paint::Good, text));
    }
    events.sort_by_key(|event| words::time(&event.at));
    events.extend(to_come(story, now));
    events
}

fn event(at: &str, what: &'static str, paint: Paint, text: String) -> Event {
    Event { at: at.to_owned(), what, paint, text }
}

/// `5.4.4 …`: an enhanced status code (RFC 3463).
fn starts_with_status(text: &str) -> bool {
    text.split_once('.').is_some_and(|(class, _)| ["2", "4", "5"].contains(&class))
}

fn said(address: &str, reply: &Reply) -> Event {
    let (what, paint) = match reply.code {
        // What has a status was found out here: no route takes it.
        0 if reply.route.is_empty() && !starts_with_status(&reply.text) => ("operator", Paint::Title),
        200..300 => ("delivered", Paint::Good),
        // No server has said it: it was put where it was to go by ourselves.
        0 if reply.text.starts_with("2.") => ("delivered", Paint::Good),
        400..500 => ("deferred", Paint::Warning),
        500..600 => ("refused", Paint::Bad),
        _ => ("trouble", Paint::Warning),
    };
    let mut text = format!("{address}: ");
    if reply.code != 0 {
        text.push_str(&format!("{} ", reply.code));
    }
    text.push_str(&reply.text);
    let around = [
        (!reply.host.is_empty()).then(|| reply.host.clone()),
        (!reply.route.is_empty()).then(|| format!("route {}", reply.route)),
        (!reply.tls.is_empty()).then(|| reply.tls.clone()),
        (reply.times > 1).then(|| format!("{} in a row", counted(reply.times.into(), "time"))),
    ];
    let around = around.into_iter().flatten().collect::<Vec<_>>().join(", ");
    if !around.is_empty() {
        text.push_str(&format!(" [{around}]"));
    }
    event(&reply.at, what, paint, text)
}

/// What is still to come; nothing, when it is over.
fn to_come(story: &Story, now: Timestamp) -> Vec<Event> {
    let mut events = Vec::new();
    if story.finished_at.is_some() {
        return events;
    }
    if let Some(release) = story.release_at.as_deref().filter(|at| words::time(at).is_some_and(|at| at > now))
    {
        events.push(event(release, "not before", Paint::Aside, distance(release, now)));
    }
    if story.summary.state == State::Active {
        events.push(event("", "now", Paint::Good, "in the hands of the relay".to_owned()));
    } else if let Some(next) = &story.summary.next_attempt {
        events.push(event(next, "next attempt", Paint::Title, distance(next, now)));
    } else if story.summary.state == State::Held {
        let text = format!("until oncemail queue release {}", story.summary.id);
        events.push(event("", "held", Paint::Warning, text));
    }
    // What is held does not expire.
    if let Some(expires) = story.expires_at.as_ref().filter(|_| story.summary.state != State::Held) {
        events.push(event(expires, "expires", Paint::Aside, distance(expires, now)));
    }
    events
}

fn line(event: &Event, paper: Paper, text: &mut String) {
    const WHEN: usize = 19;
    const WHAT: usize = 12;
    const BEFORE: usize = 2 + WHEN + 2 + WHAT + 2;
    let when = escaped(&plain_time(&event.at));
    let room = paper.text_width().saturating_sub(BEFORE);
    for (index, part) in wrapped(&escaped(&event.text), room).into_iter().enumerate() {
        if index == 0 {
            text.push_str(&format!("  {when:<WHEN$}  "));
            paper.paint(text, event.what, event.paint);
            text.extend(std::iter::repeat_n(' ', WHAT.saturating_sub(event.what.len()) + 2));
        } else {
            text.extend(std::iter::repeat_n(' ', BEFORE));
        }
        text.push_str(&part);
        text.push('\n');
    }
}

#[cfg(test)]
#[path = "story_tests.rs"]
pub(super) mod tests;
