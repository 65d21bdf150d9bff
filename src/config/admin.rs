//! `[admin]` and `[[admin_token]]`: where the HTTP API is served, and who may come in.
//!
//! A token is never quoted in a problem.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use crate::admin::{Options, Role, Token};

/// Where it is served unless the configuration says otherwise.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8025);
/// The name of the token in `[admin]`.
const ADMIN: &str = "admin";
/// Names that the API gives to those who need no token.
const OURS: [&str; 3] = [ADMIN, "local", "loopback"];
/// What is shorter can be guessed, characters.
const SHORTEST: usize = 16;
/// What is longer fits into no header field of everybody's, characters.
const LONGEST: usize = 512;

/// Reads both sections.
pub(super) fn read(root: &Table, problems: &Problems, data_dir: PathBuf, hostname: String) -> Options {
    let section = Section::once(root, "admin", problems);
    let address = section.parsed("address", address).unwrap_or(DEFAULT_ADDRESS);
    let mut tokens: Vec<Token> =
        secret(&section).map(|secret| Token::new(ADMIN, &secret, Role::Operate, true)).into_iter().collect();
    let mut seen = HashMap::new();
    let more = Section::repeated(root, "admin_token", problems);
    if let Some(first) = more.first().filter(|_| !section.is_present()) {
        let hint = "add [admin] with the address at which tokens are asked for";
        first.problem("name", "[[admin_token]] without [admin]", hint);
    }
    let asks = section.has("token") || section.has("token_file") || !more.is_empty();
    for section in more {
        let Some(token) = token(&section) else { continue };
        if let Some(first) = seen.insert(token.name.clone(), section.place("name").clone()) {
            let what = format!("there are two admin tokens named {:?}", token.name);
            section.problem("name", what, format!("the first is at {first}"));
        }
        if tokens.iter().any(|other| other.digest() == token.digest()) {
            let what = format!("the token {:?} is another's", token.name);
            section.problem("token", what, "each has its own, so that the log says who it was");
        }
        tokens.push(token);
    }
    if section.is_present() && !address.ip().to_canonical().is_loopback() && !asks {
        let what = format!("`address` is {address}: everybody who reaches it could do everything");
        section.problem("address", what, "add token_file = \"/run/secrets/admin\", or listen on 127.0.0.1");
    }
    Options { address: section.is_present().then_some(address), data_dir, hostname, tokens }
}

fn token(section: &Section<'_>) -> Option<Token> {
    if !section.has("name") {
        let hint = "name = \"grafana\": who comes in with it; the log says so";
        section.problem("name", "an [[admin_token]] without `name`", hint);
    }
    if !section.has("token") && !section.has("token_file") {
        let hint = "token_file = \"/run/secrets/grafana\"; make one with `openssl rand -hex 32`";
        section.problem("token", "an [[admin_token]] without `token`", hint);
    }
    let role = section.choice("role", Role::Read, &[("read", Role::Read), ("operate", Role::Operate)]);
    let contents = section.flag("contents", false);
    let secret = secret(section);
    let name = section.name("name")?;
    if OURS.contains(&name.as_str()) {
        let hint = format!("{} are taken", OURS.join(", "));
        section.problem("name", format!("`name` is {name:?}"), hint);
        return None;
    }
    Some(Token::new(name, &secret?, role, contents))
}

/// A token that fits into an `Authorization` field and cannot be guessed.
fn secret(section: &Section<'_>) -> Option<zeroize::Zeroizing<String>> {
    let secret = section.secret("token")?;
    let is_fit = (SHORTEST..=LONGEST).contains(&secret.len()) && secret.bytes().all(|b| b.is_ascii_graphic());
    if is_fit {
        return Some(secret);
    }
    let key = if section.has("token_file") { "token_file" } else { "token" };
    let what =
        format!("`{key}`: a token has {SHORTEST} to {LONGEST} characters, of ASCII and without spaces");
    section.problem(key, what, "make one with `openssl rand -hex 32`");
    None
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "an address with a port: \"127.0.0.1:8025\", \"[::1]:8025\"".to_owned())
}
