//! In front of a person: questions that wait for an answer, and a screen that is given back as it was.

use oncemail::admin::model::{Destinations, Messages, Overview};
use rustix::process::{Pid, Signal, kill_process};
use rustix::termios::LocalModes;

use super::orders::willing;
use super::overview;
use crate::common::admin_server::{AdminServer, line, ok};
use crate::common::https_server::Asked;
use crate::common::program::{Setup, oncemail};
use crate::common::pseudo_terminal::PseudoTerminal;

const LEAVE_ALTERNATE_SCREEN: &str = "\u{1b}[?1049l";

fn on_terminal(setup: &Setup, arguments: &[&str]) -> PseudoTerminal {
    let config = setup.config();
    PseudoTerminal::start(oncemail(&[&["--config", &config], arguments].concat()), 80, 24)
}

#[test]
fn an_order_for_many_waits_for_a_yes() {
    for (answer, exit, orders) in [("y\r", 0, 1), ("n\r", 2, 0), ("\r", 2, 0)] {
        let setup = Setup::new();
        let server = AdminServer::start(&setup.data_dir(), willing);
        let mut terminal = on_terminal(&setup, &["queue", "discard", "--to-domain", "example.com"]);
        terminal.wait_for("Discard 1,003 messages? [y/N] ");
        assert_eq!(server.asked().len(), 1, "only the dry run");
        terminal.press(answer);
        assert_eq!(terminal.wait().code(), Some(exit));
        let real = server.asked().iter().filter(|asked| asked.body.contains("\"dry_run\":false")).count();
        assert_eq!(real, orders, "{answer:?}");
    }
}

fn answers(asked: &Asked) -> Vec<u8> {
    match line(asked) {
        line if line.contains("/overview") => ok(&Overview { uptime_seconds: 60, ..overview(true) }),
        line if line.contains("/destinations") => ok(&Destinations::default()),
        _ => ok(&Messages::default()),
    }
}

#[test]
fn top_gives_the_terminal_back_after_a_key_and_after_a_signal() {
    for ends in [None, Some(Signal::TERM), Some(Signal::HUP)] {
        let setup = Setup::new();
        let _server = AdminServer::start(&setup.data_dir(), answers);
        let mut terminal = on_terminal(&setup, &["top"]);
        let before = LocalModes::ICANON | LocalModes::ECHO;
        terminal.wait_for("READY");
        terminal.wait_for("Destinations (0)");
        assert!(!terminal.mode().local_modes.intersects(before), "it is ours");
        match ends {
            None => terminal.press("q"),
            Some(signal) => kill_process(Pid::from_child(terminal.child()), signal).unwrap(),
        }
        assert_eq!(terminal.wait().code(), Some(0));
        let screen = terminal.wait_for(LEAVE_ALTERNATE_SCREEN);
        assert!(terminal.mode().local_modes.contains(before), "{ends:?}");
        assert!(screen.contains("relay.example"));
    }
}

#[test]
fn top_says_on_the_usual_screen_that_there_is_no_server() {
    let setup = Setup::new();
    let mut terminal = on_terminal(&setup, &["top"]);
    let screen = terminal.wait_for("no oncemail is running on");
    assert_eq!(terminal.wait().code(), Some(1));
    assert!(!screen.contains("\u{1b}[?1049h"), "{screen}");
}
