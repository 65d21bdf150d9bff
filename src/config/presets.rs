//! `preset` of a route: what a provider's own documentation says about sending through it, as defaults.
//!
//! Only numbers that the provider publishes stand here, each with its source and the day on which a copy was read; a key
//! of the route always wins over them. docs/providers.md says the same to whoever sets a route up.

use std::num::NonZeroU32;

use governor::Quota;

use crate::relay::options::Preset;

/// Defaults of a route; what is `None` is as it is without a preset.
#[derive(Clone, Copy, Default)]
pub(super) struct Known {
    /// The one host that everybody uses.
    pub host: Option<&'static str>,
    /// `connections`.
    pub connections: Option<u16>,
    /// `rate`, with what may be sent at once.
    pub rate: Option<Quota>,
    /// `recipients_per_transaction`.
    pub recipients: Option<u16>,
    /// `oauth2_scope`.
    pub oauth2_scope: Option<&'static str>,
}

/// The words of `preset`.
pub(super) const CHOICES: [(&str, Preset); 4] = [
    ("none", Preset::None),
    ("microsoft365", Preset::Microsoft365),
    ("google", Preset::Google),
    ("ses", Preset::Ses),
];

/// Microsoft's messages a minute.
const MICROSOFT_PER_MINUTE: NonZeroU32 = NonZeroU32::new(30).unwrap();
/// One by one: then no minute, wherever it begins, has more than the limit.
const ONE_AT_ONCE: NonZeroU32 = NonZeroU32::new(1).unwrap();

/// What is known of a provider.
pub(super) fn known(preset: Preset) -> Known {
    match preset {
        Preset::None => Known::default(),
        Preset::Microsoft365 => Known {
            // "smtp.office365.com", port 587, with TLS: "Option 1" of
            // https://learn.microsoft.com/exchange/mail-flow-best-practices/how-to-set-up-a-multifunction-device-or-application-to-send-email-using-microsoft-365-or-office-365
            // (read 2026-11-22).
            host: Some("smtp.office365.com:587"),
            // "Up to three concurrent connections"; a fourth gets `432 4.3.2`. And "30 messages per minute":
            // https://learn.microsoft.com/exchange/troubleshoot/send-emails/smtp-submission-improvements
            // (read 2026-11-22).
            connections: Some(3),
            rate: Some(Quota::per_minute(MICROSOFT_PER_MINUTE).allow_burst(ONE_AT_ONCE)),
            recipients: None,
            // https://learn.microsoft.com/exchange/client-developer/legacy-protocols/how-to-authenticate-an-imap-pop-smtp-application-by-using-oauth
            // (read 2026-11-22), client credentials grant.
            oauth2_scope: Some("https://outlook.office365.com/.default"),
        },
        Preset::Google => Known {
            // "smtp-relay.gmail.com on port 587" with TLS:
            // https://support.google.com/a/answer/2956491 (read 2026-11-22).
            host: Some("smtp-relay.gmail.com:587"),
            // "There is a 100-recipient limit per SMTP transaction for smtp-relay.gmail.com":
            // https://support.google.com/a/answer/6140680 (read 2026-11-22).
            recipients: Some(100),
            ..Known::default()
        },
        // The host has the region in its name; the sending rate is each account's own:
        // https://docs.aws.amazon.com/ses/latest/dg/quotas.html (read 2026-11-22), which has the recipients too.
        Preset::Ses => Known { recipients: Some(50), ..Known::default() },
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;
    use governor::{Quota, RateLimiter};

    use super::*;

    #[test]
    fn no_minute_has_more_than_microsofts_thirty_messages() {
        let quota: Quota = known(Preset::Microsoft365).rate.expect("a rate");
        let clock = FakeRelativeClock::default();
        let limiter = RateLimiter::direct_with_clock(quota, clock.clone());
        let mut sent = Vec::new();
        for tenth in 0_u32..1_800 {
            if limiter.check().is_ok() {
                sent.push(tenth);
            }
            clock.advance(Duration::from_millis(100));
        }
        let most =
            sent.iter().map(|start| sent.iter().filter(|at| (*start..start + 600).contains(at)).count());
        assert_eq!(most.max(), Some(30));
    }
}
