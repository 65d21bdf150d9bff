//! What the relay promises of name servers that are broken or mean it ill: the mail waits, with a sentence that names the
//! cause, after few questions and in bounded time, and nobody is connected to on the strength of a lie.

use std::sync::Arc;

use hickory_server::proto::rr::RecordType;
use oncemail::dns::Dns;
use oncemail::mail::{AttemptReply, Progress, RecipientState};
use oncemail::relay::options::{Smtp, Transport};

use crate::common::dns_server::{DnsServer, DnsServerBuilder, Lie};
use crate::common::far_side::FarSide;
use crate::common::relay_rig::{
    DELIVERED, Rig, mail_hosts, named, patient, relay_options, replies, route, smarthost,
};

/// What one attempt may ask of one kind: over UDP and TCP, each once more.
const MAX_QUESTIONS: usize = 4;

/// One attempt for `recipient`, and no second one while a test looks at the first.
async fn attempt(dns: Arc<Dns>, transport: Transport, recipient: &str) -> Progress {
    let rig = Rig::start_with_dns(relay_options(vec![route("r", transport)]), patient(), dns);
    let id = rig.send(&[recipient], "x").await;
    let progress = rig.store.saved(id, 1).await;
    assert_eq!(progress.attempts, 1, "{progress:?}");
    let replies = replies(&progress);
    assert!(replies.len() == 1 && replies[0].len() <= AttemptReply::MAX_TEXT, "{replies:?}");
    progress
}

/// It must be deferred with a text that has `code` in front and `cause` in it.
fn is_deferral(progress: &Progress, code: &str, cause: &str, about: &str) {
    assert_eq!(progress.recipients[0].state, RecipientState::Queued, "{about}: {progress:?}");
    let said = &replies(progress)[0];
    assert!(said.starts_with(code) && said.contains(cause), "{about}: {said}");
}

/// `x.example` and `smtp.x.example` are here, and so is whoever is asked for by mistake.
fn zone() -> DnsServerBuilder {
    let circle = DnsServer::new().cname("a.example", "b.example").cname("b.example", "a.example");
    circle
        .cname("self.example", "self.example")
        .mx("x.example", 10, "smtp.x.example")
        .a("smtp.x.example", "127.0.0.1")
}

const LIES: [(Lie, &str); 8] = [
    (Lie::ServFail, "Server Failure"),
    (Lie::Silence, "no answer"),
    (Lie::Garbage, "makes no sense"),
    (Lie::WrongSize, "makes no sense"),
    (Lie::WrongSizeOverTcp, "no answer"),
    (Lie::Truncated, "larger than DNS can carry"),
    // What answers another question is no answer to this one.
    (Lie::OtherQuestion, "no answer"),
    (Lie::ManyMx(10_000), "no answer"),
];

#[tokio::test]
async fn r2_a_lie_about_the_hosts_of_a_domain_makes_its_mail_wait() {
    let far = FarSide::new().start().await;
    let to_domains = || Transport::Smtp(mail_hosts(far.address.port()));
    for (lie, cause) in LIES {
        let server = zone().start().await;
        server.lie("x.example", lie);
        let progress = attempt(server.dns(), to_domains(), "b@x.example").await;
        is_deferral(
            &progress,
            "4.4.3 the MX records of x.example cannot be looked up: ",
            cause,
            &format!("{lie:?}"),
        );
        let asked = server.asked("x.example", RecordType::MX);
        assert!((1..=MAX_QUESTIONS).contains(&asked), "{lie:?}: asked {asked} times");
        assert_eq!(server.asked("smtp.x.example", RecordType::A), 0, "{lie:?}");
    }
    for circle in ["a.example", "self.example"] {
        let server = zone().start().await;
        let progress = attempt(server.dns(), to_domains(), &format!("b@{circle}")).await;
        is_deferral(&progress, "4.4.3 the MX records of ", "its CNAME records lead in a circle", circle);
    }
    assert_eq!(far.log().connections, 0);
}

#[tokio::test]
async fn r2_a_lie_about_the_address_of_a_host_makes_mail_wait() {
    let far = FarSide::new().start().await;
    let to_domains = || Transport::Smtp(mail_hosts(far.address.port()));
    let fixed = |name: &str| Transport::Smtp(Smtp { hosts: named(name, far.address), ..smarthost(&[]) });
    for (lie, cause) in LIES {
        if lie == Lie::ManyMx(10_000) {
            continue;
        }
        let server = zone().start().await;
        server.lie("smtp.x.example", lie);
        for transport in [to_domains(), fixed("smtp.x.example")] {
            let progress = attempt(server.dns(), transport, "b@x.example").await;
            is_deferral(&progress, "4.4.3 smtp.x.example cannot be looked up: ", cause, &format!("{lie:?}"));
        }
        let asked = server.asked("smtp.x.example", RecordType::A);
        assert!((1..=2 * MAX_QUESTIONS).contains(&asked), "{lie:?}: asked {asked} times");
    }
    let server = zone().start().await;
    let progress = attempt(server.dns(), fixed("a.example"), "b@x.example").await;
    is_deferral(
        &progress,
        "4.4.3 a.example cannot be looked up: ",
        "its CNAME records lead in a circle",
        "circle",
    );
    assert_eq!(far.log().connections, 0);
}

#[tokio::test]
async fn s2_of_thousands_of_mail_hosts_few_are_asked_for_and_none_twice() {
    let far = FarSide::new().start().await;
    let transport = || Transport::Smtp(mail_hosts(far.address.port()));
    // None of them has an address.
    let server = zone().start().await;
    server.lie("many.example", Lie::ManyMx(2900));
    let progress = attempt(server.dns(), transport(), "b@many.example").await;
    let said = &replies(&progress)[0];
    assert!(said.starts_with("5.4.4 ") || said.starts_with("5.1.2 "), "{said}");
    let asked = |server: &DnsServer| {
        let of = |number| server.asked(&format!("m{number}.many.example"), RecordType::A);
        (0..2900).map(of).collect::<Vec<_>>()
    };
    assert!(asked(&server).iter().enumerate().all(|(number, asked)| *asked == usize::from(number < 20)));
    // The last that counts works.
    let server = zone().a("m19.many.example", "127.0.0.1").start().await;
    server.lie("many.example", Lie::ManyMx(2900));
    let progress = attempt(server.dns(), transport(), "b@many.example").await;
    assert_eq!((progress.recipients[0].state, far.log().connections), (DELIVERED, 1), "{progress:?}");
}
