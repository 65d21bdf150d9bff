//! What is submitted, and what the far sides are meant to do with it: that stands in the addresses and in one field.

use blake3::Hasher;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

/// Says who a message is, which of its variants, the hash of its body, and what is to happen at the final dot.
pub const MARK: &str = "X-Soak";
/// Whom reports go to.
pub const SENDER: &str = "app@reports.soak.example";
/// Octets of a body are made of this many at a time.
const BLOCK: usize = 4096;

/// A route of the relay, and the far side behind it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub enum Route {
    /// Quick, and `in_doubt = "resend"`.
    Resend,
    /// `in_doubt = "hold"`; breaks off after the final dot now and then.
    Hold,
    /// Takes its time at the final dot.
    Slow,
    /// Breaks off: after the final dot, within the message, with 421.
    Cuts,
    /// Hangs up on everybody, for seconds at a time.
    Down,
    /// Where reports to senders go.
    Reports,
}

/// What the far side says to a recipient.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// 250.
    Ok,
    /// 550, always.
    Gone,
    /// 451 twice, then 250.
    Late,
}

/// What the far side says to the final dot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtDot {
    /// 250.
    Taken,
    /// 451 the first time.
    Later,
    /// 554, always.
    Never,
}

/// One recipient of a message.
#[derive(Clone, Debug)]
pub struct Recipient {
    pub address: String,
    pub route: Route,
    pub mood: Mood,
}

/// One message of an application, before it is known what becomes of it.
#[derive(Clone, Debug)]
pub struct Draft {
    pub uid: String,
    pub is_keyed: bool,
    pub recipients: Vec<Recipient>,
    pub at_dot: AtDot,
    octets: usize,
}

impl Route {
    pub const ALL: [Self; 6] = [Self::Resend, Self::Hold, Self::Slow, Self::Cuts, Self::Down, Self::Reports];

    pub fn name(self) -> &'static str {
        match self {
            Self::Resend => "resend",
            Self::Hold => "hold",
            Self::Slow => "slow",
            Self::Cuts => "cuts",
            Self::Down => "down",
            Self::Reports => "reports",
        }
    }

    fn random(rng: &mut StdRng) -> Self {
        match rng.random_range(0..100) {
            0..35 => Self::Resend,
            35..60 => Self::Hold,
            60..75 => Self::Slow,
            75..90 => Self::Cuts,
            _ => Self::Down,
        }
    }
}

impl Mood {
    /// What stands in the address.
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Gone => "gone",
            Self::Late => "late",
        }
    }

    /// Of an address that [`Draft::random`] has made, or of a sender's.
    pub fn of(address: &str) -> Self {
        let local = address.split('@').next().unwrap_or_default();
        match local.rsplit('.').next() {
            Some("gone") => Self::Gone,
            Some("late") => Self::Late,
            _ => Self::Ok,
        }
    }

    fn random(rng: &mut StdRng) -> Self {
        match rng.random_range(0..100) {
            0..88 => Self::Ok,
            88..94 => Self::Gone,
            _ => Self::Late,
        }
    }
}

impl AtDot {
    fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Later => "later",
            Self::Never => "never",
        }
    }

    /// The inverse of its name.
    pub fn named(name: &str) -> Self {
        match name {
            "later" => Self::Later,
            "never" => Self::Never,
            _ => Self::Taken,
        }
    }
}

impl Draft {
    /// A message as the random numbers want it: mostly small, for one recipient, and welcome.
    pub fn random(uid: String, is_keyed: bool, rng: &mut StdRng) -> Self {
        let number = if rng.random_bool(0.7) { 1 } else { rng.random_range(2..=6) };
        let recipients = (0..number).map(|n| recipient(&uid, n, rng)).collect();
        let at_dot = match rng.random_range(0..100) {
            0..92 => AtDot::Taken,
            92..97 => AtDot::Later,
            _ => AtDot::Never,
        };
        let octets = match rng.random_range(0..100) {
            0..90 => rng.random_range(0..4_000),
            90..98 => rng.random_range(4_000..60_000),
            _ => rng.random_range(200_000..1_500_000),
        };
        Self { uid, is_keyed, recipients, at_dot, octets }
    }

    /// The same under another envelope.
    pub fn with_another_recipient(&self, rng: &mut StdRng) -> Self {
        let mut other = self.clone();
        other.recipients.push(recipient(&self.uid, self.recipients.len(), rng));
        other
    }

    /// Whether nobody at the far side will ever take it for this recipient.
    pub fn is_doomed(&self, recipient: &Recipient) -> bool {
        recipient.mood == Mood::Gone || self.at_dot == AtDot::Never
    }

    /// MAIL, RCPT and DATA.
    pub fn envelope(&self) -> String {
        let mut text = format!("MAIL FROM:<{SENDER}>\r\n");
        for recipient in &self.recipients {
            text.push_str(&format!("RCPT TO:<{}>\r\n", recipient.address));
        }
        text.push_str("DATA\r\n");
        text
    }

    /// Everything after DATA, with the final dot. Message-ID and Date differ each time, as those of libraries do.
    pub fn content(&self, variant: char, rng: &mut StdRng) -> Vec<u8> {
        let body = self.body(variant);
        let hash = Hasher::new().update(&body).finalize().to_hex();
        let (uid, at_dot) = (&self.uid, self.at_dot.name());
        let (serial, second) = (rng.next_u64(), rng.random_range(0..60));
        let mut head = format!(
            "From: {SENDER}\r\nTo: customer@soak.example\r\nSubject: Order {uid}\r\n\
             Date: Sun, 22 Nov 2026 12:00:{second:02} +0000\r\nMessage-ID: <{serial:x}@app.example>\r\n\
             {MARK}: {uid} {variant} {at_dot} {hash}\r\n"
        );
        if self.is_keyed {
            head.push_str(&format!("X-Idempotency-Key: {uid}\r\n"));
        }
        head.push_str("\r\n");
        let mut content = head.into_bytes();
        for line in body.split_inclusive(|octet| *octet == b'\n') {
            if line.first() == Some(&b'.') {
                content.push(b'.');
            }
            content.extend_from_slice(line);
        }
        content.extend_from_slice(b".\r\n");
        content
    }

    /// Lines of all lengths, some of which begin with dots.
    fn body(&self, variant: char) -> Vec<u8> {
        let seed = Hasher::new().update(format!("{}{variant}", self.uid).as_bytes()).finalize();
        let mut rng = StdRng::from_seed(*seed.as_bytes());
        let mut block = Vec::with_capacity(BLOCK + 80);
        while block.len() < BLOCK {
            let length = rng.random_range(0..72);
            let dots = if rng.random_bool(0.2) { rng.random_range(1..3) } else { 0 };
            block.extend(std::iter::repeat_n(b'.', dots));
            block.extend((0..length).map(|_| rng.random_range(b' '..=b'~')));
            block.extend_from_slice(b"\r\n");
        }
        let mut body = format!("Order {} {variant}\r\n", self.uid).into_bytes();
        if self.octets < BLOCK {
            let cut =
                block.iter().take(self.octets).rposition(|octet| *octet == b'\n').map_or(0, |at| at + 1);
            block.truncate(cut);
        }
        for _ in 0..self.octets.div_ceil(BLOCK) {
            body.extend_from_slice(&block);
        }
        body
    }
}

fn recipient(uid: &str, number: usize, rng: &mut StdRng) -> Recipient {
    let (route, mood) = (Route::random(rng), Mood::random(rng));
    let address = format!("{uid}.{number}.{}@{}.soak.example", mood.name(), route.name());
    Recipient { address, route, mood }
}
