//! The decision as a table: route, records, MTA-STS, REQUIRETLS.

use super::*;
use crate::dns::{self, Tlsa};
use crate::relay::sts::Policy as StsPolicy;

const HOST: &str = "mx.x.example";

fn question(policy: TlsPolicy) -> Question<'static> {
    Question {
        policy,
        host: HOST,
        domain: Some("x.example"),
        secure: false,
        require_tls: false,
        records: Records::None,
        sts: None,
    }
}

fn anchors() -> Arc<Anchors> {
    let record = Tlsa { usage: 3, selector: 1, matching: 1, association: vec![7; 32] };
    Arc::new(Anchors::new(vec![record], &[HOST]).unwrap())
}

fn sts(mode: &str, mx: &str) -> StsPolicy {
    StsPolicy::parse(&format!("version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: 86400\n")).unwrap()
}

fn decided(question: Question<'_>) -> Result<(Level, Line), (String, Option<Line>)> {
    question.decide("x.example".into()).map(|decision| (decision.level, decision.line))
}

fn level(question: Question<'_>) -> Level {
    decided(question).unwrap().0
}

fn by_name() -> Verify {
    Verify::Name(HOST.to_owned())
}

#[test]
fn without_anything_else_the_route_decides() {
    for (policy, expected) in [
        (TlsPolicy::None, Level::Plain),
        (TlsPolicy::Opportunistic, Level::Opportunistic),
        (TlsPolicy::Dane, Level::Opportunistic),
        (TlsPolicy::Required, Level::StartTls(by_name())),
        (TlsPolicy::Implicit, Level::Implicit(by_name())),
    ] {
        let (level, line) = decided(question(policy)).unwrap();
        assert_eq!((level, line.policy, line.watched), (expected, Policy::NoPolicyFound, false));
    }
}

#[test]
fn usable_records_decide_and_unusable_ones_still_encrypt() {
    let usable = Records::Usable(anchors());
    let (level, line) = decided(Question { records: usable, ..question(TlsPolicy::Dane) }).unwrap();
    assert_eq!(
        (level, line.policy, line.fails),
        (Level::StartTls(Verify::Dane(anchors())), Policy::Tlsa, None)
    );
    let unusable = Question { records: Records::Unusable, ..question(TlsPolicy::Dane) };
    let (level, line) = decided(unusable).unwrap();
    assert_eq!((level, line.fails), (Level::StartTls(Verify::Nothing), Some(Failure::TlsaInvalid)));
}

#[test]
fn an_enforced_policy_asks_for_a_verified_name_and_a_listed_host() {
    let (listed, others) = (sts("enforce", "*.x.example"), sts("enforce", "mx.other.example"));
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Dane, TlsPolicy::Required] {
        let (level, line) = decided(Question { sts: Some(&listed), ..question(policy) }).unwrap();
        assert_eq!((level, line.policy, line.fails), (Level::StartTls(by_name()), Policy::Sts, None));
        let (text, line) = decided(Question { sts: Some(&others), ..question(policy) }).unwrap_err();
        assert!(text.contains("MTA-STS") && text.contains(HOST) && text.contains("x.example"), "{text}");
        assert_eq!(line.unwrap().fails, Some(Failure::ValidationFailure));
    }
    let implicit = Question { sts: Some(&listed), ..question(TlsPolicy::Implicit) };
    assert_eq!(level(implicit), Level::Implicit(by_name()));
    let unusable = Question { sts: Some(&listed), records: Records::Unusable, ..question(TlsPolicy::Dane) };
    assert_eq!(level(unusable), Level::StartTls(by_name()));
}

#[test]
fn a_policy_in_testing_changes_nothing_but_what_is_counted() {
    for (mx, fails) in [("*.x.example", None), ("mx.other.example", Some(Failure::ValidationFailure))] {
        let testing = sts("testing", mx);
        let asked = Question { sts: Some(&testing), ..question(TlsPolicy::Opportunistic) };
        let (level, line) = decided(asked).unwrap();
        assert_eq!((level, line.policy), (Level::Opportunistic, Policy::Sts));
        assert_eq!((line.fails, line.watched), (fails, true));
    }
    let none = sts("none", "mx.other.example");
    let (level, line) = decided(Question { sts: Some(&none), ..question(TlsPolicy::Opportunistic) }).unwrap();
    assert_eq!((level, line.policy), (Level::Opportunistic, Policy::NoPolicyFound));
}

#[test]
fn requiretls_asks_for_a_verified_host_that_is_known_to_be_the_domains() {
    let asked = |policy| Question { require_tls: true, ..question(policy) };
    let (text, _) = decided(asked(TlsPolicy::None)).unwrap_err();
    assert!(text.starts_with("5.7.10 "), "{text}");
    for policy in [TlsPolicy::Opportunistic, TlsPolicy::Dane, TlsPolicy::Required] {
        // A good certificate proves nothing where the host's name may be forged.
        let (text, _) = decided(asked(policy)).unwrap_err();
        assert!(text.starts_with("5.7.10 ") && text.contains(HOST), "{text}");
        let literal = Question { domain: Some("[192.0.2.1]"), ..asked(policy) };
        assert_eq!(level(literal), Level::StartTls(by_name()));
        assert_eq!(level(Question { secure: true, ..asked(policy) }), Level::StartTls(by_name()));
        for mode in ["enforce", "testing"] {
            let listed = sts(mode, HOST);
            assert_eq!(level(Question { sts: Some(&listed), ..asked(policy) }), Level::StartTls(by_name()));
        }
        let others = sts("testing", "mx.other.example");
        assert!(decided(Question { sts: Some(&others), ..asked(policy) }).is_err());
        let unusable = Question { records: Records::Unusable, secure: true, ..asked(policy) };
        assert_eq!(level(unusable), Level::StartTls(by_name()));
    }
    let configured = Question { domain: None, secure: true, ..asked(TlsPolicy::Implicit) };
    assert_eq!(level(configured), Level::Implicit(by_name()));
    let dane = Question { records: Records::Usable(anchors()), secure: true, ..asked(TlsPolicy::Dane) };
    assert_eq!(level(dane), Level::StartTls(Verify::Dane(anchors())));
}

fn security(smtp: &options::Smtp) -> Security {
    // Nothing answers there: who asks it, learns that.
    let options = dns::Options { servers: vec!["127.0.0.1:1".parse().unwrap()], ..dns::Options::default() };
    let report = Arc::new(TlsReport::new(crate::clock::Clock::system()));
    Security::new(smtp, &Trust::system(Arc::default()), &Arc::new(Dns::new(options)), &report)
}

fn at(name: &str, secure: bool) -> Candidate {
    Candidate { host: Host { name: name.to_owned(), port: 25 }, secure }
}

#[tokio::test]
async fn dns_is_not_asked_for_the_records_of_a_host_that_it_does_not_vouch_for() {
    let hosts = Hosts::in_order(Vec::new());
    let security = security(&options::Smtp { tls: TlsPolicy::Dane, ..options::Smtp::new(hosts) });
    for candidate in [at("mx.x.example", false), at("192.0.2.1", true), at("2001:db8::1", true)] {
        let demand = security.demand(Some("x.example"), &candidate, false).await.unwrap();
        assert_eq!(demand.level, Level::Opportunistic);
    }
}
