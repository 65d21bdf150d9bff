//! One life of the relay's process: put together as `app` does it, over the simulated disk, network and DNS.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use oncemail::clock::Clock;
use oncemail::dns::{Dns, Servers};
use oncemail::intake::Intake;
use oncemail::queue::{self, Queue};
use oncemail::relay::{self, Dial, Dialled, Duplex, Relay};
use oncemail::store::Store;
use oncemail::submission::{Reception, Recipients};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::disk::Disk;
use super::ledger::Ledger;
use super::net::{End, Net};
use super::settings;
use super::store::{Opened, SimStore};
use super::town::Town;
use super::world::World;

/// See the module.
pub struct Process {
    pub life: u64,
    pub store: SimStore,
    pub queue: Arc<Queue>,
    relaying: JoinHandle<()>,
    gate: Gate,
}

/// Where clients come in.
#[derive(Clone)]
pub struct Gate {
    pub life: u64,
    reception: Reception,
    sessions: TaskTracker,
    cut: CancellationToken,
    shutdown: CancellationToken,
}

/// What a process finds when it starts.
#[derive(Clone)]
pub struct Machine {
    pub world: Arc<World>,
    pub net: Arc<Net>,
    pub disk: Disk,
    pub ledger: Arc<Ledger>,
    pub town: Arc<Town>,
    pub clock: Clock,
    /// Of the process that runs.
    pub gate: Arc<Mutex<Option<Gate>>>,
    pub queue_options: queue::Options,
}

/// Connects a life to the town.
struct Dialer {
    life: u64,
    machine: Machine,
}

impl Dial for Dialer {
    fn dial(&self, address: SocketAddr) -> Dialled<'_> {
        Box::pin(async move {
            let Machine { town, net, .. } = &self.machine;
            let end = town.connect(self.life, address, net, &self.machine).await?;
            Ok::<Box<dyn Duplex>, io::Error>(Box::new(end))
        })
    }
}

impl Process {
    /// `None`: the power has gone, or the disk has failed, before it was ready.
    pub fn start(machine: &Machine, life: u64) -> Option<Self> {
        let Machine { world, clock, .. } = machine;
        let queue = Queue::new(machine.queue_options.clone(), clock.clone());
        let (store, recovered) = match SimStore::open(machine, life, &queue) {
            Opened::Store(store, recovered) => (store, recovered),
            Opened::Died => {
                world.note(format!("life {life} ended at its start"));
                return None;
            }
        };
        world.note(format!("life {life} begins with {} messages", recovered.len()));
        let shared: Arc<dyn Store> = Arc::new(store.clone());
        queue.start(shared.clone(), recovered);
        let names: Arc<dyn Servers> = machine.town.clone();
        let dns = Arc::new(Dns::asking(names));
        let intake = Arc::new(Intake::new(shared, settings::intake(), clock.clone()));
        let recipients = Recipients { dns: dns.clone(), suppressions: None };
        let reception =
            Reception::unbound(settings::submission(), intake, clock.clone(), recipients).unwrap();
        let dialer = Arc::new(Dialer { life, machine: machine.clone() });
        let options: relay::Options = settings::relay();
        let relay = Relay::dialling(options, dns, queue.clone(), clock.clone(), dialer).unwrap();
        let shutdown = CancellationToken::new();
        let relaying = tokio::spawn(relay.run(shutdown.clone(), settings::GRACE));
        tokio::spawn({
            let queue = queue.clone();
            async move { queue.read_register().await }
        });
        tokio::spawn(upkeep(store.clone(), world.clone()));
        let (sessions, cut) = (TaskTracker::new(), CancellationToken::new());
        let gate = Gate { life, reception, sessions, cut, shutdown };
        *machine.gate.lock().unwrap() = Some(gate.clone());
        Some(Self { life, store, queue, relaying, gate })
    }

    /// As at SIGTERM.
    pub async fn stop(self, machine: &Machine) {
        *machine.gate.lock().unwrap() = None;
        let Self { life, store, relaying, gate, .. } = self;
        let Gate { sessions, cut, shutdown, .. } = gate;
        shutdown.cancel();
        sessions.close();
        let died = store.died();
        let ending = async {
            let serving = async {
                if tokio::time::timeout(settings::GRACE, sessions.wait()).await.is_err() {
                    cut.cancel();
                    sessions.wait().await;
                }
            };
            let (ended, ()) = tokio::join!(relaying, serving);
            ended.expect("the relay does not panic");
            store.close().await
        };
        let closed = tokio::select! {
            biased;
            () = died.cancelled() => None,
            closed = ending => Some(closed),
        };
        machine.world.note(format!("life {life} ended in order: {closed:?}"));
        // Whatever was not done by then is not done.
        store.kill();
        machine.net.orphan(life);
    }

    /// Without a word.
    pub fn kill(self, machine: &Machine) {
        machine.world.note(format!("life {} is killed", self.life));
        *machine.gate.lock().unwrap() = None;
        self.store.kill();
        self.relaying.abort();
        machine.net.orphan(self.life);
        self.gate.cut.cancel();
    }
}

/// The index thread's rounds, at times that can be repeated.
async fn upkeep(store: SimStore, world: Arc<World>) {
    let died = store.died();
    while !died.is_cancelled() && store.upkeep() {
        world.pause(60_000, 1_800_000).await;
    }
}

impl Gate {
    /// A client connects.
    pub fn accept(&self, ours: End, peer: SocketAddr) {
        let Self { reception, shutdown, cut, .. } = self.clone();
        self.sessions.spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = reception.attend(ours, peer, &shutdown) => {}
            }
        });
    }
}
