use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::super::feed::News;
use super::*;
use crate::admin::model::{BreakerState, Destinations, Messages, Overview};
use crate::cli::destinations::tests::example;
use crate::cli::story;

fn known() -> Top {
    let mut top = Top::new(true);
    for second in 0..90_u64 {
        let overview = Overview {
            hostname: "relay.example".into(),
            version: "0.1.0".into(),
            uptime_seconds: 190_800 + second,
            ready: false,
            reasons: vec!["route \"provider\": \x1b]0;owned\x07 all breakers are open".into()],
            queued: 1_000 + second * 10,
            held: 3,
            oldest_seconds: 7_200,
            accepted: second * 25,
            delivered: second * 15,
            open_breakers: 1,
            accept_p50_seconds: 0.0008,
            accept_p99_seconds: 0.012,
            ..Overview::default()
        };
        top.hear(News::Overview(Box::new(overview)), Duration::from_secs(second));
    }
    let destinations = vec![
        example("例え.example", BreakerState::Open),
        example("evil\x1b[2J\u{202e}.example", BreakerState::HalfOpen),
        example("", BreakerState::Closed),
    ];
    top.hear(News::Destinations(Destinations { destinations, total: 3 }), Duration::ZERO);
    let mut message = story::tests::example().summary;
    message.last_reply = Some("451 4.7.1 \x1b[31mlater\r\n\u{9b}2J".into());
    top.hear(News::Messages(Messages { messages: vec![message], ..Messages::default() }), Duration::ZERO);
    top
}

fn screen(top: &mut Top, columns: u16, rows: u16) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| draw(frame, top)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let row = |y| (0..columns).map(|x| buffer[(x, y)].symbol().to_owned()).collect::<String>();
    (0..rows).map(row).map(|line: String| line.trim_end().to_owned()).collect()
}

#[test]
fn everything_that_matters_is_on_a_small_terminal() {
    let lines = screen(&mut known(), 80, 24);
    let text = lines.join("\n");
    for expected in [
        "oncemail 0.1.0  relay.example  up 2 days 5 h                           NOT READY",
        "in    25.0/s queued      0.0/s replayed   0.0/s refused  0.8 ms, 99 % 12 ms",
        "queue 1,890, oldest 2h  held 3  events 0  clients 0  conns 0  breakers 1 open",
        "route \"provider\": \\u{1b}]0;owned\\u{7} all breakers are open",
        "Queue depth, 1 min, at most 1,890",
        "▶ Destinations (3)",
        "half open",
        "Newest messages with trouble (1)",
        "q leave",
    ] {
        assert!(text.contains(expected), "{expected}\nis not in\n{text}");
    }
    assert_eq!(lines.len(), 24);
}

#[test]
fn nothing_hostile_reaches_the_screen_at_any_size() {
    let mut top = known();
    for (columns, rows) in [(80, 24), (200, 60), (40, 10), (10, 3), (1, 1), (300, 5), (20, 100)] {
        let text = screen(&mut top, columns, rows).join("\n");
        let is_hostile = |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        assert!(!text.chars().any(is_hostile), "{columns}x{rows}\n{text}");
    }
    let large = screen(&mut top, 200, 60).join("\n");
    assert!(large.contains("421 4.7.0 \\u{1b}[31mtoo many connections\\u{202e}"), "{large}");
    assert!(large.contains("451 4.7.1 \\u{1b}[31mlater\\r\\n\\u{9b}2J"), "{large}");
}

#[test]
fn a_question_a_notice_and_help_are_seen() {
    let mut top = known();
    let press = |top: &mut Top, key| top.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
    press(&mut top, 'r');
    let foot = screen(&mut top, 80, 24).pop().unwrap();
    assert!(foot.starts_with("Reset world 例") && foot.ends_with("y/n"), "{foot}");
    press(&mut top, 'n');
    top.hear(News::Done("world: 1 breaker closed".into()), Duration::ZERO);
    assert_eq!(screen(&mut top, 80, 24).pop().unwrap(), "world: 1 breaker closed");
    press(&mut top, '?');
    let text = screen(&mut top, 80, 24).join("\n");
    assert!(text.contains(" Keys ") && text.contains("pause, and go on"), "{text}");
    press(&mut top, 'q');
    top.hear(News::Trouble("no oncemail is running".into()), Duration::ZERO);
    let text = screen(&mut top, 80, 24).join("\n");
    assert!(text.contains("NO ANSWER") && text.contains("no oncemail is running"), "{text}");
}

#[test]
fn a_long_list_shows_what_is_selected() {
    let mut top = known();
    let destinations: Vec<_> =
        (0..1_000).map(|n| example(&format!("d{n}.example"), BreakerState::Closed)).collect();
    top.hear(News::Destinations(Destinations { destinations, total: 5_000 }), Duration::ZERO);
    top.press(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
    let text = screen(&mut top, 80, 24).join("\n");
    assert!(text.contains("d999.example") && !text.contains("d0.example"), "{text}");
    assert!(text.contains("Destinations (1000 of 5,000)"), "{text}");
}
