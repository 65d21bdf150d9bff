//! What DNS and a domain's own policy ask of TLS, end to end: DANE, MTA-STS and REQUIRETLS over a name server, a policy
//! server and a mail host in this process.

use std::path::PathBuf;

use oncemail::mail::AttemptReply;
use oncemail::relay::options::{Breaker, Host, Hosts, Options, Smtp, TlsPolicy, Transport};

use crate::common::certificates::{Authority, Presented};
use crate::common::dns_server::{DnsServer, DnsServerBuilder, Lie};
use crate::common::far_side::{FarSide, Tls};
use crate::common::https_server::{HttpsServer, http};
use crate::common::relay_rig::{DELIVERED, Rig, mail_hosts, message, queue_options, relay_options, route};

pub const HOST: &str = "mx.x.example";

/// The zone of `x.example`, whose mail host is this far side.
pub fn zone() -> DnsServerBuilder {
    DnsServer::new()
        .mx("x.example", 10, HOST)
        .a(HOST, "127.0.0.1")
        .txt("_mta-sts.x.example", &["v=STSv1; id=1;"])
        .a("mta-sts.x.example", "127.0.0.1")
}

fn at(far: &FarSide) -> String {
    format!("_{}._tcp.{HOST}", far.address.port())
}

fn options(far: &FarSide, tls: TlsPolicy, change: impl FnOnce(&mut Smtp)) -> Options {
    let mut smtp = Smtp { tls, ..mail_hosts(far.address.port()) };
    change(&mut smtp);
    relay_options(vec![route("mx", Transport::Smtp(smtp))])
}

async fn upgrading(presented: &Presented) -> FarSide {
    FarSide::new().tls(Tls::Upgrade).presents(presented.server()).start().await
}

/// How one message ended at its first attempt.
async fn first(options: Options, dns: &DnsServer, require_tls: bool) -> (bool, AttemptReply) {
    let rig = Rig::start_with_dns(options, queue_options(), dns.dns());
    let mut message = message(&rig.clock, &["b@x.example"], "policy");
    message.envelope.handling.require_tls = require_tls;
    let id = rig.submit(message).await;
    let progress = rig.store.saved(id, 1).await;
    let recipient = &progress.recipients[0];
    (recipient.state == DELIVERED, recipient.replies[0].clone())
}

#[tokio::test]
async fn a_host_is_what_its_validated_tlsa_records_say() {
    let (own, other) = (Presented::self_signed(&[HOST]), Presented::self_signed(&[HOST]));
    let far = upgrading(&own).await;
    for (named, is_good) in [(&own, true), (&other, false)] {
        let dns = zone().signed().tlsa(&at(&far), 3, 0, 0, &named.chain[0]).start().await;
        let (delivered, reply) = first(options(&far, TlsPolicy::Dane, |_| {}), &dns, false).await;
        assert_eq!(delivered, is_good, "{reply:?}");
        if is_good {
            assert_eq!(reply.tls, "TLSv1.3 dane");
        } else {
            assert!(reply.text.contains("none of the host's TLSA records"), "{reply:?}");
        }
    }
    assert_eq!(far.log().said("MAIL"), 1);
}

#[tokio::test]
async fn a_configured_host_is_what_its_tlsa_records_say() {
    let (own, other) = (Presented::self_signed(&[HOST]), Presented::self_signed(&[HOST]));
    let far = upgrading(&own).await;
    for (named, is_good) in [(&own, true), (&other, false)] {
        let dns = zone().signed().tlsa(&at(&far), 3, 0, 0, &named.chain[0]).start().await;
        let options = options(&far, TlsPolicy::Dane, |smtp| {
            smtp.hosts = Hosts::in_order(vec![Host { name: HOST.into(), port: far.address.port() }]);
        });
        let (delivered, reply) = first(options, &dns, false).await;
        assert_eq!(delivered, is_good, "{reply:?}");
        assert!(!is_good || reply.tls == "TLSv1.3 dane", "{reply:?}");
    }
}

#[tokio::test]
async fn a_host_that_is_an_alias_is_what_the_records_of_its_end_say_or_else_its_own() {
    const END: &str = "real.y.example";
    let (own, other) = (Presented::self_signed(&[END]), Presented::self_signed(&[END]));
    let far = upgrading(&own).await;
    let aliased = || DnsServer::new().signed().mx("x.example", 10, HOST).cname(HOST, END).a(END, "127.0.0.1");
    let at_end = format!("_{}._tcp.{END}", far.address.port());
    let (good, bad) = (&own.chain[0], &other.chain[0]);
    for (dns, is_good) in [
        (aliased().tlsa(&at_end, 3, 0, 0, good), true),
        (aliased().tlsa(&at_end, 3, 0, 0, bad), false),
        (aliased().tlsa(&at_end, 3, 0, 0, good).tlsa(&at(&far), 3, 0, 0, bad), true),
        (aliased().tlsa(&at(&far), 3, 0, 0, good), true),
        (aliased().tlsa(&at(&far), 3, 0, 0, bad), false),
    ] {
        let dns = dns.start().await;
        let (delivered, reply) = first(options(&far, TlsPolicy::Dane, |_| {}), &dns, false).await;
        assert_eq!(delivered, is_good, "{reply:?}");
        assert!(!is_good || reply.tls == "TLSv1.3 dane", "{reply:?}");
    }
}

#[tokio::test]
async fn r2_tlsa_records_that_cannot_be_had_make_mail_wait() {
    let far = FarSide::new().start().await;
    let dns = zone().signed().start().await;
    dns.lie(&at(&far), Lie::ServFail);
    let (delivered, reply) = first(options(&far, TlsPolicy::Dane, |_| {}), &dns, false).await;
    assert!(!delivered && reply.text.starts_with("4.7.5 DANE: "), "{reply:?}");
    assert_eq!(far.log().connections, 0);
}

#[tokio::test]
async fn without_validated_records_dane_is_opportunistic() {
    let far = FarSide::new().start().await;
    let other = Presented::self_signed(&[HOST]);
    let unsigned = zone().tlsa(&at(&far), 3, 0, 0, &other.chain[0]).start().await;
    for dns in [zone().signed().start().await, unsigned] {
        let (delivered, reply) = first(options(&far, TlsPolicy::Dane, |_| {}), &dns, false).await;
        assert!(delivered && reply.tls.is_empty(), "{reply:?}");
    }
}

/// An authority for the mail host, a policy server, and a file with both to trust.
pub struct Published {
    pub authority: Authority,
    pub server: HttpsServer,
    pub ca_file: PathBuf,
    _directory: tempfile::TempDir,
}

impl Published {
    pub async fn new(mode: &str, mx: &str) -> Self {
        let policy = format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n");
        let answer = move |_: &_, _| http("200 OK", "text/plain", &policy);
        let server = HttpsServer::start(true, &["mta-sts.x.example"], answer).await;
        let (authority, directory) = (Authority::new("trusted"), tempfile::tempdir().unwrap());
        let ca_file = directory.path().join("ca.pem");
        authority.write(&ca_file);
        let both = [std::fs::read(&ca_file).unwrap(), std::fs::read(&server.ca_file).unwrap()].concat();
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&ca_file, both).unwrap();
        Self { authority, server, ca_file, _directory: directory }
    }

    fn options(&self, far: &FarSide) -> Options {
        options(far, TlsPolicy::Opportunistic, |smtp| {
            smtp.ca_file = Some(self.ca_file.clone());
            if let Hosts::Mx(mx) = &mut smtp.hosts {
                (mx.mta_sts, mx.mta_sts_port) = (true, self.server.address.port());
            }
        })
    }
}

#[tokio::test]
async fn an_enforced_policy_lets_mail_go_only_to_listed_hosts_that_are_verified() {
    let (published, dns) = (Published::new("enforce", HOST).await, zone().start().await);
    let far = upgrading(&published.authority.signs(&[HOST])).await;
    let (delivered, reply) = first(published.options(&far), &dns, false).await;
    assert!(delivered && reply.tls == "TLSv1.3 verified", "{reply:?}");

    let other_name = upgrading(&published.authority.signs(&["other.example"])).await;
    let plain = FarSide::new().start().await;
    let elsewhere = Published::new("enforce", "*.other.example").await;
    for (published, far, cause) in [
        (&published, &other_name, "not valid for name mx.x.example"),
        (&published, &plain, "does not offer it"),
        (&elsewhere, &far, "MTA-STS: mx.x.example is not among the hosts"),
    ] {
        let before = far.log().said("MAIL");
        let (delivered, reply) = first(published.options(far), &dns, false).await;
        assert!(!delivered && reply.text.contains(cause), "{reply:?}");
        assert_eq!(far.log().said("MAIL"), before);
    }
}

#[tokio::test]
async fn a_policy_in_testing_or_without_a_good_server_holds_nothing_up() {
    let far = FarSide::new().start().await;
    let dns = zone().start().await;
    let testing = Published::new("testing", "*.other.example").await;
    let (delivered, reply) = first(testing.options(&far), &dns, false).await;
    assert!(delivered, "{reply:?}");
    testing.server.wait(1).await;
    // The policy server's own certificate is not trusted: what it says is not believed.
    let enforced = Published::new("enforce", "*.other.example").await;
    enforced.authority.write(&enforced.ca_file);
    let (delivered, reply) = first(enforced.options(&far), &dns, false).await;
    assert!(delivered && enforced.server.asked().is_empty(), "{reply:?}");
}

#[tokio::test]
async fn requiretls_goes_only_where_dnssec_vouches_for_the_host_and_its_certificate_is_good() {
    let (authority, directory) = (Authority::new("trusted"), tempfile::tempdir().unwrap());
    let ca_file = directory.path().join("ca.pem");
    authority.write(&ca_file);
    let good = authority.signs(&[HOST]);
    let far = FarSide::new()
        .tls(Tls::Upgrade)
        .presents(good.server())
        .offers_in_tls(&["PIPELINING", "REQUIRETLS"])
        .start()
        .await;
    for tls in [TlsPolicy::Opportunistic, TlsPolicy::Required] {
        let route = || options(&far, tls, |smtp| smtp.ca_file = Some(ca_file.clone()));
        let before = far.log().connections;
        let (delivered, reply) = first(route(), &zone().start().await, true).await;
        assert!(!delivered && reply.text.starts_with("5.7.10 REQUIRETLS"), "{reply:?}");
        assert_eq!(far.log().connections, before);
        let (delivered, reply) = first(route(), &zone().signed().start().await, true).await;
        assert!(delivered && reply.tls == "TLSv1.3 verified", "{reply:?}");
    }
}

#[tokio::test]
async fn a_policy_that_a_host_does_not_meet_does_not_close_it_to_others() {
    let (elsewhere, far) = (Published::new("enforce", "*.other.example").await, FarSide::new().start().await);
    let dns = zone().mx("y.example", 10, HOST).start().await;
    let mut options = elsewhere.options(&far);
    options.breaker = Breaker::default();
    let rig = Rig::start_with_dns(options, queue_options(), dns.dns());
    let refused = rig.send(&["b@x.example"], "refused").await;
    rig.store.saved(refused, 20).await;
    let id = rig.send(&["b@y.example"], "other").await;
    let progress = rig.store.saved(id, 1).await;
    assert!(progress.is_finished() && far.log().copies("other") == 1, "{progress:?}");
}

/// A connection that was good enough for other mail is not thereby good enough for REQUIRETLS.
#[tokio::test]
async fn a_kept_connection_to_a_host_that_nobody_vouches_for_is_not_used_for_requiretls() {
    let (authority, directory) = (Authority::new("trusted"), tempfile::tempdir().unwrap());
    let ca_file = directory.path().join("ca.pem");
    authority.write(&ca_file);
    let good = authority.signs(&[HOST]);
    let far = FarSide::new()
        .tls(Tls::Upgrade)
        .presents(good.server())
        .offers_in_tls(&["PIPELINING", "REQUIRETLS"])
        .start()
        .await;
    let options = options(&far, TlsPolicy::Required, |smtp| {
        (smtp.ca_file, smtp.connections) = (Some(ca_file), 1);
    });
    let dns = zone().start().await;
    let rig = Rig::start_with_dns(options, queue_options(), dns.dns());
    let id = rig.send(&["b@x.example"], "usual").await;
    assert!(rig.store.saved(id, 1).await.is_finished());
    let mut message = message(&rig.clock, &["b@x.example"], "secret");
    message.envelope.handling.require_tls = true;
    let id = rig.submit(message).await;
    let progress = rig.store.saved(id, 1).await;
    let reply = &progress.recipients[0].replies[0];
    assert!(reply.text.starts_with("5.7.10 REQUIRETLS") && far.log().copies("secret") == 0, "{reply:?}");
}
