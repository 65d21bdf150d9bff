//! A name server for tests: hickory's, in this process, behind a front that counts questions and can be told to lie.
//!
//! ```ignore
//! let dns = DnsServer::new().mx("x.example", 10, "mx.x.example").a("mx.x.example", "127.0.0.1").start().await;
//! dns.lie("x.example", Lie::Silence);
//! ```
//! Everything is in the root zone; what is not there does not exist. Records have TTL 0 unless a test says otherwise, so
//! that each lookup asks. `signed()` signs the root zone, and `options()` then names its trust anchor.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::dnssec::NxProofKind;
use hickory_server::proto::dnssec::crypto::Ed25519SigningKey;
use hickory_server::proto::dnssec::rdata::DNSKEY;
use hickory_server::proto::dnssec::{DnssecSigner, SigningKey};
use hickory_server::proto::op::{Message, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, NS, SOA, TLSA, TXT};
use hickory_server::proto::rr::{LowerName, Name, RData, Record, RecordType};
use hickory_server::proto::serialize::binary::BinEncodable;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType};
use oncemail::dns::{self, Dns};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::{AbortHandle, JoinSet};

use super::eventually::eventually;
use super::far_side::PATIENCE;
use super::listener::write;

/// What is answered instead of the truth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// Nothing.
    Silence,
    /// SERVFAIL.
    ServFail,
    /// NXDOMAIN, although it exists.
    NxDomain,
    /// Cut off over UDP, so that it must be asked over TCP.
    TruncatedOverUdp,
    /// Cut off however it is asked.
    Truncated,
    /// Octets that are no DNS.
    Garbage,
    /// A header that counts 65,535 answers where there are few; over TCP also a length that is not kept to.
    WrongSize,
    /// Cut off over UDP; over TCP a length prefix that promises more than comes.
    WrongSizeOverTcp,
    /// A true answer to the question for another name.
    OtherQuestion,
    /// The right question, with a record of another name.
    OtherRecords,
    /// So many MX records, `m0` with preference 0 and so on. The header always counts all of them; the message ends where
    /// a message must.
    ManyMx(u16),
    /// The records changed, the signatures not.
    Forged,
    /// The records without their signatures.
    Unsigned,
}

pub struct DnsServerBuilder {
    records: Vec<Record>,
    ttl: u32,
    signed: bool,
    plain: Vec<Name>,
}

/// A running server.
pub struct DnsServer {
    pub address: SocketAddr,
    /// DNSKEY of the signed root.
    pub trust_anchor_file: Option<PathBuf>,
    front: Arc<Front>,
    fronts: Vec<AbortHandle>,
    _inner: Vec<Server<Catalog>>,
    directory: tempfile::TempDir,
}

type Asked = HashMap<(String, RecordType), usize>;

struct Front {
    lies: Mutex<Vec<(Name, Lie)>>,
    asked: Mutex<Asked>,
    /// Where the truth is: the root zone, and the zones that are not signed.
    root: SocketAddr,
    plain: SocketAddr,
    plain_zones: Vec<Name>,
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).unwrap().to_lowercase()
}

impl DnsServer {
    #[allow(clippy::new_ret_no_self, reason = "a test reads DnsServer::new().mx(…).start()")]
    pub fn new() -> DnsServerBuilder {
        DnsServerBuilder { records: Vec::new(), ttl: 0, signed: false, plain: Vec::new() }
    }

    /// Options to ask only this server, and not for long.
    pub fn options(&self) -> dns::Options {
        dns::Options {
            servers: vec![self.address],
            timeout: Duration::from_millis(300),
            dnssec: self.trust_anchor_file.is_some(),
            trust_anchor_file: self.trust_anchor_file.clone(),
            ..dns::Options::default()
        }
    }

    /// As on a system whose `/etc/resolv.conf` names this server and says `more`, and whose `/etc/hosts` has `hosts`.
    pub fn system(&self, more: &str, hosts: &str) -> dns::Options {
        let (resolv_conf, table) =
            (self.directory.path().join("resolv.conf"), self.directory.path().join("hosts"));
        write(&resolv_conf, &format!("nameserver {}\n{more}\n", self.address.ip()));
        write(&table, hosts);
        let system = dns::System { resolv_conf, hosts: table, port: self.address.port() };
        dns::Options { servers: Vec::new(), system, ..self.options() }
    }

    /// Asks only this server.
    pub fn dns(&self) -> Arc<Dns> {
        Arc::new(Dns::new(self.options()))
    }

    /// From now on lies about everything at `about`.
    pub fn lie(&self, about: &str, lie: Lie) {
        self.front.lies.lock().unwrap().insert(0, (name(about), lie));
    }

    /// No more lies.
    pub fn tell_the_truth(&self) {
        self.front.lies.lock().unwrap().clear();
    }

    /// How often a question was asked, over UDP or TCP.
    pub fn asked(&self, about: &str, kind: RecordType) -> usize {
        self.front.asked.lock().unwrap().get(&(name(about).to_ascii(), kind)).copied().unwrap_or_default()
    }

    /// Nobody listens any more.
    pub async fn stop(&mut self) {
        for front in self.fronts.drain(..) {
            front.abort();
        }
        // The ports are free when both can be bound.
        eventually("both ports are free", async || bind(self.address).await.ok()).await;
    }

    /// At the same address as before.
    pub async fn start_again(&mut self) {
        let (udp, tcp) = bind(self.address).await.expect("the port is still free");
        self.fronts = self.front.serve(udp, tcp);
    }
}

async fn bind(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let tcp = TcpListener::bind(address).await?;
    let udp = UdpSocket::bind(tcp.local_addr()?).await?;
    Ok((udp, tcp))
}

/// One port for both.
async fn bind_any() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        if let Ok(bound) = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await {
            return bound;
        }
    }
    panic!("no port is free for both UDP and TCP");
}

impl DnsServerBuilder {
    /// Of all records that follow, seconds.
    pub fn ttl(mut self, ttl: u32) -> Self {
        self.ttl = ttl;
        self
    }

    /// Signs the root zone.
    pub fn signed(mut self) -> Self {
        self.signed = true;
        self
    }

    /// A zone of its own that is never signed; the root says so.
    pub fn plain_zone(mut self, zone: &str) -> Self {
        self.plain.push(name(zone));
        self
    }

    pub fn record(mut self, owner: &str, data: RData) -> Self {
        self.records.push(Record::from_rdata(name(owner), self.ttl, data));
        self
    }

    pub fn a(self, owner: &str, address: &str) -> Self {
        self.record(owner, RData::A(A(address.parse().unwrap())))
    }

    pub fn aaaa(self, owner: &str, address: &str) -> Self {
        self.record(owner, RData::AAAA(AAAA(address.parse().unwrap())))
    }

    /// `"."` as the host is the root.
    pub fn mx(self, owner: &str, preference: u16, host: &str) -> Self {
        let host = if host == "." { Name::root() } else { name(host) };
        self.record(owner, RData::MX(MX::new(preference, host)))
    }

    pub fn cname(self, owner: &str, target: &str) -> Self {
        self.record(owner, RData::CNAME(CNAME(name(target))))
    }

    pub fn txt(self, owner: &str, text: &[&str]) -> Self {
        let parts = text.iter().map(|part| (*part).to_owned()).collect();
        self.record(owner, RData::TXT(TXT::new(parts)))
    }

    /// At the whole name: `_25._tcp.mx.x.example`.
    pub fn tlsa(self, owner: &str, usage: u8, selector: u8, matching: u8, association: &[u8]) -> Self {
        let tlsa = TLSA::new(usage.into(), selector.into(), matching.into(), association.to_vec());
        self.record(owner, RData::TLSA(tlsa))
    }

    pub async fn start(self) -> DnsServer {
        let directory = tempfile::tempdir().unwrap();
        let (mut in_root, mut in_plain) = (Vec::new(), Vec::new());
        for record in self.records {
            match self.plain.iter().find(|zone| zone.zone_of(&record.name)) {
                Some(zone) => in_plain.push((zone.clone(), record)),
                None => in_root.push(record),
            }
        }
        for zone in &self.plain {
            in_root.push(Record::from_rdata(zone.clone(), 60, RData::NS(NS(name("ns.invalid")))));
        }
        let mut root = zone(&Name::root(), in_root);
        let mut trust_anchor_file = None;
        if self.signed {
            let (signer, anchor) = signer();
            root.add_zone_signing_key_mut(signer).unwrap();
            root.secure_zone_mut().unwrap();
            let file = directory.path().join("root.key");
            write(&file, &anchor);
            trust_anchor_file = Some(file);
        }
        let mut plain = Vec::new();
        for origin in &self.plain {
            let own = in_plain.iter().filter(|(zone, _)| zone == origin).map(|(_, record)| record.clone());
            plain.push((origin.clone(), zone(origin, own.collect())));
        }
        let (root_server, root) = serve(vec![(Name::root(), root)]).await;
        let (plain_server, plain) = serve(plain).await;
        let (lies, asked) = (Mutex::default(), Mutex::default());
        let front = Arc::new(Front { lies, asked, root, plain, plain_zones: self.plain });
        let (udp, tcp) = bind_any().await;
        let address = tcp.local_addr().unwrap();
        let fronts = front.serve(udp, tcp);
        let inner = vec![root_server, plain_server];
        DnsServer { address, trust_anchor_file, front, fronts, _inner: inner, directory }
    }
}

fn zone(origin: &Name, records: Vec<Record>) -> InMemoryZoneHandler {
    let kind = Some(NxProofKind::Nsec);
    let mut zone = InMemoryZoneHandler::empty(origin.clone(), ZoneType::Primary, AxfrPolicy::Deny, kind);
    let soa = SOA::new(name("ns.invalid"), name("admin.invalid"), 1, 60, 60, 60, 0);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::SOA(soa)), 1);
    zone.upsert_mut(Record::from_rdata(origin.clone(), 60, RData::NS(NS(name("ns.invalid")))), 1);
    for record in records {
        assert!(zone.upsert_mut(record.clone(), 1), "{record} cannot be in the zone {origin}");
    }
    zone
}

/// A key of the root, and the trust anchor for it.
fn signer() -> (DnssecSigner, String) {
    let der = Ed25519SigningKey::generate_pkcs8().unwrap();
    let key = Ed25519SigningKey::from_pkcs8(&der).unwrap();
    let public = DNSKEY::from_key(&key.to_public_key().unwrap());
    let anchor = format!(". 3600 IN DNSKEY {public}\n");
    let day = Duration::from_secs(24 * 3600);
    (DnssecSigner::new(public, Box::new(key), Name::root(), day), anchor)
}

async fn serve(zones: Vec<(Name, InMemoryZoneHandler)>) -> (Server<Catalog>, SocketAddr) {
    let mut catalog = Catalog::new();
    for (origin, zone) in zones {
        catalog.upsert(LowerName::from(origin), vec![Arc::new(zone) as Arc<dyn ZoneHandler>]);
    }
    let (udp, tcp) = bind_any().await;
    let address = tcp.local_addr().unwrap();
    let mut server = Server::new(catalog);
    server.register_socket(udp);
    server.register_listener(tcp, PATIENCE, 64 << 10);
    (server, address)
}

impl Front {
    fn serve(self: &Arc<Self>, udp: UdpSocket, tcp: TcpListener) -> Vec<AbortHandle> {
        let (over_udp, over_tcp) = (self.clone(), self.clone());
        let udp = tokio::spawn(async move { over_udp.run_udp(udp).await });
        let tcp = tokio::spawn(async move { over_tcp.run_tcp(tcp).await });
        vec![udp.abort_handle(), tcp.abort_handle()]
    }

    async fn run_udp(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        // Ends with this task, so that the port is free then.
        let mut answering = JoinSet::new();
        let mut buffer = vec![0; 64 << 10];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let (front, socket, question) = (self.clone(), socket.clone(), buffer[..length].to_vec());
            answering.spawn(async move {
                if let Some(answer) = front.answer(&question, false).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            });
            while answering.try_join_next().is_some() {}
        }
    }

    async fn run_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let front = self.clone();
            connections.spawn(async move {
                while let Ok(length) = stream.read_u16().await {
                    let mut question = vec![0; usize::from(length)];
                    stream.read_exact(&mut question).await?;
                    let Some(answer) = front.answer(&question, true).await else { continue };
                    let lie = front.lie(&question);
                    let promised = match lie {
                        Some(Lie::WrongSize | Lie::WrongSizeOverTcp) => u16::MAX,
                        _ => u16::try_from(answer.len()).unwrap(),
                    };
                    stream.write_u16(promised).await?;
                    stream.write_all(&answer).await?;
                }
                Ok::<_, std::io::Error>(())
            });
            while connections.try_join_next().is_some() {}
        }
    }

    fn lie(&self, question: &[u8]) -> Option<Lie> {
        let question = Message::from_vec(question).ok()?;
        let about = question.queries.first()?.name().to_lowercase();
        self.lies.lock().unwrap().iter().find(|(name, _)| *name == about).map(|(_, lie)| *lie)
    }

    async fn answer(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        let query = asked.queries.first()?.clone();
        let about = query.name().to_lowercase();
        *self.asked.lock().unwrap().entry((about.to_ascii(), query.query_type())).or_default() += 1;
        let mut empty = Message::response(asked.metadata.id, asked.metadata.op_code);
        empty.metadata.recursion_available = true;
        empty.add_query(query.clone());
        let cut_off = || {
            let mut answer = empty.clone();
            answer.metadata.truncation = true;
            Some(answer.to_bytes().unwrap())
        };
        let code = |code| {
            let mut answer = empty.clone();
            answer.metadata.response_code = code;
            Some(answer.to_bytes().unwrap())
        };
        match self.lie(question) {
            None => self.truth(question, over_tcp).await,
            Some(Lie::Silence) => None,
            Some(Lie::ServFail) => code(ResponseCode::ServFail),
            Some(Lie::NxDomain) => code(ResponseCode::NXDomain),
            Some(Lie::TruncatedOverUdp) if over_tcp => self.truth(question, over_tcp).await,
            Some(Lie::TruncatedOverUdp | Lie::Truncated) => cut_off(),
            Some(Lie::WrongSizeOverTcp | Lie::ManyMx(_)) if !over_tcp => cut_off(),
            Some(Lie::ManyMx(count)) => Some(many_mx(&empty.to_bytes().unwrap(), count)),
            Some(Lie::WrongSizeOverTcp) => self.truth(question, over_tcp).await,
            Some(Lie::Garbage) => Some([&question[..2], b"\xff\x00this is no DNS\xc0\xff"].concat()),
            Some(Lie::WrongSize) => {
                let mut answer = self.truth(question, over_tcp).await?;
                // RFC 1035 §4.1.1, ANCOUNT.
                answer[6..8].copy_from_slice(&[0xff, 0xff]);
                Some(answer)
            }
            Some(Lie::OtherQuestion) => {
                let mut other = query.clone();
                other.set_name(name("other.example"));
                let mut answer = self.true_message(question, over_tcp).await?;
                answer.queries = vec![other];
                Some(answer.to_bytes().unwrap())
            }
            Some(Lie::OtherRecords) => {
                let mut answer = self.true_message(question, over_tcp).await?;
                for record in &mut answer.answers {
                    record.name = name("other.example");
                }
                Some(answer.to_bytes().unwrap())
            }
            Some(Lie::Forged) => {
                let mut answer = self.true_message(question, over_tcp).await?;
                answer.answers.iter_mut().for_each(|record| forge(&mut record.data));
                Some(answer.to_bytes().unwrap())
            }
            Some(Lie::Unsigned) => {
                let mut answer = self.true_message(question, over_tcp).await?;
                answer.answers.retain(|record| record.record_type() != RecordType::RRSIG);
                answer.authorities.clear();
                Some(answer.to_bytes().unwrap())
            }
        }
    }

    async fn true_message(&self, question: &[u8], over_tcp: bool) -> Option<Message> {
        Message::from_vec(&self.truth(question, over_tcp).await?).ok()
    }

    async fn truth(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let asked = Message::from_vec(question).ok()?;
        let query = asked.queries.first()?;
        // RFC 4035 §3.1.4.1: whether a zone is signed is for its parent to say.
        let is_plain = self.plain_zones.iter().any(|zone| {
            zone.zone_of(query.name()) && !(query.query_type() == RecordType::DS && zone == query.name())
        });
        let server = if is_plain { self.plain } else { self.root };
        if over_tcp {
            let mut stream = TcpStream::connect(server).await.ok()?;
            stream.write_u16(u16::try_from(question.len()).unwrap()).await.ok()?;
            stream.write_all(question).await.ok()?;
            let length = stream.read_u16().await.ok()?;
            let mut answer = vec![0; usize::from(length)];
            stream.read_exact(&mut answer).await.ok()?;
            Some(answer)
        } else {
            let socket = UdpSocket::bind("127.0.0.1:0").await.ok()?;
            socket.send_to(question, server).await.ok()?;
            let mut answer = vec![0; 64 << 10];
            let length = socket.recv(&mut answer).await.ok()?;
            answer.truncate(length);
            Some(answer)
        }
    }
}

fn forge(data: &mut RData) {
    match data {
        RData::A(address) => *address = A([203, 0, 113, 66].into()),
        RData::MX(mx) => mx.exchange = name("attacker.example"),
        RData::TLSA(tlsa) => tlsa.cert_data.iter_mut().for_each(|octet| *octet ^= 0xff),
        _ => {}
    }
}

/// Appended to a message with nothing but a question; RFC 1035 §4.1.3, with names that point to the question's.
fn many_mx(empty: &[u8], count: u16) -> Vec<u8> {
    let mut answer = empty.to_vec();
    answer[6..8].copy_from_slice(&count.to_be_bytes());
    for number in 0..count {
        let label = format!("m{number}");
        let exchange = [&[label.len() as u8], label.as_bytes(), &[0xc0, 12]].concat();
        let fixed = [0xc0, 12, 0, 15, 0, 1, 0, 0, 0, 0, 0, exchange.len() as u8 + 2];
        let record = [&fixed, number.to_be_bytes().as_slice(), &exchange].concat();
        if answer.len() + record.len() > usize::from(u16::MAX) {
            break;
        }
        answer.extend(record);
    }
    answer
}
