//! `proxy_protocol` and `trusted_proxies`: what would make somebody else of a client is refused.

use super::{Files, HASH, ROUTE, one_problem};

fn listener(address: &str, rest: &str) -> String {
    let user = format!("[[user]]\nname = \"u\"\npassword_hash = \"{HASH}\"\n");
    format!("[[listener]]\nname = \"in\"\naddress = \"{address}\"\n{rest}{user}{ROUTE}")
}

const PROXIED: &str = "proxy_protocol = true\ntrusted_proxies = [\"192.0.2.0/28\"]\n";

#[test]
fn proxy_protocol_and_trusted_proxies_go_together() {
    let open = "tls = \"none\"\nauth = \"none\"\nallow = [\"10.0.0.0/8\"]\n";
    let config = Files::new().load(&listener("0.0.0.0:25", &format!("{open}{PROXIED}")), &[]).unwrap();
    assert_eq!(config.submission.listeners[0].trusted_proxies[0].to_string(), "192.0.2.0/28");
    let without = |rest: &str| listener("0.0.0.0:25", &format!("{open}{rest}"));
    one_problem(
        &without("proxy_protocol = true\n"),
        7,
        &["without `trusted_proxies`", "name the load balancers"],
    );
    one_problem(&without("proxy_protocol = true\ntrusted_proxies = []\n"), 7, &["without `trusted_proxies`"]);
    one_problem(&without("trusted_proxies = [\"192.0.2.1\"]\n"), 7, &["without `proxy_protocol`"]);
    one_problem(
        &without("proxy_protocol = false\ntrusted_proxies = [\"192.0.2.1\"]\n"),
        8,
        &["without `proxy_protocol`"],
    );
    one_problem(
        &without("proxy_protocol = true\ntrusted_proxies = [\"::/0\"]\n"),
        8,
        &["everybody could say to be anybody"],
    );
}

#[test]
fn a_listener_on_loopback_behind_a_proxy_is_not_loopbacks_alone() {
    let here = |rest: &str| listener("127.0.0.1:2525", &format!("{rest}{PROXIED}"));
    one_problem(&here("tls = \"none\"\n"), 1, &["in plain text", "pass the octets on"]);
    one_problem(&here("tls = \"none\"\nauth = \"none\"\n"), 1, &["not on this machine", "allow = "]);
    one_problem(&here("tls = \"none\"\nauth = \"none\"\nallow = [\"0.0.0.0/0\"]\n"), 6, &["an open relay"]);
}
