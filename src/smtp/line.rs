//! Command lines out of a stream of octets.
//!
//! S1: only CRLF ends a line. A line that holds a bare CR or LF, or is too long, is answered once and never executed;
//! whatever follows in it, up to the next CRLF, is skipped. So no two programs can disagree about where a command
//! starts. The reader keeps no octets: they stay with the caller until a line is whole.

/// The longest command line, CRLF included. RFC 5321 §4.5.3.1.4 asks for 512, and parameters add to it.
pub const MAX_COMMAND_LINE: usize = 4_096;

/// The longest answer to an AUTH challenge, CRLF included, and the longest AUTH command, which may hold one
/// (RFC 4954 §4).
pub const MAX_AUTH_LINE: usize = 12_288;

/// What a TLS handshake begins with: a record of its kind, and the version that every record claims (RFC 8446 §5.1).
const TLS_HANDSHAKE: [u8; 2] = [0x16, 3];

/// A client that sends more than this without a CRLF, after it was told so, is not a mail client.
const MAX_SKIPPED: usize = 1 << 20;

/// Why a line was not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineFault {
    /// Over the limit.
    TooLong,
    /// A CR without LF, or an LF without CR.
    BareLineEnd,
    /// No CRLF in sight; the connection has to end.
    Endless,
    /// The start of a TLS handshake; the connection has to end.
    Tls,
}

/// Finds lines. See the module.
#[derive(Debug, Default)]
pub struct LineReader {
    /// How much of the caller's octets was searched already, so that a slow line costs no second search.
    searched: usize,
    /// Set while the rest of a faulty line passes by.
    skipping: Option<Skipping>,
}

#[derive(Debug, Default)]
struct Skipping {
    octets: usize,
    /// The last octet skipped was a CR.
    after_cr: bool,
}

impl LineReader {
    /// Looks for a line at the start of `input`, which holds all octets not yet consumed.
    ///
    /// Gives back how many octets the caller must drop, and the line without its CRLF or what is wrong with it;
    /// `None` asks for more input. `max_line` is for all lines but AUTH commands.
    pub fn read<'a>(
        &mut self,
        input: &'a [u8],
        max_line: usize,
    ) -> (usize, Option<Result<&'a [u8], LineFault>>) {
        let mut skipped = 0;
        if self.skipping.is_some() {
            match self.skip(input) {
                Ok((consumed, true)) => skipped = consumed,
                Ok((consumed, false)) => return (consumed, None),
                Err(fault) => return (input.len(), Some(Err(fault))),
            }
        }
        let input = input.get(skipped..).unwrap_or_default();
        let (consumed, event) = self.find(input, max_line);
        (skipped + consumed, event)
    }

    fn find<'a>(&mut self, input: &'a [u8], max_line: usize) -> (usize, Option<Result<&'a [u8], LineFault>>) {
        // The attack: somebody has a program fetch `https://` from this port. The name that it asks TLS for, or a ticket
        // that it shows, may hold CRLF and commands, which would come out as lines here.
        if input.starts_with(&TLS_HANDSHAKE) {
            return (input.len(), Some(Err(LineFault::Tls)));
        }
        let unsearched = input.get(self.searched..).unwrap_or_default();
        // Whichever limit is reached, the verb is there by then: it does not depend on packet sizes.
        let max_line = if is_auth(input) { max_line.max(MAX_AUTH_LINE) } else { max_line };
        let Some(lf) = memchr::memchr(b'\n', unsearched).map(|at| at + self.searched) else {
            if input.len() > max_line {
                self.start_skipping(input.ends_with(b"\r"));
                return (input.len(), Some(Err(LineFault::TooLong)));
            }
            self.searched = input.len();
            return (0, None);
        };
        self.searched = 0;
        let (line, _) = input.split_at(lf);
        let after_lf = lf + 1;
        let whole = line.strip_suffix(b"\r");
        if after_lf > max_line {
            if whole.is_none() {
                self.start_skipping(false);
            }
            return (after_lf, Some(Err(LineFault::TooLong)));
        }
        match whole {
            // The attack: a proxy in front takes "NOOP\nMAIL …" for one command, we for two. So an LF without CR
            // ends nothing; all up to the next CRLF is part of the refused line.
            None => {
                self.start_skipping(false);
                (after_lf, Some(Err(LineFault::BareLineEnd)))
            }
            // The same with a CR that some programs take for a line end.
            Some(line) if memchr::memchr(b'\r', line).is_some() => {
                (after_lf, Some(Err(LineFault::BareLineEnd)))
            }
            Some(line) => (after_lf, Some(Ok(line))),
        }
    }

    fn start_skipping(&mut self, after_cr: bool) {
        self.searched = 0;
        self.skipping = Some(Skipping { octets: 0, after_cr });
    }

    /// Gives back how many octets to drop, and whether the faulty line is over.
    fn skip(&mut self, input: &[u8]) -> Result<(usize, bool), LineFault> {
        let Some(skipping) = &mut self.skipping else { return Ok((0, true)) };
        let end = memchr::memchr_iter(b'\n', input).find(|&lf| match lf.checked_sub(1) {
            Some(before) => input.get(before) == Some(&b'\r'),
            None => skipping.after_cr,
        });
        let consumed = end.map_or(input.len(), |lf| lf + 1);
        skipping.octets += consumed;
        if skipping.octets > MAX_SKIPPED {
            return Err(LineFault::Endless);
        }
        if end.is_some() {
            self.skipping = None;
        } else if let Some(&last) = input.last() {
            skipping.after_cr = last == b'\r';
        }
        Ok((consumed, end.is_some()))
    }
}

/// Whether a line is, or is becoming, an AUTH command, which may hold a password.
fn is_auth(line: &[u8]) -> bool {
    line.get(..5).is_some_and(|verb| verb.eq_ignore_ascii_case(b"AUTH "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All that comes out of `stream` when it arrives in pieces of `sizes`.
    fn events(stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Vec<Result<Vec<u8>, LineFault>> {
        let (mut reader, mut held, mut out, mut rest) =
            (LineReader::default(), Vec::new(), Vec::new(), stream);
        loop {
            let (consumed, event) = reader.read(&held, 16);
            let more = event.is_none();
            out.extend(event.map(|e| e.map(<[u8]>::to_vec)));
            held.drain(..consumed);
            if more {
                if rest.is_empty() {
                    return out;
                }
                let (now, later) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
                held.extend_from_slice(now);
                rest = later;
            }
        }
    }

    #[test]
    fn s1_only_crlf_ends_a_command_line() {
        use LineFault::*;
        let all = |stream: &[u8]| events(stream, std::iter::repeat(usize::MAX));
        assert_eq!(all(b"NOOP\r\nQUIT\r\n"), [Ok(b"NOOP".to_vec()), Ok(b"QUIT".to_vec())]);
        assert_eq!(all(b"NOOP\nQUIT\r\nRSET\r\n"), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
        assert_eq!(all(b"NOOP\rQUIT\r\nRSET\r\n"), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
        assert_eq!(all(b"NOOP\n\r\nRSET\r\n"), [Err(BareLineEnd), Ok(b"RSET".to_vec())]);
        assert_eq!(all(b"0123456789abcdefghi\nQUIT\r\nRSET\r\n"), [Err(TooLong), Ok(b"RSET".to_vec())]);
        assert_eq!(all(b"0123456789abcd\r\nX\r\n"), [Ok(b"0123456789abcd".to_vec()), Ok(b"X".to_vec())]);
        assert_eq!(all(b"0123456789abcde\r\nX\r\n"), [Err(TooLong), Ok(b"X".to_vec())]);
    }

    #[test]
    fn s1_commands_within_a_tls_handshake_are_none() {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\nsni\r\nQUIT\r\n";
        for sizes in [1, 2, usize::MAX] {
            assert_eq!(events(hello, std::iter::repeat(sizes))[0], Err(LineFault::Tls), "{sizes}");
        }
        // Within a line these octets mean nothing.
        assert_eq!(events(b"NOOP \x16\x03\r\n", std::iter::repeat(1)), [Ok(b"NOOP \x16\x03".to_vec())]);
    }

    #[test]
    fn an_auth_command_may_be_as_long_as_an_answer_to_a_challenge() {
        let line = |verb: &str, len: usize| format!("{verb}{}\r\n", "A".repeat(len - verb.len() - 2));
        for (stream, is_taken) in [
            (line("auth PLAIN ", MAX_AUTH_LINE), true),
            (line("AUTH PLAIN ", MAX_AUTH_LINE + 1), false),
            (line("AUTHPLAIN ", MAX_COMMAND_LINE + 1), false),
            (line("NOOP AUTH ", MAX_COMMAND_LINE + 1), false),
        ] {
            for size in [1, 1_000, usize::MAX] {
                let (mut reader, mut end, mut event) = (LineReader::default(), 0_usize, None);
                while event.is_none() {
                    end = stream.len().min(end.saturating_add(size));
                    event = reader.read(&stream.as_bytes()[..end], MAX_COMMAND_LINE).1;
                }
                let expected = if is_taken {
                    Ok(&stream.as_bytes()[..stream.len() - 2])
                } else {
                    Err(LineFault::TooLong)
                };
                assert_eq!(event, Some(expected), "{size}: {}", &stream[..12]);
            }
        }
    }

    #[test]
    fn s2_a_line_without_end_is_given_up() {
        let mut reader = LineReader::default();
        let block = [b'x'; 64 * 1024];
        let faults: Vec<_> = (0..40).filter_map(|_| reader.read(&block, 512).1).take(2).collect();
        assert_eq!(faults, [Err(LineFault::TooLong), Err(LineFault::Endless)]);
    }

    proptest! {
        #[test]
        fn s1_lines_do_not_depend_on_packet_sizes(
            stream in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'a')], 0..80),
            sizes in proptest::collection::vec(1usize..9, 0..40),
        ) {
            let whole = events(&stream, std::iter::repeat(usize::MAX));
            prop_assert_eq!(&whole, &events(&stream, std::iter::repeat(1)));
            prop_assert_eq!(&whole, &events(&stream, sizes.into_iter()));
        }
    }
}
