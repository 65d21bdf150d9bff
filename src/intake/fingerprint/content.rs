//! The hash of a message's content in the mode `content`: its header fields, then its parts depth first.

use std::cmp::Ordering;

use super::Rules;
use super::canon::Canon;
use super::content_id::ContentIds;
use super::fields::{self, Canonical};
use super::media_type::Parameterised;
use super::mime::{self, Kind, Leaf, NoParts, Part, Role};
use crate::intake::charset;
use crate::mail::header::Field;

/// Fields that a retry changes, or that are written on the way. In the header of a piece too: MIME::Lite dates each.
const IGNORED: [&str; 5] = ["Message-ID", "Date", "Received", "Return-Path", "DKIM-Signature"];
/// Fields of any part that say how it is carried, not what it is.
const CARRIAGE: [&str; 2] = ["MIME-Version", "Content-Transfer-Encoding"];

/// How a leaf was hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Text as UTF-8: its charset is not content any more.
    Text = 1,
    /// Decoded bytes.
    Bytes = 2,
    /// Bytes as they came: they are not in the encoding that they claim.
    Encoded = 3,
}

/// The content's hash.
///
/// # Errors
/// [`NoParts`]: the caller falls back to the raw bytes.
pub(super) fn hash(content: &[u8], rules: Rules<'_>) -> Result<[u8; 32], NoParts> {
    let parts = mime::parts(content)?;
    let ids = ContentIds::of(&parts);
    let mut canon = Canon::new("oncemail content 1");
    for part in &parts {
        match &part.kind {
            Kind::Multipart(children) => {
                canon.tag(1);
                canon.number(*children);
                hash_header(part, None, &ids, rules, &mut canon);
            }
            Kind::Message => {
                canon.tag(2);
                hash_header(part, None, &ids, rules, &mut canon);
            }
            Kind::Leaf(leaf) => {
                canon.tag(3);
                let form = hash_leaf(leaf, &ids, &mut canon);
                hash_header(part, Some((leaf, form)), &ids, rules, &mut canon);
            }
            Kind::Sealed(bytes) => {
                canon.tag(4);
                canon.bytes(bytes);
            }
        }
    }
    Ok(canon.finish())
}

/// The body of a leaf, as a hash of its own: it needs no length in front then, and is never in memory twice.
fn hash_leaf(leaf: &Leaf<'_>, ids: &ContentIds, canon: &mut Canon) -> Form {
    let (form, hash) = leaf_hash(leaf, ids);
    canon.tag(form as u8);
    canon.bytes(&hash);
    form
}

fn leaf_hash(leaf: &Leaf<'_>, ids: &ContentIds) -> (Form, [u8; 32]) {
    if leaf.is_text
        && let Some(bytes) = leaf.transfer.decode(leaf.body)
    {
        let mut canon = Canon::new("oncemail leaf 1");
        if let Some(text) = charset::decode(&leaf.charset, &bytes) {
            ids.hash_text(&text, &mut canon);
            return (Form::Text, canon.finish());
        }
        canon.stream(&bytes);
        return (Form::Bytes, canon.finish());
    }
    let mut canon = Canon::new("oncemail leaf 1");
    match leaf.transfer.decode_to(leaf.body, |bytes| canon.stream(bytes)) {
        Some(()) => (Form::Bytes, canon.finish()),
        None => {
            let mut canon = Canon::new("oncemail leaf 1");
            canon.stream(leaf.body);
            (Form::Encoded, canon.finish())
        }
    }
}

/// The fields of one part, sorted by name; those of one name in their order.
fn hash_header(
    part: &Part<'_>,
    leaf: Option<(&Leaf<'_>, Form)>,
    ids: &ContentIds,
    rules: Rules<'_>,
    canon: &mut Canon,
) {
    let form = leaf.map(|(_, form)| form);
    let mut kept: Vec<Field<'_>> =
        part.header.fields().filter(|field| counts(field, part.role, form, rules)).collect();
    kept.sort_by(|a, b| by_name(a.name, b.name));
    canon.number(kept.len());
    for field in &kept {
        hash_field(field, form, ids, canon);
    }
    // Whatever such a field says: where some programs end the header there, their readers see another mail.
    let is_key = |field: &Field<'_>| part.role == Role::Own && field.is(rules.key_header);
    for field in part.header.fields().filter(|field| field.is_obsolete() && !is_key(field)) {
        canon.tag(5);
        canon.bytes(&field.name.to_ascii_lowercase());
    }
}

fn counts(field: &Field<'_>, role: Role, form: Option<Form>, rules: Rules<'_>) -> bool {
    let is_any = |names: &[&str]| names.iter().any(|name| field.is(name));
    if field.is("Content-Transfer-Encoding") {
        // Of a body that was not decoded the encoding is a part.
        return form == Some(Form::Encoded);
    }
    if is_any(&CARRIAGE) {
        return false;
    }
    match role {
        Role::Own => {
            let is_configured =
                field.is(rules.key_header) || rules.ignore_headers.iter().any(|name| field.is(name));
            !is_configured && !is_any(&IGNORED)
        }
        // Of a message within, the recipient reads date and way; its id is drawn anew when it is built anew.
        Role::Nested => !field.is("Message-ID"),
        Role::Piece => !is_any(&IGNORED),
    }
}

fn hash_field(field: &Field<'_>, form: Option<Form>, ids: &ContentIds, canon: &mut Canon) {
    let name = field.name.to_ascii_lowercase();
    let value = field.unfolded();
    canon.bytes(&name);
    match name.as_slice() {
        b"content-id" | b"x-attachment-id" => {
            if let Some(part) = ids.find(&value) {
                canon.tag(1);
                canon.number(part);
                return;
            }
        }
        b"content-type" | b"content-disposition" => {
            if let Some(parsed) = Parameterised::parse(&value) {
                canon.tag(2);
                hash_parameters(&parsed, form, ids, canon);
                return;
            }
        }
        _ => {}
    }
    match fields::canonical(&name, &value) {
        Canonical::Text(text) => {
            canon.tag(3);
            canon.bytes(&text);
        }
        Canonical::Raw(raw) => {
            canon.tag(4);
            canon.bytes(&raw);
        }
    }
}

fn hash_parameters(parsed: &Parameterised<'_>, form: Option<Form>, ids: &ContentIds, canon: &mut Canon) {
    canon.bytes(parsed.word.as_bytes());
    let mut kept: Vec<_> = parsed
        .parameters
        .iter()
        .filter(|(name, _)| name != "boundary" && !(name == "charset" && form == Some(Form::Text)))
        .collect();
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    canon.number(kept.len());
    for (name, value) in kept {
        canon.bytes(name.as_bytes());
        // Symfony names an inline image after its Content-ID; multipart/related may point at one.
        let names_part = matches!(name.as_str(), "name" | "start");
        match names_part.then(|| ids.find_full(value)).flatten() {
            Some(part) => {
                canon.tag(1);
                canon.number(part);
            }
            None => {
                canon.tag(2);
                canon.bytes(value);
            }
        }
    }
}

/// Compares names without case.
fn by_name(a: &[u8], b: &[u8]) -> Ordering {
    a.iter().map(u8::to_ascii_lowercase).cmp(b.iter().map(u8::to_ascii_lowercase))
}
