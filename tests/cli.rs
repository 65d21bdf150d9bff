//! The real binary: exit codes, what it prints and where.

use std::io::Write;
use std::process::{Output, Stdio};

use argon2::Argon2;
use argon2::password_hash::PasswordVerifier;
use argon2::password_hash::phc::PasswordHash;
use rustix::process::Signal;

use crate::common::program::{Relay, Setup, oncemail};

fn run(arguments: &[&str]) -> Output {
    oncemail(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn help_shows_examples_and_wrong_usage_is_exit_code_2() {
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(text(&help.stdout).contains("oncemail serve --config config/local.toml"));
    assert_eq!(run(&[]).status.code(), Some(2));
    assert_eq!(run(&["srve"]).status.code(), Some(2));
    assert_eq!(run(&["serve", "--confg", "x"]).status.code(), Some(2));
    assert!(text(&run(&["--version"]).stdout).starts_with("oncemail "));
}

#[test]
fn a_broken_configuration_never_starts_half() {
    for command in ["serve", "check-config"] {
        let output = run(&[command]);
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains("config/local.toml"));
        assert!(output.stdout.is_empty());
        let setup = Setup::new();
        let broken = oncemail(&[command, "--config", &setup.config()])
            .env("ONCEMAIL__LIMITS__RECIPIENTS", "0")
            .env("ONCEMAIL__HOSTNAM", "x")
            .output()
            .unwrap();
        assert_eq!(broken.status.code(), Some(2));
        let problems = text(&broken.stderr);
        assert!(
            problems.contains("did you mean ONCEMAIL__HOSTNAME?") && problems.contains("2 problems"),
            "{problems}"
        );
        assert!(!setup.data_dir().exists());
    }
}

#[test]
fn check_config_says_what_would_run_and_starts_nothing() {
    let setup = Setup::new();
    let output = run(&["check-config", "--config", &setup.config()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let summary = text(&output.stdout);
    assert!(
        summary.contains("in: 127.0.0.1:0, no TLS, no AUTH") && summary.contains("out: everything"),
        "{summary}"
    );
    assert!(!setup.data_dir().exists());
    // A variable that is there but empty is not set.
    let mut empty = oncemail(&["check-config", "--config", &setup.config()]);
    assert!(empty.env("ONCEMAIL_CONFIG", "").output().unwrap().status.success());
    let mut nothing = oncemail(&["check-config"]);
    let output = nothing.env("ONCEMAIL_CONFIG", "").output().unwrap();
    assert!(text(&output.stderr).contains("no configuration is given"), "{}", text(&output.stderr));
    // The same from the variable.
    let output = oncemail(&["check-config"]).env("ONCEMAIL_CONFIG", setup.config()).output().unwrap();
    assert!(output.status.success());
}

#[test]
fn check_config_says_where_each_route_leads_and_how_safely() {
    let check = |route: &str, rest: &[(&str, &str)]| {
        let setup = Setup::with_route(route);
        let mut command = oncemail(&["check-config", "--config", &setup.config()]);
        let output = command.envs(rest.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let two = "transport = \"smarthost\"\nhosts = [\"a.example\", \"b.example:25\"]\nweights = [3, 1]\n\
               in_doubt = \"hold\"\nforward_key_as = \"Resend-Idempotency-Key\"\nusername = \"u\"\npassword = \"hunter2\"";
    let said = check(two, &[("ONCEMAIL__RETRY__ON_FAILURE", "hold")]);
    for expected in [
        "out: everything → smarthost a.example:587 (3), b.example:25 (1), verified STARTTLS, as u, \
         held when in doubt, the key as Resend-Idempotency-Key\n",
        "failures  the message is held\n",
        "dns       the system's name servers, without DNSSEC\n",
    ] {
        assert!(said.contains(expected), "{expected}\nis not in\n{said}");
    }
    assert!(!said.contains("hunter2"));
    let world = "transport = \"mx\"\ntls = \"dane\"\n[dns]\ndnssec = true\nservers = [\"192.0.2.53\"]";
    let said = check(world, &[]);
    for expected in [
        "the hosts of the recipient's domain, TLS as the hosts' TLSA records ask, MTA-STS\n",
        "dns       192.0.2.53:53, with DNSSEC\n",
        "failures  the sender gets a bounce\n",
    ] {
        assert!(said.contains(expected), "{expected}\nis not in\n{said}");
    }
    let microsoft =
        "transport = \"smarthost\"\npreset = \"microsoft365\"\nusername = \"u\"\npassword = \"hunter2\"";
    let said = check(microsoft, &[]);
    assert!(said.contains("smarthost smtp.office365.com:587, verified STARTTLS, as u\n"), "{said}");
    assert!(said.contains("note      out: Microsoft switches passwords off"), "{said}");
    let said = check("transport = \"discard\"", &[("ONCEMAIL__RETRY__ON_FAILURE", "discard")]);
    assert!(said.contains("nowhere: it is discarded") && said.contains("the message is discarded"), "{said}");
}

#[test]
fn check_config_names_the_domains_that_are_signed_for() {
    let setup = Setup::new();
    let key = setup.dir.path().join("s1.pem");
    let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    std::fs::write(&key, pem).unwrap();
    let output = oncemail(&["check-config", "--config", &setup.config()])
        .env("ONCEMAIL__DKIM__0__DOMAIN", "Shop.example")
        .env("ONCEMAIL__DKIM__0__SELECTOR", "s1")
        .env("ONCEMAIL__DKIM__0__KEY_FILE", &key)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("dkim      shop.example, selector s1\n"));
}

#[test]
fn hash_password_reads_a_line_and_prints_a_hash_that_verifies() {
    let mut child = oncemail(&["hash-password"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let line = text(&output.stdout);
    let hash = PasswordHash::new(line.trim_end()).unwrap();
    assert!(Argon2::default().verify_password(b"correct horse", &hash).is_ok());
    assert!(!line.contains("horse"));
    let empty = run(&["hash-password"]);
    assert_eq!(empty.status.code(), Some(1));
    assert!(text(&empty.stderr).contains("the password is empty"));
}

#[test]
fn completions_name_every_subcommand() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        let script = text(&output.stdout);
        assert!(
            ["serve", "check-config", "hash-password", "health"].iter().all(|name| script.contains(name))
        );
    }
    assert_eq!(run(&["completions", "cobol"]).status.code(), Some(2));
}

#[tokio::test]
async fn health_is_exit_code_0_while_the_server_runs_and_1_before_and_after() {
    let setup = Setup::new();
    let health = || run(&["health", "--config", &setup.config()]);
    let before = health();
    assert_eq!(before.status.code(), Some(1));
    assert!(text(&before.stderr).contains("no oncemail is running"), "{}", text(&before.stderr));
    let mut relay = Relay::start(setup.command());
    setup.is_ready().await;
    let during = health();
    assert_eq!((during.status.code(), text(&during.stdout)), (Some(0), "ready\n".to_owned()));
    assert_eq!(relay.stop().await, Some(0));
    assert_eq!(health().status.code(), Some(1));
    // A socket that a killed server left behind does not stop the next one.
    let mut killed = Relay::start(setup.command());
    setup.is_ready().await;
    killed.kill().await;
    let _next = Relay::start(setup.command());
    setup.is_ready().await;
}

#[tokio::test]
async fn serve_prints_nothing_but_json_lines_and_ends_with_0_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let setup = Setup::new();
        let mut relay = Relay::start(setup.command());
        setup.is_ready().await;
        relay.signal(signal);
        assert_eq!(relay.ends().await.code(), Some(0));
        for line in relay.log().await.lines() {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            assert!(
                event["timestamp"].is_string() && event["level"].is_string() && event["message"].is_string()
            );
            assert_eq!(event["level"], "INFO", "nothing is wrong with a start and a stop: {event}");
        }
        assert_eq!(relay.stderr(), "");
    }
}

#[tokio::test]
async fn a_log_that_nobody_reads_any_more_does_not_stop_the_server() {
    let setup = Setup::new();
    let ((reader, stdout), mut command) = (std::io::pipe().unwrap(), setup.command());
    command.stderr(stdout.try_clone().unwrap()).stdout(stdout);
    let mut relay = Relay::start(command);
    drop(reader);
    setup.is_ready().await;
    assert_eq!(relay.stop().await, Some(0));
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_fails_and_the_first_goes_on() {
    let setup = Setup::new();
    let mut first = setup.serve().await;
    let mut second = Relay::start(setup.command());
    assert_eq!(second.ends().await.code(), Some(1));
    assert_eq!(run(&["health", "--config", &setup.config()]).status.code(), Some(0));
    assert_eq!(first.stop().await, Some(0));
}
