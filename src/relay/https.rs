//! One request to an HTTPS server: for MTA-STS policies and OAuth 2 tokens. No redirects, no cookies, no state.
//!
//! A server is believed only after its certificate was verified for the name that was asked for; plain HTTP goes nowhere
//! but to loopback. Everything is bounded: the answer in size, the whole request in time. What goes wrong comes back as a
//! sentence, never with anything of what was sent.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
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
    let stream = TokioIo::new(open(trust, dns, &request).await?);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(|error| format!("HTTP: {error}"))?;
    // Ends with this request, however that ends.
    let _driver = AbortOnDropHandle::new(tokio::spawn(connection));
    let (most, asked) = (request.most, question(request)?);
    let answer = sender.send_request(asked).await.map_err(|error| no_http(&error))?;
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
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let is_usual = port == if tls { 443 } else { 80 };
    let builder = hyper::Request::builder()
        .method(if body.is_some() { Method::POST } else { Method::GET })
        .uri(path)
        .header(HOST, if is_usual { host } else { format!("{host}:{port}") })
        .header(USER_AGENT, "oncemail")
        .header(ACCEPT, "*/*");
    let built = match body {
        Some((kind, body)) => builder.header(CONTENT_TYPE, kind).body(Full::from(body)),
        None => builder.body(Full::default()),
    };
    built.map_err(|error| format!("the request cannot be made: {error}"))
}

async fn open(trust: &Trust, dns: &Dns, request: &Request<'_>) -> Result<Box<dyn Duplex>, String> {
    let Request { host, port, tls, .. } = *request;
    let found = dns.addresses(host, Family::Any).await.map_err(|fault| fault.to_string())?.found;
    if !tls && !found.iter().all(|address| address.to_canonical().is_loopback()) {
        return Err("plain HTTP goes only to this machine".to_owned());
    }
    let mut last = String::new();
    for address in found.into_iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, port)) {
        match TcpStream::connect(address).await {
            Ok(stream) if tls => return encrypted(trust, host, stream).await,
            Ok(stream) => return Ok(Box::new(stream)),
            Err(error) => last = format!("connecting to {address}: {error}"),
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
