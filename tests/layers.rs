//! The layer rule of `src/lib.rs`, checked on the text of every source file: who may import whom, which layers may
//! not do I/O, and how long a file may be.
//!
//! The check reads paths (`crate::store::Store`, `use crate::{mail, smtp::Reply}`, `super::super::mail`) after
//! comments and literals are taken out. It sees what is written, not what macros make of it; that is enough, because
//! it guards against a slip, not against malice.

use std::fs;
use std::path::{Path, PathBuf};

/// From left to right: a module may import what stands in a later row, never its own row's siblings.
/// A new top-level module is a decision: it gets its place here and in `src/lib.rs`.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["config"],
    &["submission", "relay", "admin"],
    &["intake", "queue"],
    &["store", "dns"],
    &["bounce"],
    &["smtp"],
    &["mail"],
    &["chance", "clock", "metrics"],
];

/// Layers that are pure: what they may not name, as beginnings of paths.
const PURE: &[&str] = &["bounce", "smtp", "mail"];
const IO: &[&[&str]] = &[
    &["std", "fs"],
    &["std", "io", "stdin"],
    &["std", "io", "stdout"],
    &["std", "net", "TcpListener"],
    &["std", "net", "TcpStream"],
    &["std", "net", "UdpSocket"],
    &["std", "net", "ToSocketAddrs"],
    &["std", "os", "unix", "net"],
    &["std", "process"],
    &["std", "thread"],
    &["tokio"],
    &["tokio_rustls"],
    &["rustls"],
];

/// Longer files are split.
const MAX_LINES: usize = 500;

#[test]
fn every_source_file_keeps_to_its_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    let files = rust_files(&root.join("src"));
    assert!(files.len() > 10, "no sources found under src/");
    for file in files {
        let path = relative(root, &file);
        let text = fs::read_to_string(&file).unwrap();
        faults.extend(violations(&path, &text).into_iter().map(|fault| format!("{path}: {fault}")));
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn no_file_is_longer_than_a_reader_bears() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut faults = Vec::new();
    for file in ["src", "tests", "benches"].iter().flat_map(|dir| rust_files(&root.join(dir))) {
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines > MAX_LINES {
            faults.push(format!("{}: {lines} lines, at most {MAX_LINES}", relative(root, &file)));
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_checker_sees_each_kind_of_violation() {
    for (path, text) in [
        ("src/store/mod.rs", "use crate::intake::Intake;"),
        ("src/store/mod.rs", "use crate::{clock::Clock, mail::{Key, Scope}, relay};"),
        ("src/submission/mod.rs", "fn f() { crate::relay::start() }"),
        ("src/queue/plan.rs", "use crate::intake;"),
        ("src/relay/pool.rs", "use crate::config::Config;"),
        ("src/mail/key.rs", "use super::super::smtp::Reply;"),
        ("src/mail/mod.rs", "mod tests { fn f() { super::super::store::open() } }"),
        ("src/mail/mod.rs", "use super::clock::Clock; use super::store;"),
        ("src/mail/key.rs", "use std::{fmt, fs::File};"),
        ("src/smtp/data.rs", "async fn f() { tokio::time::sleep(d).await }"),
        ("src/smtp/data.rs", "use std::net::{IpAddr, TcpStream};"),
        ("src/smtp/data.rs", "use crate::*;"),
        ("src/clock.rs", "use crate::mail::Key;"),
        ("src/main.rs", "fn main() { oncemail::app::run() }"),
        ("src/novel/mod.rs", ""),
        ("src/store/mod.rs", "use crate::novel::Thing;"),
    ] {
        assert_eq!(violations(path, text).len(), 1, "{path}: {text}");
    }
}

#[test]
fn the_checker_lets_pass_what_the_rule_allows() {
    for (path, text) in [
        (
            "src/store/mod.rs",
            "use crate::clock::Clock; use crate::store::memory::MemoryStore; use super::mail;",
        ),
        ("src/intake/mod.rs", "mod tests { use super::submission::Submission; use super::*; }"),
        ("src/intake/mod.rs", "use crate::{mail::{Key, Scope}, smtp::Reply, store::{self, Store as S}};"),
        (
            "src/store/mod.rs",
            "// crate::relay\n/* crate::cli /* nested */ */ const T: &str = \"crate::app \\\" {\";",
        ),
        (
            "src/store/mod.rs",
            "/// [`crate::relay`]\nconst T: &str = r#\"crate::app\" {\"#; const C: char = '\"'; type A<'a> = &'a u8;",
        ),
        ("src/smtp/data.rs", "use std::net::{IpAddr, Ipv4Addr}; use std::fmt; use crate::mail::Address;"),
        ("src/config/mod.rs", "use crate::relay::options::Options; use crate::submission;"),
        ("src/app/mod.rs", "use crate::config::Config; use crate::relay; use std::fs;"),
        ("src/main.rs", "fn main() { oncemail::cli::main() }"),
        ("src/lib.rs", "pub mod store;"),
    ] {
        assert_eq!(violations(path, text), Vec::<String>::new(), "{path}: {text}");
    }
}

/// What is wrong with one file, in sentences.
fn violations(path: &str, text: &str) -> Vec<String> {
    let module = module_path(path);
    let Some(own) = module.first().map(String::as_str) else {
        return root_violations(path, text);
    };
    let Some(own_row) = row_of(own) else {
        return vec![format!("module `{own}` has no place in LAYERS")];
    };
    let mut faults = Vec::new();
    for named in paths(&tokens(text), &module) {
        let joined = named.join("::");
        if let [first, rest @ ..] = named.as_slice()
            && first == "crate"
        {
            let Some(target) = rest.first() else { continue };
            match row_of(target) {
                _ if target == own => {}
                None => faults.push(format!("`{joined}`: `{target}` has no place in LAYERS")),
                Some(row) if row <= own_row => faults.push(format!("`{own}` must not import `{joined}`")),
                Some(_) => {}
            }
        }
        let is_io = IO.iter().any(|io| named.len() >= io.len() && io.iter().zip(&named).all(|(a, b)| a == b));
        if PURE.contains(&own) && is_io {
            faults.push(format!("`{own}` does no I/O, but names `{joined}`"));
        }
    }
    faults
}

/// `lib.rs` declares modules; `main.rs` knows nothing but the command line.
fn root_violations(path: &str, text: &str) -> Vec<String> {
    let is_foreign = |named: &Vec<String>| {
        named.first().is_some_and(|n| n == "oncemail") && named.get(1).is_some_and(|n| n != "cli")
    };
    let named = paths(&tokens(text), &[]);
    let foreign = named.iter().filter(|n| path.ends_with("main.rs") && is_foreign(n));
    foreign.map(|n| format!("main.rs may name only `oncemail::cli`, not `{}`", n.join("::"))).collect()
}

fn row_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&module))
}

/// `src/store/journal/segment.rs` is `store::journal::segment`; `lib.rs` and `main.rs` are the root.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = path.split('/').filter(|part| !matches!(*part, "mod" | "lib" | "main"));
    parts.map(str::to_owned).collect()
}

/// Every path that the tokens name, groups taken apart and `super` followed up to `crate`.
fn paths(tokens: &[String], module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    // Where we are: the file's module and the inline modules around this token, each with its brace's depth.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let next = tokens.get(at + 1).map(String::as_str);
        match (token.as_str(), next) {
            ("mod", Some(name)) if tokens.get(at + 2).is_some_and(|t| t == "{") => {
                depth += 1;
                inline.push((name.to_owned(), depth));
                at += 3;
            }
            ("{", _) => {
                depth += 1;
                at += 1;
            }
            ("}", _) => {
                inline.retain(|(_, opened)| *opened < depth);
                depth = depth.saturating_sub(1);
                at += 1;
            }
            (word, Some("::")) if is_word(word) => {
                let here: Vec<_> =
                    module.iter().chain(inline.iter().map(|(name, _)| name)).cloned().collect();
                let mut raw = Vec::new();
                at = flatten(tokens, at, &[], &mut raw);
                found.extend(raw.into_iter().map(|path| absolute(path, &here)));
            }
            // `use super as x` has no `::` behind its first word and stays unseen.
            _ => at += 1,
        }
    }
    found
}

/// Reads one use-tree or path from `at`; gives back where it ends.
fn flatten(tokens: &[String], mut at: usize, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|t| t != "}") {
                    at = flatten(tokens, at, &path, found).max(at + 1);
                    while tokens.get(at).is_some_and(|t| t != "}" && t != ",") {
                        at += 1; // `as name`
                    }
                    at += usize::from(tokens.get(at).is_some_and(|t| t == ","));
                }
                return at + 1;
            }
            Some(word) if is_word(word) || word == "*" => {
                path.push(word.to_owned());
                at += 1;
            }
            _ => break, // a turbofish, or the end of the text
        }
        if tokens.get(at).is_none_or(|t| t != "::") {
            break;
        }
        at += 1;
    }
    found.push(path);
    at
}

/// `super::x` in `store::memory` is `crate::store::x`.
fn absolute(path: Vec<String>, here: &[String]) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super").count();
    if ups == 0 {
        return path;
    }
    let base = here.iter().take(here.len().saturating_sub(ups));
    let root = std::iter::once("crate".to_owned());
    root.chain(base.cloned()).chain(path.into_iter().skip(ups)).collect()
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Words, `::` and single characters; comments, strings and character literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let len = if let Some(len) = literal_or_comment(rest) {
            len
        } else if c.is_alphanumeric() || c == '_' {
            let len = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
            tokens.push(rest[..len].to_owned());
            len
        } else if rest.starts_with("::") {
            tokens.push("::".to_owned());
            2
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

/// The length of the comment, string or character literal that `text` starts with.
fn literal_or_comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    if text.starts_with("/*") {
        return Some(block_comment(text));
    }
    let raw = text.trim_start_matches(['b', 'c']);
    if text.len() - raw.len() <= 1 && raw.starts_with('r') {
        let hashes = raw[1..].chars().take_while(|c| *c == '#').count();
        if raw[1 + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = text.len() - raw.len() + 2 + hashes;
            return Some(text[open..].find(&end).map_or(text.len(), |at| open + at + end.len()));
        }
    }
    let quoted = text.strip_prefix(['b', 'c']).unwrap_or(text);
    let quote = quoted.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let open = text.len() - quoted.len() + 1;
    let mut escaped = false;
    for (index, c) in text[open..].char_indices() {
        match c {
            // `'a` is a lifetime unless its quote is closed after one character.
            _ if quote == '\'' && !escaped && index > 0 && c != '\'' && !text[open..].starts_with('\\') => {
                return None;
            }
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(open + index + 1),
            _ => {}
        }
    }
    None
}

/// Block comments nest.
fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Every `.rs` file below `dir`, in a stable order.
fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn relative(root: &Path, file: &Path) -> String {
    file.strip_prefix(root).unwrap_or(file).display().to_string().replace('\\', "/")
}
