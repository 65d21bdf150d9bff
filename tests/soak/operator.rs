//! Somebody who holds and releases queued mail while everything else goes on. An order that was answered is durable (D6):
//! what is held stays where it is, over kills, until it is released.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::api::Api;
use crate::book::Book;
use crate::message::Route;
use crate::process::Door;

/// Between two orders, in milliseconds.
const PAUSE: std::ops::Range<u64> = 20..300;
/// Messages that are held at a time; then the first is released.
const MOST_HELD: usize = 20;

/// From this moment on, and until that one, nothing of the message may be sent.
pub struct Hold {
    pub id: String,
    /// The process that has answered; what earlier ones have sent may still be under way to the far side.
    pub process: u64,
    pub from: Instant,
    /// None while it is held.
    pub until: Option<Instant>,
}

/// Gives orders until `running` says no.
pub async fn run(
    api: Arc<Api>,
    book: Arc<Book>,
    door: watch::Receiver<Door>,
    running: watch::Receiver<bool>,
    seed: u64,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    while *running.borrow() {
        sleep(Duration::from_millis(rng.random_range(PAUSE))).await;
        let Some((_, process)) = *door.borrow() else { continue };
        // Whatever fails here, it was killed meanwhile; what it has done all the same is found at the end of the round.
        let _ = if rng.random_bool(0.7) {
            hold(&api, &book, process, &door, &mut rng).await
        } else {
            release(&api, &book).await
        };
    }
}

/// A message that waits, of those whose in-doubt recipients nobody else holds.
async fn hold(
    api: &Api,
    book: &Book,
    process: u64,
    door: &watch::Receiver<Door>,
    rng: &mut StdRng,
) -> Result<()> {
    let page = api.queued().await?;
    let not_ours = format!("@{}.", Route::Hold.name());
    let is_ours = |message: &&serde_json::Value| {
        let to = message["to"].as_array().map_or(&[] as &[_], Vec::as_slice);
        let all = to.len() as u64 == message["recipients"].as_u64().unwrap_or_default();
        all && to.iter().all(|to| to.as_str().is_some_and(|to| !to.contains(&not_ours)))
    };
    let ours: Vec<_> = page.iter().filter(is_ours).filter_map(|message| message["id"].as_str()).collect();
    let Some(id) = ours.choose(rng) else { return Ok(()) };
    if api.order(id, "hold").await? != "done" {
        book.count("holds that came too late");
        return Ok(());
    }
    let from = Instant::now();
    if door.borrow().is_some_and(|(_, now)| now == process) {
        book.count("holds");
        let mut pages = book.lock();
        if !pages.holds.iter().any(|hold| hold.id == **id && hold.until.is_none()) {
            pages.holds.push(Hold { id: (*id).to_owned(), process, from, until: None });
        }
    }
    Ok(())
}

async fn release(api: &Api, book: &Book) -> Result<()> {
    let id = {
        let mut pages = book.lock();
        let held = pages.holds.iter().filter(|hold| hold.until.is_none()).count();
        let first = pages.holds.iter_mut().find(|hold| hold.until.is_none());
        let Some(first) = first.filter(|_| held > MOST_HELD) else { return Ok(()) };
        // From now on it may be sent, answered or not.
        first.until = Some(Instant::now());
        first.id.clone()
    };
    api.order(&id, "release").await?;
    book.count("releases");
    Ok(())
}

/// Releases all that is left, when nobody else gives orders.
pub async fn release_all(api: &Api, book: &Book) -> Result<()> {
    for hold in book.lock().holds.iter_mut().filter(|hold| hold.until.is_none()) {
        hold.until = Some(Instant::now());
    }
    // Once each, whatever the number of recipients: a quick relay has delivered it before a second order comes.
    let waiting = api.waiting().await?.into_iter().filter(|waiting| waiting.cause == "operator");
    for id in waiting.map(|waiting| waiting.id).collect::<BTreeSet<_>>() {
        api.order(&id, "release").await?;
    }
    Ok(())
}
