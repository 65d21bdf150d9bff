//! `[[user]]`.

use std::collections::HashMap;

use argon2::Params;
use argon2::password_hash::phc::PasswordHash;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use super::units;
use crate::mail::{Address, Scope};
use crate::submission::options::{NULL_SENDER, User};

/// More memory for one verification would let a few logins fill the machine, in KiB (1 GiB).
const MAX_ARGON2_MEMORY: u32 = 1 << 20;
/// More rounds, as a power of two, would take seconds for one login.
const MAX_BCRYPT_COST: u32 = 16;

/// Reads every user; one that is wrong is noted and left out.
pub(super) fn users(root: &Table, problems: &Problems) -> Vec<User> {
    let mut seen = HashMap::new();
    let mut users = Vec::new();
    for section in Section::repeated(root, "user", problems) {
        let Some(user) = user(&section) else { continue };
        if let Some(first) = seen.insert(user.name.clone(), section.place("name").clone()) {
            let what = format!("there are two users named {:?}", user.name);
            section.problem("name", what, format!("the first is at {first}"));
        }
        users.push(user);
    }
    users
}

fn user(section: &Section<'_>) -> Option<User> {
    let name = section.name("name");
    if !section.has("name") {
        section.problem(
            "name",
            "a [[user]] without `name`",
            "name = \"shop\": what the client authenticates as",
        );
    }
    let senders = section.parsed_list("senders", sender).unwrap_or_default();
    // A list that is there but empty would mean "any": whoever wrote it may have meant "none".
    if section.has("senders") && senders.is_empty() {
        section.problem("senders", "`senders` names nobody", "leave it out to allow every reverse-path");
    }
    let scope = section.name("scope");
    let rate = section.rate("rate");
    let password_hash = password_hash(section);
    let name = name?;
    Some(User {
        password_hash: password_hash?,
        senders,
        scope: Scope::named(scope.unwrap_or_else(|| name.clone())),
        rate,
        name,
    })
}

/// `user@domain`, `@domain` for all of a domain, or `<>` for the null sender.
fn sender(text: &str) -> Result<String, String> {
    let is_sender = match text.strip_prefix('@') {
        Some(domain) => units::domain(domain).is_ok(),
        None => text == NULL_SENDER || Address::parse(text).is_ok(),
    };
    let expected = "an address, a domain or the null sender: \"a@b.example\", \"@b.example\", \"<>\"";
    is_sender.then(|| text.to_owned()).ok_or_else(|| expected.into())
}

/// The hash, if it is one that can be verified. What is no hash may be a password: it is never quoted.
fn password_hash(section: &Section<'_>) -> Option<String> {
    let file_key = "password_hash_file";
    let key = if section.has(file_key) { file_key } else { "password_hash" };
    if !section.has(key) {
        section.problem(key, "a [[user]] without `password_hash`", "make one with `oncemail hash-password`");
        return None;
    }
    let text = section.secret("password_hash")?;
    match check_hash(text.trim()) {
        Ok(()) => Some(text.trim().to_owned()),
        Err(what) => {
            section.problem(key, format!("`{key}`: {what}"), "make one with `oncemail hash-password`");
            None
        }
    }
}

fn check_hash(text: &str) -> Result<(), &'static str> {
    if !text.starts_with('$') {
        return Err("this is not a hash; a password in plain text is not taken");
    }
    if text.starts_with("$2") {
        let parts = text.parse::<bcrypt::HashParts>().map_err(|_| "a bcrypt hash that is not whole")?;
        return match parts.get_cost() {
            4..=MAX_BCRYPT_COST => Ok(()),
            _ => Err("a bcrypt hash with a cost outside 4 to 16"),
        };
    }
    let hash =
        PasswordHash::new(text).map_err(|_| "neither an argon2id hash in PHC form nor a bcrypt hash")?;
    if hash.algorithm.as_str() != "argon2id" {
        return Err("only argon2id and bcrypt hashes are taken");
    }
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err("an argon2id hash without its salt or its hash");
    }
    match Params::try_from(&hash) {
        Ok(params) if params.m_cost() <= MAX_ARGON2_MEMORY => Ok(()),
        Ok(_) => Err("an argon2id hash that needs more than 1 GiB of memory"),
        Err(_) => Err("an argon2id hash with bad parameters"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_addresses_domains_or_the_null_sender() {
        for good in ["a@b.example", "@b.example", "<>"] {
            assert_eq!(sender(good), Ok(good.to_owned()));
        }
        for bad in ["", "b.example", "<a@b.example>", "@", "<", "postmaster@"] {
            assert!(sender(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_are_taken_only_when_they_can_be_verified() {
        let good = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$\
                    MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE";
        assert_eq!(check_hash(good), Ok(()));
        assert_eq!(check_hash(&bcrypt::hash("secret", 4).unwrap()), Ok(()));
        assert_eq!(check_hash("$2y$10$abcdefghijklmnopqrstuuWb4wRfHw7m1w2YlHAq2i0r5d3r5FZ8i"), Ok(()));
        for bad in [
            "secret",
            "",
            "$2y$10$short",
            "$2y$31$abcdefghijklmnopqrstuuWb4wRfHw7m1w2YlHAq2i0r5d3r5FZ8i",
            "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ",
            &good.replace("argon2id", "argon2i"),
            &good.replace("m=19456", "m=4000000000"),
            "$6$salt$hash",
        ] {
            assert!(check_hash(bad).is_err(), "{bad}");
        }
    }
}
