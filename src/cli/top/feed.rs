//! Asks the server every second, and does what the keyboard wants done.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::model::{Destinations, Messages, Overview, ResetRequest, ResetResult};
use crate::cli::client::Client;
use crate::cli::failure::Failure;
use crate::cli::words::counted;

/// What has come.
pub(super) enum News {
    /// The state of things.
    Overview(Box<Overview>),
    /// Where mail waits.
    Destinations(Destinations),
    /// The newest messages.
    Messages(Messages),
    /// The server cannot be asked.
    Trouble(String),
    /// What became of a wish.
    Done(String),
}

/// What the keyboard wants done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// Close the breakers of a destination.
    Reset {
        /// The route.
        route: String,
        /// Which of its destinations; absent where the route has only one.
        destination: Option<String>,
    },
}

/// Between two questions.
const EVERY: Duration = Duration::from_secs(1);
/// Messages are looked for once in so many times: that goes through the whole queue.
const MESSAGES_EVERY: u32 = 3;

/// Until nobody listens any more.
pub(super) async fn run(client: &mut Client, mut wishes: mpsc::Receiver<Wish>, tell: mpsc::Sender<News>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut round: u32 = 0;
    loop {
        let result = tokio::select! {
            biased;
            Some(wish) = wishes.recv() => done(client, wish, &tell).await,
            _ = ticks.tick() => {
                round = round.wrapping_add(1);
                ask(client, round, &tell).await
            }
        };
        let told = match result {
            Ok(()) => Ok(()),
            Err(Failure::Usage(what) | Failure::NotFound(what) | Failure::Failed(what)) => {
                let first = what.lines().next().unwrap_or_default().to_owned();
                tell.send(News::Trouble(first)).await
            }
            Err(Failure::Told(_) | Failure::ReaderGone) => Ok(()),
        };
        if told.is_err() || tell.is_closed() {
            return;
        }
    }
}

async fn ask(client: &mut Client, round: u32, tell: &mpsc::Sender<News>) -> Result<(), Failure> {
    let overview = client.get::<Overview>("/api/v1/overview").await?.document;
    let _ = tell.send(News::Overview(Box::new(overview))).await;
    let destinations = client.get::<Destinations>("/api/v1/destinations").await?.document;
    let _ = tell.send(News::Destinations(destinations)).await;
    if round % MESSAGES_EVERY == 1 {
        let messages = client.get::<Messages>("/api/v1/messages?limit=100").await?.document;
        let _ = tell.send(News::Messages(messages)).await;
    }
    Ok(())
}

async fn done(client: &mut Client, wish: Wish, tell: &mpsc::Sender<News>) -> Result<(), Failure> {
    let Wish::Reset { route, destination } = wish;
    let name =
        destination.clone().map_or_else(|| route.clone(), |destination| format!("{route} {destination}"));
    let request = ResetRequest { route, destination };
    let result = client.post::<ResetResult>("/api/v1/destinations/reset", &request).await?.document;
    let what = format!(
        "{name}: {} closed; {} no longer paused",
        counted(result.breakers, "breaker"),
        counted(result.destinations, "destination")
    );
    let _ = tell.send(News::Done(what)).await;
    Ok(())
}
