//! Why a handshake failed, in words for a log line and in those of a TLS report (RFC 8460 §4.3).

use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, OtherError};

use crate::clock::Timestamp;
use crate::relay::tls_report::Failure;

/// Names of a wrong certificate that are told; more only fill the log.
const NAMES_TOLD: usize = 3;

/// What our own verifiers refuse, beyond what rustls has a word for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::relay) enum Refused {
    /// Nobody but itself vouches for it.
    #[error("the certificate is self-signed, and not trusted")]
    SelfSigned,
    /// RFC 7672 §3.1.
    #[error("the certificate matches none of the host's TLSA records")]
    NoTlsaMatch,
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refused))))
    }
}

/// A short sentence.
pub(in crate::relay) fn words(error: &Error) -> String {
    let told = match error {
        Error::InvalidCertificate(wrong) => certificate(wrong),
        Error::AlertReceived(alert) => format!("the far side ended the handshake: {alert:?}"),
        Error::PeerIncompatible(what) => format!("there is no common version or cipher: {what:?}"),
        Error::InvalidMessage(what) => format!("the far side sent something that is not TLS: {what:?}"),
        other => other.to_string(),
    };
    told.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn certificate(wrong: &CertificateError) -> String {
    match wrong {
        CertificateError::Expired => "the certificate has expired".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate expired at {}", time(*not_after))
        }
        CertificateError::NotValidYet => "the certificate is not valid yet".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", time(*not_before))
        }
        CertificateError::NotValidForName => "the certificate is for another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut told: Vec<_> = presented.iter().take(NAMES_TOLD).map(|name| bare(name)).collect();
            if presented.len() > NAMES_TOLD {
                told.push("…");
            }
            let told = if told.is_empty() { "none".to_owned() } else { told.join(", ") };
            format!("the certificate is not valid for name {}, but for {told}", expected.to_str())
        }
        CertificateError::UnknownIssuer => {
            "the certificate is from an authority that is not trusted".to_owned()
        }
        CertificateError::BadSignature => "the certificate's signature is wrong".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not one for servers".to_owned()
        }
        CertificateError::BadEncoding => "the certificate is malformed".to_owned(),
        CertificateError::Other(other) => refused(other)
            .map_or_else(|| format!("the certificate is refused: {other}"), |refused| refused.to_string()),
        other => format!("the certificate is refused: {other}"),
    }
}

/// `DnsName("mx.example")` without its wrapping.
fn bare(name: &str) -> &str {
    name.split_once('(').and_then(|(_, name)| name.strip_suffix(')')).unwrap_or(name).trim_matches('"')
}

fn time(at: UnixTime) -> Timestamp {
    Timestamp::from_millis(at.as_secs().saturating_mul(1000))
}

fn refused(other: &OtherError) -> Option<Refused> {
    other.0.downcast_ref::<Refused>().copied()
}

/// The word of a report for it.
pub(in crate::relay) fn failure(error: &Error) -> Failure {
    let Error::InvalidCertificate(wrong) = error else { return Failure::ValidationFailure };
    match wrong {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Failure::CertificateExpired,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Failure::CertificateHostMismatch
        }
        CertificateError::UnknownIssuer => Failure::CertificateNotTrusted,
        CertificateError::Other(other) if refused(other).is_some() => Failure::CertificateNotTrusted,
        _ => Failure::ValidationFailure,
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn a_wrong_certificate_is_told_in_short_words_and_counted_as_what_it_is() {
        let expected = ServerName::try_from("mx.x.example").unwrap();
        let named = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: expected.to_owned(),
            presented: presented.iter().map(|name| format!("DnsName(\"{name}\")")).collect(),
        };
        let day = |secs| UnixTime::since_unix_epoch(std::time::Duration::from_secs(secs));
        let expired = CertificateError::ExpiredContext { time: day(2), not_after: day(1) };
        for (wrong, told, counted) in [
            (named(&["a", "b"]), "mx.x.example, but for a, b", Failure::CertificateHostMismatch),
            (named(&["a", "b", "c", "d"]), "for a, b, c, …", Failure::CertificateHostMismatch),
            (named(&[]), "but for none", Failure::CertificateHostMismatch),
            (expired, "expired at 1970-01-01T00:00:01Z", Failure::CertificateExpired),
            (CertificateError::UnknownIssuer, "not trusted", Failure::CertificateNotTrusted),
            (CertificateError::BadSignature, "signature", Failure::ValidationFailure),
        ] {
            let error = Error::InvalidCertificate(wrong);
            let words = words(&error);
            assert!(words.contains("certificate") && words.contains(told), "{words}");
            assert_eq!(failure(&error), counted, "{words}");
        }
        for refused in [Refused::SelfSigned, Refused::NoTlsaMatch] {
            assert_eq!(words(&refused.into()), refused.to_string());
            assert_eq!(failure(&refused.into()), Failure::CertificateNotTrusted);
        }
    }

    #[test]
    fn what_a_far_side_wrote_into_its_certificate_cannot_break_a_line() {
        let expected = ServerName::try_from("mx.x.example").unwrap();
        let presented = vec!["DnsName(\"a\r\n250 ok\")".to_owned()];
        let wrong = CertificateError::NotValidForNameContext { expected, presented };
        assert!(!words(&Error::InvalidCertificate(wrong)).contains(char::is_control));
    }
}
