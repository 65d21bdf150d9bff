//! Choices, taken from the fuzzer's input octet by octet. When it is used up every choice is the first one.

/// See the module.
pub struct Dice<'a>(&'a [u8]);

impl<'a> Dice<'a> {
    /// Choices out of `input`.
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    /// One octet.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// Two octets.
    pub fn word(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// A number under `limit`, which is at most 256 and not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    /// Yes or no; no when the input is used up.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One of `choices`.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// At most `most` octets of the input; how many, it says first.
    pub fn bytes(&mut self, most: usize) -> &'a [u8] {
        let len = if most < 256 { self.below(most + 1) } else { self.word() % (most + 1) };
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Cuts `bytes` into pieces of the lengths that `plan` says, over and over; without a plan into single octets.
pub fn pieces<'a>(bytes: &'a [u8], plan: &[u8]) -> Vec<&'a [u8]> {
    let lengths = if plan.is_empty() { &[0] } else { plan };
    let mut lengths = lengths.iter().cycle().map(|len| usize::from(*len) + 1);
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(1).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}
