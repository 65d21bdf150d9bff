//! A round: load and trouble for a while, then quiet, then the reckoning. What was accounted for is forgotten, so that a
//! run of hours takes no more memory than one of minutes; only some keys are remembered, by the applications.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use rand::RngCore;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::accounts::{self, Account};
use crate::api::{Api, Waiting};
use crate::application::Application;
use crate::chaos;
use crate::events;
use crate::far_side::Weather;
use crate::operator;
use crate::process::Starter;
use crate::samples::Sampler;

/// How long it may take until the last application has its last 250, and until the queue is empty.
const SETTLING: Duration = Duration::from_secs(240);
/// Messages whose story is looked for in the history.
const STORIES: usize = 30;

/// What all rounds work with.
pub struct Bed {
    pub starter: Starter,
    pub api: Arc<Api>,
    pub weather: Arc<Weather>,
    pub sampler: Sampler,
    pub applications: Vec<Application>,
    pub rng: StdRng,
    /// How long the relay lives at most, mostly.
    pub life: Duration,
}

/// What a round has brought.
pub struct Brought {
    pub account: Account,
    /// Of so many messages the history was asked, and knew so many.
    pub asked: u64,
    pub known: u64,
}

impl Bed {
    /// Load and trouble for so long; then everything comes to rest.
    pub async fn round(&mut self, time: Duration) -> Result<Brought> {
        self.weather.calm(false);
        let (running, runs) = watch::channel(true);
        let applications = std::mem::take(&mut self.applications);
        let tasks: Vec<_> = applications.into_iter().map(|one| tokio::spawn(one.run(runs.clone()))).collect();
        let door = self.starter.door.subscribe();
        let orders =
            operator::run(self.api.clone(), self.starter.book.clone(), door, runs, self.rng.next_u64());
        let operator = tokio::spawn(orders);
        chaos::rage(&mut self.starter, &mut self.rng, Instant::now() + time, self.life).await?;

        self.weather.calm(true);
        running.send_replace(false);
        let mut last = self.starter.start()?;
        self.starter.listens(&mut last).await?;
        self.applications = ended(tasks).await?;
        timeout(SETTLING, operator).await??;
        // Once more, with nothing but the journal to know the queue from.
        self.starter.kill(last, false).await?;
        let mut last = self.starter.start()?;
        self.starter.listens(&mut last).await?;
        let applications = std::mem::take(&mut self.applications);
        let tasks = applications.into_iter().map(|one| tokio::spawn(one.recite())).collect();
        self.applications = ended(tasks).await?;
        self.drain().await?;
        operator::release_all(&self.api, &self.starter.book).await?;
        self.drain().await?;
        self.starter.read_logs().await?;
        let waiting = self.api.waiting().await?;
        let events = events::read(&self.starter.config)?;
        self.starter.book.lock().events = events;
        let ids = self.some_ids();
        let mut known = 0;
        for id in &ids {
            known += u64::from(self.api.story(id).await?.is_some());
        }
        let (account, orders) = accounts::reckon(&mut self.starter.book.lock(), &waiting);
        for order in &orders {
            let effect = self.api.order(&order.id, order.action).await?;
            ensure!(effect == "done", "{} of {}: {effect}", order.action, order.id);
        }
        self.drain().await?;
        let left: Vec<Waiting> = self.api.waiting().await?;
        accounts::check_orders(&mut self.starter.book.lock(), &orders, &left);
        self.sampler.rest();
        self.starter.stop(last).await?;
        self.starter.read_logs().await?;
        self.starter.book.lock().turn_over();
        events::forget(&self.starter.config)?;
        Ok(Brought { account, asked: ids.len() as u64, known })
    }

    async fn drain(&self) -> Result<()> {
        if !self.api.is_drained_within(SETTLING).await? {
            let left = self.api.waiting().await?;
            let some: Vec<_> = left.iter().filter(|left| left.state != "held").take(5).collect();
            let book = &self.starter.book;
            book.fault(format!("after {SETTLING:?} of quiet the queue is not empty: {some:?}"));
        }
        Ok(())
    }

    fn some_ids(&self) -> Vec<String> {
        let pages = self.starter.book.lock();
        pages
            .submissions
            .values()
            .flat_map(|submission| submission.ids.iter().cloned())
            .take(STORIES)
            .collect()
    }
}

/// The applications, once all have come to an end.
async fn ended(tasks: Vec<JoinHandle<Application>>) -> Result<Vec<Application>> {
    let mut applications = Vec::new();
    for task in tasks {
        applications.push(timeout(SETTLING, task).await??);
    }
    Ok(applications)
}
