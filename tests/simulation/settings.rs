//! How the simulated relay is configured, and the places that mail goes to.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;
use oncemail::mail::FingerprintMode;
use oncemail::relay::options::{
    Breaker, Host, Hosts, InDoubt, Matches, Mx, Route, Smtp, Timeouts, TlsPolicy, Transport,
};
use oncemail::submission::options::{AuthMode, Limits, Listener, TlsMode, Verify};
use oncemail::{dns, intake, queue, relay, submission};

use super::world::World;

/// `shutdown_grace`.
pub const GRACE: Duration = Duration::from_secs(30);
/// How long a key lives.
pub const KEY_LIFE: Duration = Duration::from_secs(24 * 3_600);
/// The field that one next hop knows messages by.
pub const FORWARDED: &str = "X-Upstream-Key";

pub fn intake() -> intake::Options {
    intake::Options {
        hostname: "relay.example".into(),
        header: "X-Idempotency-Key".into(),
        ttl: KEY_LIFE,
        fingerprint: FingerprintMode::Content,
        ignore_headers: Vec::new(),
        fallback: intake::Fallback::None,
        observe: false,
        drop_bcc: false,
    }
}

pub fn submission() -> submission::Options {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    submission::Options {
        hostname: "relay.example".into(),
        listeners: vec![Listener {
            name: "main".into(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: TlsMode::None,
            auth: AuthMode::None,
            allow: vec!["0.0.0.0/0".parse().unwrap()],
            trusted_proxies: Vec::new(),
        }],
        tls: None,
        users: Vec::new(),
        limits: Limits {
            message_size: 100_000,
            recipients: 20,
            messages_per_connection: 50,
            connections: 100,
            connections_per_ip: 50,
            receive_memory: 10_000_000,
            auth_failures: Quota::per_minute(NonZeroU32::MIN),
            command_timeout: minutes(5),
            data_timeout: minutes(15),
            data_block_timeout: minutes(3),
        },
        verify: Verify::default(),
    }
}

/// As it comes with the program, but for what chance decides.
pub fn queue(world: &World) -> queue::Options {
    let hours = |hours: u64| Duration::from_secs(3_600 * hours);
    let on_failure = match world.between(0, 9) {
        0 => queue::OnFailure::Hold,
        1 => queue::OnFailure::Discard,
        _ => queue::OnFailure::Bounce,
    };
    queue::Options {
        expire_after: hours(*world.pick(&[2, 12, 48])),
        warn_after: Some(hours(1)),
        on_failure,
        hostname: "relay.example".into(),
        fresh_bytes: *world.pick(&[0, 4_000, 64_000_000]),
        ..queue::Options::default()
    }
}

pub fn relay() -> relay::Options {
    let hosts = |names: &[&str]| {
        Hosts::in_order(names.iter().map(|name| Host { name: (*name).to_owned(), port: 25 }).collect())
    };
    let smtp = |hosts, connections| {
        Transport::Smtp(Smtp {
            tls: TlsPolicy::None,
            connections,
            messages_per_connection: 5,
            recipients_per_transaction: 2,
            ..Smtp::new(hosts)
        })
    };
    let mx = Mx { port: 25, allow_private: true, mta_sts: false, mta_sts_port: 443, family: dns::Family::V4 };
    let to = |domain: &str, transport| Route {
        name: domain.into(),
        matches: Matches { recipient_domains: vec![domain.into()], ..Matches::default() },
        transport,
        in_doubt: InDoubt::Resend,
        forward_key_as: None,
    };
    let holds = Route {
        in_doubt: InDoubt::Hold,
        ..to("hold.example", smtp(hosts(&["one.hosts.example", "two.hosts.example"]), 2))
    };
    let keyed = Route {
        forward_key_as: Some(FORWARDED.into()),
        ..to("keyed.example", smtp(hosts(&["10.0.2.1"]), 2))
    };
    let routes = vec![
        holds,
        to("resend.example", smtp(hosts(&["10.0.1.1", "10.0.1.2"]), 2)),
        keyed,
        to("bounce.example", smtp(hosts(&["10.0.3.1"]), 1)),
        Route { matches: Matches::default(), ..to("mx", smtp(Hosts::Mx(mx), 2)) },
    ];
    relay::Options {
        hostname: "relay.example".into(),
        routes,
        breaker: Breaker::default(),
        timeouts: Timeouts::default(),
        dkim: Vec::new(),
        own_addresses: Vec::new(),
        sinks: Vec::new(),
    }
}

/// Who may be written to.
pub const RECIPIENTS: &[&str] = &[
    "ann@hold.example",
    "bob@hold.example",
    "bad@hold.example",
    "ann@resend.example",
    "bob@resend.example",
    "bad@resend.example",
    "ann@keyed.example",
    "bob@keyed.example",
    "cyd@keyed.example",
    "ann@first.example",
    "ann@second.example",
    "ann@null.example",
    "ann@nowhere.example",
];
