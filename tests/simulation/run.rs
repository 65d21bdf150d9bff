//! One run: a storm in which everything goes wrong, and a calm in which everything must come to its end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use oncemail::chance;
use oncemail::clock::{Clock, Timestamp};
use oncemail::mail::{HoldCause, RecipientState};
use oncemail::queue::{Action, OnFailure, Order};
use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use super::client;
use super::disk::Disk;
use super::ledger::Ledger;
use super::net::Net;
use super::process::{Machine, Process};
use super::settings;
use super::store::beginning;
use super::town::Town;
use super::world::World;

const MINUTE: Duration = Duration::from_secs(60);
/// A clock that was set forward is not believed so long.
const DOUBT: Duration = Duration::from_secs(86_400);

/// What a run has come to.
#[derive(Default, Debug, Clone)]
pub struct Report {
    pub wrong: Vec<String>,
    pub trace: Vec<String>,
    pub digest: String,
    pub figures: Figures,
}

/// What happened, so that one sees that something did.
#[derive(Default, Debug, Clone, Copy)]
pub struct Figures {
    pub messages: u64,
    pub acknowledged: u64,
    pub replays: u64,
    pub delivered: u64,
    pub twice: u64,
    pub bounced: u64,
    pub held: u64,
    pub lives: u64,
    pub days: u64,
}

struct Run {
    machine: Machine,
    process: Option<Process>,
    lives: u64,
    /// How far the clock was set back, altogether.
    set_back: Duration,
    /// It was set forward at some time.
    set_on: bool,
    on_failure: OnFailure,
    orders: TaskTracker,
}

/// Runs one seed to its end.
pub async fn simulate(seed: u64) -> Report {
    let _seeded = chance::seed(seed);
    let world = World::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let queue_options = settings::queue(&world);
    let expire_after = u64::try_from(queue_options.expire_after.as_millis()).unwrap();
    let on_failure = queue_options.on_failure;
    let machine = Machine {
        net: Net::new(world.clone()),
        disk: Disk::new(world.clone()),
        ledger: Ledger::new(world.clone(), expire_after),
        town: Town::new(world.clone()),
        clock: Clock::paced(beginning()),
        gate: Arc::default(),
        queue_options,
        world,
    };
    let (lives, set_back, set_on, orders) = (0, Duration::ZERO, false, TaskTracker::new());
    let mut run = Run { machine, process: None, lives, set_back, set_on, on_failure, orders };
    run.go().await;
    run.report()
}

impl Run {
    async fn go(&mut self) {
        let machine = self.machine.clone();
        let world = machine.world.clone();
        self.start(false).await;
        tokio::spawn(machine.town.clone().weather());
        let clients = TaskTracker::new();
        for client in 0..world.between(1, 4) {
            let messages = world.between(1, 5);
            clients.spawn(client::application(machine.clone(), client, messages));
        }
        clients.close();
        let storm_ms = world.scaled(1_200_000, 21_600_000);
        while world.now_ms() < storm_ms && !world.is_wrong() {
            self.live(5_000, 900_000).await;
            self.mishap().await;
        }
        if world.is_wrong() {
            return;
        }
        world.calm();
        machine.town.recover();
        machine.disk.disarm();
        if self
            .process
            .as_ref()
            .is_some_and(|process| process.store.is_latched() || process.store.died().is_cancelled())
        {
            self.kill();
        }
        if self.process.is_none() {
            self.start(true).await;
        }
        let done = tokio::time::timeout(Duration::from_secs(2 * 86_400), clients.wait()).await;
        world.check(done.is_ok(), || "the clients have not come to their end".to_owned());
        self.drain().await;
        if !world.is_wrong() {
            self.finish().await;
        }
    }

    /// Lets time go by, and starts the process again when it dies meanwhile.
    async fn live(&mut self, low_ms: u64, high_ms: u64) {
        let wait = Duration::from_millis(self.machine.world.scaled(low_ms, high_ms));
        let Some(process) = &self.process else {
            sleep(wait).await;
            return self.start(true).await;
        };
        let died = process.store.died();
        tokio::select! {
            biased;
            () = died.cancelled() => {
                self.kill();
                self.machine.world.pause(100, 600_000).await;
                let power_cut = self.machine.world.percent(80);
                self.restart(power_cut).await;
            }
            () = sleep(wait) => {}
        }
    }

    fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill(&self.machine);
        }
    }

    async fn start(&mut self, after_power_cut: bool) {
        self.restart(after_power_cut).await;
    }

    /// Until it runs, however often it dies at its start.
    async fn restart(&mut self, after_power_cut: bool) {
        let Machine { world, disk, .. } = self.machine.clone();
        let mut cut = after_power_cut;
        while self.process.is_none() && !world.is_wrong() {
            disk.start(cut);
            if world.percent(30) {
                disk.make_room();
            }
            world.note(format!(
                "start, {}",
                if cut { "the power was gone" } else { "nothing unwritten is lost" }
            ));
            match world.between(0, 9) {
                _ if !world.is_stormy() => {}
                0 | 1 => disk.die_after(world.scaled(1, 30)),
                2 => disk.fail_after(world.scaled(1, 30), io::ErrorKind::Other),
                _ => {}
            }
            self.lives += 1;
            // A process believes what its clock shows at its start.
            self.machine.clock = Clock::paced(self.machine.clock.now());
            self.process = Process::start(&self.machine, self.lives);
            if self.process.is_none() {
                cut = world.percent(50);
                world.pause(100, 60_000).await;
            }
        }
    }

    async fn mishap(&mut self) {
        let Machine { world, disk, clock, .. } = self.machine.clone();
        if self.process.as_ref().is_some_and(|process| process.store.is_latched()) && world.percent(60) {
            world.note("the store has latched");
            self.kill();
            world.pause(100, 60_000).await;
            return self.restart(world.percent(50)).await;
        }
        match world.between(0, 99) {
            0..15 => {
                self.kill();
                world.pause(100, 600_000).await;
                self.restart(false).await;
            }
            15..35 => disk.die_after(world.scaled(1, 60)),
            35..45 => {
                if let Some(process) = self.process.take() {
                    process.stop(&self.machine).await;
                }
                self.restart(false).await;
            }
            45..53 => {
                let by = Duration::from_millis(world.scaled(1_000, 3 * 86_400_000));
                let is_back = world.percent(50);
                world.note(format!("the clock goes {} by {by:?}", if is_back { "back" } else { "on" }));
                self.machine.ledger.time_was(clock.settled());
                if is_back {
                    self.set_back += by;
                    clock.set(Timestamp::default().plus(clock.now().since(Timestamp::default().plus(by))));
                } else {
                    self.set_on = true;
                    clock.set(clock.now().plus(by));
                }
                self.machine.ledger.time_was(clock.settled());
            }
            53..60 => disk.fail_after(world.scaled(1, 40), io::ErrorKind::Other),
            60..68 => {
                let is_full = world.percent(50);
                world.note(format!("the disk is {}", if is_full { "full" } else { "not full" }));
                if is_full {
                    disk.fill_up_to(world.scaled(1, 40_000));
                } else {
                    disk.make_room();
                }
            }
            68..88 => self.order(),
            _ => {
                if let Some(process) = &self.process {
                    let _ = process.store.upkeep();
                }
            }
        }
    }

    /// An operator wants something of some message.
    fn order(&self) {
        let Machine { world, ledger, .. } = &self.machine;
        let Some(process) = &self.process else { return };
        let ids: Vec<_> = {
            let inner = ledger.inner();
            inner.entries.iter().filter(|(_, entry)| !entry.is_gone).map(|(id, _)| *id).collect()
        };
        if ids.is_empty() {
            return;
        }
        let id = *world.pick(&ids);
        let action = *world.pick(&[
            Action::Retry,
            Action::Retry,
            Action::Hold,
            Action::Hold,
            Action::Release,
            Action::Release,
            Action::Release,
            Action::Bounce,
            Action::Discard,
        ]);
        ledger.order(id, action);
        world.note(format!("an operator wants {action:?} of {id}"));
        let (queue, world) = (process.queue.clone(), world.clone());
        self.orders.spawn(async move {
            let order = Order { action, by: "sim".to_owned(), reason: None };
            let effect = queue.order(id, order).await;
            world.note(format!("{action:?} of {id}: {effect:?}"));
        });
    }

    /// Everything comes to its end, in bounded time.
    async fn drain(&mut self) {
        let Machine { world, ledger, queue_options, .. } = self.machine.clone();
        // One longest backoff, the breaker, a shut door.
        let mut patience = queue_options.cap * 2 + Duration::from_secs(3_600);
        if self.machine.town.has_lost_a_host() {
            patience += queue_options.expire_after + self.set_back;
            // What was accepted by a clock that nobody believes is younger than it seems.
            patience += if self.set_on { DOUBT } else { Duration::ZERO };
        }
        let mut waited = Duration::ZERO;
        while !ledger.queued().is_empty() && waited < patience && !world.is_wrong() {
            self.live(60_000, 60_000).await;
            waited += MINUTE;
        }
        for id in ledger.queued() {
            let inner = ledger.inner();
            world.wrong(format!(
                "{id} is still queued after {waited:?} of calm: {:?}",
                inner.entries[&id].progress
            ));
        }
    }

    /// D6: a last look at everybody, before and after a clean end.
    async fn finish(&mut self) {
        let Machine { world, ledger, .. } = self.machine.clone();
        if let Some(process) = self.process.take() {
            process.stop(&self.machine).await;
        }
        self.restart(false).await;
        for (id, entry) in &ledger.inner().entries {
            for (number, recipient) in entry.progress.recipients.iter().enumerate() {
                let is_right = match recipient.state {
                    RecipientState::Queued => false,
                    RecipientState::Held(HoldCause::Failed | HoldCause::Expired) => {
                        self.on_failure == OnFailure::Hold
                    }
                    _ => true,
                };
                let whom = entry.recipient(number);
                world.check(is_right, || format!("D6: {id} to {whom} ends as {:?}", recipient.state));
            }
        }
        self.kill();
    }

    fn report(&self) -> Report {
        let Machine { world, ledger, .. } = &self.machine;
        let inner = ledger.inner();
        let mut figures =
            Figures { lives: self.lives, days: world.now_ms() / 86_400_000, ..Figures::default() };
        for (id, entry) in &inner.entries {
            figures.messages += 1;
            figures.acknowledged += u64::from(entry.acknowledged > 0);
            figures.replays += u64::from(entry.acknowledged.saturating_sub(1));
            for (number, recipient) in entry.progress.recipients.iter().enumerate() {
                figures.twice += u64::from(inner.sayings.copies(*id, entry.recipient(number)) > 1);
                match recipient.state {
                    RecipientState::Delivered => figures.delivered += 1,
                    RecipientState::Bounced | RecipientState::Discarded => figures.bounced += 1,
                    RecipientState::Held(_) => figures.held += 1,
                    RecipientState::Queued => {}
                }
            }
        }
        Report { wrong: world.wrongs(), trace: world.trace(), digest: world.digest(), figures }
    }
}
