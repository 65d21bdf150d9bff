//! The API over invented parts, and a client that says exactly what it is told to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oncemail::admin::model::{Destinations, Explanation, Reloaded, ResetResult};
use oncemail::admin::ports::{Answer as Later, ExplainQuestion, Outbound, Process, Readiness, Totals};
use oncemail::admin::socket::{ADMIN_SOCKET, connect};
use oncemail::admin::{Admin, Control, Options, Parts, Role, Token};
use oncemail::clock::{Clock, Timestamp};
use oncemail::queue::{Jitter, OnFailure, Queue, Routes};
use oncemail::store::files::RealFiles;
use oncemail::store::memory::MemoryStore;
use oncemail::store::suppression::Suppressions;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const READER: &str = "reader-0123456789abcdef";
pub const OPERATOR: &str = "operator-0123456789abcdef";

/// The way out as a test has it.
#[derive(Default)]
pub struct Invented {
    pub ready: AtomicBool,
    pub bad_configuration: AtomicBool,
    /// Who has reloaded.
    pub reloads: Mutex<Vec<String>>,
    pub resets: Mutex<Vec<(String, Option<String>)>>,
    pub questions: Mutex<Vec<ExplainQuestion>>,
}

impl Routes for Invented {
    fn route(&self, _: Option<&str>, _: Option<&str>, _: Option<&str>, _: &str) -> Option<Arc<str>> {
        Some("out".into())
    }
}

impl Outbound for Invented {
    fn destinations(&self, _: usize) -> Destinations {
        Destinations { destinations: Vec::new(), total: 7 }
    }

    fn reset(&self, route: &str, destination: Option<&str>) -> Option<ResetResult> {
        self.resets.lock().unwrap().push((route.to_owned(), destination.map(str::to_owned)));
        (route == "out").then_some(ResetResult { breakers: 1, destinations: 2 })
    }

    fn explain<'a>(&'a self, question: &'a ExplainQuestion) -> Later<'a, Explanation> {
        self.questions.lock().unwrap().push(question.clone());
        Box::pin(async { Explanation { address: question.address.clone(), ..Explanation::default() } })
    }

    fn tls_report(&self) -> Value {
        serde_json::json!({ "policies": [] })
    }
}

impl Process for Invented {
    fn readiness(&self) -> Readiness {
        let ready = self.ready.load(Ordering::SeqCst);
        Readiness { ready, reasons: if ready { vec![] } else { vec!["the disk is nearly full".to_owned()] } }
    }

    fn totals(&self) -> Totals {
        Totals { accepted: 42, ..Totals::default() }
    }

    fn metrics(&self) -> (String, &'static str) {
        ("oncemail_up 1\n# EOF\n".to_owned(), "application/openmetrics-text; version=1.0.0; charset=utf-8")
    }

    fn reload<'a>(&'a self, by: &'a str) -> Later<'a, Result<Reloaded, Vec<String>>> {
        Box::pin(async move {
            if self.bad_configuration.load(Ordering::SeqCst) {
                return Err(vec![
                    "line 3: unknown key `adress`".to_owned(),
                    "line 9: `port` is \"x\"".to_owned(),
                ]);
            }
            self.reloads.lock().unwrap().push(by.to_owned());
            Ok(Reloaded { changed: vec!["route \"out\"".to_owned()], needs_restart: vec![] })
        })
    }

    fn config(&self) -> Value {
        serde_json::json!({ "hostname": "relay.example" })
    }
}

/// A running API.
pub struct Rig {
    pub address: SocketAddr,
    pub directory: TempDir,
    pub invented: Arc<Invented>,
    pub store: Arc<MemoryStore>,
    pub clock: Clock,
    pub control: Control,
    pub shutdown: CancellationToken,
    pub running: JoinHandle<()>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It is a problem document with this status, and its sentence.
    #[track_caller]
    pub fn problem(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{self:?} {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let document = self.json();
        assert_eq!(document["status"], status);
        assert!(document["type"].is_string() && document["title"].is_string());
        document["detail"].as_str().expect("a sentence").to_owned()
    }

    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?} {}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }
}

impl Rig {
    /// With a token that may read and one that may do everything.
    pub async fn new() -> Self {
        let tokens = vec![
            Token::new("reader", READER, Role::Read, false),
            Token::new("operator", OPERATOR, Role::Operate, true),
        ];
        Self::with(tokens).await
    }

    pub async fn with(tokens: Vec<Token>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Timestamp::from_millis(1_795_343_400_000));
        let options = oncemail::queue::Options {
            base: Duration::from_secs(60),
            cap: Duration::from_secs(3600),
            jitter: Jitter::None,
            expire_after: Duration::from_secs(86_400),
            warn_after: None,
            on_failure: OnFailure::Bounce,
            hostname: "relay.example".to_owned(),
            fresh_bytes: 1 << 20,
        };
        let queue = Queue::new(options, clock.clone());
        let store = Arc::new(MemoryStore::new(clock.clone(), Some(queue.clone())));
        queue.start(store.clone(), Vec::new());
        let ttl = Duration::from_secs(86_400);
        let suppressions =
            Suppressions::open(Arc::new(RealFiles), directory.path(), ttl, clock.clone()).unwrap();
        let invented = Arc::new(Invented { ready: AtomicBool::new(true), ..Invented::default() });
        let parts = Parts {
            queue,
            store: store.clone(),
            history: None,
            suppressions: Some(suppressions),
            outbound: invented.clone(),
            process: invented.clone(),
            clock: clock.clone(),
        };
        let options = Options {
            address: Some("127.0.0.1:0".parse().unwrap()),
            data_dir: directory.path().to_owned(),
            hostname: "relay.example".to_owned(),
            tokens,
        };
        let admin = Admin::bind(options, parts).await.unwrap();
        let (address, control) = (admin.address().unwrap(), admin.control());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(admin.run(shutdown.clone(), Duration::from_secs(5)));
        Self { address, directory, invented, store, clock, control, shutdown, running }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().to_owned()
    }

    /// Over TCP, with these fields beside `Host` and `Connection`.
    pub async fn send(&self, request: &str, fields: &[&str], body: &str) -> Answer {
        let fields: Vec<String> = fields
            .iter()
            .map(|field| (*field).to_owned())
            .chain([format!("Host: {}", self.address)])
            .collect();
        self.send_raw(&text(request, &fields, body)).await
    }

    /// These bytes and nothing else.
    pub async fn send_raw(&self, bytes: &str) -> Answer {
        exchange(TcpStream::connect(self.address).await.unwrap(), bytes).await
    }

    /// With a token.
    pub async fn with_token(&self, token: &str, request: &str, body: &str) -> Answer {
        let token = format!("Authorization: Bearer {token}");
        self.send(request, &[&token, "Content-Type: application/json"], body).await
    }

    pub async fn read(&self, path: &str) -> Answer {
        self.with_token(READER, &format!("GET {path}"), "").await
    }

    pub async fn operate(&self, request: &str, body: &str) -> Answer {
        self.with_token(OPERATOR, request, body).await
    }

    /// Over the unix socket.
    pub async fn local(&self, request: &str, body: &str) -> Answer {
        let stream = connect(self.directory.path(), ADMIN_SOCKET).await.unwrap();
        let fields = ["Host: localhost".to_owned(), "Content-Type: application/json".to_owned()];
        exchange(stream, &text(request, &fields, body)).await
    }
}

pub fn text(request: &str, fields: &[String], body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{request} HTTP/1.1\r\n{}\r\nConnection: close\r\n{length}\r\n{body}", fields.join("\r\n"))
}

pub async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &str) -> Answer {
    let exchange = async {
        // What is refused early may close the connection before all is written.
        let _ = stream.write_all(bytes.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        answer
    };
    let answer = timeout(PATIENCE, exchange).await.expect("an answer");
    let end = answer.windows(4).position(|part| part == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(&answer)));
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: answer[end + 4..].to_vec() }
}
