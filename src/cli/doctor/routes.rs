//! The way out: each configured host is tried up to AUTH, as a delivery would, and nothing is sent.

use std::path::Path;
use std::sync::Arc;

use bytesize::ByteSize;
use rustix::fs::{Access, access};

use super::certificates::far_end;
use super::impatient;
use super::report::{Check, Status};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::dns::Dns;
use crate::relay::options::{Hosts, Options, Route, Smtp, TlsPolicy, Transport};
use crate::relay::probe::{Probed, Prober, Unusable, Usable};
use crate::smtp::capabilities::Size;

/// The directories of routes; blocks.
pub(super) fn directories(config: &Config) -> Vec<Check> {
    let directory = |route: &Route| match &route.transport {
        Transport::Directory(path) => Some(written(&route.name, path)),
        Transport::Smtp(_) | Transport::Discard => None,
    };
    config.relay.routes.iter().filter_map(directory).collect()
}

fn written(route: &str, path: &Path) -> Check {
    let what = format!("route {route}");
    let name = path.display();
    if !path.exists() {
        return Check::ok(what, format!("{name} is made at the start"));
    }
    match access(path, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if path.is_dir() => Check::ok(what, format!("{name} can be written")),
        Ok(()) => Check::fail(what, format!("{name} is no directory"), "name another path"),
        Err(error) => Check::fail(what, format!("{name}: {error}"), "let this user write there"),
    }
}

/// The hosts of one route.
pub(super) async fn route(config: Arc<Config>, number: usize, dns: Arc<Dns>) -> Vec<Check> {
    let Some(route) = config.relay.routes.get(number) else { return Vec::new() };
    let Transport::Smtp(smtp) = &route.transport else { return Vec::new() };
    let what = format!("route {}", route.name);
    if let Hosts::Mx(_) = &smtp.hosts {
        let finding =
            "its hosts are those of each recipient's domain; `oncemail explain ADDRESS` looks at one";
        return vec![Check::skip(what, finding.to_owned())];
    }
    let options = Options { timeouts: impatient(config.relay.timeouts), ..config.relay.clone() };
    let clock = Clock::system();
    let prober = Prober::new(options, dns, clock.clone());
    let probed = match prober.try_route(route).await {
        Ok(probed) => probed,
        Err(error) => {
            return vec![Check::fail(what, error.to_string(), "correct the route: it cannot start so")];
        }
    };
    let all_fail = probed.iter().all(|probed| probed.end.is_err());
    let size = config.submission.limits.message_size;
    let found = probed.into_iter().flat_map(|Probed { host, end }| {
        let what = format!("{what}, {host}");
        match end {
            Ok(usable) => usable_host(&what, smtp, &usable, size, clock.now()),
            Err(unusable) => vec![unusable_host(what, unusable, smtp, all_fail)],
        }
    });
    found.collect()
}

fn usable_host(what: &str, smtp: &Smtp, usable: &Usable, largest: usize, now: Timestamp) -> Vec<Check> {
    let Usable { address, tls, certificate, authenticated, size } = usable;
    let encryption = if tls.is_empty() { "in clear" } else { tls };
    let mut said = vec![format!("{address}"), encryption.to_owned()];
    let end = certificate.as_ref().and_then(|certificate| far_end(certificate, now));
    said.extend(end.iter().map(|(words, _)| words.clone()));
    if *authenticated {
        said.push("AUTH went well".to_owned());
    }
    if let Size::Limit(limit) = size {
        said.push(format!("messages up to {}", ByteSize::b(*limit).display().si()));
    }
    let mut checks = vec![Check::ok(what, said.join(", "))];
    if tls.is_empty() && smtp.tls != TlsPolicy::None {
        let advice = "ask the provider for TLS, then set tls = \"required\"";
        checks.push(Check::warn(what, "mail and its addresses can be read on the way".to_owned(), advice));
    }
    if end.is_some_and(|(_, is_near)| is_near) && !tls.ends_with("unverified") {
        let advice = "tell whoever runs it: with it ends the delivery";
        checks.push(Check::warn(what, "its certificate ends within a week".to_owned(), advice));
    }
    let largest = u64::try_from(largest).unwrap_or(u64::MAX);
    if let Size::Limit(limit) = size
        && *limit < largest
    {
        let (own, far) = (ByteSize::b(largest).display().si(), ByteSize::b(*limit).display().si());
        let finding = format!("limits.message_size is {own}, and it takes {far}: larger messages bounce");
        checks.push(Check::warn(what, finding, "lower limits.message_size, so that the client is told"));
    }
    checks
}

fn unusable_host(what: String, unusable: Unusable, smtp: &Smtp, all_fail: bool) -> Check {
    match unusable {
        Unusable::Spared => Check::skip(what, "not tried: the password was refused before".to_owned()),
        Unusable::Trouble { text, is_about_password: true } => {
            Check::fail(what, text, "correct username, password or auth of the route")
        }
        Unusable::Trouble { text, .. } => {
            let advice = advice(&text, smtp);
            // Where another host takes the mail, it goes on.
            let status = if all_fail { Status::Fail } else { Status::Warn };
            Check { status, ..Check::fail(what, text, advice) }
        }
    }
}

/// What to do about a failure, by the step that it names first.
fn advice(text: &str, smtp: &Smtp) -> &'static str {
    let step = text.split(':').next().unwrap_or_default();
    if step.starts_with("connecting") {
        "see whether host and port are right, and whether a firewall or the provider blocks the port"
    } else if step == "STARTTLS" {
        "if the port speaks TLS from the first byte (465), set tls = \"implicit\""
    } else if step.starts_with("TLS") && smtp.ca_file.is_some() {
        "see whether the host's name is the certificate's, and ca_file its authority"
    } else if step.starts_with("TLS") {
        "see whether the host's name is the certificate's; an authority of your own is named by ca_file"
    } else if step.starts_with("AUTH") {
        "set auth of the route to what the far side offers"
    } else if step == "greeting" {
        "see whether the port speaks SMTP, and whether tls = \"implicit\" fits it (465) or not (587)"
    } else {
        "ask whoever runs it, with these words"
    }
}
