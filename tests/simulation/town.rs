//! The hosts that mail goes to, how each of them feels, and the names that lead there.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, MX};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use oncemail::dns::{Asking, Servers};
use tokio::time::sleep;

use super::far::FarSide;
use super::net::{End, Net};
use super::process::Machine;
use super::world::World;

/// (address, domain it is there for).
const HOSTS: &[[u8; 4]] = &[
    [10, 0, 0, 1],
    [10, 0, 0, 2],
    [10, 0, 1, 1],
    [10, 0, 1, 2],
    [10, 0, 2, 1],
    [10, 0, 3, 1],
    [10, 0, 4, 1],
    [10, 0, 4, 2],
    [10, 0, 5, 1],
];

/// How a host feels.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mood {
    /// Steps out of a hundred that go wrong.
    Up(u64),
    /// Connections are refused.
    Down,
    /// Connections are not answered.
    Silent,
    /// It greets with 421, or with 554.
    Turning(u16),
}

/// See the module.
pub struct Town {
    world: Arc<World>,
    moods: Mutex<BTreeMap<IpAddr, Mood>>,
    /// Whether questions go unanswered, or are answered with an error.
    is_dns_ill: Mutex<bool>,
    /// A host that never comes back.
    gone: Option<IpAddr>,
}

impl Town {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        let hosts = HOSTS.iter().map(|octets| IpAddr::V4(Ipv4Addr::from(*octets)));
        let gone = world.percent(15).then(|| IpAddr::V4(Ipv4Addr::new(10, 0, 5, 1)));
        let moods = hosts.map(|host| (host, Mood::Up(10))).collect();
        Arc::new(Self { world, moods: Mutex::new(moods), is_dns_ill: Mutex::new(false), gone })
    }

    /// Moods change until the calm comes.
    pub async fn weather(self: Arc<Self>) {
        while self.world.is_stormy() {
            self.world.pause(10_000, 1_200_000).await;
            let octets = *self.world.pick(HOSTS);
            let host = IpAddr::V4(Ipv4Addr::from(octets));
            let mood = match self.world.between(0, 9) {
                0 => Mood::Down,
                1 => Mood::Silent,
                2 => Mood::Turning(421),
                3 => Mood::Turning(554),
                4 | 5 => Mood::Up(0),
                6 => Mood::Up(60),
                _ => Mood::Up(20),
            };
            let is_ill = self.world.percent(15);
            self.world
                .note(format!("{host} is {mood:?}, the DNS is {}", if is_ill { "ill" } else { "well" }));
            if !self.world.is_stormy() {
                return;
            }
            *self.is_dns_ill.lock().unwrap() = is_ill;
            self.moods.lock().unwrap().insert(host, mood);
        }
    }

    /// Everybody is well.
    pub fn recover(&self) {
        *self.is_dns_ill.lock().unwrap() = false;
        self.moods.lock().unwrap().values_mut().for_each(|mood| *mood = Mood::Up(0));
    }

    /// Whether a host never comes back.
    pub fn has_lost_a_host(&self) -> bool {
        self.gone.is_some()
    }

    pub fn mood(&self, host: IpAddr) -> Mood {
        if self.gone == Some(host) {
            return Mood::Down;
        }
        self.moods.lock().unwrap().get(&host).copied().unwrap_or(Mood::Silent)
    }

    /// A connection of the relay's.
    pub async fn connect(
        self: &Arc<Self>,
        life: u64,
        address: SocketAddr,
        net: &Arc<Net>,
        machine: &Machine,
    ) -> io::Result<End> {
        net.living(life).await;
        self.world.pause(1, 100).await;
        net.living(life).await;
        match self.mood(address.ip()) {
            Mood::Down => Err(io::ErrorKind::ConnectionRefused.into()),
            Mood::Silent => {
                sleep(Duration::from_secs(86_400)).await;
                Err(io::ErrorKind::TimedOut.into())
            }
            mood @ (Mood::Up(_) | Mood::Turning(_)) => {
                let (ours, theirs) = net.connect(life, if mood == Mood::Up(0) { 0 } else { 8 });
                let far = FarSide::new(machine.clone(), life, address.ip(), theirs);
                tokio::spawn(far.serve());
                Ok(ours)
            }
        }
    }

    async fn answer(&self, name: Name, kind: RecordType) -> Result<Lookup, NetError> {
        self.world.pause(1, 200).await;
        let is_ill = *self.is_dns_ill.lock().unwrap();
        let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let query = Query::query(name.clone(), kind);
        let none = |code| Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords::new(query.clone(), code))));
        if self.world.fault(if is_ill { 60 } else { 5 }) {
            return match self.world.between(0, 3) {
                0 => Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail))),
                1 => {
                    self.world.pause(1_000, 60_000).await;
                    Err(NetError::Timeout)
                }
                2 => none(ResponseCode::Refused),
                _ => {
                    // A lie, but one that must be believed.
                    let domain = text.rsplit('.').take(2).collect::<Vec<_>>();
                    let domain = domain.into_iter().rev().collect::<Vec<_>>().join(".");
                    self.world.deny(&domain);
                    none(ResponseCode::NoError)
                }
            };
        }
        let address = |octets: [u8; 4]| vec![RData::A(A(Ipv4Addr::from(octets)))];
        let mail = |preference, host: &str| RData::MX(MX::new(preference, Name::from_ascii(host).unwrap()));
        let found = match (text.as_str(), kind) {
            ("one.hosts.example", RecordType::A) => address([10, 0, 0, 1]),
            ("two.hosts.example", RecordType::A) => address([10, 0, 0, 2]),
            ("first.example", RecordType::MX) if self.world.percent(80) => {
                vec![mail(10, "mx1.first.example."), mail(20, "mx2.first.example.")]
            }
            ("first.example", RecordType::MX) => vec![mail(10, "mx2.first.example.")],
            ("mx1.first.example", RecordType::A) => address([10, 0, 4, 1]),
            ("mx2.first.example", RecordType::A) => address([10, 0, 4, 2]),
            ("second.example", RecordType::A) => address([10, 0, 5, 1]),
            ("null.example", RecordType::MX) => vec![mail(0, ".")],
            ("nowhere.example", _) => return none(ResponseCode::NXDomain),
            _ => return none(ResponseCode::NoError),
        };
        let records = found.into_iter().map(|data| Record::from_rdata(name.clone(), 60, data));
        Ok(Lookup::new_with_max_ttl(query, records))
    }
}

impl Servers for Town {
    fn lookup(&self, name: Name, kind: RecordType) -> Asking<'_> {
        Box::pin(self.answer(name, kind))
    }
}
