//! What a transaction says of its recipients that is seen nowhere else.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream};

use super::*;
use crate::clock::Clock;
use crate::mail::{Address, Body, Envelope, Handling, Origin, QueueId, Recipient, ReversePath};

fn message(recipients: usize) -> Message {
    let now = Clock::system().now();
    let recipient = |n| Recipient {
        forward_path: Address::parse(&format!("r{n}@x.example")).unwrap(),
        notify: None,
        orcpt: None,
        unverified: false,
    };
    Message {
        id: QueueId::new(now),
        accepted_at: now,
        envelope: Envelope {
            reverse_path: ReversePath::Null,
            recipients: (0..recipients).map(recipient).collect(),
            body: Body::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
            handling: Handling::default(),
        },
        origin: Origin { listener: String::new(), user: None, client: None },
        key: None,
        message_id: String::new(),
        content: "Subject: x\r\n\r\nx\r\n".into(),
    }
}

/// Answers each line with the reply of the first rule that it starts with, and the lines of a message with none.
async fn far_side(stream: DuplexStream, rules: Arc<Vec<(&'static str, &'static str)>>) {
    let (read, mut write) = tokio::io::split(stream);
    let mut lines = BufReader::new(read).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, reply)) = rules.iter().find(|(prefix, _)| line.starts_with(prefix)) {
            write.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
        }
    }
}

async fn answers(recipients: usize, own: &[(&'static str, &'static str)]) -> Vec<Answer> {
    match ended(&message(recipients), own).await {
        Ended::Answered { answers, .. } => answers,
        other => panic!("{other:?}"),
    }
}

async fn ended(message: &Message, own: &[(&'static str, &'static str)]) -> Ended {
    let usual =
        [("MAIL", "250 ok"), ("RCPT", "250 ok"), ("DATA", "354 go"), (".", "250 taken"), ("RSET", "250 ok")];
    let rules: Vec<_> = own.iter().chain(&usual).copied().collect();
    let (near, far) = tokio::io::duplex(4096);
    tokio::spawn(far_side(far, Arc::new(rules)));
    let mut session = Session::new(Ready {
        wire: Wire::new(Box::new(near)),
        capabilities: Capabilities::default(),
        tls: String::new(),
        is_verified: false,
        certificate: None,
    });
    let fields = Front::default();
    let recipients: Vec<usize> = (0..message.envelope.recipients.len()).collect();
    let parcel = Parcel { message, fields: &fields, recipients: &recipients, doubt: None };
    session.transact(&parcel, &Timeouts::default(), &CancellationToken::new()).await
}

#[tokio::test]
async fn an_address_is_a_hard_bounce_only_when_the_reply_can_mean_nothing_else() {
    let unknown = "550 5.1.1 unknown";
    let hard = |answers: Vec<Answer>| answers.iter().map(|a| (a.end, a.hard_bounce)).collect::<Vec<_>>();
    let rcpt = answers(2, &[("RCPT TO:<r1@", unknown)]).await;
    assert_eq!(hard(rcpt), [(End::Delivered, false), (End::Failed, true)]);
    assert_eq!(hard(answers(1, &[(".", unknown)]).await), [(End::Failed, true)]);
    // Of two recipients nobody knows which one is meant.
    assert_eq!(hard(answers(2, &[(".", unknown)]).await), [(End::Failed, false); 2]);
    // Unless the other one was refused before.
    let alone = answers(2, &[("RCPT TO:<r1@", "550 5.7.1 blocked"), (".", unknown)]).await;
    assert_eq!(hard(alone), [(End::Failed, true), (End::Failed, false)]);
    for (step, reply) in [("MAIL", unknown), ("DATA", unknown), ("RCPT", "550 5.1.8 no such sender domain")] {
        assert_eq!(hard(answers(1, &[(step, reply)]).await), [(End::Failed, false)], "{step}");
    }
}

#[tokio::test]
async fn r2_a_refused_null_sender_waits_and_does_not_count_against_the_host() {
    let refusal = [("MAIL", "550 5.7.1 no null senders here")];
    let Ended::Answered { answers, healthy, .. } = ended(&message(1), &refusal).await else {
        panic!("the host would be left alone by everybody's mail")
    };
    assert_eq!((answers[0].end, answers[0].code, healthy), (End::Deferred, 550, Some(true)));
    let mut from_somebody = message(1);
    from_somebody.envelope.reverse_path = ReversePath::Mailbox(Address::parse("a@x.example").unwrap());
    assert!(matches!(ended(&from_somebody, &refusal).await, Ended::Refused(_)));
    let login = ended(&message(1), &[("MAIL", "530 5.7.0 log in first")]).await;
    assert!(matches!(login, Ended::Refused(_)), "{login:?}");
}

#[tokio::test]
async fn too_many_connections_defer_with_their_code() {
    for step in ["MAIL", "RCPT", "DATA", "."] {
        let said = answers(1, &[(step, "432 4.3.2 sender thread limit exceeded")]).await;
        assert_eq!((said[0].end, said[0].code), (End::Deferred, 432), "{step}");
    }
}
