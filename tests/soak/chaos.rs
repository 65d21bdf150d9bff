//! What is done to the relay while it works: killed at any moment, also while it starts or ends; stopped and let go
//! on; told to end, or to read its configuration again.

use std::time::Duration;

use anyhow::{Result, bail};
use rand::Rng;
use rand::rngs::StdRng;
use rustix::process::Signal;
use tokio::time::{Instant, sleep, timeout};

use crate::process::{Process, Starter};
use crate::trap::Moment;

/// One life of so many is longer, by so much.
const LONG_LIVED: f64 = 0.05;
const LONGER: u32 = 6;
/// How long after its start one is killed that shall not get to listen. A start takes some tens.
const START: std::ops::Range<u64> = 0..120;

/// How long to wait for a moment that counts.
const WAITING: Duration = Duration::from_secs(2);

/// Starts and ends the relay until `until`, mostly before it is as old as `life`; leaves it down.
pub async fn rage(starter: &mut Starter, rng: &mut StdRng, until: Instant, life: Duration) -> Result<()> {
    let book = starter.book.clone();
    while Instant::now() < until {
        let mut process = starter.start()?;
        if rng.random_bool(0.15) {
            sleep(Duration::from_millis(rng.random_range(START))).await;
            book.count("kills while it starts");
            starter.kill(process, rng.random_bool(0.5)).await?;
            continue;
        }
        starter.listens(&mut process).await?;
        let most = if rng.random_bool(LONG_LIVED) { life * LONGER } else { life };
        let life = most.mul_f64(rng.random());
        sleep(life.min(until.saturating_duration_since(Instant::now()))).await;
        if let Some(status) = process.has_ended()? {
            bail!("the relay has ended by itself, with {status}: see {}", starter.stderr.display());
        }
        if rng.random_bool(0.1) {
            book.count("reloads");
            process.signal(Signal::HUP)?;
        }
        end(starter, process, rng).await?;
        starter.read_logs().await?;
    }
    Ok(())
}

async fn end(starter: &mut Starter, mut process: Process, rng: &mut StdRng) -> Result<()> {
    let book = starter.book.clone();
    match rng.random_range(0..100) {
        _ if rng.random_bool(0.5) => {
            let (moment, name) = match rng.random_range(0..3) {
                0 => (Moment::Acknowledged, "kills at a 250"),
                1 => (Moment::Dot, "kills at a final dot"),
                _ => (Moment::Replied, "kills at a far side's reply"),
            };
            let sprung = timeout(WAITING, book.trap.set(moment, process.pid())).await;
            book.trap.disarm();
            if sprung.is_ok() {
                book.count(name);
            }
        }
        0..12 => {
            book.count("SIGTERM");
            return starter.stop(process).await;
        }
        12..22 => {
            book.count("kills while it ends");
            process.signal(Signal::TERM)?;
            sleep(Duration::from_millis(rng.random_range(0..200))).await;
        }
        22..34 => {
            book.count("stopped and let go on");
            process.freeze(Duration::from_millis(rng.random_range(20..1_200))).await?;
            process.signal(Signal::CONT)?;
            sleep(Duration::from_millis(rng.random_range(0..500))).await;
        }
        34..40 => {
            book.count("kills while it is stopped");
            process.freeze(Duration::from_millis(rng.random_range(20..400))).await?;
        }
        _ => {}
    }
    book.count("kill -9");
    starter.kill(process, rng.random_bool(0.3)).await
}
