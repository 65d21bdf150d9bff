//! What a `[[route]]` over SMTP says: hosts, TLS, connections. Credentials are read in `credentials.rs`.
//!
//! A combination that cannot mean what whoever wrote it thinks (DANE without DNSSEC, a CA that nobody asks, our own
//! listener as the next hop) is an error here, not a surprise at the first message.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::presets::{self, Known};
use super::routes::Around;
use super::section::Section;
use super::{credentials, files, units};
use crate::dns::Family;
use crate::relay::options::{ClientCertificate, Host, Hosts, Mx, Preset, Smtp, TlsPolicy};

/// SMTP between hosts (RFC 5321 §4.5.4.2).
const SMTP_PORT: u16 = 25;
/// Submission (RFC 6409 §3.1), and submission over implicit TLS (RFC 8314 §3.3).
const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;
/// Where MTA-STS policies are (RFC 8461 §3.3).
const HTTPS_PORT: u16 = 443;
/// A share that is a thousand times another one is as good as none.
const MAX_WEIGHT: u32 = 1_000;

/// A route to hosts that it names, or that its preset knows.
pub(super) fn smarthost(section: &Section<'_>, around: &Around<'_>) -> Option<Smtp> {
    let preset = section.choice("preset", Preset::None, &presets::CHOICES);
    let known = presets::known(preset);
    let choices = [
        ("required", TlsPolicy::Required),
        ("opportunistic", TlsPolicy::Opportunistic),
        ("dane", TlsPolicy::Dane),
        ("implicit", TlsPolicy::Implicit),
        ("none", TlsPolicy::None),
    ];
    let tls = section.choice("tls", TlsPolicy::Required, &choices);
    let hosts = hosts(section, tls, &known, preset);
    let weights = weights(section, hosts.len());
    refuse_ourselves(section, &hosts, around);
    if tls == TlsPolicy::Dane {
        need_dnssec(section, around);
        if let Some(host) = hosts.iter().find(|host| host.name.parse::<IpAddr>().is_ok()) {
            let what = format!("tls = \"dane\" needs a name to look up, and {host} is an address");
            section.problem("tls", what, "name the host, or say tls = \"required\"");
        }
    }
    if matches!(tls, TlsPolicy::Opportunistic | TlsPolicy::Dane | TlsPolicy::None) {
        refuse_ca(section, tls);
    }
    let auth = credentials::auth(section, tls, &hosts, &known);
    let common = common(section, Hosts::Fixed { hosts, weights }, tls, &known);
    let is_usable = matches!(&common.hosts, Hosts::Fixed { hosts, .. } if !hosts.is_empty());
    is_usable.then_some(Smtp { auth, preset, ..common })
}

/// A route to the hosts of the recipient's domain.
pub(super) fn mx(section: &Section<'_>, around: &Around<'_>) -> Option<Smtp> {
    let choices = [
        ("opportunistic", TlsPolicy::Opportunistic),
        ("dane", TlsPolicy::Dane),
        ("required", TlsPolicy::Required),
        ("none", TlsPolicy::None),
    ];
    let tls = if section.says("tls", "implicit") {
        let hint = "it can be \"opportunistic\", \"dane\", \"required\", \"none\"";
        section.problem("tls", "the hosts of a domain speak STARTTLS, not implicit TLS", hint);
        TlsPolicy::Opportunistic
    } else {
        section.choice("tls", TlsPolicy::Opportunistic, &choices)
    };
    if tls == TlsPolicy::Dane {
        need_dnssec(section, around);
    }
    let mta_sts = section.flag("mta_sts", tls != TlsPolicy::None);
    if tls == TlsPolicy::None {
        refuse_ca(section, tls);
        if mta_sts {
            section.problem(
                "mta_sts",
                "`mta_sts` asks for TLS, and tls = \"none\" forbids it",
                "leave one of them out",
            );
        }
    }
    let families = [("any", Family::Any), ("ipv4", Family::V4), ("ipv6", Family::V6)];
    let family = section.choice("address_family", Family::Any, &families);
    let hosts = Hosts::Mx(Mx {
        port: section.number("port", SMTP_PORT, &(1..=u16::MAX)),
        allow_private: section.flag("allow_private_addresses", false),
        mta_sts,
        mta_sts_port: HTTPS_PORT,
        family,
    });
    let smtp = common(section, hosts, tls, &Known::default());
    refuse_useless_sources(section, &smtp.source_addresses, family);
    Some(smtp)
}

/// Nothing would ever be sent from an address of the other family.
fn refuse_useless_sources(section: &Section<'_>, sources: &[IpAddr], family: Family) {
    let is_useless = |source: &&IpAddr| match family {
        Family::Any => false,
        Family::V4 => source.is_ipv6(),
        Family::V6 => source.is_ipv4(),
    };
    if let Some(source) = sources.iter().find(is_useless) {
        let what = format!("{source} is of the family that `address_family` excludes");
        section.problem("source_addresses", what, "leave one of them out");
    }
}

/// What both have.
fn common(section: &Section<'_>, hosts: Hosts, tls: TlsPolicy, known: &Known) -> Smtp {
    let default = Smtp::new(hosts);
    let ca_file = section.path("ca_file");
    if let Some(Err(error)) = ca_file.as_deref().map(files::certificates) {
        section.problems.add(section.place("ca_file"), format!("`ca_file`: {error}"));
    }
    let second = Duration::from_secs(1);
    let day = Duration::from_secs(86_400);
    Smtp {
        tls,
        ca_file,
        client_certificate: client_certificate(section, tls),
        connections: usize::from(section.number(
            "connections",
            known.connections.unwrap_or(20),
            &(1..=10_000),
        )),
        messages_per_connection: section.number(
            "messages_per_connection",
            default.messages_per_connection,
            &(1..=1_000_000),
        ),
        idle_timeout: section.duration("idle_timeout", default.idle_timeout, &(second..=3_600 * second)),
        connection_lifetime: section.duration(
            "connection_lifetime",
            default.connection_lifetime,
            &(second..=day),
        ),
        rate: section.rate("rate").or(known.rate),
        recipients_per_transaction: usize::from(section.number(
            "recipients_per_transaction",
            known.recipients.unwrap_or(100),
            &(1..=10_000),
        )),
        source_addresses: source_addresses(section),
        ..default
    }
}

fn hosts(section: &Section<'_>, tls: TlsPolicy, known: &Known, preset: Preset) -> Vec<Host> {
    let port = if tls == TlsPolicy::Implicit { SUBMISSIONS_PORT } else { SUBMISSION_PORT };
    if let (false, Some(host)) = (section.has("hosts"), known.host) {
        return units::host(host, port).into_iter().collect();
    }
    let hosts = section.parsed_list("hosts", |text| units::host(text, port)).unwrap_or_default();
    if section.list_is_empty("hosts") || !section.has("hosts") {
        let hint = match preset {
            Preset::Ses => "the endpoint of your region: hosts = [\"email-smtp.eu-central-1.amazonaws.com\"]",
            _ => "hosts = [\"smtp.example.com:587\"]",
        };
        section.problem("hosts", "a route with transport = \"smarthost\" without `hosts`", hint);
    }
    hosts
}

/// One share per host, or none.
fn weights(section: &Section<'_>, hosts: usize) -> Vec<u32> {
    let Some(weights) = section.numbers("weights", &(1..=MAX_WEIGHT)) else { return Vec::new() };
    // No host at all has been noted already.
    if weights.len() != hosts && hosts > 0 {
        let what = format!("`weights` has {}, and `hosts` has {hosts}", weights.len());
        section.problem("weights", what, "one number for each host, in the order of `hosts`");
    }
    weights
}

/// What we send to ourselves comes back to be sent to ourselves (RFC 5321 §6.3).
fn refuse_ourselves(section: &Section<'_>, hosts: &[Host], around: &Around<'_>) {
    for host in hosts {
        let mut listeners = around.submission.listeners.iter();
        if let Some(listener) = listeners.find(|listener| leads_to(host, listener.address)) {
            let what =
                format!("{host} is our own listener {:?}: mail would go round in a loop", listener.name);
            section.problem("hosts", what, "name the host that mail goes to next");
        }
    }
}

/// Whether a connection to `host` ends at `own`, as far as that can be told without asking the DNS.
fn leads_to(host: &Host, own: SocketAddr) -> bool {
    let here = own.ip().to_canonical();
    let is_own = match host.name.parse::<IpAddr>().map(|there| there.to_canonical()) {
        Ok(there) => {
            there == here
                || (here.is_unspecified() && (there.is_loopback() || there.is_unspecified()))
                || (here.is_loopback() && there.is_unspecified())
        }
        Err(_) => is_loopback(host) && (here.is_loopback() || here.is_unspecified()),
    };
    is_own && host.port == own.port()
}

/// Whether a host is this machine, whatever else is done to its name.
pub(super) fn is_loopback(host: &Host) -> bool {
    host.name == "localhost" || host.name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn need_dnssec(section: &Section<'_>, around: &Around<'_>) {
    if !around.dnssec {
        let hint = "add [dns] with dnssec = true, and name servers that pass DNSSEC on";
        section.problem("tls", "tls = \"dane\" trusts the DNS, and `dns.dnssec` is off", hint);
    }
}

fn refuse_ca(section: &Section<'_>, tls: TlsPolicy) {
    if section.has("ca_file") {
        let why = match tls {
            TlsPolicy::None => "there is no certificate",
            TlsPolicy::Dane => "the hosts' TLSA records say what to trust",
            _ => "no certificate is verified",
        };
        let what = format!("`ca_file` has nothing to do with this `tls`: {why}");
        section.problem("ca_file", what, "leave it out, or say tls = \"required\"");
    }
}

/// Both files, of which the key must be the certificate's.
fn client_certificate(section: &Section<'_>, tls: TlsPolicy) -> Option<ClientCertificate> {
    let (certificate_key, key_key) = ("client_certificate_file", "client_key_file");
    for (one, other) in [(certificate_key, key_key), (key_key, certificate_key)] {
        if section.has(one) && !section.has(other) {
            section.problem(one, format!("`{one}` without `{other}`"), "it needs both, as PEM files");
        }
    }
    if tls == TlsPolicy::None && section.has(certificate_key) {
        let what = "a client certificate without TLS is never shown";
        section.problem(certificate_key, what, "leave it out, or say tls = \"required\"");
    }
    let certificate_file: Option<PathBuf> = section.path(certificate_key);
    let key_file = section.path(key_key);
    let certificates = certificate_file
        .as_deref()
        .and_then(|path| section.noted(certificate_key, files::certificates(path)));
    let key = key_file.as_deref().and_then(|path| section.noted(key_key, files::private_key(path)));
    if let (Some(certificates), Some(key)) = (certificates, key) {
        section.noted(key_key, files::belong_together(certificates, key));
    }
    Some(ClientCertificate { certificate_file: certificate_file?, key_file: key_file? })
}

fn source_addresses(section: &Section<'_>) -> Vec<IpAddr> {
    let address = |text: &str| {
        let address = text
            .parse::<IpAddr>()
            .ok()
            .filter(|address| !address.is_unspecified() && !address.is_multicast());
        address.ok_or_else(|| "an IP address of this machine: \"192.0.2.7\", \"2001:db8::7\"".to_owned())
    };
    section.parsed_list("source_addresses", address).unwrap_or_default()
}
