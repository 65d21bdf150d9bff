//! What holds of any two mails and any two envelopes: which are the same, and which never are.

use proptest::prelude::*;

use super::tests::{content_print, envelope, rendering};
use super::*;

const RULES: Rules<'static> = Rules { key_header: "X-Idempotency-Key", ignore_headers: &[] };

/// Few enough that sets of them often meet.
fn path() -> impl Strategy<Value = String> {
    "[aA]@[bB]{1,2}\\.[xX]"
}

fn lower_domain(path: &str) -> String {
    let (local, domain) = path.split_once('@').unwrap();
    format!("{local}@{}", domain.to_lowercase())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_mails_are_the_same_exactly_when_a_recipient_sees_the_same(
        one in rendering::small_mail(), other in rendering::small_mail(), first in rendering::style(), second in rendering::style(),
    ) {
        let prints = [one.render(&first), other.render(&second)].map(content_print);
        prop_assert!(prints.iter().all(|print| print.mode == FingerprintMode::Content && print.version == VERSION));
        prop_assert_eq!(prints[0] == prints[1], one == other);
    }

    #[test]
    fn one_bit_of_a_file_is_another_mail(
        mail in rendering::mail(), style in rendering::style(), file in any::<usize>(), at in any::<usize>(),
    ) {
        if let Some(other) = mail.with_a_bit_flipped(file, at) {
            prop_assert_ne!(content_print(mail.render(&style)), content_print(other.render(&style)));
        }
    }

    #[test]
    fn one_byte_anywhere_is_another_message_in_the_mode_exact(
        mail in rendering::small_mail(), style in rendering::style(), at in any::<prop::sample::Index>(), to in 1..=255u8,
    ) {
        let content = mail.render(&style);
        let mut other = content.clone();
        other[at.index(content.len())] ^= to;
        let print = |content: &[u8]| take(content, &envelope("a@b", &["c@d"]), FingerprintMode::Exact, RULES);
        prop_assert_ne!(print(&content), print(&other));
        // A record of today's other mode is compared by its own rules.
        let record = print(&content);
        let mine = content_print(&content);
        prop_assert_eq!(compare(&record, &mine, &content, RULES), Comparison::Same);
        prop_assert_eq!(compare(&record, &content_print(&other), &other, RULES), Comparison::OtherContent);
        let foreign = Fingerprint { version: VERSION + 1, ..mine };
        prop_assert_eq!(compare(&foreign, &mine, &content, RULES), Comparison::UnknownRules);
    }

    #[test]
    fn envelopes_are_the_same_exactly_when_sender_and_set_of_recipients_are(
        senders in (path(), path()), one in prop::collection::vec(path(), 1..5), other in prop::collection::vec(path(), 1..5),
    ) {
        let set = |paths: &[String]| {
            let mut set: Vec<_> = paths.iter().map(|path| lower_domain(path)).collect();
            set.sort_unstable();
            set.dedup();
            set
        };
        let hash = |from: &str, to: &[String]| {
            envelope_hash(&envelope(from, &to.iter().map(String::as_str).collect::<Vec<_>>()))
        };
        let same = lower_domain(&senders.0) == lower_domain(&senders.1) && set(&one) == set(&other);
        prop_assert_eq!(hash(&senders.0, &one) == hash(&senders.1, &other), same);
        prop_assert_ne!(hash("", &one), hash(&senders.0, &one));
    }

    /// The key comes off before anything is hashed, wherever it stands and however it is written.
    #[test]
    fn the_key_is_no_part_of_the_message(mail in rendering::small_mail(), style in rendering::style(), key in "[a-z]{1,9}(\r\n [a-z]{1,9})?") {
        let content = mail.render(&style);
        let keyed = [format!("x-idempotency-KEY: {key}\r\n").as_bytes(), &content].concat();
        for mode in [FingerprintMode::Exact, FingerprintMode::Content] {
            let print = |content: &[u8]| take(content, &envelope("a@b", &["c@d"]), mode, RULES);
            prop_assert_eq!(print(&content), print(&keyed));
        }
    }
}
