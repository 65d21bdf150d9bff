//! One connection of an application to the relay, and one submission over it.

use std::net::SocketAddr;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::message::Draft;

/// Nothing but a relay that stands still keeps a client waiting for longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a submission was told.
pub enum Told {
    /// The reply to the final dot, or the refusal before it.
    Reply(String),
    /// The connection broke, or patience ended, before the final dot.
    Unsent,
    /// The same behind it: nobody knows.
    Unanswered,
}

/// See the module.
pub struct Line(Lines<BufReader<TcpStream>>);

impl Line {
    /// Connects and says EHLO; none when it is not this relay that answers.
    pub async fn open((address, number): (SocketAddr, u64)) -> Option<Self> {
        timeout(PATIENCE, async {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok()?;
            let mut line = Self(BufReader::new(stream).lines());
            // The port of a relay that was killed may be somebody else's by now.
            if !line.reply().await?.starts_with(&format!("220 relay-{number}.soak.example ")) {
                return None;
            }
            line.say(b"EHLO app.example\r\n").await?;
            line.reply().await?;
            Some(line)
        })
        .await
        .ok()?
    }

    /// One transaction. `None` beside the answer: the connection is not fit for another one.
    pub async fn submit(mut self, draft: &Draft, variant: char, rng: &mut StdRng) -> (Told, Option<Self>) {
        let (hangs_up, impatient) = (rng.random_bool(0.02), rng.random_bool(0.05));
        let patience = if impatient { Duration::from_millis(rng.random_range(1..200)) } else { PATIENCE };
        match timeout(PATIENCE, self.envelope(draft)).await {
            Ok(Some(None)) => {}
            Ok(Some(Some(refusal))) => return (Told::Reply(refusal), None),
            Ok(None) | Err(_) => return (Told::Unsent, None),
        }
        let content = draft.content(variant, rng);
        let answer = async {
            self.say(&content).await?;
            // The reply may be under way already.
            if hangs_up { None } else { self.reply().await }
        };
        match timeout(patience, answer).await {
            Ok(Some(reply)) => (Told::Reply(reply), Some(self)),
            Ok(None) | Err(_) => (Told::Unanswered, None),
        }
    }

    /// MAIL, RCPT and DATA in one write; the first refusal, if any.
    async fn envelope(&mut self, draft: &Draft) -> Option<Option<String>> {
        self.say(draft.envelope().as_bytes()).await?;
        for _ in 0..draft.recipients.len() + 2 {
            let reply = self.reply().await?;
            if !reply.starts_with(['2', '3']) {
                return Some(Some(reply));
            }
        }
        Some(None)
    }

    /// The last line of one reply.
    async fn reply(&mut self) -> Option<String> {
        loop {
            let line = self.0.next_line().await.ok()??;
            if line.as_bytes().get(3) != Some(&b'-') {
                return Some(line);
            }
        }
    }

    async fn say(&mut self, octets: &[u8]) -> Option<()> {
        self.0.get_mut().write_all(octets).await.ok()
    }
}
