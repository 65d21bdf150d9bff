//! `[[webhook]]` and `[events]`: who is told of what becomes of mail.

use std::net::IpAddr;
use std::time::Duration;

use hyper::Uri;

use super::errors::Problems;
use super::files;
use super::section::Section;
use super::tree::Table;
use crate::queue::{Announcer, EventKind};
use crate::relay::options::{EventFile, Host, Sink, SinkTransport, Webhook};

/// What only an event file needs.
const FILE_KEYS: [&str; 3] = ["file_size", "file_count", "events"];
/// The name of the event file among the sinks.
const FILE: &str = "event-file";
/// Events that may wait, unless the configuration says otherwise.
const QUEUE_LIMIT: usize = 100_000;

/// The parts of a URL that a webhook has.
struct Url {
    tls: bool,
    is_here: bool,
    host: Host,
    path: String,
}

/// Reads both sections: where events go, and who wants which.
pub(super) fn read(root: &Table, problems: &Problems) -> (Vec<Sink>, Announcer) {
    let section = Section::once(root, "events", problems);
    let mut announcer = Announcer::new(section.number("queue_limit", QUEUE_LIMIT, &(1..=10_000_000)));
    let mut sinks: Vec<Sink> = Vec::new();
    for (number, section) in Section::repeated(root, "webhook", problems).iter().enumerate() {
        let name = name(section, number);
        let webhook = webhook(section);
        let kinds = kinds(section);
        let (Some(name), Some(webhook)) = (name, webhook) else { continue };
        if name == FILE || sinks.iter().any(|sink| sink.name == name) {
            let what = format!("there are two webhooks named {name:?}, or it is the event file's name");
            section.problem("name", what, "give each a name of its own");
        } else if announcer.add(&name, &kinds) {
            sinks.push(Sink { name, transport: SinkTransport::Webhook(webhook) });
        }
    }
    if let Some(file) = file(&section)
        && announcer.add(FILE, &kinds(&section))
    {
        sinks.push(Sink { name: FILE.to_owned(), transport: SinkTransport::File(file) });
    }
    (sinks, announcer)
}

/// Its own, or one by its place.
fn name(section: &Section<'_>, number: usize) -> Option<String> {
    if !section.has("name") {
        return Some(format!("webhook-{}", number + 1));
    }
    section.parsed("name", |text| {
        let is_name = Announcer::new(1).add(text, &[]);
        is_name.then(|| text.to_owned()).ok_or_else(|| "1 to 64 letters, digits, - and _".to_owned())
    })
}

fn webhook(section: &Section<'_>) -> Option<Webhook> {
    if !section.has("url") {
        section.problem("url", "a [[webhook]] without `url`", "url = \"https://app.example/mail-events\"");
    }
    if !section.has("secret") && !section.has("secret_file") {
        let hint = "secret_file = \"/run/secrets/webhook\": events are signed with it";
        section.problem("secret", "a [[webhook]] without `secret`", hint);
    }
    let allow_http = section.flag("allow_http", false);
    let url = section.parsed("url", url);
    if let Some(Url { tls: false, is_here: false, .. }) = url
        && !allow_http
    {
        let hint = "https://, or allow_http = true where nobody can listen in";
        section.problem("url", "the events would go over the network in plain text", hint);
    }
    let (secret, ca_file) = (section.secret("secret"), section.path("ca_file"));
    if let Some(Err(error)) = ca_file.as_deref().map(files::certificates) {
        section.problems.add(section.place("ca_file"), format!("`ca_file`: {error}"));
    }
    let second = Duration::from_secs(1);
    let timeout = section.duration("timeout", 10 * second, &(second..=120 * second));
    let Url { tls, host, path, .. } = url?;
    Some(Webhook { tls, host, path, allow_http, secret: secret?, ca_file, timeout })
}

fn url(text: &str) -> Result<Url, String> {
    let wanted = || "an https:// URL, without a user in it".to_owned();
    let url = text.parse::<Uri>().map_err(|_| wanted())?;
    let tls = match url.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wanted()),
    };
    let authority =
        url.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wanted)?;
    let name = authority.host().trim_matches(['[', ']']).to_owned();
    if name.is_empty() || text.contains('#') {
        return Err(wanted());
    }
    let is_here = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let host = Host { name, port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }) };
    let path = url.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Ok(Url { tls, is_here, host, path })
}

/// All of them unless it says which.
fn kinds(section: &Section<'_>) -> Vec<EventKind> {
    if section.list_is_empty("events") {
        section.problem("events", "`events` is empty", "leave it out to be told of all");
    }
    let kind = |text: &str| {
        let names = EventKind::ALL.map(EventKind::as_str).join(", ");
        EventKind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(format!("one of {names}"))
    };
    section.parsed_list("events", kind).unwrap_or_else(|| EventKind::ALL.to_vec())
}

fn file(section: &Section<'_>) -> Option<EventFile> {
    let path = section.path("file");
    for key in FILE_KEYS.iter().filter(|key| section.has(key) && !section.has("file")) {
        let what = format!("`{key}` without `file`");
        section.problem(key, what, "file = \"/var/log/oncemail/events.jsonl\"");
    }
    let megabyte = 1_000_000;
    let size = section.size("file_size", 64 * megabyte, &(megabyte..=1_000_000 * megabyte));
    let count = section.number("file_count", 5, &(1..=1_000));
    let path = path?;
    if path.is_dir() {
        section.problem("file", format!("`file`: {} is a directory", path.display()), "name a file in it");
        return None;
    }
    Some(EventFile { path, size, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_a_host_and_no_user() {
        let parts = |text: &str| url(text).map(|url| (url.tls, url.host.to_string(), url.path, url.is_here));
        let good =
            |tls, host: &str, path: &str, is_here| Ok((tls, host.to_owned(), path.to_owned(), is_here));
        assert_eq!(parts("https://app.example/a?b=c"), good(true, "app.example:443", "/a?b=c", false));
        assert_eq!(parts("http://localhost:8080"), good(false, "localhost:8080", "/", true));
        assert_eq!(parts("https://[2001:db8::1]:8443/x"), good(true, "[2001:db8::1]:8443", "/x", false));
        assert_eq!(parts("http://[::1]/"), good(false, "[::1]:80", "/", true));
        for bad in ["", "app.example", "/x", "ftp://a/", "https://", "https://u:p@a/", "https://a/#part"] {
            assert!(parts(bad).is_err(), "{bad}");
        }
    }
}
