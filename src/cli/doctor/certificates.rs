//! Certificates: ours, which clients see, and those that far sides have shown.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use webpki::EndEntityCert;

use super::report::Check;
use crate::clock::Timestamp;
use crate::config::Config;
use crate::submission::options::{Tls, TlsMode};
use crate::submission::tls;
use crate::submission::validity::not_after;

const WHAT: &str = "certificate";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A renewal that works has happened by then: those of 90 days are renewed after 60.
const SOON_DAYS: u64 = 30;
/// Somebody has to act today.
const VERY_SOON_DAYS: u64 = 7;

/// Of the listeners; blocks.
pub(super) fn listeners(config: &Config, now: Timestamp) -> Vec<Check> {
    let submission = &config.submission;
    let offers_tls = submission.listeners.iter().any(|listener| listener.tls != TlsMode::None);
    let Some(files) = submission.tls.as_ref().filter(|_| offers_tls) else {
        return vec![Check::skip(WHAT, "no listener offers TLS".to_owned())];
    };
    let chain = match tls::look(files) {
        Ok(chain) => chain,
        Err(error) => {
            let advice =
                "correct [tls]: certificate_file with its whole chain, and the key that belongs to it";
            return vec![Check::fail(WHAT, error.to_string(), advice)];
        }
    };
    let Some((leaf, others)) = chain.split_first() else { return Vec::new() };
    let mut checks = vec![end(WHAT, leaf, now), names(leaf, &submission.hostname)];
    checks.push(authority(leaf, others, now));
    checks.extend(key_file(files));
    checks
}

/// How long a certificate of ours is still good.
fn end(what: &str, certificate: &CertificateDer<'_>, now: Timestamp) -> Check {
    let renew = "renew it; the server reads the new files by itself";
    let Some(end) = not_after(certificate) else {
        return Check::warn(what, "its end cannot be read".to_owned(), "see whether clients take it");
    };
    let days = days(now, end);
    let finding =
        format!("good until {end}, {}", super::counted(usize::try_from(days).unwrap_or(usize::MAX), "day"));
    if end <= now {
        Check::fail(what, format!("expired at {end}"), renew)
    } else if days < VERY_SOON_DAYS {
        Check::fail(what, finding, renew)
    } else if days < SOON_DAYS {
        Check::warn(what, finding, renew)
    } else {
        Check::ok(what, finding)
    }
}

/// The end of a far side's certificate in words, and whether it is near.
pub(super) fn far_end(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<(String, bool)> {
    let end = not_after(certificate)?;
    Some((format!("certificate until {end}"), days(now, end) < VERY_SOON_DAYS))
}

fn days(now: Timestamp, end: Timestamp) -> u64 {
    end.since(now).as_secs() / DAY.as_secs()
}

fn names(leaf: &CertificateDer<'_>, hostname: &str) -> Check {
    let what = "certificate's names";
    let Ok(parsed) = EndEntityCert::try_from(leaf) else {
        return Check::fail(what, "it cannot be read".to_owned(), "use an X.509 v3 certificate");
    };
    let listed: Vec<_> = parsed.valid_dns_names().take(5).collect();
    let listed = if listed.is_empty() { "no name".to_owned() } else { listed.join(", ") };
    let is_ours = ServerName::try_from(hostname)
        .is_ok_and(|name| parsed.verify_is_valid_for_subject_name(&name).is_ok());
    if is_ours {
        Check::ok(what, listed)
    } else {
        let advice = "clients that connect to that name refuse it; if they use another, all is well";
        Check::warn(what, format!("{listed}: not {hostname}"), advice)
    }
}

/// Whether clients that trust whom this system trusts can follow the chain.
fn authority(leaf: &CertificateDer<'_>, others: &[CertificateDer<'_>], now: Timestamp) -> Check {
    let what = "certificate's chain";
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        return Check::skip(what, "this system has no certificate authorities to follow it to".to_owned());
    }
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.as_millis()));
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
    let verified = ParsedCertificate::try_from(leaf)
        .and_then(|leaf| verify_server_cert_signed_by_trust_anchor(&leaf, &roots, others, now, algorithms));
    match verified {
        Ok(()) => Check::ok(what, format!("{} in it, up to a trusted authority", 1 + others.len())),
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
            let advice =
                "put the intermediate certificates into certificate_file, or have clients trust yours";
            Check::warn(what, "no authority that this system trusts has signed it".to_owned(), advice)
        }
        Err(error) => Check::warn(what, error.to_string(), "clients may refuse it"),
    }
}

fn key_file(files: &Tls) -> Option<Check> {
    let mode = std::fs::metadata(&files.key_file).ok()?.mode() & 0o7777;
    let advice = format!("chmod o= {}", files.key_file.display());
    let finding = format!("{} has mode {mode:o}: everybody can read it", files.key_file.display());
    Some(Check::warn("certificate's key", finding, &advice)).filter(|_| mode & 0o007 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    fn certificate(days: i64) -> (CertificateDer<'static>, Timestamp) {
        let mut parameters = rcgen::CertificateParams::new(vec!["relay.example".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        let made = parameters.self_signed(&key).unwrap().der().clone();
        let end = not_after(&made).unwrap().as_millis();
        let day = u64::try_from(DAY.as_millis()).unwrap();
        let now = end.checked_add_signed(-days * i64::try_from(day).unwrap()).unwrap();
        (made, Timestamp::from_millis(now))
    }

    #[test]
    fn a_certificate_is_told_of_in_time() {
        for (days, status) in [
            (40, Status::Ok),
            (30, Status::Ok),
            (29, Status::Warn),
            (7, Status::Warn),
            (6, Status::Fail),
            (0, Status::Fail),
            (-1, Status::Fail),
        ] {
            let (certificate, now) = certificate(days);
            let found = end(WHAT, &certificate, now);
            assert_eq!(found.status, status, "{days}: {found:?}");
            assert_eq!(far_end(&certificate, now).unwrap().1, days < 7);
        }
    }

    #[test]
    fn a_certificate_for_another_name_is_told_of() {
        let (certificate, _) = certificate(40);
        assert_eq!(names(&certificate, "relay.example").status, Status::Ok);
        let other = names(&certificate, "other.example");
        assert!(
            other.status == Status::Warn && other.finding == "relay.example: not other.example",
            "{other:?}"
        );
    }
}
