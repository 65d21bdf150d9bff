//! What a relay's far side, or somebody in front of it, may do to TLS, under every policy that asks for it.

use std::net::SocketAddr;
use std::path::PathBuf;

use oncemail::mail::AttemptReply;
use oncemail::relay::options::{Auth, Host, Hosts, Mx, Options, Secret, Smtp, TlsPolicy, Transport};

use super::middle_box::{MiddleBox, Script, Seen, Then};
use crate::common::certificates::{Authority, Presented};
use crate::common::dns_server::{DnsServer, Lie};
use crate::common::relay_rig::{DELIVERED, Rig, mail_hosts, message, patient, relay_options, route};
use crate::tls_over_dns::{HOST, Published, zone};

/// A fatal alert (RFC 8446 §6): protocol_version, handshake_failure, and internal_error.
const ALERTS: [&[u8]; 3] = [&[21, 3, 1, 0, 2, 2, 70], &[21, 3, 3, 0, 2, 2, 40], &[21, 3, 3, 0, 2, 2, 80]];

/// A ServerHello of an old version, or with a cipher suite that nobody offered.
fn server_hello(version: [u8; 2], suite: u16) -> Vec<u8> {
    let body = [&version[..], &[9; 32], &[0], &suite.to_be_bytes(), &[0]].concat();
    let length = u8::try_from(body.len()).unwrap();
    let handshake = [&[2, 0, 0, length], &body[..]].concat();
    let length = u16::try_from(handshake.len()).unwrap().to_be_bytes();
    [&[22][..], &version, &length, &handshake].concat()
}

/// What somebody does, in words, and how.
type Attack = (&'static str, Script);

/// STARTTLS is not offered, or not so that it can be recognised.
fn hidden() -> Vec<Attack> {
    [
        ("left out", "250-far.example\r\n250-AUTH PLAIN LOGIN\r\n250 PIPELINING\r\n"),
        ("nothing offered at all", "250 far.example\r\n"),
        ("overwritten", "250-far.example\r\n250-AUTH PLAIN\r\n250-XXXXXXXX\r\n250 PIPELINING\r\n"),
        ("overwritten in part", "250-far.example\r\n250-AUTH PLAIN\r\n250-STARTTLX\r\n250 PIPELINING\r\n"),
        ("with a prefix", "250-far.example\r\n250-X-STARTTLS\r\n250 AUTH PLAIN\r\n"),
        ("longer", "250-far.example\r\n250-STARTTLSX\r\n250 AUTH PLAIN\r\n"),
        ("as the host's name", "250-STARTTLS\r\n250 AUTH PLAIN\r\n"),
    ]
    .map(|(about, ehlo)| (about, Script::offers(ehlo)))
    .to_vec()
}

/// STARTTLS is refused.
fn refused() -> Vec<Attack> {
    [
        ("454", "454 4.7.0 TLS not available\r\n"),
        ("421", "421 4.3.2 closing\r\n"),
        ("500", "500 5.5.1 what?\r\n"),
        ("501", "501 5.5.4 syntax\r\n"),
        ("502", "502 5.5.1 not implemented\r\n"),
        ("503", "503 5.5.1 bad sequence\r\n"),
        ("530", "530 5.7.0 authenticate first\r\n"),
        ("538", "538 5.7.11 no\r\n"),
        ("several lines", "554-5.7.3 no\r\n554 5.7.3 TLS here\r\n"),
    ]
    .map(|(about, reply)| (about, Script::says(reply)))
    .to_vec()
}

/// The reply to STARTTLS is none that means anything, or more than one.
fn garbled() -> Vec<Attack> {
    let mut all: Vec<_> = [
        ("250", "250 2.0.0 ok, you are encrypted\r\n"),
        ("221", "221 2.0.0 bye\r\n"),
        ("235", "235 2.7.0 authenticated\r\n"),
        ("354", "354 go ahead\r\n"),
        ("no reply", "STARTTLS\r\n"),
        ("a bare LF", "220 go ahead\n"),
        ("two codes", "220-go\r\n250 ahead\r\n"),
        ("a reply behind it", "220 go\r\n250 far.example\r\n"),
        ("capabilities behind it", "220 go\r\n250-far.example\r\n250 AUTH PLAIN\r\n"),
        ("half a reply behind it", "220 go\r\n25"),
        ("a refusal behind it", "220 go\r\n454 4.7.0 or not\r\n"),
    ]
    .map(|(about, reply)| (about, Script::says(reply)))
    .to_vec();
    all.push(("closed instead", Script { starttls: "", ..Script::then(Then::Close) }));
    all
}

/// The handshake does not come to its end.
fn broken() -> Vec<Attack> {
    let mut all = vec![
        ("closed", Script::then(Then::Close)),
        ("on in clear", Script::then(Then::Answer(b"250 far.example\r\n".to_vec()))),
        ("no octet", Script::then(Then::Answer(Vec::new()))),
        ("TLS 1.0", Script::then(Then::Answer(server_hello([3, 1], 0xc013)))),
        ("TLS 1.1", Script::then(Then::Answer(server_hello([3, 2], 0xc013)))),
        ("SSL 3", Script::then(Then::Answer(server_hello([3, 0], 0x000a)))),
        ("no cipher", Script::then(Then::Answer(server_hello([3, 3], 0x0000)))),
        ("RC4", Script::then(Then::Answer(server_hello([3, 3], 0x0005)))),
        ("3DES", Script::then(Then::Answer(server_hello([3, 3], 0x000a)))),
        ("an export cipher", Script::then(Then::Answer(server_hello([3, 3], 0x0003)))),
        ("a truncated hello", Script::then(Then::Answer(server_hello([3, 3], 0xc02b)[..20].to_vec()))),
    ];
    all.extend(ALERTS.map(|alert| ("an alert", Script::then(Then::Answer(alert.to_vec())))));
    all
}

/// The handshake ends well, with a certificate that is not the host's.
fn impostors(authority: &Authority) -> Vec<Attack> {
    [
        ("self-signed", Presented::self_signed(&["127.0.0.1", HOST])),
        ("a stranger's", Authority::new("stranger").signs(&["127.0.0.1", HOST])),
        ("expired", authority.signed_long_ago(&["127.0.0.1", HOST])),
        ("another name's", authority.signs(&["other.example", "127.0.0.2"])),
        ("a name that begins so", authority.signs(&["mx.x.example.evil.example"])),
        ("a wildcard above", authority.signs(&["*.example"])),
    ]
    .map(|(about, shown)| (about, Script::then(Then::Shake(shown.server()))))
    .to_vec()
}

/// A policy, and the way to a far side under it.
struct Case {
    policy: &'static str,
    authority: Authority,
    ca_file: PathBuf,
    /// What gets through.
    good: Presented,
    dns: Option<DnsServer>,
    published: Option<Published>,
    _directory: tempfile::TempDir,
}

impl Case {
    async fn new(policy: &'static str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (published, dns) = match policy {
            "mta-sts" => (Some(Published::new("enforce", HOST).await), Some(zone().start().await)),
            _ => (None, None),
        };
        let authority = Authority::new("trusted");
        let ca_file = directory.path().join("ca.pem");
        authority.write(&ca_file);
        let good = published.as_ref().map_or(&authority, |p| &p.authority).signs(&["127.0.0.1", HOST]);
        Self { policy, authority, ca_file, good, dns, published, _directory: directory }
    }

    fn authority(&self) -> &Authority {
        self.published.as_ref().map_or(&self.authority, |published| &published.authority)
    }

    fn options(&self, far: SocketAddr) -> Options {
        let host = |name: &str| Hosts::in_order(vec![Host { name: name.into(), port: far.port() }]);
        let mut smtp = Smtp { ca_file: Some(self.ca_file.clone()), ..mail_hosts(far.port()) };
        let with = || Secret::Password("s3cret".to_owned().into());
        match self.policy {
            "required" => {
                (smtp.tls, smtp.hosts) = (TlsPolicy::Required, host("127.0.0.1"));
                smtp.auth = Some(Auth { username: "u".into(), with: with() });
            }
            "implicit" => {
                (smtp.tls, smtp.hosts) = (TlsPolicy::Implicit, host("127.0.0.1"));
                smtp.auth = Some(Auth { username: "u".into(), with: with() });
            }
            "dane" => smtp.tls = TlsPolicy::Dane,
            "mta-sts" => {
                let published = self.published.as_ref().unwrap();
                (smtp.tls, smtp.ca_file) = (TlsPolicy::Opportunistic, Some(published.ca_file.clone()));
                let mx =
                    Mx { mta_sts: true, mta_sts_port: published.server.address.port(), ..mx(far.port()) };
                smtp.hosts = Hosts::Mx(mx);
            }
            "opportunistic" => (smtp.tls, smtp.hosts) = (TlsPolicy::Opportunistic, host("127.0.0.1")),
            other => panic!("{other}"),
        }
        relay_options(vec![route("out", Transport::Smtp(smtp))])
    }

    /// The first attempt of one message at a far side of this script.
    async fn attempt(&self, script: Script) -> (bool, AttemptReply, Seen) {
        let far = MiddleBox::start(script).await;
        let options = self.options(far.address);
        let signed = match self.policy {
            // The records name the host's own certificate, and are vouched for.
            "dane" => {
                let at = format!("_{}._tcp.{HOST}", far.address.port());
                Some(zone().signed().tlsa(&at, 3, 0, 0, &self.good.chain[0]).start().await)
            }
            _ => None,
        };
        let rig = match signed.as_ref().or(self.dns.as_ref()) {
            Some(dns) => Rig::start_with_dns(options, patient(), dns.dns()),
            None => Rig::start_with(options, patient()),
        };
        let id = rig.submit(message(&rig.clock, &["b@x.example"], "private")).await;
        let progress = rig.store.saved(id, 1).await;
        let recipient = &progress.recipients[0];
        let delivered = recipient.state == DELIVERED;
        assert!(delivered || progress.is_queued(), "{progress:?}");
        (delivered, recipient.replies[0].clone(), far.seen())
    }
}

fn mx(port: u16) -> Mx {
    match mail_hosts(port).hosts {
        Hosts::Mx(mx) => mx,
        _ => panic!("mail hosts are found by MX records"),
    }
}

#[tokio::test]
async fn s1_where_tls_is_asked_for_neither_mail_nor_password_goes_in_clear_or_to_a_stranger() {
    for policy in ["required", "dane", "mta-sts"] {
        let case = Case::new(policy).await;
        let mut attacks = [hidden(), refused(), garbled(), broken()].concat();
        // DANE asks whether it is the certificate that the records name, and none of these is.
        attacks.extend(impostors(case.authority()));
        for (about, script) in attacks {
            let (delivered, reply, seen) = case.attempt(script).await;
            let about = format!("{policy}, {about}: {reply:?} {seen:?}");
            assert!(!delivered && seen.messages.is_empty(), "{about}");
            for line in ["MAIL", "RCPT", "DATA", "AUTH"] {
                assert!(!seen.lines.iter().any(|(said, _)| said.starts_with(line)), "{line}: {about}");
            }
            assert_eq!(reply.tls, "", "{about}");
        }
        // And it is TLS that was missing: with it, everything goes.
        let good = Script::then(Then::Shake(case.good.server()));
        let (delivered, reply, seen) = case.attempt(good).await;
        assert!(delivered && seen.messages == [true], "{policy}: {reply:?} {seen:?}");
        assert_eq!(seen.in_clear("MAIL") + seen.in_clear("AUTH"), 0, "{policy}");
        assert_eq!(seen.lines.iter().any(|(said, _)| said.starts_with("AUTH")), policy == "required");
    }
}

#[tokio::test]
async fn s1_where_tls_comes_first_not_a_line_goes_in_clear() {
    let case = Case::new("implicit").await;
    let mut attacks = broken();
    attacks.push(("a greeting in clear", Script::then(Then::GoOn)));
    attacks.extend(impostors(case.authority()));
    for (about, script) in attacks {
        let (delivered, reply, seen) = case.attempt(Script { implicit: true, ..script }).await;
        assert!(!delivered && seen.messages.is_empty(), "{about}: {reply:?} {seen:?}");
        // A ClientHello has no CRLF that a line could end with, but for a chance.
        assert!(!seen.lines.iter().any(|(said, _)| said.starts_with("EHLO")), "{about}: {seen:?}");
    }
    let good = Script { implicit: true, ..Script::then(Then::Shake(case.good.server())) };
    let (delivered, reply, seen) = case.attempt(good).await;
    assert!(delivered && seen.messages == [true], "{reply:?} {seen:?}");
}

#[tokio::test]
async fn opportunistic_tls_falls_back_only_where_it_says_so() {
    let case = Case::new("opportunistic").await;
    for (attacks, delivered, connections) in
        [(hidden(), true, 1), (refused(), true, 2), (broken(), true, 2), (garbled(), false, 1)]
    {
        for (about, script) in attacks {
            let (was, reply, seen) = case.attempt(script).await;
            assert_eq!(was, delivered, "{about}: {reply:?} {seen:?}");
            assert_eq!((seen.connections, seen.in_clear("MAIL")), (connections, usize::from(was)), "{about}");
            assert_eq!(seen.messages, vec![false; usize::from(was)], "{about}");
        }
    }
    for (about, script) in impostors(case.authority()) {
        let (delivered, reply, seen) = case.attempt(script).await;
        assert!(delivered && seen.messages == [true], "{about}: {reply:?} {seen:?}");
        assert_eq!(reply.tls, "TLSv1.3 unverified");
    }
}

/// A reply over several lines is one reply, and nothing but the handshake comes behind it.
#[tokio::test]
async fn a_220_of_several_lines_leads_to_tls() {
    let case = Case::new("required").await;
    let shake = Script::then(Then::Shake(case.good.server()));
    for starttls in ["220-2.0.0 go\r\n220-on\r\n220 2.0.0 ahead\r\n", "220\r\n", "220 \r\n"] {
        let (delivered, reply, seen) = case.attempt(Script { starttls, ..shake.clone() }).await;
        assert!(delivered && seen.messages == [true], "{starttls:?}: {reply:?}");
        assert_eq!(seen.in_clear("MAIL"), 0);
    }
}

/// Whoever can answer for DNS, or keep it from answering, cannot take away what was known to be there.
#[tokio::test]
async fn r2_s1_records_that_are_kept_back_do_not_make_mail_go_in_clear() {
    let case = Case::new("dane").await;
    for lie in [Lie::ServFail, Lie::NxDomain, Lie::Truncated, Lie::Garbage, Lie::Forged] {
        let far = MiddleBox::start(hidden()[0].1.clone()).await;
        let at = format!("_{}._tcp.{HOST}", far.address.port());
        let dns = zone().signed().tlsa(&at, 3, 0, 0, &case.good.chain[0]).start().await;
        dns.lie(&at, lie);
        let rig = Rig::start_with_dns(case.options(far.address), patient(), dns.dns());
        let id = rig.send(&["b@x.example"], "private").await;
        let progress = rig.store.saved(id, 1).await;
        let reply = &progress.recipients[0].replies[0];
        assert!(progress.is_queued() && reply.text.starts_with("4.7.5 DANE: "), "{reply:?}");
        assert_eq!(far.seen().connections, 0);
    }
}

/// REQUIRETLS outranks a route that would have let the message go in clear.
#[tokio::test]
async fn s1_a_message_that_asked_for_tls_does_not_go_without_whatever_the_route_allows() {
    let case = Case::new("opportunistic").await;
    let attacks = [hidden(), refused(), garbled(), broken(), impostors(case.authority())].concat();
    for (about, script) in attacks {
        let far = MiddleBox::start(script).await;
        let rig = Rig::start_with(case.options(far.address), patient());
        let mut message = message(&rig.clock, &["b@x.example"], "private");
        message.envelope.handling.require_tls = true;
        let id = rig.submit(message).await;
        let progress = rig.store.saved(id, 1).await;
        let seen = far.seen();
        assert!(progress.recipients[0].state != DELIVERED && seen.messages.is_empty(), "{about}: {seen:?}");
        assert!(!seen.lines.iter().any(|(said, _)| said.starts_with("MAIL")), "{about}: {seen:?}");
    }
}
