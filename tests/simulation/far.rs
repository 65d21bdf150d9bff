//! A next hop: answers well, late, never, with a refusal or with nonsense, and dies before or after it has taken a message.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::net::End;
use super::process::Machine;
use super::town::Mood;

/// No relay keeps a connection so long that says nothing.
const PATIENCE: Duration = Duration::from_secs(2 * 3_600);
/// None of them begins like a reply that means anything good.
const NONSENSE: &[&[u8]] = &[
    b"HTTP/1.1 200 OK\r\n",
    b"\0\0\0\r\n",
    b"25\r\n",
    b"2500 what?\r\n",
    b"999 far too much\r\n",
    b"hello there\r\n",
    b"150 2.0.0 nearly\r\n",
];

/// One connection.
pub struct FarSide {
    machine: Machine,
    life: u64,
    host: IpAddr,
    end: End,
    input: Vec<u8>,
    from: Option<String>,
    to: Vec<String>,
}

/// What becomes of the connection.
enum Next {
    Line,
    Close,
}

/// What goes wrong at one step.
#[derive(Debug)]
enum Fault {
    Late,
    Never,
    Later,
    ForGood,
    Nonsense,
    Close,
    Closing,
}

impl FarSide {
    pub fn new(machine: Machine, life: u64, host: IpAddr, end: End) -> Self {
        Self { machine, life, host, end, input: Vec::new(), from: None, to: Vec::new() }
    }

    pub async fn serve(mut self) {
        // However it ends, the relay has to live with it.
        let _ = self.talk().await;
    }

    async fn talk(&mut self) -> io::Result<()> {
        let greeting = match self.machine.town.mood(self.host) {
            Mood::Turning(code) => format!("{code} 5.3.2 not now\r\n"),
            _ => "220 far.example ESMTP\r\n".to_owned(),
        };
        if let Next::Close = self.answer(greeting.trim_end(), &[]).await? {
            return Ok(());
        }
        while let Some(line) = self.line().await? {
            if let Next::Close = self.obey(&line).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn obey(&mut self, line: &str) -> io::Result<Next> {
        let verb = line.split([' ', ':']).next().unwrap_or_default();
        match verb {
            "EHLO" => {
                let pipelining = if self.host.to_string().ends_with('1') { "250-PIPELINING\r\n" } else { "" };
                let usual = format!(
                    "250-far.example\r\n{pipelining}250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 1000000"
                );
                self.answer(&usual, &[]).await
            }
            "MAIL" => {
                (self.from, self.to) = (Some(path(line)), Vec::new());
                self.answer("250 2.1.0 ok", &["*".to_owned()]).await
            }
            "RCPT" if self.from.is_none() => self.say("503 5.5.1 MAIL first").await,
            "RCPT" => {
                let whom = path(line);
                if whom.starts_with("bad@") {
                    self.refuse(&[whom]);
                    return self.say("550 5.1.1 no such mailbox").await;
                }
                self.to.push(whom.clone());
                self.answer("250 2.1.5 ok", &[whom]).await
            }
            "DATA" if self.from.is_none() || self.to.is_empty() => self.say("503 5.5.1 RCPT first").await,
            "DATA" => self.data().await,
            "RSET" => {
                (self.from, self.to) = (None, Vec::new());
                self.answer("250 2.0.0 ok", &[]).await
            }
            "QUIT" => {
                self.say("221 2.0.0 bye").await?;
                Ok(Next::Close)
            }
            _ => self.say("500 5.5.1 what?").await,
        }
    }

    async fn data(&mut self) -> io::Result<Next> {
        let to = self.to.clone();
        match self.fault() {
            None => {}
            Some(Fault::ForGood | Fault::Nonsense) => {
                self.refuse(&to);
                return self.say("554 5.6.0 no DATA").await;
            }
            Some(Fault::Later | Fault::Closing) => return self.say("451 4.3.0 no DATA now").await,
            Some(Fault::Close | Fault::Never) => return Ok(Next::Close),
            Some(Fault::Late) => self.be_late().await,
        }
        self.say("354 go ahead").await?;
        let Some(content) = self.content().await? else { return Ok(Next::Close) };
        let fault = self.fault();
        let world = self.machine.world.clone();
        let (host, from) = (self.host, self.from.take().unwrap_or_default());
        self.to.clear();
        let words = match &fault {
            Some(Fault::Later) => "451 4.3.0 not now",
            Some(Fault::ForGood) => "554 5.6.0 not this",
            Some(Fault::Closing) => "421 4.3.2 closing",
            _ => "",
        };
        if !words.is_empty() {
            world.note(format!("{host} refuses <{from}> for {to:?}: {words}"));
            if let Some(Fault::ForGood) = fault {
                self.from = Some(from);
                self.refuse(&to);
                self.from = None;
            }
            self.say(words).await?;
            return Ok(if let Some(Fault::Closing) = fault { Next::Close } else { Next::Line });
        }
        if matches!(fault, Some(Fault::Close)) && world.percent(50) {
            world.note(format!("{host} dies before it takes <{from}> for {to:?}"));
            return Ok(Next::Close);
        }
        let Machine { ledger, .. } = self.machine.clone();
        let id = ledger.take(&world, self.life, &content, &to);
        world.note(format!("{host} takes {id:?} for {to:?}, and then: {fault:?}"));
        match fault {
            Some(Fault::Close) => return Ok(Next::Close),
            Some(Fault::Never) => {
                sleep(PATIENCE).await;
                return Ok(Next::Close);
            }
            Some(Fault::Nonsense) => {
                let nonsense = *world.pick(NONSENSE);
                self.end.write_all(nonsense).await?;
                return Ok(Next::Line);
            }
            Some(Fault::Late) => self.be_late().await,
            _ => {}
        }
        let replying = self.end.write_all(b"250 2.0.0 taken\r\n").await;
        if let Some(id) = id.filter(|_| replying.is_ok()) {
            ledger.say_taken(id, &to, self.end.connection(), self.end.written());
        }
        replying?;
        Ok(if world.fault(5) { Next::Close } else { Next::Line })
    }

    /// Says the usual, or does something else.
    async fn answer(&mut self, usual: &str, about: &[String]) -> io::Result<Next> {
        let whom = about.first().cloned().unwrap_or_default();
        let is_rcpt = !whom.is_empty() && whom != "*";
        let fault = self.fault();
        if fault.is_some() && !matches!(fault, Some(Fault::Late)) && is_rcpt {
            self.to.retain(|to| *to != whom);
        }
        match fault {
            None => self.say(usual).await,
            Some(Fault::Late) => {
                self.be_late().await;
                self.say(usual).await
            }
            Some(Fault::Never) => {
                sleep(PATIENCE).await;
                Ok(Next::Close)
            }
            Some(Fault::Later) => {
                self.forget_mail(&whom);
                self.say("451 4.3.0 later").await
            }
            Some(Fault::ForGood) => {
                self.refuse(about);
                self.forget_mail(&whom);
                self.say("550 5.7.0 never").await
            }
            Some(Fault::Nonsense) => {
                let nonsense = *self.machine.world.pick(NONSENSE);
                self.end.write_all(nonsense).await?;
                Ok(Next::Line)
            }
            Some(Fault::Close) => Ok(Next::Close),
            Some(Fault::Closing) => {
                self.say("421 4.3.2 closing").await?;
                Ok(Next::Close)
            }
        }
    }

    fn forget_mail(&mut self, whom: &str) {
        if whom == "*" {
            self.from = None;
        }
    }

    fn refuse(&self, whom: &[String]) {
        if let Some(from) = &self.from {
            self.machine.ledger.refuse_for_good(from, whom);
        }
    }

    fn fault(&self) -> Option<Fault> {
        let rate = match self.machine.town.mood(self.host) {
            Mood::Up(rate) => rate,
            _ => 20,
        };
        // A message takes half a dozen steps.
        if !self.machine.world.fault(rate / 4) {
            return None;
        }
        Some(match self.machine.world.between(0, 9) {
            0 | 1 => Fault::Late,
            2 => Fault::Never,
            3 | 4 => Fault::Later,
            5 => Fault::ForGood,
            6 => Fault::Nonsense,
            7 | 8 => Fault::Close,
            _ => Fault::Closing,
        })
    }

    async fn be_late(&self) {
        self.machine.world.pause(1_000, 1_200_000).await;
    }

    async fn say(&mut self, words: &str) -> io::Result<Next> {
        self.end.write_all(format!("{words}\r\n").as_bytes()).await?;
        Ok(Next::Line)
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, b"\r\n") {
                let line: Vec<u8> = self.input.drain(..at + 2).take(at).collect();
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Up to the final dot, without what was put in for the wire.
    async fn content(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.input, b"\r\n.\r\n") {
                let wire: Vec<u8> = self.input.drain(..at + 5).take(at + 2).collect();
                let mut content = Vec::new();
                for line in wire.split_inclusive(|octet| *octet == b'\n') {
                    content.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
                }
                return Ok(Some(content));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    async fn fill(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; 4096];
        let read = timeout(PATIENCE, self.end.read(&mut buffer)).await.unwrap_or(Ok(0))?;
        self.input.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }
}

/// What stands in angle brackets.
fn path(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or_else(String::new, |(path, _)| path.to_owned())
}
