//! What came of a recipient, as a relay tells the queue.

use oncemail::clock::Timestamp;
use oncemail::mail::AttemptReply;
use oncemail::queue::{End, Outcome};

/// A far side's answer, or with code 0 a word of our own.
pub fn reply(code: u16, text: &str) -> AttemptReply {
    AttemptReply {
        at: Timestamp::from_millis(1),
        route: "r".into(),
        host: "mx.x.example:25".into(),
        code,
        text: text.into(),
        times: 1,
        tls: String::new(),
    }
}

/// An end with the answer that brings it about.
pub fn outcome(recipient: usize, end: End) -> Outcome {
    let reply = match end {
        End::Delivered => reply(250, "2.0.0 ok"),
        End::Deferred => reply(451, "4.3.0 later"),
        End::Failed => reply(550, "5.1.1 no such user"),
        End::InDoubt => reply(0, "in doubt"),
    };
    Outcome { recipient, end, in_doubt: false, hard_bounce: false, dsn_onward: false, reply }
}
