//! What a route's `tls` promises, whatever certificate the far side has or has not: mail goes in clear only where the
//! route allows it, and otherwise waits with a sentence that names the cause.

use std::path::PathBuf;
use std::sync::Arc;

use oncemail::clock::Clock;
use oncemail::mail::AttemptReply;
use oncemail::queue::Queue;
use oncemail::relay::Relay;
use oncemail::relay::options::{ClientCertificate, Options, Smtp, TlsPolicy};
use oncemail::relay::tls_report::{Failure, Policy};
use oncemail::store::Store;
use tokio_util::sync::CancellationToken;

use crate::common::certificates::{Authority, Presented};
use crate::common::far_side::{Act, FarSide, FarSideBuilder, PATIENCE, Tls, say};
use crate::common::relay_rig::{DELIVERED, Rig, changed, dns, message, nobody, queue_options};
use crate::common::watched_store::WatchedStore;

/// A directory with the authority that routes trust, and with it good and bad certificates.
struct Trusted {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl Trusted {
    fn new() -> Self {
        let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new("trusted"));
        authority.write(&directory.path().join("ca.pem"));
        Self { directory, authority }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A route to `far` with this policy.
    fn route(&self, far: &FarSide, tls: TlsPolicy) -> Options {
        changed(&[far.address], |smtp| self.trusted_by(smtp, tls))
    }

    fn trusted_by(&self, smtp: &mut Smtp, tls: TlsPolicy) {
        (smtp.tls, smtp.ca_file) = (tls, Some(self.file("ca.pem")));
    }

    fn good(&self) -> Presented {
        self.authority.signs(&["127.0.0.1"])
    }
}

/// How one message ended at its first attempt.
struct First {
    delivered: bool,
    encrypted: bool,
    reply: AttemptReply,
}

async fn first(far: &FarSide, options: Options) -> First {
    let rig = Rig::start(options);
    let id = rig.send(&["b@x.example"], "policy").await;
    let progress = rig.store.saved(id, 1).await;
    let recipient = &progress.recipients[0];
    let encrypted = far.log().taken.first().is_some_and(|taken| taken.encrypted);
    First { delivered: recipient.state == DELIVERED, encrypted, reply: recipient.replies[0].clone() }
}

fn upgrading(presented: &Presented) -> FarSideBuilder {
    FarSide::new().tls(Tls::Upgrade).presents(presented.server())
}

fn implicit(presented: &Presented) -> FarSideBuilder {
    FarSide::new().tls(Tls::Implicit).presents(presented.server())
}

#[tokio::test]
async fn opportunistic_encrypts_with_any_certificate() {
    let trusted = Trusted::new();
    for presented in [
        trusted.good(),
        Presented::self_signed(&["127.0.0.1"]),
        Authority::new("stranger").signs(&["other.example"]),
        trusted.authority.signed_long_ago(&["127.0.0.1"]),
    ] {
        let far = upgrading(&presented).start().await;
        let first = first(&far, trusted.route(&far, TlsPolicy::Opportunistic)).await;
        assert!(first.delivered && first.encrypted, "{:?}", first.reply);
        assert_eq!(first.reply.tls, "TLSv1.3 unverified");
        assert_eq!(far.log().connections, 1);
    }
}

#[tokio::test]
async fn opportunistic_goes_in_clear_where_tls_is_missing_refused_or_broken() {
    let trusted = Trusted::new();
    let good = trusted.good();
    for (far, connections) in [
        (FarSide::new(), 1),
        (upgrading(&good).on("STARTTLS", say("454 4.7.0 not now")), 2),
        (upgrading(&good).on("STARTTLS", say("502 5.5.1 what?")), 2),
        (upgrading(&good).on("STARTTLS", Act::SayThenClose("220 go".into())), 2),
    ] {
        let far = far.start().await;
        let first = first(&far, trusted.route(&far, TlsPolicy::Opportunistic)).await;
        assert!(first.delivered && !first.encrypted, "{:?}", first.reply);
        assert_eq!((first.reply.tls.as_str(), far.log().connections), ("", connections));
    }
}

#[tokio::test]
async fn opportunistic_does_not_take_a_lost_connection_for_a_reason_to_go_in_clear() {
    let trusted = Trusted::new();
    let good = trusted.good();
    for far in [
        upgrading(&good).on("STARTTLS", Act::Close),
        upgrading(&good).on("STARTTLS", say("250 ok")),
        upgrading(&good).on("EHLO", Act::Close),
        upgrading(&good).injects(b"250 far.example\r\n"),
    ] {
        let far = far.start().await;
        let rig = Rig::start(trusted.route(&far, TlsPolicy::Opportunistic));
        let id = rig.send(&["b@x.example"], "lost").await;
        let progress = rig.store.saved(id, 2).await;
        assert!(progress.is_queued() && far.log().said("MAIL") == 0, "{progress:?}");
    }
}

#[tokio::test]
async fn s1_what_is_offered_after_the_handshake_is_what_counts() {
    let trusted = Trusted::new();
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Required] {
        let far = upgrading(&trusted.good()).offers_in_tls(&["PIPELINING"]).start().await;
        let first = first(&far, trusted.route(&far, policy)).await;
        assert!(first.encrypted);
        assert_eq!(far.log().taken[0].mail, "MAIL FROM:<a@shop.example>", "SIZE was offered in clear only");
    }
}

#[tokio::test]
async fn r2_required_and_implicit_defer_with_the_cause_and_never_send_in_clear() {
    let trusted = Trusted::new();
    let good = trusted.good();
    let wrong_name = trusted.authority.signs(&["mx.other.example", "192.0.2.1"]);
    let mut far_sides = vec![
        (TlsPolicy::Required, FarSide::new(), "does not offer it"),
        (TlsPolicy::Required, upgrading(&good).on("STARTTLS", say("454 4.7.0 not now")), "not now"),
        (
            TlsPolicy::Required,
            upgrading(&good).on("STARTTLS", Act::SayThenClose("220 go".into())),
            "TLS with",
        ),
        (TlsPolicy::Implicit, FarSide::new(), "not TLS"),
    ];
    for (presented, cause) in [
        (Presented::self_signed(&["127.0.0.1"]), "the certificate is self-signed"),
        (wrong_name, "the certificate is not valid for name 127.0.0.1, but for mx.other.example, 192.0.2.1"),
        (Authority::new("stranger").signs(&["127.0.0.1"]), "an authority that is not trusted"),
        (trusted.authority.signed_long_ago(&["127.0.0.1"]), "the certificate expired at 2020-01-01"),
    ] {
        far_sides.push((TlsPolicy::Required, upgrading(&presented), cause));
        far_sides.push((TlsPolicy::Implicit, implicit(&presented), cause));
    }
    for (policy, far, cause) in far_sides {
        let far = far.start().await;
        let first = first(&far, trusted.route(&far, policy)).await;
        assert!(!first.delivered && first.reply.text.contains(cause), "{cause}: {:?}", first.reply);
        assert_eq!((far.log().said("MAIL"), first.reply.tls.as_str()), (0, ""));
    }
}

#[tokio::test]
async fn a_good_certificate_is_verified_and_the_record_says_so() {
    let trusted = Trusted::new();
    let good = trusted.good();
    for (policy, far) in [(TlsPolicy::Required, upgrading(&good)), (TlsPolicy::Implicit, implicit(&good))] {
        let far = far.start().await;
        let first = first(&far, trusted.route(&far, policy)).await;
        assert!(first.delivered && first.encrypted, "{:?}", first.reply);
        assert_eq!(first.reply.tls, "TLSv1.3 verified");
    }
}

#[tokio::test]
async fn a_route_without_tls_ignores_starttls() {
    let trusted = Trusted::new();
    let far = upgrading(&trusted.good()).start().await;
    let first = first(&far, trusted.route(&far, TlsPolicy::None)).await;
    assert!(first.delivered && !first.encrypted && far.log().said("STARTTLS") == 0);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_far_side_that_asks() {
    let (trusted, clients) = (Trusted::new(), Authority::new("clients"));
    clients.signs(&["relay.example"]).write(&trusted.file("own.pem"), &trusted.file("own.key"));
    let asking = trusted.good().server_that_asks(&clients);
    let own =
        ClientCertificate { certificate_file: trusted.file("own.pem"), key_file: trusted.file("own.key") };
    for (shown, delivered) in [(Some(own), true), (None, false)] {
        let far = FarSide::new().tls(Tls::Upgrade).presents(asking.clone()).start().await;
        let options = changed(&[far.address], |smtp| {
            trusted.trusted_by(smtp, TlsPolicy::Required);
            smtp.client_certificate = shown;
        });
        let first = first(&far, options).await;
        assert_eq!(first.delivered, delivered, "{:?}", first.reply);
        if delivered {
            assert_eq!(first.reply.tls, "TLSv1.2 verified");
        } else {
            assert!(first.reply.text.contains("the far side ended the handshake"), "{:?}", first.reply);
        }
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_none_stops_the_start_and_is_named() {
    let trusted = Trusted::new();
    let own = |certificate: &str, key: &str| ClientCertificate {
        certificate_file: trusted.file(certificate),
        key_file: trusted.file(key),
    };
    trusted.good().write(&trusted.file("a.pem"), &trusted.file("a.key"));
    trusted.good().write(&trusted.file("b.pem"), &trusted.file("b.key"));
    for (own, cause) in [
        (own("missing.pem", "a.key"), "missing.pem"),
        (own("a.key", "a.key"), "no certificate"),
        (own("a.pem", "missing.key"), "missing.key"),
        (own("a.pem", "a.pem"), "a.pem"),
        (own("a.pem", "b.key"), "the key is not that of"),
    ] {
        let options = changed(&[nobody().await], |smtp| smtp.client_certificate = Some(own));
        let clock = Clock::system();
        let made = Relay::new(options, dns(), Queue::new(queue_options(), clock.clone()), clock);
        let error = made.err().unwrap().to_string();
        assert!(error.starts_with("route hosts: client certificate: ") && error.contains(cause), "{error}");
    }
}

#[tokio::test]
async fn tls_is_counted_by_day_and_by_what_failed() {
    let trusted = Trusted::new();
    let expired = upgrading(&trusted.authority.signed_long_ago(&["127.0.0.1"])).start().await;
    let good = upgrading(&trusted.good()).start().await;
    let options = changed(&[expired.address, good.address], |smtp| {
        trusted.trusted_by(smtp, TlsPolicy::Required);
    });
    let clock = Clock::system();
    let queue = Queue::new(queue_options(), clock.clone());
    let store = WatchedStore::new(clock.clone(), Some(queue.clone()));
    queue.start(store.clone(), Vec::new());
    let relay = Relay::new(options, dns(), queue, clock.clone()).unwrap();
    let report = relay.tls_report();
    let stop = CancellationToken::new();
    let running = tokio::spawn(relay.run(stop.clone(), PATIENCE));
    let message = message(&clock, &["b@x.example"], "counted");
    let id = message.id;
    store.accept(Arc::new(message), None).await.unwrap();
    assert!(store.saved(id, 1).await.is_finished(), "the second host took it");
    stop.cancel();
    running.await.unwrap();
    let days = report.snapshot();
    let sessions = &days[0].sessions[&("127.0.0.1".to_owned(), Policy::NoPolicyFound)];
    assert_eq!((sessions.successes, sessions.failures[&Failure::CertificateExpired]), (1, 1));
}
