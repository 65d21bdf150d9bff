//! `oncemail check-config`: every problem, or a short summary of what would run.

use std::fmt::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{load, print};
use crate::config::Config;
use crate::relay::options::{Hosts, Route, Smtp, TlsPolicy, Transport};
use crate::submission::options::{AuthMode, Listener, TlsMode};

/// Loads the configuration and says what it amounts to.
pub(super) fn run(path: Option<&Path>) -> ExitCode {
    match load(path) {
        Ok(config) => print(&summary(&config).unwrap_or_default()),
        Err(exit) => exit,
    }
}

fn summary(config: &Config) -> Result<String, fmt::Error> {
    let mut text = String::from("The configuration is good.\n");
    writeln!(text, "  hostname  {}", config.submission.hostname)?;
    writeln!(text, "  data_dir  {}", config.data_dir.display())?;
    for listener in &config.submission.listeners {
        writeln!(text, "  listener  {}", listener_line(listener))?;
    }
    writeln!(text, "  users     {}", config.submission.users.len())?;
    for route in &config.relay.routes {
        writeln!(text, "  route     {}", route_line(route))?;
    }
    let has_catch_all = config.relay.routes.iter().any(|route| selectors(route).is_empty());
    if !has_catch_all {
        writeln!(
            text,
            "  note      no route takes everything: mail that none of them matches has nowhere to go"
        )?;
    }
    Ok(text)
}

fn listener_line(listener: &Listener) -> String {
    let tls = match listener.tls {
        TlsMode::None => "no TLS",
        TlsMode::StartTls => "STARTTLS",
        TlsMode::Implicit => "implicit TLS",
    };
    let auth = match listener.auth {
        AuthMode::Required => "AUTH required",
        AuthMode::Optional => "AUTH optional",
        AuthMode::None => "no AUTH",
    };
    let allow = listener.allow.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    format!("{}: {}, {tls}, {auth}, clients from {allow}", listener.name, listener.address)
}

fn route_line(route: &Route) -> String {
    let target = match &route.transport {
        Transport::Directory(path) => format!("one .eml file a message into {}", path.display()),
        Transport::Discard => "nowhere: it is discarded".to_owned(),
        Transport::Smtp(smtp) => smtp_line(smtp),
    };
    let selectors = selectors(route);
    let takes = if selectors.is_empty() { "everything".to_owned() } else { selectors.join(" and ") };
    format!("{}: {takes} → {target}", route.name)
}

fn smtp_line(smtp: &Smtp) -> String {
    let hosts = match &smtp.hosts {
        Hosts::Fixed { hosts, .. } => {
            let hosts = hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("smarthost {hosts}")
        }
        Hosts::Mx(_) => "the hosts of the recipient's domain".to_owned(),
    };
    let tls = match smtp.tls {
        TlsPolicy::Required => "verified STARTTLS",
        TlsPolicy::Opportunistic => "TLS where it can be had",
        TlsPolicy::Dane => "TLS as the hosts' TLSA records ask",
        TlsPolicy::Implicit => "verified implicit TLS",
        TlsPolicy::None => "no TLS",
    };
    let auth = smtp.auth.as_ref().map_or("no AUTH".to_owned(), |auth| format!("as {}", auth.username));
    format!("{hosts}, {tls}, {auth}")
}

/// The conditions of a route, in words.
fn selectors(route: &Route) -> Vec<String> {
    let matches = &route.matches;
    [
        ("to", &matches.recipient_domains),
        ("from", &matches.sender_domains),
        ("user", &matches.users),
        ("listener", &matches.listeners),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(what, values)| format!("{what} {}", values.join(", ")))
    .collect()
}
