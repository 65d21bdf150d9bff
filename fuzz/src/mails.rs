//! Mails as people mean them, apart from how a library writes them: what they consist of, and one thing that is
//! different in another one.

use crate::dice::Dice;

/// Parts within parts.
const DEPTH: usize = 4;

/// What a recipient sees.
#[derive(Clone, PartialEq, Debug)]
pub struct Mail {
    /// One line, words with one space between them.
    pub subject: String,
    /// More fields: name and value, no two of one name.
    pub fields: Vec<(&'static str, String)>,
    /// What it says.
    pub root: Part,
}

/// A part of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Part {
    /// `text/…`.
    Text(&'static str, Vec<Piece>),
    /// Octets with a name; inline ones have a number that texts name them by.
    File {
        /// As in `filename=`.
        name: String,
        /// What is in it.
        bytes: Vec<u8>,
        /// Its number, if texts may name it.
        inline: Option<u8>,
    },
    /// `multipart/…`.
    Multi(&'static str, Vec<Part>),
    /// `message/rfc822`.
    Message(Box<Mail>),
}

/// A piece of a text.
#[derive(Clone, PartialEq, Debug)]
pub enum Piece {
    /// Lines that end with LF; no other control but tabs.
    Words(String),
    /// Where an inline file is to be shown.
    Inline(u8),
}

const NAMES: [&str; 5] = ["X-Order", "To", "Reply-To", "Organization", "In-Reply-To"];
const KINDS: [&str; 4] = ["mixed", "alternative", "related", "report"];

impl Mail {
    /// One out of choices.
    pub fn generate(dice: &mut Dice<'_>) -> Self {
        Self::at_depth(dice, 0)
    }

    fn at_depth(dice: &mut Dice<'_>, depth: usize) -> Self {
        let subject = words(dice, 60);
        let mut fields = Vec::new();
        for name in NAMES {
            if dice.flag() {
                fields.push((name, value(dice)));
            }
        }
        Self { subject, fields, root: Part::generate(dice, depth, &mut 0) }
    }

    /// Another mail: one thing in it is different. The same one when nothing came of the change.
    pub fn changed(&self, dice: &mut Dice<'_>) -> Self {
        let mut other = self.clone();
        match dice.below(8) {
            0 => other.subject.push(letter(dice)),
            1 => match other.fields.last_mut() {
                Some((_, value)) => value.push(letter(dice)),
                None => other.fields.push(("X-Order", "a".to_owned())),
            },
            2 => drop(other.fields.pop()),
            _ => {
                let number = dice.byte();
                other.root.change(&mut usize::from(number), dice);
            }
        }
        other
    }
}

impl Part {
    fn generate(dice: &mut Dice<'_>, depth: usize, inline: &mut u8) -> Self {
        match dice.below(if depth < DEPTH { 8 } else { 4 }) {
            0 | 1 => Self::Text(dice.pick(&["plain", "html"]), text(dice, *inline)),
            2 | 3 => {
                let name = format!("{}.pdf", value(dice));
                let inline = dice.flag().then(|| {
                    *inline += 1;
                    *inline
                });
                Self::File { name, bytes: dice.bytes(80).to_vec(), inline }
            }
            4 => Self::Message(Box::new(Mail::at_depth(dice, depth + 1))),
            _ => {
                let kind = dice.pick(&KINDS);
                let count = 1 + dice.below(4);
                Self::Multi(kind, (0..count).map(|_| Self::generate(dice, depth + 1, inline)).collect())
            }
        }
    }

    /// Changes the part of this number, counted down as parts are passed.
    fn change(&mut self, number: &mut usize, dice: &mut Dice<'_>) {
        let is_here = *number == 0;
        *number = number.saturating_sub(1);
        match self {
            Self::Multi(kind, parts) if is_here => match dice.below(4) {
                0 => *kind = if *kind == "mixed" { "alternative" } else { "mixed" },
                1 if parts.len() > 1 => drop(parts.remove(0)),
                2 => parts.reverse(),
                _ => parts.push(Self::Text("plain", vec![Piece::Words("more".to_owned())])),
            },
            Self::Multi(_, parts) => {
                for part in parts {
                    part.change(number, dice);
                    if *number == 0 {
                        return;
                    }
                }
            }
            Self::Message(mail) if is_here => mail.subject.push(letter(dice)),
            Self::Message(mail) => mail.root.change(number, dice),
            Self::Text(kind, pieces) => match dice.below(4) {
                0 => *kind = if *kind == "plain" { "html" } else { "plain" },
                1 => drop(pieces.remove(0)),
                2 => pieces.push(Piece::Words(letter(dice).to_string())),
                _ => insert(pieces, dice),
            },
            Self::File { name, bytes, inline } => match dice.below(4) {
                0 => name.insert(0, letter(dice)),
                1 => bytes.push(dice.byte()),
                2 if bytes.len() > 1 => {
                    let at = dice.below(bytes.len());
                    bytes[at] ^= 1 << dice.below(8);
                }
                2 => *inline = None,
                _ => drop(bytes.pop()),
            },
        }
    }
}

/// Puts a letter, a blank, a form feed or a line end somewhere into a text.
fn insert(pieces: &mut [Piece], dice: &mut Dice<'_>) {
    let at = dice.below(pieces.len().max(1));
    if let Some(Piece::Words(words)) = pieces.get_mut(at) {
        let wanted = dice.word() % (words.chars().count() + 1);
        let at = words.char_indices().nth(wanted).map_or(words.len(), |(at, _)| at);
        words.insert(at, dice.pick(&['x', ' ', '\t', '\u{c}', '\n', '=', '.', 'é']));
    }
}

/// Whether two mails are one to a reader: lines that end a text say nothing, and neither does how it falls into pieces.
pub fn is_same(one: &Mail, other: &Mail) -> bool {
    let mut fields = [one.fields.clone(), other.fields.clone()];
    fields.iter_mut().for_each(|fields| fields.sort());
    one.subject == other.subject && fields[0] == fields[1] && part_is_same(&one.root, &other.root)
}

fn part_is_same(one: &Part, other: &Part) -> bool {
    match (one, other) {
        (Part::Text(a, one), Part::Text(b, other)) => a == b && joined(one) == joined(other),
        (Part::Multi(a, one), Part::Multi(b, other)) => {
            a == b
                && one.len() == other.len()
                && one.iter().zip(other).all(|(one, other)| part_is_same(one, other))
        }
        (Part::Message(one), Part::Message(other)) => is_same(one, other),
        _ => one == other,
    }
}

/// A text as one, without its last line end; a control stands for an inline file.
fn joined(pieces: &[Piece]) -> String {
    let mut text = String::new();
    for piece in pieces {
        match piece {
            Piece::Words(words) => text.push_str(words),
            Piece::Inline(number) => text.push_str(&format!("<img src=\"\u{1}{number}\">")),
        }
    }
    text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)
}

/// Words with one space between them; none of them begins like an encoded one.
fn words(dice: &mut Dice<'_>, most: usize) -> String {
    let text = String::from_utf8_lossy(dice.bytes(most)).replace("=?", "!");
    let is_word = |word: &&str| !word.is_empty();
    let words: Vec<_> = text.split(|c: char| c.is_control() || c == ' ').filter(is_word).collect();
    words.join(" ")
}

/// What any field and any file name can hold.
fn value(dice: &mut Dice<'_>) -> String {
    let letters = dice.bytes(12).iter().map(|b| char::from(b'a' + b % 26));
    std::iter::once('v').chain(letters).collect()
}

fn letter(dice: &mut Dice<'_>) -> char {
    char::from(b'a' + dice.byte() % 26)
}

fn text(dice: &mut Dice<'_>, inline: u8) -> Vec<Piece> {
    let count = 1 + dice.below(3);
    let mut piece = |_| {
        if inline > 0 && dice.flag() {
            return Piece::Inline(1 + dice.byte() % inline);
        }
        let text = String::from_utf8_lossy(dice.bytes(120)).into_owned();
        // Not cut into other words by what stands for an inline file, and no control that is none in mail.
        let is_fine = |c: &char| !c.is_control() || matches!(c, '\n' | '\t' | '\u{c}');
        Piece::Words(text.chars().filter(is_fine).collect::<String>().replace("cid:", "cid-"))
    };
    (0..count).map(&mut piece).collect()
}
