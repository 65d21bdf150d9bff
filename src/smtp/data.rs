//! The octets of a message: DATA up to its end, or one BDAT chunk.
//!
//! S1: only `CRLF . CRLF` ends DATA, and a CR or LF that is not part of a CRLF makes the message unacceptable, in DATA
//! and in BDAT alike. The receiver never stops before the true end, so that nothing of a refused message can be read
//! as a command.

use super::content::{Content, ContentFault};

/// Takes a message's octets. See the module.
#[derive(Debug)]
pub struct Receiver {
    content: Content,
    place: Place,
    frame: Frame,
}

/// Where the next octet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// After CRLF, or at the very start.
    LineStart,
    /// After the dot that a line started with; the dot is held back.
    Dot,
    /// After a dot and a CR, both held back.
    DotCr,
    /// Within a line.
    Line,
    /// After a CR within a line.
    Cr,
}

/// What tells the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Frame {
    /// RFC 5321 §4.5.2: a dot alone on a line; other leading dots are doubled.
    Dots,
    /// RFC 3030 §2: a count.
    Chunk { left: u64 },
}

/// What [`Receiver::feed`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fed {
    /// Octets used; what follows is no part of the message (or chunk).
    pub consumed: usize,
    /// Whether the end was reached.
    pub done: bool,
}

impl Receiver {
    /// For what follows `354`.
    pub fn dots(content: Content) -> Self {
        Self { content, place: Place::LineStart, frame: Frame::Dots }
    }

    /// For `size` octets after BDAT; `place` is where the chunk before it ended.
    pub fn chunk(content: Content, place: Place, size: u64) -> Self {
        Self { content, place, frame: Frame::Chunk { left: size } }
    }

    /// Takes what has arrived, as far as it belongs to the message.
    pub fn feed(&mut self, input: &[u8]) -> Fed {
        match self.frame {
            Frame::Dots => match self.scan(input, true) {
                Some(consumed) => Fed { consumed, done: true },
                None => Fed { consumed: input.len(), done: false },
            },
            Frame::Chunk { left } => {
                let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let (ours, _) = input.split_at(wanted);
                self.scan(ours, false);
                let left = left - wanted as u64;
                self.frame = Frame::Chunk { left };
                Fed { consumed: wanted, done: left == 0 }
            }
        }
    }

    /// Ends a message: a BDAT message that does not end with CRLF gets one, since it will be relayed by DATA.
    pub fn finish(mut self) -> Content {
        match self.place {
            Place::Line => self.content.append(b"\r\n"),
            // A CR as the last octet of all has no LF.
            Place::Cr => self.content.note(ContentFault::BareLineEnd),
            Place::LineStart | Place::Dot | Place::DotCr => {}
        }
        self.content
    }

    /// Ends a chunk that others will follow.
    pub fn pause(self) -> (Content, Place) {
        (self.content, self.place)
    }

    /// Walks over `input` from one octet of interest to the next, copying whole runs. Gives back where the message
    /// ends, which only happens with `dots`.
    fn scan(&mut self, input: &[u8], dots: bool) -> Option<usize> {
        let mut at = 0;
        // Everything from here to `at` is content that was not copied yet.
        let mut copied = 0;
        while let Some(&octet) = input.get(at) {
            match (self.place, octet) {
                (Place::LineStart, b'.') if dots => {
                    self.content.append(input.get(copied..at).unwrap_or_default());
                    self.place = Place::Dot;
                    at += 1;
                    copied = at;
                }
                (Place::Dot, b'\r') => {
                    self.place = Place::DotCr;
                    at += 1;
                    copied = at;
                }
                (Place::DotCr, b'\n') => return Some(at + 1),
                // ". CR" and then no LF, such as ". CR CR LF", which ends DATA for some receivers. Not here: the CR
                // is content, and a bare one at that.
                (Place::DotCr, _) => {
                    self.content.append(b"\r");
                    self.place = Place::Cr;
                }
                (Place::Cr, b'\n') => {
                    self.place = Place::LineStart;
                    at += 1;
                }
                // A bare CR. Some receivers take it for a line end, so "CR . CR" could end the message for them.
                (Place::Cr, _) => {
                    self.content.note(ContentFault::BareLineEnd);
                    self.place = Place::Line;
                }
                // A dot before anything but CR was doubled by the client; it was held back, and stays out.
                (Place::LineStart | Place::Dot | Place::Line, _) => {
                    self.place = Place::Line;
                    at += self.run(input.get(at..).unwrap_or_default());
                }
            }
        }
        self.content.append(input.get(copied..).unwrap_or_default());
        None
    }

    /// Passes over octets within a line, up to and with the first that matters; gives back how many.
    fn run(&mut self, input: &[u8]) -> usize {
        let Some(at) = memchr::memchr3(b'\r', b'\n', 0, input) else { return input.len() };
        match input.get(at) {
            Some(b'\r') => self.place = Place::Cr,
            // An LF without CR: "LF . LF" and "LF . CRLF" end DATA for receivers that are lax about it, and what
            // follows becomes their next command. Here it starts no line, so the dot after it means nothing.
            Some(b'\n') => self.content.note(ContentFault::BareLineEnd),
            _ => self.content.note(ContentFault::Nul),
        }
        at + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::content::Budget;
    use proptest::prelude::*;

    fn content() -> Content {
        Content::new(1_000, &Budget::new(1 << 20))
    }

    type Outcome = (Result<Vec<u8>, ContentFault>, usize);

    /// The message and how many octets it took, when `stream` arrives in pieces of `sizes`; `None` without an end.
    fn receive(stream: &[u8], mut sizes: impl Iterator<Item = usize>) -> Option<Outcome> {
        let (mut receiver, mut at) = (Receiver::dots(content()), 0);
        while at < stream.len() {
            let size = sizes.next().unwrap_or(1).clamp(1, stream.len() - at);
            let fed = receiver.feed(&stream[at..at + size]);
            at += fed.consumed;
            if fed.done {
                let content = receiver.finish();
                return Some((content.fault().map_or_else(|| Ok(content.into_parts().0), Err), at));
            }
        }
        None
    }

    fn all(stream: &[u8]) -> Option<Outcome> {
        receive(stream, std::iter::repeat(usize::MAX))
    }

    #[test]
    fn leading_dots_are_undone_and_the_end_is_left_out() {
        let stream = b"a\r\n..\r\n.b\r\n...c\r\nd.\r\n.\r\nQUIT\r\n";
        let message = b"a\r\n.\r\nb\r\n..c\r\nd.\r\n".to_vec();
        assert_eq!(all(stream), Some((Ok(message), stream.len() - 6)));
        assert_eq!(all(b".\r\n"), Some((Ok(Vec::new()), 3)));
    }

    #[test]
    fn s1_no_other_ending_ends_data() {
        for lure in [
            "\n.\n",
            "\n.\r\n",
            "\r.\r",
            "\r.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\r\n.\r\r\n",
            "\n\r.\r\n",
            "\r\n\0.\r\n",
            "\r\r\n.\r",
            "\0\r\n.\n",
            "\r\n.\0\r\n",
        ] {
            let stream = format!("x{lure}MAIL FROM:<evil@example.com>\r\n.\r\n");
            let (message, consumed) = all(stream.as_bytes()).unwrap();
            assert!(message.is_err(), "{lure:?}");
            assert_eq!(consumed, stream.len(), "{lure:?} ended DATA");
        }
    }

    #[test]
    fn s1_a_nul_is_refused_and_a_bare_line_end_outranks_it() {
        assert_eq!(all(b"a\0b\r\n.\r\n"), Some((Err(ContentFault::Nul), 8)));
        assert_eq!(all(b"a\0b\n\r\n.\r\n"), Some((Err(ContentFault::BareLineEnd), 9)));
    }

    #[test]
    fn s1_chunks_are_checked_across_their_borders() {
        let chunks = |parts: &[&[u8]]| {
            let (mut content, mut place) = (content(), Place::LineStart);
            for part in parts {
                let mut receiver = Receiver::chunk(content, place, part.len() as u64);
                assert_eq!(receiver.feed(part), Fed { consumed: part.len(), done: true });
                (content, place) = receiver.pause();
            }
            let content = Receiver::chunk(content, place, 0).finish();
            content.fault().map_or_else(|| Ok(content.into_parts().0), Err)
        };
        assert_eq!(chunks(&[b"a\r", b"\nb\r\n"]), Ok(b"a\r\nb\r\n".to_vec()));
        assert_eq!(chunks(&[b"a\r", b"b"]), Err(ContentFault::BareLineEnd));
        assert_eq!(chunks(&[b"a", b"\nb"]), Err(ContentFault::BareLineEnd));
        assert_eq!(chunks(&[b"a\r"]), Err(ContentFault::BareLineEnd));
        assert_eq!(chunks(&[b"a\r\n.", b"\r\nb"]), Ok(b"a\r\n.\r\nb\r\n".to_vec()));
        assert_eq!(chunks(&[]), Ok(Vec::new()));
    }

    /// The rule once more, octet by octet and without cleverness.
    fn model(stream: &[u8]) -> Option<Outcome> {
        let framed = [b"\r\n", stream].concat();
        let end = framed.windows(5).position(|w| w == b"\r\n.\r\n")?;
        let mut message = Vec::new();
        let body = &framed[2.min(end + 2)..end + 2];
        for (index, &octet) in body.iter().enumerate() {
            let starts_line = index == 0 || (index >= 2 && &body[index - 2..index] == b"\r\n");
            if !(starts_line && octet == b'.') {
                message.push(octet);
            }
        }
        let bare = (0..body.len()).any(|i| match body[i] {
            b'\r' => body.get(i + 1) != Some(&b'\n'),
            b'\n' => i == 0 || body[i - 1] != b'\r',
            _ => false,
        });
        let message = match (bare, body.contains(&0)) {
            (true, _) => Err(ContentFault::BareLineEnd),
            (_, true) => Err(ContentFault::Nul),
            _ => Ok(message),
        };
        Some((message, end + 3))
    }

    proptest! {
        #[test]
        fn s1_data_follows_the_rule_in_any_packet_sizes(
            mut stream in proptest::collection::vec(
                prop_oneof![3 => Just(b'\r'), 3 => Just(b'\n'), 3 => Just(b'.'), 3 => Just(b'a'), 1 => Just(0)], 0..60),
            sizes in proptest::collection::vec(1usize..9, 0..60),
        ) {
            stream.extend_from_slice(b"\r\n.\r\n");
            let expected = model(&stream);
            prop_assert_eq!(&all(&stream), &expected);
            prop_assert_eq!(&receive(&stream, std::iter::repeat(1)), &expected);
            prop_assert_eq!(&receive(&stream, sizes.into_iter()), &expected);
        }
    }
}
