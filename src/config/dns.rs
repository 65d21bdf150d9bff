//! `[dns]`: who is asked for names, and whether the answers are validated.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::errors::Problems;
use super::files;
use super::section::Section;
use super::tree::Table;
use crate::dns::Options;

/// RFC 1035 §4.2.
const DNS_PORT: u16 = 53;

/// Reads `[dns]`.
pub(super) fn read(root: &Table, problems: &Problems) -> Options {
    let section = Section::once(root, "dns", problems);
    let default = Options::default();
    let dnssec = section.flag("dnssec", default.dnssec);
    let trust_anchor_file = section.path("trust_anchor_file");
    if trust_anchor_file.is_some() && !dnssec {
        let what = "`trust_anchor_file` without `dnssec`: nothing is validated";
        section.problem("trust_anchor_file", what, "add dnssec = true");
    }
    let options = Options {
        servers: section.parsed_list("servers", server).unwrap_or_default(),
        timeout: section.duration(
            "timeout",
            default.timeout,
            &(Duration::from_millis(100)..=Duration::from_secs(60)),
        ),
        dnssec,
        trust_anchor_file,
        system: default.system,
    };
    let is_readable = |path| section.noted("trust_anchor_file", files::text(path)).is_some();
    if options.trust_anchor_file.as_deref().is_some_and(is_readable)
        && let Err(error) = options.check()
    {
        section.problems.add(section.place("trust_anchor_file"), error);
    }
    options
}

/// An address, with a port where it is not 53. A name would have to be looked up first.
fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, DNS_PORT),
        Err(_) => text.parse().map_err(|_| wanted())?,
    };
    if address.port() == 0 || address.ip().is_unspecified() { Err(wanted()) } else { Ok(address) }
}

fn wanted() -> String {
    "the IP address of a name server: \"192.0.2.53\", \"192.0.2.53:5353\", \"[2001:db8::1]:53\"".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_is_an_address_with_or_without_a_port() {
        for (text, expected) in [
            ("192.0.2.53", "192.0.2.53:53"),
            ("192.0.2.53:5353", "192.0.2.53:5353"),
            ("2001:db8::1", "[2001:db8::1]:53"),
            ("[2001:db8::1]", "[2001:db8::1]:53"),
            ("[2001:db8::1]:5353", "[2001:db8::1]:5353"),
        ] {
            assert_eq!(server(text).map(|address| address.to_string()), Ok(expected.to_owned()));
        }
        for bad in ["", "dns.example", "192.0.2.53:0", "0.0.0.0", "192.0.2.53:x", "[192.0.2", "::1:53x"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
