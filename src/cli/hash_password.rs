//! `oncemail hash-password`: an argon2id hash for `password_hash`, in PHC form.

use std::io::{self, BufRead, IsTerminal};
use std::process::ExitCode;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use zeroize::Zeroizing;

use super::{complain, print};

pub(super) const EXAMPLES: &str = "\
Examples:
  oncemail hash-password                                asks twice
  oncemail hash-password < password.txt                 takes the first line
  printf 'shop:%s\\n' \"$(oncemail hash-password < pw)\" >> users";

/// No mail program takes a longer one, in bytes.
const MAX_PASSWORD: u64 = 1024;

/// Asks for a password and prints its hash.
pub(super) fn run() -> ExitCode {
    let password = if io::stdin().is_terminal() { ask_twice() } else { read_line(io::stdin().lock()) };
    match password.and_then(|password| hash(&password)) {
        Ok(hash) => print(&format!("{hash}\n")),
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn ask_twice() -> Result<Zeroizing<String>, String> {
    let ask = |prompt: &str| {
        rpassword::prompt_password(prompt)
            .map(Zeroizing::new)
            .map_err(|error| format!("cannot read the password: {error}"))
    };
    let first = ask("Password: ")?;
    let second = ask("Once more: ")?;
    if *first != *second {
        return Err("the two passwords differ".to_owned());
    }
    Ok(first)
}

fn read_line(input: impl BufRead) -> Result<Zeroizing<String>, String> {
    let mut line = Zeroizing::new(String::new());
    input
        .take(MAX_PASSWORD + 3)
        .read_line(&mut line)
        .map_err(|error| format!("cannot read the password from standard input: {error}"))?;
    let end = line.trim_end_matches(['\r', '\n']).len();
    line.truncate(end);
    Ok(line)
}

fn hash(password: &str) -> Result<String, String> {
    if password.is_empty() {
        return Err("the password is empty".to_owned());
    }
    if u64::try_from(password.len()).map_or(true, |len| len > MAX_PASSWORD) {
        return Err(format!("the password is longer than {MAX_PASSWORD} bytes"));
    }
    // A client sends it in one line, between NULs (RFC 4616 §2).
    if password.chars().any(char::is_control) {
        return Err("the password contains control characters".to_owned());
    }
    let hash: Result<PasswordHash, _> = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| format!("cannot hash the password: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::PasswordVerifier;

    #[test]
    fn a_hash_is_verified_by_its_password_only() {
        let text = hash("correct horse ünïcode").unwrap();
        let parsed = PasswordHash::new(&text).unwrap();
        assert!(text.starts_with("$argon2id$v=19$"));
        assert!(Argon2::default().verify_password("correct horse ünïcode".as_bytes(), &parsed).is_ok());
        assert!(Argon2::default().verify_password(b"wrong", &parsed).is_err());
    }

    #[test]
    fn one_line_is_the_password_whatever_ends_it() {
        for input in ["secret word", "secret word\n", "secret word\r\n", "secret word\nnext line\n"] {
            assert_eq!(
                read_line(input.as_bytes()).map(|line| line.to_string()),
                Ok("secret word".to_owned())
            );
        }
        assert!(hash("").is_err());
        assert!(hash("a\0b").is_err());
        let long = read_line("x".repeat(5_000).as_bytes()).unwrap();
        assert!(hash(&long).is_err());
    }
}
