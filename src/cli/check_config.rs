//! `oncemail check-config`: every problem, or a short summary of what would run.

use std::fmt::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use super::{load, print};
use crate::config::Config;
use crate::queue::OnFailure;
use crate::relay::options::{Host, Hosts, InDoubt, Preset, Route, Secret, Smtp, TlsPolicy, Transport};
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
    for route in config.relay.routes.iter().filter(|route| has_password_at_microsoft(route)) {
        writeln!(
            text,
            "  note      {}: Microsoft switches passwords off by default at the end of 2026; auth = \"xoauth2\" stays (docs/providers.md)",
            route.name
        )?;
    }
    for key in &config.relay.dkim {
        writeln!(text, "  dkim      {}, selector {}", key.domain, key.selector)?;
    }
    writeln!(text, "  failures  {}", failures_line(config.queue.on_failure))?;
    writeln!(text, "  dns       {}", dns_line(config))?;
    Ok(text)
}

fn has_password_at_microsoft(route: &Route) -> bool {
    let Transport::Smtp(smtp) = &route.transport else { return false };
    let has_password = smtp.auth.as_ref().is_some_and(|auth| matches!(auth.with, Secret::Password(_)));
    smtp.preset == Preset::Microsoft365 && has_password
}

fn failures_line(on_failure: OnFailure) -> &'static str {
    match on_failure {
        OnFailure::Bounce => "the sender gets a bounce",
        OnFailure::Hold => "the message is held",
        OnFailure::Discard => "the message is discarded",
    }
}

fn dns_line(config: &Config) -> String {
    let servers: Vec<_> = config.dns.servers.iter().map(ToString::to_string).collect();
    let servers =
        if servers.is_empty() { "the system's name servers".to_owned() } else { servers.join(", ") };
    let validated = if config.dns.dnssec { "with DNSSEC" } else { "without DNSSEC" };
    format!("{servers}, {validated}")
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
    let mut line = format!("{}: {takes} → {target}", route.name);
    if route.in_doubt == InDoubt::Hold {
        line.push_str(", held when in doubt");
    }
    if let Some(field) = &route.forward_key_as {
        line.push_str(", the key as ");
        line.push_str(field);
    }
    line
}

fn smtp_line(smtp: &Smtp) -> String {
    let tls = match smtp.tls {
        TlsPolicy::Required => "verified STARTTLS",
        TlsPolicy::Opportunistic => "TLS where it can be had",
        TlsPolicy::Dane => "TLS as the hosts' TLSA records ask",
        TlsPolicy::Implicit => "verified implicit TLS",
        TlsPolicy::None => "no TLS",
    };
    let certificate = smtp.client_certificate.as_ref().map(|_| "with a client certificate");
    match &smtp.hosts {
        Hosts::Fixed { hosts, weights } => {
            let mut shares = weights.iter();
            let host = |host: &Host| match shares.next() {
                Some(weight) => format!("{host} ({weight})"),
                None => host.to_string(),
            };
            let hosts = hosts.iter().map(host).collect::<Vec<_>>().join(", ");
            let auth = auth_words(smtp);
            let parts = [Some(tls), certificate, Some(auth.as_str())];
            format!("smarthost {hosts}, {}", joined(parts))
        }
        Hosts::Mx(mx) => {
            let port = (mx.port != 25).then(|| format!("port {}", mx.port));
            let sts = mx.mta_sts.then_some("MTA-STS");
            let private = mx.allow_private.then_some("private addresses too");
            let parts = [port.as_deref(), Some(tls), sts, certificate, private];
            format!("the hosts of the recipient's domain, {}", joined(parts))
        }
    }
}

fn joined<'a>(parts: impl IntoIterator<Item = Option<&'a str>>) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn auth_words(smtp: &Smtp) -> String {
    match &smtp.auth {
        None => "no AUTH".to_owned(),
        Some(auth) => match &auth.with {
            Secret::Password(_) => format!("as {}", auth.username),
            Secret::OAuth2(_) => format!("as {} by OAuth 2", auth.username),
        },
    }
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
