//! Applications that send mail: under keys or not, again after a time-out, twice at once, with other content, over
//! connections that break.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oncemail::mail::QueueId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::net::End;
use super::process::Machine;
use super::settings::RECIPIENTS;

/// One message that an application wants sent.
#[derive(Clone)]
pub struct Errand {
    /// In its text, and in its sender's address.
    token: String,
    key: Option<String>,
    from: String,
    to: Vec<String>,
    body: String,
}

/// What the client knows after one try.
#[derive(Debug)]
enum Heard {
    Queued(QueueId),
    /// 554: the key has another message.
    Mismatch,
    /// Come again.
    Later(#[expect(dead_code, reason = "for the trace")] String),
    /// The connection broke before the final dot.
    NotSent,
    /// It broke, or nothing came, after it.
    Unknown,
    /// Something that must not be.
    Strange(String),
}

/// A connection to the relay.
struct Talk {
    end: End,
    input: Vec<u8>,
    patience: Duration,
}

impl Errand {
    pub fn new(machine: &Machine, client: u64, number: u64) -> Self {
        let world = &machine.world;
        let token = format!("c{client}.m{number}");
        let key = world.percent(80).then(|| format!("key-{token}"));
        let mut to: Vec<String> = Vec::new();
        for _ in 0..world.between(1, 4) {
            let whom = (*world.pick(RECIPIENTS)).to_owned();
            if !to.contains(&whom) {
                to.push(whom);
            }
        }
        let from = if world.percent(10) { String::new() } else { format!("{token}@bounce.example") };
        let mut body = format!("Text of {token}.\r\n");
        for line in 0..world.scaled(1, 60) {
            body.push_str(if line % 7 == 3 { ".\r\n" } else { "..some more words of it, and a dot.\r\n" });
        }
        Self { token, key, from, to, body }
    }

    /// The same key, and other words.
    fn forged(&self) -> Self {
        Self { body: format!("Other text than {}.\r\n", self.token), ..self.clone() }
    }

    /// A mail library makes a new Message-ID and Date each time.
    fn text(&self, machine: &Machine) -> String {
        let number = machine.world.between(0, u64::MAX - 1);
        let key = self.key.as_ref().map_or_else(String::new, |key| format!("X-Idempotency-Key: {key}\r\n"));
        format!("Message-ID: <{number}@client.example>\r\nSubject: {}\r\n{key}\r\n{}", self.token, self.body)
    }

    /// Sends it until it is known what became of it, and sometimes again.
    pub async fn run(self, machine: Machine) {
        let world = machine.world.clone();
        let mut known = false;
        // However bad the weather is, it ends.
        for attempt in 0..400 {
            let heard = self.attempt(&machine).await;
            world.note(format!("{} ({attempt}) heard {heard:?}", self.token));
            match heard {
                Heard::Queued(id) => {
                    machine.ledger.acknowledged(id, self.key.as_deref(), &self.body, &self.to);
                    known = true;
                }
                Heard::Mismatch => match &self.key {
                    Some(key) => {
                        machine.ledger.refused(key, &self.body);
                        return;
                    }
                    None => return world.wrong("554 without a key"),
                },
                Heard::Unknown if self.key.is_none() => return,
                Heard::Strange(reply) => return world.wrong(format!("{} heard {reply}", self.token)),
                Heard::Later(_) | Heard::NotSent | Heard::Unknown => {}
            }
            if known {
                if self.key.is_none() || !world.percent(30) {
                    return;
                }
                if world.percent(30) {
                    Box::pin(self.forged().once(&machine)).await;
                }
                world.pause(1_000, 7_200_000).await;
            } else {
                world.pause(200, 300_000).await;
            }
        }
        world.check(known, || format!("{} was never accepted", self.token));
    }

    /// Sends it once.
    pub async fn once(self, machine: &Machine) {
        let heard = self.attempt(machine).await;
        machine.world.note(format!("{} (forged) heard {heard:?}", self.token));
        let key = self.key.as_deref();
        match heard {
            Heard::Queued(id) => machine.ledger.acknowledged(id, key, &self.body, &self.to),
            Heard::Mismatch => machine.ledger.refused(key.unwrap_or_default(), &self.body),
            Heard::Strange(reply) => machine.world.wrong(format!("{} heard {reply}", self.token)),
            Heard::Later(_) | Heard::NotSent | Heard::Unknown => {}
        }
    }

    async fn attempt(&self, machine: &Machine) -> Heard {
        let gate = machine.gate.lock().unwrap().clone();
        let Some(gate) = gate else { return Heard::NotSent };
        let (ours, theirs) = machine.net.connect(gate.life, 15);
        gate.accept(ours, SocketAddr::from(([192, 0, 2, 7], 1)));
        let patience = Duration::from_millis(machine.world.scaled(5_000, 600_000));
        let mut talk = Talk { end: theirs, input: Vec::new(), patience };
        let mut is_sent = false;
        match self.talk(&mut talk, machine, &mut is_sent).await {
            Ok(heard) => heard,
            Err(_) if is_sent => Heard::Unknown,
            Err(_) => Heard::NotSent,
        }
    }

    async fn talk(&self, talk: &mut Talk, machine: &Machine, is_sent: &mut bool) -> io::Result<Heard> {
        let world = &machine.world;
        // It may fall silent, or away, at any of these.
        let gives_up_at = if world.fault(8) { world.between(1, 6) } else { 99 };
        if !talk.reply().await?.starts_with("220 ") {
            return Ok(Heard::Later("no greeting".to_owned()));
        }
        talk.command("EHLO client.example", "250").await?;
        let mut commands = vec![format!("MAIL FROM:<{}>", self.from)];
        commands.extend(self.to.iter().map(|to| format!("RCPT TO:<{to}>")));
        commands.push("DATA".to_owned());
        if world.percent(50) {
            let all: String = commands.iter().map(|command| format!("{command}\r\n")).collect();
            talk.end.write_all(all.as_bytes()).await?;
            for command in &commands {
                let reply = talk.reply().await?;
                if !reply.starts_with(if command == "DATA" { "354" } else { "250" }) {
                    return Ok(later(&reply));
                }
            }
        } else {
            for (number, command) in commands.iter().enumerate() {
                if number as u64 == gives_up_at {
                    return Ok(Heard::NotSent);
                }
                talk.end.write_all(format!("{command}\r\n").as_bytes()).await?;
                let reply = talk.reply().await?;
                if !reply.starts_with(if command == "DATA" { "354" } else { "250" }) {
                    return Ok(later(&reply));
                }
            }
        }
        let stuffed: String = self
            .text(machine)
            .split_inclusive('\n')
            .map(|line| if line.starts_with('.') { format!(".{line}") } else { line.to_owned() })
            .collect();
        let mut octets = stuffed.as_bytes();
        if gives_up_at == 5 {
            octets = &octets[..octets.len() / 2];
        }
        while !octets.is_empty() {
            let most = usize::try_from(world.scaled(1, 4_000)).unwrap().min(octets.len());
            talk.end.write_all(&octets[..most]).await?;
            octets = &octets[most..];
            if world.fault(2) {
                world.pause(1_000, 120_000).await;
            }
        }
        if gives_up_at == 5 {
            return Ok(Heard::NotSent);
        }
        *is_sent = true;
        talk.end.write_all(b".\r\n").await?;
        if gives_up_at == 6 {
            return Ok(Heard::Unknown);
        }
        let reply = talk.reply().await?;
        if world.percent(50) {
            let _ = talk.command("QUIT", "221").await;
        }
        Ok(decided(&reply))
    }
}

fn later(reply: &str) -> Heard {
    if reply.starts_with('4') { Heard::Later(reply.to_owned()) } else { Heard::Strange(reply.to_owned()) }
}

fn decided(reply: &str) -> Heard {
    let id = reply.split("queued as ").nth(1).and_then(|rest| rest.split(' ').next());
    match (reply.get(..3), id.map(str::parse)) {
        (Some("250"), Some(Ok(id))) => Heard::Queued(id),
        (Some("554"), _) if reply.contains("reused with different") => Heard::Mismatch,
        _ => later(reply),
    }
}

impl Talk {
    async fn command(&mut self, line: &str, expected: &str) -> io::Result<()> {
        self.end.write_all(format!("{line}\r\n").as_bytes()).await?;
        let reply = self.reply().await?;
        if reply.starts_with(expected) { Ok(()) } else { Err(io::Error::other(reply)) }
    }

    /// The last line of a reply.
    async fn reply(&mut self) -> io::Result<String> {
        loop {
            while let Some(at) = memchr::memmem::find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).take(at).collect();
                if line.get(3) != Some(&b'-') {
                    return Ok(String::from_utf8_lossy(&line).into_owned());
                }
            }
            let mut buffer = vec![0; 2048];
            let read = timeout(self.patience, self.end.read(&mut buffer)).await??;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.input.extend_from_slice(&buffer[..read]);
        }
    }
}

/// An application with a few messages, one after the other; some of them twice at once.
pub async fn application(machine: Machine, client: u64, messages: u64) {
    let running = Arc::new(tokio_util::task::TaskTracker::new());
    for number in 0..messages {
        machine.world.pause(100, 3_000_000).await;
        let errand = Errand::new(&machine, client, number);
        if errand.key.is_some() && machine.world.percent(20) {
            running.spawn(errand.clone().run(machine.clone()));
        }
        if errand.key.is_some() && machine.world.percent(8) {
            let (forged, machine) = (errand.forged(), machine.clone());
            running.spawn(async move { forged.once(&machine).await });
        }
        let sending = running.spawn(errand.run(machine.clone()));
        if machine.world.percent(70) {
            sending.await.expect("a client does not panic");
        }
    }
    running.close();
    running.wait().await;
}
