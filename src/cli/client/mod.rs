//! Asks the API of a running server, and turns what goes wrong into a sentence and an exit code.
//!
//! One connection, which is kept. Everything is bounded: connecting and each answer in time, and an answer in size. What
//! the server says is not trusted to be harmless: [`Failure::tell`] and the tables escape it.

mod connection;
mod target;

use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

pub(super) use self::target::Remote;
use self::target::Target;
use super::failure::Failure;
use crate::admin::model::Problem;

/// Connecting, with the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A question that is answered from memory, or by DNS.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// An order for many messages: each becomes durable before the answer.
const BULK_TIMEOUT: Duration = Duration::from_secs(1800);
/// Octets of an answer. A page of 500 messages has about 500 KB; a message with thousands of recipients has more.
const MAX_ANSWER: usize = 64 << 20;
/// Octets of an answer's head.
const MAX_HEAD: usize = 16 << 10;

/// What may stand in a path or a query as it is (RFC 3986 §2.3).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server that can be asked.
pub(super) struct Client {
    target: Target,
    token: Option<HeaderValue>,
    open: Option<Open>,
}

struct Open {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with the connection's last use.
    _driver: AbortOnDropHandle<()>,
}

/// A document, and the text that it came in.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Answer<T> {
    pub(super) document: T,
    pub(super) text: String,
}

/// What is asked.
struct Question {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    limit: Duration,
}

impl Client {
    /// For the server that the command line names. Connects to nothing yet.
    pub(super) fn new(remote: &Remote, config: Option<&Path>) -> Result<Self, Failure> {
        let (target, token) = remote.find(config)?;
        Ok(Self { target, token, open: None })
    }

    /// GET.
    pub(super) async fn get<T: DeserializeOwned>(
        &mut self,
        path: impl Into<String>,
    ) -> Result<Answer<T>, Failure> {
        self.ask(Question { method: Method::GET, path: path.into(), body: None, limit: ANSWER_TIMEOUT }).await
    }

    /// POST of a document.
    pub(super) async fn post<T: DeserializeOwned>(
        &mut self,
        path: impl Into<String>,
        document: &impl Serialize,
    ) -> Result<Answer<T>, Failure> {
        let body = serde_json::to_vec(document).map_err(|error| Failure::Failed(error.to_string()))?;
        let limit = BULK_TIMEOUT;
        self.ask(Question { method: Method::POST, path: path.into(), body: Some(body), limit }).await
    }

    /// DELETE; what it answers does not matter.
    pub(super) async fn delete(&mut self, path: impl Into<String>) -> Result<(), Failure> {
        let question = Question {
            method: Method::DELETE,
            path: path.into(),
            body: Some(Vec::new()),
            limit: ANSWER_TIMEOUT,
        };
        self.exchange(&question).await.map(drop)
    }

    async fn ask<T: DeserializeOwned>(&mut self, question: Question) -> Result<Answer<T>, Failure> {
        let text = self.exchange(&question).await?;
        match serde_json::from_str(&text) {
            Ok(document) => Ok(Answer { document, text }),
            Err(error) => Err(Failure::Failed(format!(
                "{}: the answer is not what this program expects: {error}\nis the server of another version?",
                self.target.name()
            ))),
        }
    }

    /// The body of an answer that is no problem.
    async fn exchange(&mut self, question: &Question) -> Result<String, Failure> {
        let failed = |what: String| Failure::Failed(what);
        let name = self.target.name();
        let sent = self.send(question);
        let answered = timeout(question.limit, sent).await.map_err(|_| {
            failed(format!("{name}: no whole answer within {} seconds", question.limit.as_secs()))
        });
        if !matches!(answered, Ok(Ok(_))) {
            // Nobody knows where on this connection the next answer would begin.
            self.open = None;
        }
        let (status, retry_after, body) = answered?.map_err(failed)?;
        let text = String::from_utf8(body).map_err(|_| failed(format!("{name}: the answer is no text")))?;
        if status.is_success() {
            Ok(text)
        } else {
            Err(refusal(status, retry_after.as_deref(), &text, &name))
        }
    }

    async fn send(&mut self, question: &Question) -> Result<(StatusCode, Option<String>, Vec<u8>), String> {
        if question.method != Method::GET {
            // A server may close an idle connection at any time. What changes something is not sent into that, because
            // nobody could tell whether it was done.
            self.open = None;
        }
        let was_open = self.open.is_some();
        let answer = match self.send_once(question).await {
            Err(_) if was_open => {
                self.open = None;
                self.send_once(question).await
            }
            other => other,
        }?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
            let name = self.target.name();
            if error.is::<LengthLimitError>() {
                format!("{name}: the answer has more than {MAX_ANSWER} octets")
            } else {
                format!("{name}: the answer broke off: {error}")
            }
        })?;
        let retry_after =
            head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok((head.status, retry_after, body.to_bytes().to_vec()))
    }

    async fn send_once(&mut self, question: &Question) -> Result<Response<Incoming>, String> {
        let request = self.request(question)?;
        let name = self.target.name();
        let open = match &mut self.open {
            Some(open) => open,
            none => none.insert(connect(&self.target).await?),
        };
        open.sender.ready().await.map_err(|error| no_http(&name, &error))?;
        open.sender.send_request(request).await.map_err(|error| no_http(&name, &error))
    }

    fn request(&self, question: &Question) -> Result<Request<Full<Bytes>>, String> {
        let mut builder = Request::builder()
            .method(question.method.clone())
            .uri(format!("{}{}", self.target.prefix(), question.path))
            .header(HOST, self.target.authority())
            .header(USER_AGENT, concat!("oncemail/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json, application/problem+json");
        if let Some(token) = &self.token {
            builder = builder.header(AUTHORIZATION, token);
        }
        // Whatever changes something has to say that it is no form of some web page.
        if let Some(body) = &question.body {
            builder = builder.header(CONTENT_TYPE, "application/json");
            return builder.body(Full::from(body.clone())).map_err(|error| error.to_string());
        }
        builder.body(Full::default()).map_err(|error| error.to_string())
    }
}

async fn connect(target: &Target) -> Result<Open, String> {
    let name = target.name();
    let opened = async {
        let stream = TokioIo::new(connection::open(target).await?);
        let shaken = http1::Builder::new().max_buf_size(MAX_HEAD).handshake(stream).await;
        shaken.map_err(|error| no_http(&name, &error))
    };
    let opened = timeout(CONNECT_TIMEOUT, opened).await;
    let (sender, connection) = opened.unwrap_or_else(|_| {
        Err(format!("{name} cannot be reached within {} s", CONNECT_TIMEOUT.as_secs()))
    })?;
    let driver = tokio::spawn(async {
        // What goes wrong is told to whoever waits for the answer.
        let _ = connection.await;
    });
    Ok(Open { sender, _driver: AbortOnDropHandle::new(driver) })
}

fn no_http(name: &str, error: &hyper::Error) -> String {
    if error.is_parse() {
        format!("{name}: the answer is no HTTP ({error}); should --server begin with https://?")
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        format!("{name}: the connection was closed without an answer")
    } else {
        format!("{name}: {error}")
    }
}

/// An answer that is a refusal, in one sentence and with every mistake that it names.
fn refusal(status: StatusCode, retry_after: Option<&str>, body: &str, name: &str) -> Failure {
    let problem: Option<Problem> = serde_json::from_str(body).ok();
    let mut text = match &problem {
        Some(Problem { detail: Some(detail), .. }) => detail.clone(),
        Some(Problem { title, .. }) => title.clone(),
        None => format!("{name} answered {status}"),
    };
    match status {
        StatusCode::UNAUTHORIZED => text.push_str("\ngive a token with --token-file or ONCEMAIL_ADMIN_TOKEN"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            if let Some(seconds) = retry_after {
                text.push_str(&format!("\ntry again in {seconds} seconds"));
            }
        }
        _ => {}
    }
    for error in problem.iter().flat_map(|problem| &problem.errors) {
        text.push_str(&format!("\n  {}", error.replace('\n', "\n  ")));
    }
    match status {
        StatusCode::NOT_FOUND if problem.is_some() => Failure::NotFound(text),
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Failure::Usage(text),
        _ => Failure::Failed(text),
    }
}

/// A path with its query; values may contain anything.
pub(super) fn path_with(path: &str, query: &[(&str, &str)]) -> String {
    let mut text = path.to_owned();
    for (index, (name, value)) in query.iter().enumerate() {
        text.push(if index == 0 { '?' } else { '&' });
        text.push_str(name);
        text.push('=');
        text.extend(utf8_percent_encode(value, UNRESERVED));
    }
    text
}

/// One step of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(status: u16, rest: &str) -> String {
        format!("{{\"type\":\"about:blank\",\"title\":\"No\",\"status\":{status}{rest}}}")
    }

    #[test]
    fn a_problem_becomes_a_sentence_and_a_kind_of_failure() {
        let refuse = |status: u16, body: &str| {
            refusal(StatusCode::from_u16(status).unwrap(), Some("7"), body, "relay.example")
        };
        assert_eq!(
            refuse(404, &problem(404, ",\"detail\":\"there is no message X\"")),
            Failure::NotFound("there is no message X".into())
        );
        assert_eq!(refuse(400, &problem(400, "")), Failure::Usage("No".into()));
        assert_eq!(
            refuse(422, &problem(422, ",\"detail\":\"refused\",\"errors\":[\"a\\nb\",\"c\"]")),
            Failure::Usage("refused\n  a\n  b\n  c".into())
        );
        assert_eq!(
            refuse(503, "busy"),
            Failure::Failed("relay.example answered 503 Service Unavailable\ntry again in 7 seconds".into())
        );
        assert!(matches!(refuse(401, "{}"), Failure::Failed(text) if text.contains("--token-file")));
        // Another server's page says nothing about a message.
        assert!(matches!(refuse(404, "<html>"), Failure::Failed(_)));
        // A redirect is not followed: a token goes nowhere else.
        assert!(matches!(refuse(302, ""), Failure::Failed(_)));
    }

    #[test]
    fn values_in_a_query_may_contain_anything() {
        assert_eq!(
            path_with("/p", &[("key", "a&b=c d/é\n"), ("x", "")]),
            "/p?key=a%26b%3Dc%20d%2F%C3%A9%0A&x="
        );
        assert_eq!(path_with("/p", &[]), "/p");
        assert_eq!(segment("../a"), "..%2Fa");
    }
}
