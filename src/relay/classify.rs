//! What a reply of the far side means for a message. Pure, and the only place that decides it.
//!
//! R2: a refusal that says something about *us* must never fail a user's mail. `docs/relay.md` has the table.

use super::options::Preset;
use crate::smtp::{EnhancedCode, Reply};

/// The command that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// MAIL, and RSET before it.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA, when it was answered with something else than 354.
    Data,
    /// The final dot.
    FinalDot,
}

/// What it means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// 2yz.
    Accepted,
    /// Later, perhaps.
    Deferred,
    /// Never.
    Failed,
    /// R2: the far side will not work for us at all; deferred, and a failure of the destination.
    AboutUs,
    /// 421: the far side closes; deferred, and a failure of the destination.
    Closing,
    /// A reply that this command cannot have.
    OutOfPlace,
}

/// Decides about one reply.
pub(super) fn meaning(phase: Phase, reply: &Reply) -> Meaning {
    match reply.code {
        421 => Meaning::Closing,
        200..=299 if phase == Phase::Data => Meaning::OutOfPlace,
        200..=299 => Meaning::Accepted,
        300..=399 => Meaning::OutOfPlace,
        400..=499 => Meaning::Deferred,
        _ if is_about_us(phase, reply) => Meaning::AboutUs,
        _ if is_full_mailbox(phase, reply) => Meaning::Deferred,
        _ => Meaning::Failed,
    }
}

/// Whether a refusal for good says that the recipient's address is none (RFC 3463 §3.2). 5.1.7 and 5.1.8 speak of the
/// sender's; 5.1.0 may speak of either, and Postfix has it for a sender whom nobody knows, in reply to RCPT.
pub(super) fn is_hard_bounce(reply: &Reply) -> bool {
    reply.code >= 500
        && reply
            .enhanced
            .is_some_and(|EnhancedCode(_, subject, detail)| subject == 1 && !matches!(detail, 0 | 7 | 8))
}

/// Whether the far side has too many of our connections, which says nothing about the message: Microsoft 365 has
/// `432 4.3.2 Concurrent connections limit exceeded` for it
/// (learn.microsoft.com/en-us/exchange/troubleshoot/send-emails/smtp-submission-improvements). The other use of this code is
/// a refused AUTH, `432 4.7.12 A password transition is needed` (RFC 4954 §6), which must not be tried over and over.
pub(super) fn is_crowded(code: u16, text: &str) -> bool {
    code == 432 && !text.starts_with("4.7.")
}

/// R2, in a provider's own words: Microsoft 365 answers `554 5.2.0 STOREDRV…` at the final dot when the mailbox that sends
/// may not, mostly because it is over its recipients a day. Elsewhere 5.2.0 speaks of the recipient's mailbox.
pub(super) fn is_about_account(preset: Preset, code: u16, text: &str) -> bool {
    preset == Preset::Microsoft365 && code == 554 && text.starts_with("5.2.0 ") && text.contains("STOREDRV")
}

/// R2. Authentication and command sequence are ours wherever they are refused; a refused MAIL is ours unless the
/// reply speaks of this message (its sender's address, its size, its content or its parameters).
fn is_about_us(phase: Phase, reply: &Reply) -> bool {
    if matches!(reply.code, 530 | 534 | 535 | 538) || (reply.code == 503 && phase == Phase::Rcpt) {
        return true;
    }
    // After an accepted recipient DATA is neither unknown nor out of sequence.
    if phase == Phase::Data && matches!(reply.code, 500 | 502 | 503) {
        return true;
    }
    if phase != Phase::Mail {
        return false;
    }
    match reply.enhanced {
        // 5.7.x (not allowed), 5.5.1 (bad sequence), 5.3.x (the system), 5.4.x (routing), 5.0.0 (anything).
        Some(EnhancedCode(_, subject, detail)) => {
            !matches!((subject, detail), (1 | 2 | 6, _) | (3, 4) | (5, 2 | 4))
        }
        // 501 and 555: a parameter; 552: the size.
        None => !matches!(reply.code, 501 | 552 | 555),
    }
}

/// A mailbox that is full today may have room tomorrow. RFC 5321 §4.5.3.1.10 also has 552 for too many recipients.
fn is_full_mailbox(phase: Phase, reply: &Reply) -> bool {
    match reply.enhanced {
        Some(EnhancedCode(_, 2, 2)) => true,
        Some(EnhancedCode(_, subject, _)) => reply.code == 552 && subject == 5,
        None => reply.code == 552 && phase != Phase::Mail,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(phase: Phase, text: &str) -> Meaning {
        let mut reader = crate::smtp::reply_reader::ReplyReader::default();
        let (_, reply) = reader.feed(format!("{text}\r\n").as_bytes()).unwrap();
        meaning(phase, &reply.unwrap())
    }

    #[test]
    fn r2_a_refusal_about_us_is_told_from_one_about_the_message() {
        use Meaning::{AboutUs, Failed};
        for (text, expected) in [
            ("530 5.7.0 Authentication required", AboutUs),
            ("530 Must issue a STARTTLS command first", AboutUs),
            ("550 5.7.60 Client does not have permissions to send as this sender", AboutUs),
            ("554 5.7.1 Sender not verified", AboutUs),
            ("553 sorry, that sender is not allowed", AboutUs),
            ("550 not today", AboutUs),
            ("503 5.5.1 bad sequence", AboutUs),
            ("553 5.1.7 bad sender address syntax", Failed),
            ("550 5.1.8 sender domain does not exist", Failed),
            ("552 5.3.4 too large", Failed),
            ("552 too large", Failed),
            ("555 unsupported parameter", Failed),
            ("501 5.5.4 syntax", Failed),
        ] {
            assert_eq!(judged(Phase::Mail, text), expected, "{text}");
        }
        assert_eq!(judged(Phase::Rcpt, "550 5.7.1 no"), Failed);
        assert_eq!(judged(Phase::Rcpt, "530 5.7.0 log in"), AboutUs);
        for text in ["503 5.5.1 bad sequence", "502 not implemented", "500 what?"] {
            assert_eq!(judged(Phase::Data, text), AboutUs, "{text}");
        }
        assert_eq!(judged(Phase::Data, "554 5.5.1 no valid recipients"), Failed);
        assert_eq!(judged(Phase::FinalDot, "554 5.7.1 spam"), Failed);
    }

    #[test]
    fn an_address_that_does_not_exist_is_told_from_one_that_was_refused_today() {
        for (text, expected) in [
            ("550 5.1.1 unknown", true),
            ("550 5.1.10 null MX", true),
            ("553 5.1.3 syntax", true),
            ("550 5.1.8 bad sender domain", false),
            ("553 5.1.7 bad sender", false),
            ("550 5.1.0 <a@shop.example>: Sender address rejected: User unknown", false),
            ("550 5.7.1 spam", false),
            ("550 5.2.1 disabled", false),
            ("450 4.1.1 later", false),
            ("550 no such user", false),
        ] {
            let (_, reply) = crate::smtp::reply_reader::ReplyReader::default()
                .feed(format!("{text}\r\n").as_bytes())
                .unwrap();
            assert_eq!(is_hard_bounce(&reply.unwrap()), expected, "{text}");
        }
    }

    #[test]
    fn too_many_connections_at_microsoft_are_a_deferral() {
        let busy = "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded";
        assert_eq!(judged(Phase::Mail, busy), Meaning::Deferred);
        assert_eq!(judged(Phase::FinalDot, busy), Meaning::Deferred);
    }

    #[test]
    fn r2_what_one_provider_says_of_our_account_is_told_from_what_others_say_of_a_mailbox() {
        let quota =
            "5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; Failed to process message";
        assert!(is_about_account(Preset::Microsoft365, 554, quota));
        assert!(!is_about_account(Preset::None, 554, quota));
        assert!(!is_about_account(Preset::Microsoft365, 554, "5.2.0 mailbox unavailable"));
        assert!(!is_about_account(Preset::Microsoft365, 550, "5.1.1 STOREDRV"));
    }

    #[test]
    fn r2_too_many_connections_are_told_from_a_refused_password() {
        assert!(is_crowded(432, "4.3.2 Concurrent connections limit exceeded") && is_crowded(432, "busy"));
        assert!(!is_crowded(432, "4.7.12 A password transition is needed") && !is_crowded(421, "4.3.2 busy"));
    }

    #[test]
    fn full_mailboxes_are_deferred() {
        for phase in [Phase::Rcpt, Phase::FinalDot] {
            assert_eq!(judged(phase, "552 mailbox full"), Meaning::Deferred);
            assert_eq!(judged(phase, "550 5.2.2 over quota"), Meaning::Deferred);
            assert_eq!(judged(phase, "552 5.5.3 too many recipients"), Meaning::Deferred);
            assert_eq!(judged(phase, "552 5.3.4 too large"), Meaning::Failed);
        }
    }

    #[test]
    fn other_replies_mean_what_their_first_digit_says() {
        assert_eq!(judged(Phase::Rcpt, "251 will forward"), Meaning::Accepted);
        assert_eq!(judged(Phase::Rcpt, "450 4.2.1 greylisted"), Meaning::Deferred);
        assert_eq!(judged(Phase::Rcpt, "550 5.1.1 unknown"), Meaning::Failed);
        assert_eq!(judged(Phase::Data, "250 what"), Meaning::OutOfPlace);
        assert_eq!(judged(Phase::FinalDot, "354 again"), Meaning::OutOfPlace);
        assert_eq!(judged(Phase::FinalDot, "421 4.3.2 closing"), Meaning::Closing);
    }
}
