//! Events to a webhook: each one HTTP POST, signed, over a connection that is kept.
//!
//! The receiver is the operator's own choice, so its address may be private. It must never be followed elsewhere (a
//! redirect is a failure), never be waited for longer than `timeout`, and never be read beyond a few KiB (S2). Whatever
//! happens to a request, the event may be sent again: its id tells the receiver. What a receiver does not take is tried
//! again until the event expires, so that a repaired one gets all; only 410 says that it wants none.

mod verdict;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HOST, RETRY_AFTER, USER_AGENT};
use ring::hmac;
use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout};

use super::breakers::{Breakers, Permit};
use super::concurrency::Load;
use super::https::{self, Connection, Server};
use super::options::Webhook;
use super::smarthost::Attempt;
use super::surroundings::Surroundings;
use super::tls::Trust;
use super::transaction::{Answer, By};
use crate::clock::{Clock, Timestamp};
use crate::dns::Dns;
use crate::mail::Message;
use crate::queue::End;
use verdict::{Verdict, verdict};

/// Octets of an answer's body that are read, so that its connection can be kept.
const MAX_BODY: usize = 4096;
/// That long is waited for the rest of an answer whose head is known.
const BODY_WAIT: Duration = Duration::from_secs(1);
/// A connection that nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// At a shutdown a request gets this long.
const COURTESY: Duration = Duration::from_secs(2);

/// One webhook.
pub(super) struct Hook {
    name: String,
    options: Webhook,
    key: hmac::Key,
    trust: Trust,
    dns: Arc<Dns>,
    breakers: Arc<Breakers>,
    clock: Clock,
    /// Connections that nobody uses now.
    kept: Mutex<Vec<(Connection, Instant)>>,
}

/// What was answered.
struct Answered {
    status: u16,
    retry_after: Option<Duration>,
}

/// The part of an event that is passed on in a header field.
#[derive(Deserialize)]
struct Traced {
    message: Parent,
}

#[derive(Deserialize)]
struct Parent {
    traceparent: Option<String>,
}

impl Hook {
    pub(super) fn new(
        name: &str,
        options: Webhook,
        trust: Trust,
        dns: Arc<Dns>,
        breakers: Arc<Breakers>,
        clock: Clock,
    ) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, options.secret.as_bytes());
        Self { name: name.to_owned(), options, key, trust, dns, breakers, clock, kept: Mutex::default() }
    }

    /// When the receiver may be asked again, if it may not be asked now.
    pub(super) fn blocked_until(&self) -> Option<Instant> {
        self.breakers.blocked_until(&self.options.host)
    }

    pub(super) fn breakers(&self) -> &Breakers {
        &self.breakers
    }

    /// Who receives.
    pub(super) fn host(&self) -> &crate::relay::options::Host {
        &self.options.host
    }

    /// Forgets what no longer matters (S2).
    pub(super) fn sweep(&self) {
        self.breakers.sweep();
        self.kept().retain(|(_, used_at)| used_at.elapsed() < IDLE);
    }

    /// Sends one event; `recipients` is how many answers are wanted, which is one.
    pub(super) async fn attempt(
        &self,
        event: &Message,
        recipients: usize,
        surroundings: &Surroundings,
    ) -> Attempt {
        let permit = match self.breakers.admit(&self.options.host) {
            Ok(permit) => permit,
            Err(until) => return Attempt::Blocked { until, hosts: vec![self.options.host.clone()] },
        };
        let hurry = async {
            surroundings.stop.cancelled().await;
            sleep(COURTESY).await;
        };
        let answered = tokio::select! {
            answered = timeout(self.options.timeout, Box::pin(self.post(event))) => answered,
            () = hurry => return Attempt::Stopped,
        };
        let by = By::name(self.options.host.to_string());
        let (answer, load) = match answered {
            Ok(Ok(answered)) => match self.judge(&answered, permit) {
                Ok(judged) => judged,
                Err(until) => return Attempt::Paced(until),
            },
            Ok(Err(reason)) => {
                permit.failed(&reason);
                (Answer::local(End::Deferred, reason), Load::Less)
            }
            Err(_) => {
                let reason = format!("no answer within {} s", self.options.timeout.as_secs_f32());
                permit.failed(&reason);
                (Answer::local(End::Deferred, reason), Load::Less)
            }
        };
        Attempt::Answered { by, answers: vec![answer; recipients], load }
    }

    /// What an answer means.
    ///
    /// # Errors
    /// The receiver wants to be asked at this time, and not before.
    fn judge(&self, answered: &Answered, permit: Permit<'_>) -> Result<(Answer, Load), Instant> {
        let said = hyper::StatusCode::from_u16(answered.status).ok();
        let text = format!("HTTP {}", said.and_then(|status| status.canonical_reason()).unwrap_or("status"));
        let answer = |end| Answer { code: answered.status, ..Answer::local(end, text.clone()) };
        match verdict(answered.status, answered.retry_after) {
            Verdict::Taken => {
                permit.worked();
                Ok((answer(End::Delivered), Load::More))
            }
            Verdict::Unwanted => {
                permit.worked();
                Ok((answer(End::Failed), Load::Same))
            }
            Verdict::NotThisOne => {
                permit.worked();
                Ok((answer(End::Deferred), Load::Same))
            }
            Verdict::Broken => {
                permit.failed(&format!("{} {text}", answered.status));
                Ok((answer(End::Deferred), Load::Less))
            }
            Verdict::Slower(wait) => {
                tracing::info!(target: "oncemail::events", sink = %self.name, code = answered.status,
                    wait_s = wait.as_secs(), "the receiver wants to be asked later");
                Err(Instant::now() + wait)
            }
        }
    }

    /// One request. A kept connection that has died since is no news: the event goes over a new one.
    async fn post(&self, event: &Message) -> Result<Answered, String> {
        while let Some(mut connection) = self.take() {
            if connection.is_usable().await
                && let Ok(response) = connection.ask(self.request(event)?).await
            {
                return Ok(self.read(response, connection).await);
            }
        }
        let Webhook { tls, ref host, allow_http, timeout, .. } = self.options;
        let server = Server {
            tls,
            host: &host.name,
            is_configured: true,
            port: host.port,
            plain_anywhere: allow_http,
        };
        let mut connection = Connection::open(&self.trust, &self.dns, &server, timeout).await?;
        let response = connection.ask(self.request(event)?).await?;
        Ok(self.read(response, connection).await)
    }

    /// The head decides; the body is read only so that the connection can be kept.
    async fn read(&self, response: hyper::Response<Incoming>, connection: Connection) -> Answered {
        let (head, body) = response.into_parts();
        let later = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = later.and_then(|value| verdict::retry_after(value, self.clock.now()));
        let rest = timeout(BODY_WAIT, Limited::new(body, MAX_BODY).collect()).await;
        if matches!(rest, Ok(Ok(_))) {
            self.kept().push((connection, Instant::now()));
        }
        Answered { status: head.status.as_u16(), retry_after }
    }

    fn request(&self, event: &Message) -> Result<hyper::Request<Full<Bytes>>, String> {
        let Webhook { tls, ref host, ref path, .. } = self.options;
        let now = self.clock.now();
        let mut builder = hyper::Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, https::authority(tls, &host.name, host.port))
            .header(USER_AGENT, concat!("oncemail/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", event.id.to_string())
            .header("X-Oncemail-Timestamp", now.as_secs())
            .header("X-Oncemail-Signature", signature(&self.key, now, &event.content));
        let traced = serde_json::from_slice::<Traced>(&event.content).ok();
        if let Some(parent) = traced.and_then(|traced| traced.message.traceparent) {
            builder = builder.header("traceparent", parent);
        }
        let request = builder.body(Full::new(event.content.clone()));
        request.map_err(|error| format!("the request cannot be made: {error}"))
    }

    fn take(&self) -> Option<Connection> {
        let mut kept = self.kept();
        // The one that was used last is the one that lives most likely.
        let (connection, used_at) = kept.pop()?;
        if used_at.elapsed() < IDLE {
            return Some(connection);
        }
        kept.clear();
        None
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `v1=` and the HMAC-SHA256 (RFC 2104) of the time stamp, a dot and the body, in lower-case hexadecimal digits.
fn signature(key: &hmac::Key, now: Timestamp, body: &[u8]) -> String {
    let mut context = hmac::Context::with_key(key);
    context.update(now.as_secs().to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let tag = context.sign();
    let digits = tag.as_ref().iter().map(|byte| format!("{byte:02x}"));
    std::iter::once("v1=".to_owned()).chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_one_that_other_tools_make() {
        // printf '1795343400.{"version":1}' | openssl dgst -sha256 -hmac "whsec-test"
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"whsec-test");
        let made = signature(&key, Timestamp::from_millis(1_795_343_400_999), b"{\"version\":1}");
        assert_eq!(made, "v1=4e15cfca80d1cd00f074bfae041e96348a91735c6ad4661ef755b0343018cd86");
    }
}
