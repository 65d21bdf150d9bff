//! DKIM: whether receivers can verify what is signed.

use std::sync::Arc;

use tokio::task::JoinSet;

use super::report::Check;
use crate::config::Config;
use crate::dns::Dns;
use crate::relay::dkim::published::{self, Published, Unverifiable};
use crate::relay::options::DkimKey;

/// Each key against its record.
pub(super) async fn keys(config: Arc<Config>, dns: Arc<Dns>) -> Vec<Check> {
    let mut looks = JoinSet::new();
    for (number, key) in config.relay.dkim.iter().cloned().enumerate() {
        let dns = dns.clone();
        looks.spawn(async move { (number, judged(&key, published::check(&key, &dns).await)) });
    }
    let mut checks = looks.join_all().await;
    checks.sort_by_key(|(number, _)| *number);
    checks.into_iter().map(|(_, check)| check).collect()
}

fn judged(key: &DkimKey, found: Result<Published, Unverifiable>) -> Check {
    let what = format!("DKIM {}", published::name(key));
    let publish = || match published::record(key) {
        Ok(record) => format!("publish this TXT record at {}: {record}", published::name(key)),
        Err(_) => "give [[dkim]] a key_file with an RSA or Ed25519 key".to_owned(),
    };
    match found {
        Ok(Published { testing: true, .. }) => {
            let finding = "the record fits, and asks receivers not to rely on it (t=y)".to_owned();
            Check::warn(what, finding, "take t=y out of the record when the test is over")
        }
        Ok(Published { kind, bits, .. }) => {
            let bits = bits.map(|bits| format!(" of {bits} bits")).unwrap_or_default();
            Check::ok(what, format!("the record fits: {kind}{bits}"))
        }
        Err(error @ Unverifiable::Unknown(_)) => {
            Check::warn(what, error.to_string(), "try again when the name servers answer")
        }
        Err(error @ Unverifiable::Several(_)) => Check::fail(what, error.to_string(), "remove the others"),
        Err(error) => Check::fail(what, error.to_string(), &publish()),
    }
}
