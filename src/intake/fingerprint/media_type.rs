//! `Content-Type` and `Content-Disposition`: a word and its parameters (RFC 2045 §5.1, RFC 2183 §2).

/// A lower-case word, and parameters in the order in which they came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Parameterised<'a> {
    /// `text/plain`, `attachment`.
    pub word: String,
    /// Lower-case names; values without their quotes, what stands in them untouched.
    pub parameters: Vec<(String, &'a [u8])>,
}

impl<'a> Parameterised<'a> {
    /// Takes an unfolded value; `None` when it follows the grammar so little that programs may read it differently.
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let word_len = value.iter().position(|b| *b == b';').unwrap_or(value.len());
        let word = value.get(..word_len)?.trim_ascii();
        if word.is_empty() || !word.iter().all(|b| is_token(*b) || *b == b'/') {
            return None;
        }
        let mut parameters = Vec::new();
        let mut rest = value.get(word_len..)?;
        while let Some(after) = rest.strip_prefix(b";") {
            rest = after.trim_ascii_start();
            if rest.is_empty() || rest.starts_with(b";") {
                continue;
            }
            let (name, after) = split_at_byte(rest, b'=')?;
            let name = name.trim_ascii();
            if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
                return None;
            }
            let (value, after) = parameter_value(after.trim_ascii_start())?;
            parameters.push((lower(name)?, value));
            rest = after;
        }
        rest.is_empty().then_some(Self { word: lower(word)?, parameters })
    }

    /// The only parameter of this name.
    ///
    /// # Errors
    /// There are several, or it is written in pieces or in another charset (RFC 2231): programs differ on these.
    pub(super) fn only(&self, name: &str) -> Result<Option<&'a [u8]>, Ambiguous> {
        let mut found = None;
        for (other, value) in &self.parameters {
            if other == name && found.is_none() && !value.contains(&b'\\') {
                found = Some(*value);
            } else if other == name || other.strip_prefix(name).is_some_and(|rest| rest.starts_with('*')) {
                return Err(Ambiguous);
            }
        }
        Ok(found)
    }
}

/// See [`Parameterised::only`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ambiguous;

/// A quoted string or everything up to the next semicolon, and what follows it.
fn parameter_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let len = text.iter().position(|b| *b == b';').unwrap_or(text.len());
        let value = text.get(..len)?.trim_ascii();
        return (!value.contains(&b'"')).then_some((value, text.get(len..)?));
    };
    let mut escaped = false;
    let end = quoted.iter().position(|b| {
        let ends = *b == b'"' && !escaped;
        escaped = *b == b'\\' && !escaped;
        ends
    })?;
    let after = quoted.get(end + 1..)?.trim_ascii_start();
    (after.is_empty() || after.starts_with(b";")).then_some((quoted.get(..end)?, after))
}

fn split_at_byte(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|b| *b == at)?;
    Some((bytes.get(..position)?, bytes.get(position + 1..)?))
}

fn lower(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_ascii_lowercase)
}

/// RFC 2045 §5.1 `token`.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<(String, Vec<(String, String)>)> {
        let parsed = Parameterised::parse(value.as_bytes())?;
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        Some((parsed.word, parsed.parameters.into_iter().map(|(name, value)| (name, text(value))).collect()))
    }

    #[test]
    fn what_libraries_write_is_understood() {
        for (value, word, parameters) in [
            ("text/plain", "text/plain", vec![]),
            ("Text/Plain; Charset=\"utf-8\";", "text/plain", vec![("charset", "utf-8")]),
            (
                "multipart/mixed; boundary=\"===12;34==\" ; x=y",
                "multipart/mixed",
                vec![("boundary", "===12;34=="), ("x", "y")],
            ),
            ("multipart/mixed; boundary=----=_Part_1", "multipart/mixed", vec![("boundary", "----=_Part_1")]),
            ("attachment; filename=a b.pdf", "attachment", vec![("filename", "a b.pdf")]),
            ("attachment; filename=\"a\\\"b\"", "attachment", vec![("filename", "a\\\"b")]),
            ("text/plain;; charset = utf-8", "text/plain", vec![("charset", "utf-8")]),
        ] {
            let parameters: Vec<_> =
                parameters.into_iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            assert_eq!(parse(value), Some((word.to_owned(), parameters)), "{value:?}");
        }
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        for value in [
            "",
            ";",
            "text/plain (comment)",
            "text/plain; charset",
            "text/plain; charset=\"open",
            "text/plain; charset=\"a\"b",
            "text/plain; charset=a\"b\"",
            "text/plain charset=a",
            "text/plain; (c)=a",
        ] {
            assert_eq!(parse(value), None, "{value:?}");
        }
        let twice = Parameterised::parse(b"a/b; boundary=1; boundary=2").unwrap();
        assert_eq!(twice.only("boundary"), Err(Ambiguous));
        let pieces = Parameterised::parse(b"a/b; boundary*0=1; boundary*1=2").unwrap();
        assert_eq!(pieces.only("boundary"), Err(Ambiguous));
        assert_eq!(pieces.only("charset"), Ok(None));
    }
}
