//! A next hop that writes down everything, with its own troubles: it is slow, hangs up, or breaks off after the final
//! dot. It counts a message as taken from its final dot on, whatever becomes of the reply.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use blake3::Hasher;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};

use crate::book::{Book, Copy, Reply};
use crate::message::{AtDot, MARK, Mood, Route};
use crate::trap::Moment;

/// No line of ours is longer.
const MAX_LINE: usize = 4096;
/// How often one that is down looks whether it is up again, and the other way round.
const UP: std::ops::Range<u64> = 3_000..9_000;
const DOWN: std::ops::Range<u64> = 1_000..6_000;

/// Whether the far sides may make trouble.
#[derive(Default)]
pub struct Weather {
    is_calm: AtomicBool,
    is_down: AtomicBool,
}

impl Weather {
    pub fn calm(&self, is_calm: bool) {
        self.is_calm.store(is_calm, Ordering::Relaxed);
    }

    fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }
}

/// Starts the one behind `route`, and says where it listens.
pub async fn start(route: Route, weather: Arc<Weather>, book: Arc<Book>, seed: u64) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let mut rng = StdRng::seed_from_u64(seed ^ (route as u64 + 1).wrapping_mul(0x9e37_79b9));
    if route == Route::Down {
        tokio::spawn(change(weather.clone(), StdRng::from_rng(&mut rng)));
    }
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if route == Route::Down && weather.is_down.load(Ordering::Relaxed) && !weather.is_calm() {
                book.far_side(route, "hung up");
                continue;
            }
            let session = Session {
                route,
                weather: weather.clone(),
                book: book.clone(),
                rng: StdRng::from_rng(&mut rng),
                stream: BufReader::new(stream),
                process: 0,
                accepted: Vec::new(),
            };
            tokio::spawn(session.run());
        }
    });
    Ok(address)
}

/// Up and down, by turns.
async fn change(weather: Arc<Weather>, mut rng: StdRng) {
    loop {
        sleep(Duration::from_millis(rng.random_range(UP))).await;
        weather.is_down.store(true, Ordering::Relaxed);
        sleep(Duration::from_millis(rng.random_range(DOWN))).await;
        weather.is_down.store(false, Ordering::Relaxed);
    }
}

struct Session {
    route: Route,
    weather: Arc<Weather>,
    book: Arc<Book>,
    rng: StdRng,
    stream: BufReader<TcpStream>,
    /// From the name in EHLO.
    process: u64,
    accepted: Vec<String>,
}

/// What a message says of itself.
#[derive(Default)]
struct Marks {
    uid: Option<String>,
    variant: Option<char>,
    at_dot: Option<AtDot>,
    hash: Option<String>,
    /// From our Received field, or a report's Message-ID.
    id: Option<String>,
    /// Of a report: whose, and who failed.
    original: Option<String>,
    failed: Vec<String>,
    leaked_key: bool,
}

impl Session {
    /// Ends with the connection, whoever ends it.
    async fn run(mut self) -> Option<()> {
        self.stream.get_ref().set_nodelay(true).ok()?;
        self.say("220 far side").await?;
        loop {
            let line = self.line().await?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let verb = line.split(' ').next().unwrap_or_default().to_ascii_uppercase();
            if self.is_unlucky(0.004) && self.route == Route::Cuts {
                self.book.far_side(self.route, "421");
                self.say("421 4.3.2 going down").await?;
                return None;
            }
            match verb.as_str() {
                "EHLO" => {
                    self.process = number(&line)?;
                    self.say("250-far side\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000").await?;
                }
                "MAIL" | "RSET" => {
                    self.accepted.clear();
                    self.say("250 2.0.0 fine").await?;
                }
                "RCPT" => self.recipient(&line).await?,
                "DATA" if self.accepted.is_empty() => self.say("554 5.5.1 no recipients").await?,
                "DATA" => {
                    self.say("354 go on").await?;
                    self.message().await?;
                }
                "QUIT" => {
                    self.say("221 2.0.0 bye").await?;
                    return None;
                }
                _ => self.say("500 5.5.2 what").await?,
            }
        }
    }

    async fn recipient(&mut self, line: &str) -> Option<()> {
        let address = line.split(['<', '>']).nth(1)?.to_owned();
        match Mood::of(&address) {
            Mood::Gone => self.say("550 5.1.1 no such user").await,
            Mood::Late if self.book.put_off(&address, 2) => self.say("451 4.2.1 not now").await,
            Mood::Late | Mood::Ok => {
                self.accepted.push(address);
                self.say("250 2.1.5 fine").await
            }
        }
    }

    /// The content, its final dot, and what becomes of the reply.
    async fn message(&mut self) -> Option<()> {
        let marks = self.content().await?;
        let recipients = std::mem::take(&mut self.accepted);
        let who = marks.uid.clone().unwrap_or_else(|| "a report".to_owned());
        match marks.at_dot {
            Some(AtDot::Never) => return self.say("554 5.6.0 not wanted").await,
            Some(AtDot::Later) if self.book.put_off(&format!("{who}@{}", self.route.name()), 1) => {
                return self.say("451 4.3.0 not now").await;
            }
            _ => {}
        }
        self.book.trap.spring(Moment::Dot);
        self.book.far_side(self.route, "taken");
        let copy = Copy {
            route: self.route,
            uid: marks.uid,
            variant: marks.variant,
            id: marks.id?,
            recipients,
            at: Instant::now(),
            process: self.process,
            reply: Reply::None,
            report: marks.original.map(|original| (original, marks.failed)),
        };
        let copy = self.book.copy(copy);
        self.think().await;
        let cut = match self.route {
            Route::Hold => 0.01,
            Route::Cuts => 0.03,
            _ => 0.0,
        };
        if self.is_unlucky(cut) {
            self.book.far_side(self.route, "broke off after the dot");
            self.book.replied(copy, Reply::Withheld);
            return None;
        }
        // Before it is written: the relay must not know earlier than the book.
        self.book.replied(copy, Reply::Written(Instant::now()));
        self.say("250 2.0.0 taken").await?;
        self.book.trap.spring(Moment::Replied);
        Some(())
    }

    /// Reads up to the final dot, and notes what must not be in there.
    async fn content(&mut self) -> Option<Marks> {
        let (mut marks, mut hasher, mut is_body) = (Marks::default(), Hasher::new(), false);
        let breaks_off = self.route == Route::Cuts && self.is_unlucky(0.02);
        loop {
            let line = self.line().await?;
            if line == b".\r\n" {
                break;
            }
            if breaks_off {
                self.book.far_side(self.route, "broke off within the message");
                return None;
            }
            let line = line.strip_prefix(b".").unwrap_or(&line);
            if is_body {
                hasher.update(line);
            }
            if !is_body || marks.uid.is_none() {
                marks.note(&String::from_utf8_lossy(line), is_body);
            }
            is_body |= line == b"\r\n";
        }
        let hash = hasher.finalize().to_hex();
        if marks.hash.as_ref().is_some_and(|wanted| *wanted != *hash) {
            self.book.fault(format!("{:?} arrived with another body", marks.uid));
        }
        if marks.leaked_key {
            self.book.fault(format!("{:?}: its key has left the relay", marks.uid));
        }
        if marks.id.is_none() || (marks.uid.is_none() && marks.original.is_none()) {
            self.book.fault(format!("at {}: a message that is neither ours nor a report", self.route.name()));
        }
        Some(marks)
    }

    /// How long it takes to reply to a final dot.
    async fn think(&mut self) {
        let milliseconds = match self.route {
            Route::Slow => self.rng.random_range(100..500),
            Route::Hold | Route::Cuts => self.rng.random_range(0..40),
            _ => self.rng.random_range(0..10),
        };
        sleep(Duration::from_millis(milliseconds)).await;
    }

    fn is_unlucky(&mut self, probability: f64) -> bool {
        !self.weather.is_calm() && self.rng.random_bool(probability)
    }

    /// With its line end; none at the end of the connection, also within a line.
    async fn line(&mut self) -> Option<Vec<u8>> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.ok()?;
        if !line.ends_with(b"\r\n") {
            if line.ends_with(b"\n") || line.len() > MAX_LINE {
                self.book.fault("a line that does not end as it must (S1)".to_owned());
            }
            return None;
        }
        Some(line)
    }

    async fn say(&mut self, reply: &str) -> Option<()> {
        self.stream.get_mut().write_all(format!("{reply}\r\n").as_bytes()).await.ok()
    }
}

impl Marks {
    fn note(&mut self, line: &str, is_body: bool) {
        let line = line.trim_end();
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.trim();
        if is_body {
            match name {
                "X-Oncemail-Queue-Id" => self.original = Some(value.to_owned()),
                "Final-Recipient" => self.failed.extend(value.split("; ").nth(1).map(str::to_owned)),
                _ => {}
            }
            return;
        }
        match name {
            MARK => {
                let mut words = value.split(' ').map(str::to_owned);
                self.uid = words.next();
                self.variant = words.next().and_then(|variant| variant.chars().next());
                self.at_dot = words.next().map(|name| AtDot::named(&name));
                self.hash = words.next();
            }
            "Message-ID" if self.id.is_none() => {
                self.id = value.strip_prefix('<').and_then(|id| id.split('@').next()).map(str::to_owned);
            }
            _ if name.eq_ignore_ascii_case("x-idempotency-key") => self.leaked_key = true,
            // Our Received field is folded, and stands on top.
            _ if self.id.is_none() => {
                let mut words = line.split_whitespace().skip_while(|word| *word != "id").skip(1);
                self.id = words.next().map(|id| id.trim_end_matches(';').to_owned());
            }
            _ => {}
        }
    }
}

/// Of the process that says EHLO.
fn number(line: &str) -> Option<u64> {
    line.split_once("relay-")?.1.split('.').next()?.parse().ok()
}
