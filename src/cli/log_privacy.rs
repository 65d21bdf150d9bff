//! `log.addresses`: whether the log names people.
//!
//! With "hashed" every address in every line becomes `h:<16 hex digits>@domain`, wherever in the line it stands and
//! whoever wrote the line: fields, a far side's reply that quotes it, an error, the trace of a library. It is done where
//! lines are made and nowhere else, so no log call can forget it. The digits are a keyed hash: an address has the same
//! ones for as long as the data directory lives, and who has no key cannot try addresses out.
//!
//! A reply may also name the local part alone ("user alice unknown"). Where the line has the address too, which the lines
//! about recipients do, that word is hidden as well. Message-IDs stay: they are what two logs are compared by.
//!
//! What is no address but looks like one is hidden too. It never fails: in doubt more is hidden.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::log_fields::{Fields, MESSAGE};

/// Of the key of the hash, in octets.
pub(super) const KEY_LEN: usize = 32;
/// Of the hash, in octets; two of a million addresses have the same with a probability of one in thirty millions.
const TAG_LEN: usize = 8;
/// Local parts that a line is searched for; one line has few addresses.
const MOST_NAMES: usize = 16;
/// A local part with characters that no word has is looked for as it is, if it is no shorter, in octets.
const MIN_ODD: usize = 4;

/// Never searched: Message-IDs and paths of files have an `@` that is none of an address.
const KEPT: [&str; 4] = ["message_id", "path", "file", "socket"];
/// Our own words and names. They may be somebody's local part too, and stay what they are all the same: only whole
/// addresses in them are hidden.
const OURS: [&str; 21] = [
    MESSAGE,
    "user",
    "listener",
    "route",
    "host",
    "destination",
    "domain",
    "outcome",
    "result",
    "state",
    "kind",
    "action",
    "by",
    "event",
    "signal",
    "tls",
    "queue_id",
    "id",
    "first",
    "changed",
    "needs_restart",
];

/// How much of an address a line may show.
#[derive(Clone, Debug, Default)]
pub(super) enum Privacy {
    /// All of it.
    #[default]
    Full,
    /// The domain, and a hash of the rest.
    Hashed(Arc<Key>),
}

/// Of the hash; never printed.
pub(super) struct Key([u8; KEY_LEN]);

/// A local part that stands in a line, and what stands for it.
struct Name {
    local: String,
    tag: String,
}

impl Privacy {
    /// With hashes by this key.
    pub(super) fn hashed(key: [u8; KEY_LEN]) -> Self {
        Self::Hashed(Arc::new(Key(key)))
    }

    /// Hides what is to be hidden in one line.
    pub(super) fn apply(&self, fields: &mut Fields) {
        let Self::Hashed(key) = self else { return };
        let found = searched(fields).flat_map(|(_, text)| key.addresses(text));
        let names: Vec<Name> = found.map(|(_, name)| name).take(MOST_NAMES).collect();
        if names.is_empty() {
            return;
        }
        for (field, text) in searched(fields) {
            let is_ours = OURS.contains(&field);
            if !is_ours {
                *text = without_words(text, &names);
            }
            *text = key.without_addresses(text);
            if !is_ours {
                hide_odd(text, &names);
            }
        }
    }
}

fn searched(fields: &mut Fields) -> impl Iterator<Item = (&'static str, &mut String)> {
    let texts = fields.list.iter_mut().filter(|(field, _)| !KEPT.contains(field));
    texts.filter_map(|(field, value)| Some((*field, value.text_mut()?)))
}

impl Key {
    /// What stands for the local part of this address.
    fn tag(&self, local: &str, domain: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // As in `mail::Address::canonical`: the domain's case means nothing, that of the local part might.
        hasher.update(local.as_bytes()).update(b"@").update(domain.to_lowercase().as_bytes());
        let hash = hasher.finalize().to_hex();
        format!("h:{}", hash.get(..2 * TAG_LEN).unwrap_or_default())
    }

    /// The local parts in a text, and where they stand, the last one first: in `"a@b"@c` the last `@` is the one that
    /// ends the local part.
    fn addresses(&self, text: &str) -> Vec<(Range<usize>, Name)> {
        let mut found = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = at_last_at(rest, text) {
            let start = local_start(before);
            rest = before.get(..start).unwrap_or_default();
            if let Some(local) = before.get(start..).filter(|local| !local.is_empty()) {
                let name = Name { local: local.to_owned(), tag: self.tag(local, domain(after)) };
                found.push((start..before.len(), name));
            }
        }
        found
    }

    fn without_addresses(&self, text: &str) -> String {
        let (mut hidden, mut done) = (String::new(), 0);
        for (local, name) in self.addresses(text).into_iter().rev() {
            hidden.push_str(text.get(done..local.start).unwrap_or_default());
            hidden.push_str(&name.tag);
            done = local.end;
        }
        hidden.push_str(text.get(done..).unwrap_or_default());
        hidden
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// What stands before the last `@` of `rest`, and what follows it in the whole text that `rest` begins. Also written
/// `%40`, as in a URL.
fn at_last_at<'a>(rest: &'a str, text: &'a str) -> Option<(&'a str, &'a str)> {
    rest.rmatch_indices(['@', '%']).find_map(|(at, _)| {
        let tail = text.get(at..)?;
        let after = tail.strip_prefix('@').or_else(|| tail.strip_prefix("%40"))?;
        Some((rest.get(..at)?, after))
    })
}

/// Where the local part begins that a text ends with (RFC 5321 §4.1.2, RFC 6531 §3.3).
fn local_start(text: &str) -> usize {
    if let Some(inner) = text.strip_suffix('"') {
        // To the quote that opens it. In the form for debugging all of them have a backslash; then it is the first.
        let opens = |(at, _): (usize, &str)| {
            let is_escaped = inner.get(..at).is_some_and(|before| before.ends_with('\\'));
            (!is_escaped).then_some(at)
        };
        return inner.rmatch_indices('"').find_map(opens).unwrap_or_default();
    }
    let start = text.rfind(|c| !is_atext(c)).map_or(0, |last| {
        last + text.get(last..).and_then(|rest| rest.chars().next()).map_or(0, char::len_utf8)
    });
    // Quotes of a sentence around an address are none of it.
    let local = text.get(start..).unwrap_or_default();
    text.len() - local.trim_start_matches(['\'', '`', '{', '|']).len()
}

/// RFC 5322 §3.2.3 with dots, and everything beyond ASCII that is visible.
fn is_atext(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c)
    } else {
        !c.is_whitespace() && !c.is_control()
    }
}

/// The domain that a text begins with.
fn domain(text: &str) -> &str {
    let literal = text.starts_with('[');
    let is_part = |c: char| c.is_alphanumeric() || "-._".contains(c) || literal && "[]:".contains(c);
    let end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    text.get(..end).unwrap_or_default().trim_end_matches('.')
}

/// The text without the words that are somebody's local part. Words before or behind an `@` are left to whoever looks for
/// addresses.
fn without_words(text: &str, names: &[Name]) -> String {
    let is_word = |c: char| c.is_alphanumeric() || "._-+".contains(c);
    let mut hidden = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (word, after) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let is_of_address = hidden.ends_with('@') || after.starts_with('@') || after.starts_with("%40");
        // A full stop ends a sentence.
        let bare = word.trim_end_matches(['.', '-']);
        match names.iter().find(|name| !is_of_address && name.is(bare)) {
            Some(name) => {
                hidden.push_str(&name.tag);
                hidden.push_str(word.get(bare.len()..).unwrap_or_default());
            }
            None => hidden.push_str(word),
        }
        let gap = after.find(is_word).unwrap_or(after.len());
        let (between, next) = after.split_at_checked(gap).unwrap_or((after, ""));
        hidden.push_str(between);
        rest = next;
    }
    hidden
}

/// Hides local parts that no word is, because of their characters.
fn hide_odd(text: &mut String, names: &[Name]) {
    for name in names {
        let local = name.unquoted();
        let is_odd = local.chars().any(|c| !c.is_alphanumeric() && !"._-+".contains(c));
        if is_odd && local.len() >= MIN_ODD && text.contains(local) {
            *text = text.replace(local, &name.tag);
        }
    }
}

impl Name {
    /// Whether a word names them, with or without what a mailbox adds behind a `+`.
    fn is(&self, word: &str) -> bool {
        let local = self.unquoted().to_lowercase();
        let word = word.to_lowercase();
        let account = local.split('+').next().unwrap_or_default();
        !word.is_empty() && (word == local || word == account)
    }

    fn unquoted(&self) -> &str {
        self.local.trim_matches(['"', '\\'])
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_fields::Value;
    use super::*;

    fn hidden(list: &[(&'static str, &str)]) -> Vec<String> {
        let list = list.iter().map(|(field, text)| (*field, Value::Text((*text).to_owned())));
        let mut fields = Fields { list: list.collect() };
        Privacy::hashed([7; KEY_LEN]).apply(&mut fields);
        let text = |(_, value): (_, Value)| match value {
            Value::Text(text) | Value::Shown(text) => text,
            Value::Plain(plain) => plain.to_string(),
        };
        fields.list.into_iter().map(text).collect()
    }

    fn tag(address: &str) -> String {
        let (local, domain) = address.rsplit_once('@').unwrap();
        Key([7; KEY_LEN]).tag(local, domain)
    }

    #[test]
    fn an_address_has_one_hash_wherever_it_stands() {
        let alice = tag("alice@shop.example");
        assert!(alice.len() == 18 && alice.starts_with("h:"));
        for (text, expected) in [
            ("alice@shop.example", format!("{alice}@shop.example")),
            ("<alice@SHOP.example>: unknown", format!("<{alice}@SHOP.example>: unknown")),
            ("to 'alice@shop.example'.", format!("to '{alice}@shop.example'.")),
            (
                "rfc822;alice@shop.example, alice@shop.example",
                format!("rfc822;{alice}@shop.example, {alice}@shop.example"),
            ),
            ("no address @ all, 3 % of @shop.example", "no address @ all, 3 % of @shop.example".to_owned()),
        ] {
            assert_eq!(hidden(&[("reply", text)]), [expected]);
        }
        assert_ne!(alice, tag("alice@other.example"));
        assert_ne!(alice, Key([8; KEY_LEN]).tag("alice", "shop.example"));
    }

    #[test]
    fn no_form_of_a_local_part_gets_through() {
        for text in [
            "\"secret name\"@x.example",
            "\"secret@home\"@x.example",
            "\"secret\\\"name\"@x.example",
            r#"Some("\"secret name\"@x.example")"#,
            "secret@[192.0.2.1]",
            "secret@home@x.example",
            "bounces+secret=home@x.example",
            "größe.secret@x.example",
            "'secret@x.example'",
            "RCPT TO:<secret@x.example> SIZE=1",
            "secret@",
            "secret%40x.example",
        ] {
            for field in ["reply", MESSAGE, "user", "anything"] {
                let line = hidden(&[(field, text)]);
                assert!(!line[0].contains("secret") && !line[0].contains("home"), "{field}: {line:?}");
            }
        }
    }

    #[test]
    fn a_reply_that_names_the_local_part_alone_names_nobody() {
        let tag = tag("alice+news@x.example");
        let line = hidden(&[
            ("message", "delivery"),
            ("recipient", "alice+news@x.example"),
            ("reply", "550 5.1.1 User Alice unknown. (alice+news). malice stays, alice.example too"),
            ("host", "mx.x.example:25"),
            ("route", "alice"),
        ]);
        let reply = format!("550 5.1.1 User {tag} unknown. ({tag}). malice stays, alice.example too");
        assert_eq!(line[2], reply);
        assert_eq!((&*line[0], &*line[3], &*line[4]), ("delivery", "mx.x.example:25", "alice"));
        let odd = hidden(&[("recipient", "\"a b c\"@x.example"), ("reply", "a b c is unknown")]);
        assert!(!odd[1].contains("a b c"), "{odd:?}");
    }

    #[test]
    fn message_ids_and_files_stay() {
        for field in KEPT {
            assert_eq!(hidden(&[(field, "<1.alice@x.example>")]), ["<1.alice@x.example>"]);
        }
    }

    #[test]
    fn whatever_a_far_side_says_is_searched_in_time_and_without_a_panic() {
        let hostile =
            ["@".repeat(5_000), "\"@".repeat(3_000), "%40".repeat(3_000), "é@\u{3000}ü@".repeat(1_000)];
        for text in &hostile {
            hidden(&[("recipient", "alice@x.example"), ("reply", text)]);
        }
    }
}
