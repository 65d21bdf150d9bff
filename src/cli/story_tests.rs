use super::*;
use crate::admin::model::{Kind, Replay};

/// A message with a bit of everything.
pub(in crate::cli) fn example() -> Story {
    let some = |text: &str| Some(text.to_owned());
    let reply = |at: &str, route: &str, code, text: &str, times| Reply {
        at: at.into(),
        times,
        route: route.into(),
        host: if route.is_empty() { String::new() } else { "mx1.example.org:25".into() },
        code,
        text: text.into(),
        tls: if route.is_empty() { String::new() } else { "TLSv1.3 dane".into() },
    };
    Story {
        summary: Summary {
            id: "01KAQ3V8ZK5T9M2W7X4N6R1C0D".into(),
            state: State::Queued,
            kind: Kind::Mail,
            accepted_at: "2026-11-22T08:30:00Z".into(),
            age_seconds: 7_200,
            from: "shop@shop.example".into(),
            to: vec!["a@example.org".into(), "b@example.net".into()],
            recipients: 2,
            user: some("shop"),
            listener: some("submission"),
            key: some("order-123"),
            route: some("world"),
            size: 12_345,
            attempts: 3,
            next_attempt: some("2026-11-22T10:35:00Z"),
            last_reply: some("451 4.7.1 try again later"),
        },
        message_id: "<123@shop.example>".into(),
        subject: some("Your order\x1b]0;owned\x07"),
        client: some("10.0.0.5"),
        key_scope: some("shop"),
        traceparent: None,
        priority: 0,
        release_at: None,
        expires_at: some("2026-11-25T08:30:00Z"),
        finished_at: None,
        warned: true,
        recipient_stories: vec![
            RecipientStory {
                address: "a@example.org".into(),
                state: State::Queued,
                hold_cause: None,
                attempts: 3,
                route: some("world"),
                replies: vec![
                    reply("2026-11-22T08:50:00Z", "world", 451, "4.7.1 try again later, \u{202e}or not", 2),
                    reply("2026-11-22T09:10:00Z", "", 0, "held by anna: wrong prices", 1),
                    reply("2026-11-22T09:20:00Z", "", 0, "released by anna", 1),
                    reply("2026-11-22T10:05:00Z", "world", 0, "no whole reply to MAIL within 300 s", 1),
                ],
            },
            RecipientStory {
                address: "b@example.net".into(),
                state: State::Delivered,
                hold_cause: None,
                attempts: 1,
                route: None,
                replies: vec![reply("2026-11-22T08:30:01Z", "world", 250, "2.0.0 queued as 4711", 1)],
            },
        ],
        replays: vec![Replay { at: "2026-11-22T08:30:20Z".into(), client: some("10.0.0.5") }],
        replay_count: 3,
    }
}

#[test]
fn a_story_is_told_in_the_order_in_which_it_happened() {
    let now = words::time("2026-11-22T10:30:00Z").unwrap();
    let expected = "\
01KAQ3V8ZK5T9M2W7X4N6R1C0D  queued, accepted 2 h ago, 3 attempts, next in 5 min
  Kind          mail
  From          shop@shop.example
  Message-ID    <123@shop.example>
  Subject       Your order\\u{1b}]0;owned\\u{7}
  Submitted     by shop, from 10.0.0.5, through submission
  Key           order-123 (scope shop)
  Size          12.3 kB
  Route         world
  Replays       3 times
  Expires       in 2 days 22 h
  Warned        the sender was told that it takes long
  To            a@example.org: queued, 3 attempts, route world
                b@example.net: delivered, 1 attempt

Time line (UTC)
  2026-11-22 08:30:00  accepted      by shop, from 10.0.0.5, through submission
  2026-11-22 08:30:01  delivered     b@example.net: 250 2.0.0 queued as 4711
                                     [mx1.example.org:25, route world, TLSv1.3
                                     dane]
  2026-11-22 08:30:20  replayed      2 earlier replays before the ones that
                                     follow
  2026-11-22 08:30:20  replayed      a retry from 10.0.0.5 got this id again;
                                     nothing was sent twice
  2026-11-22 08:50:00  deferred      a@example.org: 451 4.7.1 try again later,
                                     \\u{202e}or not [mx1.example.org:25, route
                                     world, TLSv1.3 dane, 2 times in a row]
  2026-11-22 09:10:00  operator      a@example.org: held by anna: wrong prices
  2026-11-22 09:20:00  operator      a@example.org: released by anna
  2026-11-22 10:05:00  trouble       a@example.org: no whole reply to MAIL
                                     within 300 s [mx1.example.org:25, route
                                     world, TLSv1.3 dane]
  2026-11-22 10:35:00  next attempt  in 5 min
  2026-11-25 08:30:00  expires       in 2 days 22 h
";
    let story = told(&example(), now, Paper { width: Some(80), colours: false });
    assert_eq!(story, expected);
    assert!(story.lines().all(|line| width(line) <= 80));
}

#[test]
fn the_end_of_a_story_says_what_comes_next() {
    let now = words::time("2026-11-22T10:30:00Z").unwrap();
    let paper = Paper { width: Some(100), colours: false };
    let mut held = example();
    held.summary.state = State::Held;
    held.summary.next_attempt = None;
    held.recipient_stories[0].state = State::Held;
    held.recipient_stories[0].hold_cause = Some("in_doubt".into());
    let text = told(&held, now, paper);
    assert!(text.contains("oncemail queue release 01KAQ3V8ZK5T9M2W7X4N6R1C0D"), "{text}");
    assert!(text.contains("held (in doubt: it may have been delivered), 3 attempts"), "{text}");
    let mut over = example();
    over.summary.state = State::Delivered;
    over.finished_at = Some("2026-11-22T10:10:00Z".into());
    let text = told(&over, now, paper);
    assert!(text.ends_with("  2026-11-22 10:10:00  finished      delivered\n"), "{text}");
    assert!(!text.contains("expires") && !text.contains("Expires"), "{text}");
}

#[test]
fn a_story_with_very_many_recipients_stays_readable() {
    let mut story = example();
    story.recipient_stories = vec![story.recipient_stories[1].clone(); 1_000];
    let now = words::time("2026-11-22T10:30:00Z").unwrap();
    let text = told(&story, now, Paper { width: None, colours: false });
    assert!(text.contains("… and 900 more"));
}

#[test]
fn a_storm_of_replays_does_not_hide_the_story_and_the_end_stands_where_it_was() {
    let mut story = example();
    story.finished_at = Some("2026-11-22T10:10:00Z".into());
    let late = Replay { at: "2026-11-22T10:20:00Z".into(), client: None };
    story.replays = vec![late; 100];
    story.replay_count = 1_199;
    let now = words::time("2026-11-22T10:30:00Z").unwrap();
    let text = told(&story, now, Paper { width: None, colours: false });
    assert_eq!(text.matches("  replayed ").count(), REPLAYS + 1, "{text}");
    assert!(text.contains("1,189 earlier replays before the ones that follow"), "{text}");
    assert!(text.find("  finished ") < text.find("  replayed "), "{text}");
}
