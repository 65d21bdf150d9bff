//! Requests to HTTPS servers: for MTA-STS policies, OAuth 2 tokens and webhooks. No redirects, no cookies, no state.
//!
//! A server is believed only after its certificate was verified for the name that was asked for; plain HTTP goes nowhere
//! but to loopback, unless an operator has said so. Everything is bounded: the answer in size, the whole request in time. What goes wrong comes back as a
//! sentence, never with anything of what was sent.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::tls::Trust;
use super::wire::Duplex;
use crate::dns::{Dns, Family};

/// What to ask.
pub(super) struct Request<'a> {
    /// Whether TLS is used; plain only to loopback.
    pub(super) tls: bool,
    /// Name of the server, verified against its certificate.
    pub(super) host: &'a str,
    /// An operator has named it: it is found as the system finds it.
    pub(super) is_configured: bool,
    pub(super) port: u16,
    /// Path with query.
    pub(super) path: &'a str,
    /// Content type and body of a POST; a GET without.
    pub(super) body: Option<(&'static str, Vec<u8>)>,
    /// Octets of the answer's body; more is an error.
    pub(super) most: usize,
    /// For all of it.
    pub(super) limit: Duration,
}

/// Where to ask.
#[derive(Clone, Copy)]
pub(super) struct Server<'a> {
    /// As in [`Request`].
    pub(super) tls: bool,
    /// As in [`Request`].
    pub(super) host: &'a str,
    /// As in [`Request`].
    pub(super) is_configured: bool,
    pub(super) port: u16,
    /// Without TLS it may be another machine.
    pub(super) plain_anywhere: bool,
}

/// An open connection to one server.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// Ends with the connection's owner, however that ends.
    _driver: AbortOnDropHandle<Result<(), hyper::Error>>,
}

/// What was answered.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Media type without parameters, lower case.
    pub(super) content_type: Option<String>,
    pub(super) body: Vec<u8>,
}

/// Addresses that are tried.
const MAX_ADDRESSES: usize = 3;
/// Connecting to one of them takes at most one of so many shares of the whole time.
const SHARES: u32 = 5;
/// The answer's head, octets: hyper reads no more before it has the whole of it.
const MAX_HEAD: usize = 16 << 10;

/// Asks. An answer with any status is an answer.
///
/// # Errors
/// A sentence that names the server and the step.
///
/// # Cancel safety
/// The connection is closed; the server may have taken the request.
pub(super) async fn fetch(trust: &Trust, dns: &Dns, request: Request<'_>) -> Result<Response, String> {
    let server = format!("{}:{}", request.host, request.port);
    let limit = request.limit;
    match timeout(limit, Box::pin(run(trust, dns, request))).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(reason)) => Err(format!("{server}: {reason}")),
        Err(_) => Err(format!("{server}: no whole answer within {} s", limit.as_secs_f32())),
    }
}

async fn run(trust: &Trust, dns: &Dns, request: Request<'_>) -> Result<Response, String> {
    let Request { tls, host, is_configured, port, .. } = request;
    let server = Server { tls, host, is_configured, port, plain_anywhere: false };
    let mut connection = Connection::open(trust, dns, &server, request.limit).await?;
    let (most, asked) = (request.most, question(request)?);
    let answer = connection.ask(asked).await?;
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, most).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            format!("the answer has more than {most} octets")
        } else {
            format!("the answer broke off: {error}")
        }
    })?;
    let content_type = head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = |value: &str| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    Ok(Response {
        status: head.status.as_u16(),
        content_type: content_type.map(media_type),
        body: body.to_bytes().to_vec(),
    })
}

impl Connection {
    /// Connects; each address gets its share of `limit`, the caller bounds the whole.
    ///
    /// # Errors
    /// A sentence that names the step.
    pub(super) async fn open(
        trust: &Trust,
        dns: &Dns,
        server: &Server<'_>,
        limit: Duration,
    ) -> Result<Self, String> {
        let stream = TokioIo::new(open(trust, dns, server, limit).await?);
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD)
            .handshake(stream)
            .await
            .map_err(|error| format!("HTTP: {error}"))?;
        Ok(Self { sender, _driver: AbortOnDropHandle::new(tokio::spawn(connection)) })
    }

    /// Sends one request, and reads the head of its answer.
    ///
    /// # Errors
    /// A sentence; the connection is of no use then.
    pub(super) async fn ask(
        &mut self,
        asked: hyper::Request<Full<Bytes>>,
    ) -> Result<hyper::Response<Incoming>, String> {
        self.sender.send_request(asked).await.map_err(|error| no_http(&error))
    }

    /// Whether it can take another request, as far as is known here.
    pub(super) async fn is_usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }
}

fn no_http(error: &hyper::Error) -> String {
    if error.is_parse() {
        format!("the answer is no HTTP ({error})")
    } else if error.is_incomplete_message() {
        "the connection was closed without an answer".to_owned()
    } else {
        format!("HTTP: {error}")
    }
}

fn question(request: Request<'_>) -> Result<hyper::Request<Full<Bytes>>, String> {
    let Request { host, port, path, body, tls, .. } = request;
    let path: Uri = path.parse().map_err(|_| format!("{path:?} is no path"))?;
    let builder = hyper::Request::builder()
        .method(if body.is_some() { Method::POST } else { Method::GET })
        .uri(path)
        .header(HOST, authority(tls, host, port))
        .header(USER_AGENT, "oncemail")
        .header(ACCEPT, "*/*");
    let built = match body {
        Some((kind, body)) => builder.header(CONTENT_TYPE, kind).body(Full::from(body)),
        None => builder.body(Full::default()),
    };
    built.map_err(|error| format!("the request cannot be made: {error}"))
}

/// The value of the Host field.
pub(super) fn authority(tls: bool, host: &str, port: u16) -> String {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let is_usual = port == if tls { 443 } else { 80 };
    if is_usual { host } else { format!("{host}:{port}") }
}

async fn open(
    trust: &Trust,
    dns: &Dns,
    server: &Server<'_>,
    limit: Duration,
) -> Result<Box<dyn Duplex>, String> {
    let Server { host, port, tls, is_configured, plain_anywhere } = *server;
    let found = match is_configured {
        true => dns.configured_addresses(host, Family::Any).await,
        false => dns.addresses(host, Family::Any).await,
    };
    let found = found.map_err(|fault| fault.to_string())?.found;
    if !tls && !plain_anywhere && !found.iter().all(|address| address.to_canonical().is_loopback()) {
        return Err("plain HTTP goes only to this machine".to_owned());
    }
    let mut last = String::new();
    for address in found.into_iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, port)) {
        // A silent address, of a family that leads nowhere from here, must leave time for the next.
        match timeout(limit / SHARES, TcpStream::connect(address)).await {
            Ok(Ok(stream)) if tls => return encrypted(trust, host, stream).await,
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => last = format!("connecting to {address}: {error}"),
            Err(_) => last = format!("connecting to {address}: no answer in time"),
        }
    }
    Err(last)
}

async fn encrypted(trust: &Trust, host: &str, stream: TcpStream) -> Result<Box<dyn Duplex>, String> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| format!("TLS: {host} cannot be in a certificate"))?;
    let connector = trust.connector().await.map_err(|error| format!("TLS: {error}"))?;
    let stream = connector
        .with_alpn(vec![b"http/1.1".to_vec()])
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS: {error}"))?;
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::dns;

    /// A socket on this port that answers nobody: its queue is full.
    async fn silent(port: u16) -> (TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 2], port))).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut filling = Vec::new();
        let at = listener.local_addr().unwrap();
        for _ in 0..64 {
            match timeout(Duration::from_millis(100), TcpStream::connect(at)).await {
                Ok(stream) => filling.push(stream.unwrap()),
                Err(_) => return (listener, filling),
            }
        }
        panic!("it still answers");
    }

    /// Takes one request, and answers with these octets, the last of them for ever.
    async fn drips(server: TcpListener, answer: Vec<u8>) -> std::io::Result<()> {
        let (mut stream, _) = server.accept().await?;
        stream.read_exact(&mut [0; 4]).await?;
        stream.write_all(&answer).await?;
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            stream.write_all(answer.get(answer.len() - 1..).unwrap_or_default()).await?;
        }
    }

    #[tokio::test]
    async fn s2_an_answer_that_never_ends_is_cut_off_in_time_and_size() {
        let huge_head = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 2 * MAX_HEAD]].concat();
        let cases: [(&[u8], &str); 4] = [
            (b"HTTP/1.1 200 OK\r\nX: x", "no whole answer within 1 s"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\nx", "no whole answer within 1 s"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFF\r\nxxxxxxxxx", "more than 8 octets"),
            (&huge_head, "no HTTP"),
        ];
        let dns = Dns::new(dns::Options::default());
        for (answer, cause) in cases {
            let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = server.local_addr().unwrap().port();
            let asking = Request {
                tls: false,
                host: "127.0.0.1",
                is_configured: true,
                port,
                path: "/",
                body: None,
                most: if cause.contains("octets") { 8 } else { 100 },
                limit: Duration::from_secs(1),
            };
            let trust = Trust::system(Arc::default());
            let dripping = tokio::spawn(drips(server, answer.to_vec()));
            let error = fetch(&trust, &dns, asking).await.unwrap_err();
            dripping.abort();
            assert!(error.contains(cause), "{cause}: {error}");
        }
    }

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        let _silent = silent(port).await;
        let directory = tempfile::tempdir().unwrap();
        let hosts = directory.path().join("hosts");
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&hosts, "127.0.0.2 tokens\n127.0.0.1 tokens\n").unwrap();
        let system = dns::System { hosts, ..dns::System::default() };
        // Nobody is asked for what the table of hosts has.
        let servers = vec![SocketAddr::from(([127, 0, 0, 1], 1))];
        let dns = Dns::new(dns::Options { servers, system, ..dns::Options::default() });
        let answering = tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let request = Request {
            tls: false,
            host: "tokens",
            is_configured: true,
            port,
            path: "/",
            body: None,
            most: 100,
            limit: Duration::from_secs(5),
        };
        let response = fetch(&Trust::system(Arc::default()), &dns, request).await.unwrap();
        assert_eq!((response.status, response.body.as_slice()), (200, b"ok".as_slice()));
        answering.await.unwrap();
    }
}
