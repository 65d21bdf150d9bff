//! One key, in whatever way a library writes it; two keys, never one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Style {
    Plain,
    /// Folded at each space, before it.
    Folded,
    /// Encoded words of so many octets, which may cut a character in two.
    Base64(usize),
    Quoted(usize),
}

fn style() -> impl Strategy<Value = Style> {
    prop_oneof![
        Just(Style::Plain),
        Just(Style::Folded),
        (1..45usize).prop_map(Style::Base64),
        (1..20usize).prop_map(Style::Quoted),
    ]
}

fn write(key: &str, style: &Style) -> String {
    let words = |size: usize, encode: &dyn Fn(&[u8]) -> String| {
        key.as_bytes().chunks(size).map(encode).collect::<Vec<_>>().join("\r\n ")
    };
    let value = match style {
        Style::Plain => key.to_owned(),
        Style::Folded => key.replace(' ', "\r\n "),
        Style::Base64(size) => words(*size, &|octets| format!("=?utf-8?b?{}?=", STANDARD.encode(octets))),
        Style::Quoted(size) => words(*size, &|octets| {
            let hex: String = octets.iter().map(|octet| format!("={octet:02X}")).collect();
            format!("=?UTF-8?Q?{hex}?=")
        }),
    };
    format!("X-Idempotency-Key: {value}\r\n")
}

fn read(fields: &str) -> Result<Option<String>, KeyFault> {
    extract(&Header::split(format!("{fields}\r\n").as_bytes()), "X-Idempotency-Key")
}

/// Text as it is left when white space at its ends is gone, and that is not an encoded word itself.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[!-<>-~é🔑]([ !-<>-~é🔑]{0,60}[!-<>-~é🔑])?",
        // Few different ones, so that two are often nearly equal.
        "[ab]( {0,2}[ab]){0,3}",
        "é{254,258}",
    ]
}

proptest! {
    #[test]
    fn i1_a_key_is_the_same_however_it_is_written_and_no_two_are(
        one in text(), other in text(), styles in (style(), style()),
    ) {
        let too_long = one.chars().count() > MAX_KEY;
        let expected = if too_long { Err(KeyFault::Length) } else { Ok(Some(one.clone())) };
        prop_assert_eq!(read(&write(&one, &styles.0)), expected.clone());
        prop_assert_eq!(read(&write(&one, &styles.1)), expected);
        let both = format!("{}Subject: x\r\n{}", write(&one, &styles.0), write(&other, &styles.1));
        let is_too_long = too_long || other.chars().count() > MAX_KEY;
        let expected = if one == other { Ok(Some(one)) } else { Err(KeyFault::Repeated) };
        prop_assert_eq!(read(&both), if is_too_long { Err(KeyFault::Length) } else { expected });
    }

    #[test]
    fn no_octets_give_a_key_that_is_empty_too_long_or_has_controls(octets in prop::collection::vec(any::<u8>(), 0..200)) {
        let fields = [b"X-Idempotency-Key:".as_slice(), &octets, b"\r\n\r\n"].concat();
        if let Ok(Some(key)) = extract(&Header::split(&fields), "X-Idempotency-Key") {
            prop_assert!((1..=MAX_KEY).contains(&key.chars().count()));
            prop_assert!(!key.contains(char::is_control), "{key:?}");
        }
    }
}
