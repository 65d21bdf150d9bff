//! `[[listener]]` and `[tls]`.
//!
//! What would let strangers send, or passwords travel in plain text, is an error here, not a warning.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use super::{files, recipients};
use crate::submission::options::{AuthMode, Limits, Listener, Options, Tls, TlsMode, User};

/// Whoever may send without AUTH must be on this machine, unless the configuration names networks.
const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
const EVERYBODY: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// How the names of listeners begin that are none: [`Origin::EVENTS`](crate::mail::Origin::EVENTS).
const OWN_NAMES: &str = "oncemail:";

/// Reads what concerns submission.
pub(super) fn submission(
    root: &Table,
    problems: &Problems,
    hostname: String,
    users: Vec<User>,
    limits: Limits,
) -> Options {
    let tls = Section::once(root, "tls", problems);
    // Users that are there but wrong have been noted already.
    let has_users = root.contains("user");
    let sections = Section::repeated(root, "listener", problems);
    if sections.is_empty() && !root.contains("listener") {
        let hint = "[[listener]] with name = \"submission\", address = \"127.0.0.1:2525\", tls = \"none\", \
                    auth = \"none\"";
        problems.hint(&root.place, "there is no [[listener]]", hint);
    }
    let mut listeners = Vec::new();
    for section in &sections {
        if let Some(listener) = listener(section, tls.is_present(), has_users) {
            listeners.push((section, listener));
        }
    }
    refuse_twins(&listeners);
    let listeners = listeners.into_iter().map(|(_, listener)| listener).collect();
    Options {
        hostname,
        listeners,
        tls: read_tls(&tls),
        users,
        limits,
        verify: recipients::verify(root, problems),
    }
}

fn refuse_twins(listeners: &[(&Section<'_>, Listener)]) {
    let mut names = HashMap::new();
    let mut addresses = HashMap::new();
    for (section, listener) in listeners {
        if let Some(first) = names.insert(&listener.name, section.place("name")) {
            let what = format!("there are two listeners named {:?}", listener.name);
            section.problem("name", what, format!("the first is at {first}"));
        }
        let is_chosen = listener.address.port() != 0;
        if let Some(first) =
            addresses.insert(listener.address, section.place("address")).filter(|_| is_chosen)
        {
            let what = format!("two listeners at {}", listener.address);
            section.problem("address", what, format!("the first is at {first}"));
        }
    }
}

fn listener(section: &Section<'_>, has_tls: bool, has_users: bool) -> Option<Listener> {
    let name = section.name("name");
    if !section.has("name") {
        section.problem("name", "a [[listener]] without `name`", "name = \"submission\"");
    }
    if name.as_deref().is_some_and(|name| name.starts_with(OWN_NAMES)) {
        let what = format!("`name` begins with {OWN_NAMES:?}");
        section.problem("name", what, "such names are for what oncemail makes itself");
    }
    let address = section.parsed("address", address);
    if !section.has("address") {
        section.problem("address", "a [[listener]] without `address`", "address = \"0.0.0.0:587\"");
    }
    let tls = section.choice(
        "tls",
        TlsMode::StartTls,
        &[("none", TlsMode::None), ("starttls", TlsMode::StartTls), ("implicit", TlsMode::Implicit)],
    );
    let auth = section.choice(
        "auth",
        AuthMode::Required,
        &[("required", AuthMode::Required), ("optional", AuthMode::Optional), ("none", AuthMode::None)],
    );
    let allow = section.parsed_list("allow", network);
    let trusted_proxies = trusted_proxies(section);
    if tls != TlsMode::None && !has_tls {
        let hint = "add [tls] with `certificate_file` and `key_file`, or say tls = \"none\"";
        section.problem("tls", "this listener offers TLS, but there is no [tls]", hint);
    }
    if auth != AuthMode::None && !has_users {
        let hint = "add a [[user]], or say auth = \"none\" and name the client networks in `allow`";
        section.problem("auth", "this listener offers AUTH, but there is no [[user]]", hint);
    }
    let listener = Listener {
        name: name?,
        address: address?,
        tls,
        auth,
        allow: allow.unwrap_or_else(|| default_networks(auth)),
        trusted_proxies,
    };
    refuse_risks(section, &listener);
    Some(listener)
}

fn refuse_risks(section: &Section<'_>, listener: &Listener) {
    if section.has("allow") && listener.allow.is_empty() {
        section.problem("allow", "`allow` lets nobody in", "leave it out for the default");
    }
    let is_behind_proxies = !listener.trusted_proxies.is_empty();
    if is_behind_proxies && listener.auth != AuthMode::Required && !section.has("allow") {
        let hint = "name the client networks: allow = [\"10.0.0.0/8\"]";
        let what =
            "clients behind a proxy are not on this machine, and this listener takes mail without AUTH";
        section.problem("allow", what, hint);
    }
    // A proxy on this machine lets in whoever reaches the proxy.
    if listener.address.ip().is_loopback() && !is_behind_proxies {
        return;
    }
    if listener.auth != AuthMode::None && listener.tls == TlsMode::None {
        let hint = match is_behind_proxies {
            true => {
                "say tls = \"starttls\" or \"implicit\", and let the proxy pass the octets on as they are"
            }
            false => "say tls = \"starttls\" or \"implicit\", or listen on 127.0.0.1 only",
        };
        section.problem("auth", "AUTH without TLS would send passwords over the network in plain text", hint);
    }
    if listener.auth != AuthMode::Required && listener.allow.iter().any(|net| net.prefix_len() == 0) {
        let hint = "say auth = \"required\", or name your own networks: allow = [\"10.0.0.0/8\"]";
        section.problem(
            "allow",
            "everybody could send through this listener without AUTH: an open relay",
            hint,
        );
    }
}

/// `proxy_protocol` and `trusted_proxies`: one is nothing without the other.
fn trusted_proxies(section: &Section<'_>) -> Vec<IpNet> {
    let is_on = section.flag("proxy_protocol", false);
    let networks = section.parsed_list("trusted_proxies", network);
    // Networks that are there but wrong have been noted already.
    let names_none = match section.has("trusted_proxies") {
        true => networks.as_ref().is_some_and(Vec::is_empty),
        false => true,
    };
    if is_on && names_none {
        let hint = "name the load balancers: trusted_proxies = [\"192.0.2.16/28\"]";
        let what = "`proxy_protocol` without `trusted_proxies`: nobody is believed who the client is";
        section.problem("proxy_protocol", what, hint);
    }
    if !is_on && !names_none {
        let hint = "add proxy_protocol = true, or leave `trusted_proxies` out";
        section.problem("trusted_proxies", "`trusted_proxies` without `proxy_protocol`", hint);
    }
    let networks = networks.filter(|_| is_on).unwrap_or_default();
    if networks.iter().any(|network| network.prefix_len() == 0) {
        let hint = "name the load balancers only";
        section.problem("trusted_proxies", "everybody could say to be anybody", hint);
    }
    networks
}

fn default_networks(auth: AuthMode) -> Vec<IpNet> {
    let networks = if auth == AuthMode::Required { EVERYBODY } else { LOOPBACK };
    networks.iter().filter_map(|text| text.parse().ok()).collect()
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an IP address with a port: \"0.0.0.0:587\", \"[::]:587\", \"127.0.0.1:2525\"".to_owned()
    })
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| "a network or an address: \"10.0.0.0/8\", \"2001:db8::/32\", \"192.0.2.7\"".to_owned())
}

/// Reads `[tls]` and looks into its files, so that a wrong one is told now and not at the first handshake.
fn read_tls(section: &Section<'_>) -> Option<Tls> {
    if !section.is_present() {
        return None;
    }
    for key in ["certificate_file", "key_file"] {
        if !section.has(key) {
            section.problem(key, format!("[tls] without `{key}`"), "it needs both, as PEM files");
        }
    }
    let only_tls13 = section.choice("min_version", false, &[("1.2", false), ("1.3", true)]);
    let certificate_file = section.path("certificate_file");
    let key_file = section.path("key_file");
    let certificates = certificate_file
        .as_deref()
        .and_then(|path| section.noted("certificate_file", files::certificates(path)));
    let key = key_file.as_deref().and_then(|path| section.noted("key_file", files::private_key(path)));
    if let (Some(certificates), Some(key)) = (certificates, key) {
        section.noted("key_file", files::belong_together(certificates, key));
    }
    Some(Tls { certificate_file: certificate_file?, key_file: key_file?, only_tls13 })
}
