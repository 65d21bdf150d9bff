//! What the relay says of its queue, over its unix socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};

/// One request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at a queue that is being emptied.
const LOOK: Duration = Duration::from_millis(50);
const PAGE: usize = 500;

/// See the module.
pub struct Api {
    socket: PathBuf,
}

/// One recipient of a message that is in the queue.
#[derive(Debug)]
pub struct Waiting {
    pub id: String,
    pub address: String,
    pub state: String,
    /// Why it is held.
    pub cause: String,
}

impl Api {
    pub fn new(data_dir: &Path) -> Self {
        Self { socket: data_dir.join("admin.sock") }
    }

    /// Waits until nothing but held mail is there; false when that takes longer than `limit`.
    pub async fn is_drained_within(&self, limit: Duration) -> Result<bool> {
        let began = Instant::now();
        while began.elapsed() < limit {
            let (_, page) = self
                .ask("GET", "/api/v1/messages?state=queued,active&kind=mail,notice,event&limit=1", "")
                .await?;
            if page["matched"] == 0 && page["unread"] == 0 {
                return Ok(true);
            }
            sleep(LOOK).await;
        }
        Ok(false)
    }

    /// Some mail that waits.
    pub async fn queued(&self) -> Result<Vec<Value>> {
        let (_, mut page) = self.ask("GET", "/api/v1/messages?state=queued&kind=mail&limit=50", "").await?;
        Ok(page["messages"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Everybody in the queue who is neither delivered nor bounced.
    pub async fn waiting(&self) -> Result<Vec<Waiting>> {
        let mut waiting = Vec::new();
        for id in self.ids("queued,active,held").await? {
            let story = self.story(&id).await?.context("a message that was listed is gone")?;
            for recipient in story["recipient_stories"].as_array().context("no recipients")? {
                let text = |name: &str| recipient[name].as_str().unwrap_or_default().to_owned();
                let state = text("state");
                if state == "queued" || state == "active" || state == "held" {
                    let (address, cause) = (text("address"), text("hold_cause"));
                    waiting.push(Waiting { id: id.clone(), address, state, cause });
                }
            }
        }
        Ok(waiting)
    }

    /// What is known of a message, in the queue or in the history.
    pub async fn story(&self, id: &str) -> Result<Option<Value>> {
        let (status, story) = self.ask("GET", &format!("/api/v1/messages/{id}"), "").await?;
        Ok((status == 200).then_some(story))
    }

    /// Gives an order; what came of it.
    pub async fn order(&self, id: &str, action: &str) -> Result<String> {
        let body = format!("{{\"action\":\"{action}\"}}");
        let (status, result) = self.ask("POST", &format!("/api/v1/messages/{id}/actions"), &body).await?;
        ensure!(status == 200, "{action} of {id}: {status} {result}");
        Ok(result["effect"].as_str().unwrap_or_default().to_owned())
    }

    async fn ids(&self, states: &str) -> Result<Vec<String>> {
        let (mut ids, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/messages?state={states}&limit={PAGE}{after}");
            let (status, page) = self.ask("GET", &path, "").await?;
            ensure!(status == 200, "{path}: {status} {page}");
            let messages = page["messages"].as_array().context("no messages")?;
            ids.extend(messages.iter().filter_map(|message| message["id"].as_str().map(str::to_owned)));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(ids),
            }
        }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, Value)> {
        let answer = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            let length = body.len();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                 Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = timeout(PATIENCE, answer).await.with_context(|| format!("no answer to {path}"))??;
        let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP")?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no HTTP status")?;
        Ok((status, serde_json::from_str(body).unwrap_or_default()))
    }
}
