//! `[[dkim]]`: keys to sign with. A key is read now, so that a wrong path is told before the start.

use std::collections::HashMap;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use super::{files, units};
use crate::relay::options::DkimKey;

/// Reads every key; one that is wrong is noted and left out.
pub(super) fn keys(root: &Table, problems: &Problems) -> Vec<DkimKey> {
    let mut seen = HashMap::new();
    let mut keys = Vec::new();
    for section in Section::repeated(root, "dkim", problems) {
        let Some(key) = key(&section) else { continue };
        let name = (key.domain.clone(), key.selector.clone());
        if let Some(first) = seen.insert(name, section.place("selector").clone()) {
            let what = format!("there are two keys {:?} of {}", key.selector, key.domain);
            section.problem("selector", what, format!("the first is at {first}"));
        }
        keys.push(key);
    }
    keys
}

fn key(section: &Section<'_>) -> Option<DkimKey> {
    let examples = [
        ("domain", "domain = \"shop.example\": that of the senders"),
        ("selector", "selector = \"s1\": the DNS has the public key at s1._domainkey.shop.example"),
        ("key_file", "key_file = \"/etc/oncemail/dkim/s1.pem\": an RSA or Ed25519 key in PEM form"),
    ];
    for (key, example) in examples.iter().filter(|(key, _)| !section.has(key)) {
        section.problem(key, format!("a [[dkim]] without `{key}`"), *example);
    }
    let domain = section.parsed("domain", units::machine);
    let selector = section.parsed("selector", selector);
    let path = section.path("key_file");
    let key = path.and_then(|path| section.noted("key_file", files::signing_key(&path)));
    Some(DkimKey { domain: domain?, selector: selector?, key: key? })
}

/// Labels with dots between them (RFC 6376 §3.1).
fn selector(text: &str) -> Result<String, String> {
    units::machine(text).map_err(|_| "a name such as \"s1\" or \"2026.mail\"".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_made_of_labels() {
        for good in ["s1", "2026.mail", "a-b"] {
            assert_eq!(selector(good), Ok(good.to_owned()));
        }
        for bad in ["", "a b", "s1;", ".s1", "s1.", "s_1\n", "ä"] {
            assert!(selector(bad).is_err(), "{bad:?}");
        }
    }
}
