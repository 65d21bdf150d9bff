//! AUTH at a next hop that does not mean well, or does not know better.

use oncemail::mail::RecipientState;
use oncemail::relay::options::{Auth, Secret};

use crate::common::far_side::{Act, FarSide, FarSideBuilder, Log, say};
use crate::common::relay_rig::{DELIVERED, Rig, changed, replies};

/// One message with AUTH: the state it came to, the last reply, and what the far side heard.
async fn sent(far: FarSideBuilder) -> (RecipientState, String, Log) {
    let far = far.start().await;
    let auth = || Auth { username: "u".into(), with: Secret::Password("s".to_owned().into()) };
    let rig = Rig::start(changed(&[far.address], |smarthost| smarthost.auth = Some(auth())));
    let id = rig.send(&["b@x.example"], "x").await;
    let progress = rig.store.saved(id, 1).await;
    (progress.recipients[0].state, replies(&progress)[0].clone(), far.log())
}

#[tokio::test]
async fn s1_what_comes_behind_the_reply_to_auth_is_no_reply_to_mail() {
    for (mechanism, step) in [("AUTH PLAIN", "AUTH PLAIN"), ("AUTH LOGIN", "cw==")] {
        let forged = Act::Bytes(b"235 2.7.0 ok\r\n250 2.1.0 sender ok\r\n".to_vec());
        let far = FarSide::new().offers(&[mechanism]);
        let far = far.on("dQ==", say("334 UGFzc3dvcmQ6")).on(step, forged);
        let (state, reply, log) = sent(far).await;
        assert_eq!(state, RecipientState::Queued, "{mechanism}");
        assert!(reply.contains("a reply that was not asked for"), "{mechanism}: {reply}");
        assert_eq!((log.said("MAIL"), log.taken.len()), (0, 0), "{mechanism}: {log:?}");
    }
}

#[tokio::test]
async fn a_password_that_was_refused_is_not_said_again_by_another_mechanism() {
    for refusal in ["535 5.7.8 no", "454 4.7.0 not now", "534 5.7.9 too weak"] {
        let far = FarSide::new().offers(&["AUTH LOGIN PLAIN"]).on("AUTH", say(refusal));
        let (state, reply, log) = sent(far).await;
        assert_eq!(state, RecipientState::Queued);
        assert!(reply.ends_with("(in reply to AUTH)"), "{reply}");
        assert_eq!((log.said("AUTH PLAIN"), log.said("AUTH LOGIN")), (1, 0), "{refusal}");
    }
}

#[tokio::test]
async fn login_is_spoken_where_plain_is_offered_and_not_known() {
    let far = FarSide::new()
        .offers(&["AUTH PLAIN LOGIN"])
        .on("AUTH PLAIN", say("504 5.5.4 Unrecognized authentication type"))
        .on("dQ==", say("334 UGFzc3dvcmQ6"))
        .on("cw==", say("235 2.7.0 ok"));
    let (state, _, log) = sent(far).await;
    assert_eq!((state, log.said("AUTH LOGIN")), (DELIVERED, 1));
}

#[tokio::test]
async fn a_server_that_knows_no_initial_response_is_answered_when_it_asks() {
    let far = FarSide::new()
        .offers(&["AUTH PLAIN"])
        .on("AUTH PLAIN", say("334 "))
        .on("AHUAcw==", say("235 2.7.0 ok"));
    let (state, _, log) = sent(far).await;
    assert_eq!((state, log.said("AHUAcw==")), (DELIVERED, 1));
}

#[tokio::test]
async fn questions_without_end_are_not_answered() {
    let asks = || say("334 UGFzc3dvcmQ6");
    for (offered, said) in [("AUTH LOGIN", "cw=="), ("AUTH PLAIN", "AHUAcw==")] {
        let far =
            FarSide::new().offers(&[offered]).on("AUTH PLAIN", asks()).on("dQ==", asks()).on(said, asks());
        let (state, reply, log) = sent(far).await;
        assert_eq!(state, RecipientState::Queued, "{offered}");
        assert!(reply.starts_with("AUTH: the far side answered with 334"), "{reply}");
        assert_eq!(log.said(said), 1, "{log:?}");
    }
}
