//! Connections in memory: they take time, break into pieces, are cut after any byte, and outlive a process that died.
//!
//! One end is the relay's. When its process dies, that end does nothing any more, for ever: whatever task still has it
//! is a ghost. The other end then gets what was under way, or a part of it, or a reset.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use super::world::World;

/// Bytes that are under way in one direction at most.
const WINDOW: usize = 32 << 10;
/// The relay's end, as an index.
const RELAY: usize = 0;

/// All connections.
pub struct Net {
    world: Arc<World>,
    all: Mutex<Vec<Weak<Connection>>>,
    /// Processes that have died.
    dead: Mutex<BTreeSet<u64>>,
}

/// Two lanes; lane `n` is written by end `n`.
pub struct Connection {
    world: Arc<World>,
    life: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: [Lane; 2],
    is_reset: bool,
    /// The process of the relay's end has died.
    is_orphaned: bool,
}

#[derive(Default)]
struct Lane {
    under_way: VecDeque<(Instant, VecDeque<u8>)>,
    bytes: usize,
    is_closed: bool,
    is_unread: bool,
    written: u64,
    read: u64,
    cut_after: Option<u64>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end.
pub struct End {
    connection: Arc<Connection>,
    me: usize,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Net {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { world, all: Mutex::default(), dead: Mutex::default() })
    }

    /// A connection of a process; the relay's end first. Cut somewhere, or not.
    pub fn connect(&self, life: u64, cut_percent: u64) -> (End, End) {
        let mut state = State::default();
        if self.world.fault(cut_percent) {
            let lane = usize::try_from(self.world.between(0, 1)).unwrap();
            state.lanes[lane].cut_after = Some(self.world.scaled(1, 3_000));
        }
        let connection = Arc::new(Connection { world: self.world.clone(), life, state: Mutex::new(state) });
        let mut all = self.all.lock().unwrap();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&connection));
        let end = |me| End { connection: connection.clone(), me, timer: None };
        (end(0), end(1))
    }

    /// Never comes back to a process that has died.
    pub async fn living(&self, life: u64) {
        if self.dead.lock().unwrap().contains(&life) {
            std::future::pending::<()>().await;
        }
    }

    /// The process has died, and its system closes what it had open.
    pub fn orphan(&self, life: u64) {
        self.dead.lock().unwrap().insert(life);
        let all: Vec<_> = self.all.lock().unwrap().iter().filter_map(Weak::upgrade).collect();
        for connection in all.iter().filter(|connection| connection.life == life) {
            connection.orphan();
        }
    }
}

impl Connection {
    /// How many bytes the relay's end has read.
    pub fn relay_has_read(&self) -> u64 {
        self.state().lanes[1].read
    }

    fn orphan(&self) {
        let what = self.world.between(0, 3);
        let mut state = self.state();
        if state.is_orphaned {
            return;
        }
        state.is_orphaned = true;
        state.lanes[1].is_unread = true;
        let lane = &mut state.lanes[RELAY];
        match what {
            0 => lane.lose(0),
            1 => lane.lose(lane.under_way.len() / 2),
            _ => {}
        }
        lane.is_closed = true;
        state.is_reset = what == 0;
        state.wake();
    }

    fn cut(&self, state: &mut State, keeps: bool) {
        state.is_reset = !keeps;
        for lane in &mut state.lanes {
            lane.is_closed = true;
            lane.is_unread = true;
            if !keeps {
                lane.lose(0);
            }
        }
        state.wake();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn wake(&mut self) {
        for lane in &mut self.lanes {
            lane.reader.take().into_iter().chain(lane.writer.take()).for_each(Waker::wake);
        }
    }
}

impl Lane {
    fn lose(&mut self, kept: usize) {
        self.under_way.truncate(kept);
        self.bytes = self.under_way.iter().map(|(_, piece)| piece.len()).sum();
    }
}

impl End {
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Bytes that this end has written.
    pub fn written(&self) -> u64 {
        self.connection.state().lanes[self.me].written
    }

    fn is_ghost(&self, state: &State) -> bool {
        self.me == RELAY && state.is_orphaned
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (connection, me) = (self.connection.clone(), self.me);
        let mut state = connection.state();
        if self.is_ghost(&state) {
            return Poll::Pending;
        }
        if state.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let lane = &mut state.lanes[1 - me];
        let now = Instant::now();
        match lane.under_way.front_mut() {
            Some((at, piece)) if *at <= now => {
                let most = buffer.remaining().min(piece.len());
                let octets: Vec<u8> = piece.drain(..most).collect();
                let is_empty = piece.is_empty();
                buffer.put_slice(&octets);
                lane.bytes -= most;
                lane.read += most as u64;
                if is_empty {
                    lane.under_way.pop_front();
                }
                lane.writer.take().into_iter().for_each(Waker::wake);
                Poll::Ready(Ok(()))
            }
            Some((at, _)) => {
                let at = *at;
                lane.reader = Some(context.waker().clone());
                drop(state);
                let mut timer = Box::pin(sleep_until(at));
                if timer.as_mut().poll(context).is_ready() {
                    context.waker().wake_by_ref();
                }
                self.timer = Some(timer);
                Poll::Pending
            }
            None if lane.is_closed => Poll::Ready(Ok(())),
            None => {
                lane.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let world = self.connection.world.clone();
        let mut state = self.connection.state();
        if self.is_ghost(&state) {
            return Poll::Pending;
        }
        if state.is_reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let lane = &mut state.lanes[self.me];
        if lane.is_unread || lane.is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(lane.bytes);
        if room == 0 {
            lane.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = octets.len().min(room);
        let left = lane.cut_after.map_or(u64::MAX, |cut| cut.saturating_sub(lane.written));
        let arrives = taken.min(usize::try_from(left).unwrap_or(usize::MAX));
        let pieces = if arrives > 1 && world.percent(20) { 2 } else { 1 };
        let mut at = lane.under_way.back().map_or_else(Instant::now, |(at, _)| *at).max(Instant::now());
        for piece in octets[..arrives].chunks(arrives.div_ceil(pieces).max(1)) {
            at += Duration::from_millis(if world.fault(3) {
                world.scaled(50, 20_000)
            } else {
                world.between(0, 40)
            });
            lane.under_way.push_back((at, piece.iter().copied().collect()));
        }
        lane.bytes += arrives;
        lane.written += taken as u64;
        lane.reader.take().into_iter().for_each(Waker::wake);
        if arrives < taken {
            self.connection.cut(&mut state, world.percent(50));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let state = self.connection.state();
        if self.is_ghost(&state) { Poll::Pending } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.connection.state();
        if self.is_ghost(&state) {
            return Poll::Pending;
        }
        state.lanes[self.me].is_closed = true;
        state.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut state = self.connection.state();
        if !self.is_ghost(&state) {
            state.lanes[self.me].is_closed = true;
            state.lanes[1 - self.me].is_unread = true;
            state.wake();
        }
    }
}
