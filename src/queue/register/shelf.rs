//! Entries in the order of their queue ids, close together in memory. Pure.
//!
//! Boards of at most [`BOARD`] entries, each in order. Ids mostly come in their order, so that a board is full before the
//! next one is begun; boards that have become nearly empty are joined.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::entry::Entry;

/// Entries of a board: few enough that taking one out moves little, and enough that a look goes on undisturbed.
const BOARD: usize = 256;

/// See the module.
#[derive(Default)]
pub(super) struct Shelf {
    /// By an id that is not above its first.
    boards: BTreeMap<[u8; 16], Board>,
}

#[derive(Default)]
struct Board {
    entries: Vec<Entry>,
    /// Entries that count for the age of the queue.
    waiting: usize,
}

impl Shelf {
    /// Adds an entry; in the place of one with the same id, which is given back.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let key = match self.boards.range(..=entry.id).next_back() {
            Some((key, _)) => *key,
            None => {
                // It is before all: the first board begins with it from now on.
                let first = self.boards.pop_first().map(|(_, board)| board).unwrap_or_default();
                self.boards.insert(entry.id, first);
                entry.id
            }
        };
        let board = self.boards.get_mut(&key)?;
        let at = match board.entries.binary_search_by_key(&entry.id, |entry| entry.id) {
            Ok(at) => {
                let before = board.entries.get_mut(at).map(|place| std::mem::replace(place, entry));
                board.recount();
                return before;
            }
            Err(at) => at,
        };
        if board.entries.len() < BOARD {
            board.add(at, entry);
            return None;
        }
        // What comes behind most others leaves them a full board.
        let split = if at >= BOARD * 3 / 4 { at } else { BOARD / 2 };
        let mut rest = board.split_off(split);
        if at < split {
            board.add(at, entry);
        } else {
            rest.add(at - split, entry);
        }
        let first = rest.entries.first().map(|entry| entry.id);
        if let Some(first) = first {
            self.boards.insert(first, rest);
        }
        None
    }

    pub(super) fn get(&self, id: &[u8; 16]) -> Option<&Entry> {
        let (_, board) = self.boards.range(..=*id).next_back()?;
        let at = board.entries.binary_search_by_key(id, |entry| entry.id).ok()?;
        board.entries.get(at)
    }

    /// Changes an entry.
    pub(super) fn change<R>(&mut self, id: &[u8; 16], change: impl FnOnce(&mut Entry) -> R) -> Option<R> {
        let (_, board) = self.boards.range_mut(..=*id).next_back()?;
        let at = board.entries.binary_search_by_key(id, |entry| entry.id).ok()?;
        let entry = board.entries.get_mut(at)?;
        let waited = usize::from(entry.counts_for_age());
        let result = change(entry);
        board.waiting = (board.waiting + usize::from(entry.counts_for_age())).saturating_sub(waited);
        Some(result)
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, id: &[u8; 16]) -> Option<Entry> {
        let (key, board) = self.boards.range_mut(..=*id).next_back()?;
        let key = *key;
        let at = board.entries.binary_search_by_key(id, |entry| entry.id).ok()?;
        let entry = board.entries.remove(at);
        board.waiting = board.waiting.saturating_sub(usize::from(entry.counts_for_age()));
        let len = board.entries.len();
        if len < BOARD / 4 {
            self.join(key, len);
        }
        Some(entry)
    }

    /// Joins a board of `len` entries with the one before it, if both fit well.
    fn join(&mut self, key: [u8; 16], len: usize) {
        if len == 0 {
            self.boards.remove(&key);
            return;
        }
        let before = self.boards.range(..key).next_back();
        let fits = before.is_some_and(|(_, board)| board.entries.len() + len <= BOARD * 3 / 4);
        if !fits {
            return;
        }
        let Some(mut board) = self.boards.remove(&key) else { return };
        if let Some((_, before)) = self.boards.range_mut(..key).next_back() {
            before.entries.append(&mut board.entries);
            before.waiting += board.waiting;
        }
    }

    /// Shows entries below `below`, the newest first, board by board until `most` have been seen. Gives back below which
    /// to go on; `None` at the end.
    pub(super) fn walk(
        &self,
        below: Option<[u8; 16]>,
        most: usize,
        mut see: impl FnMut(&Entry),
    ) -> Option<[u8; 16]> {
        let mut seen = 0;
        let end = below.map_or(Bound::Unbounded, Bound::Excluded);
        let boards = self.boards.range((Bound::Unbounded, end));
        for (_, board) in boards.rev() {
            let end = match below {
                Some(below) => board.entries.partition_point(|entry| entry.id < below),
                None => board.entries.len(),
            };
            let entries = board.entries.get(..end).unwrap_or_default();
            entries.iter().rev().for_each(&mut see);
            seen += entries.len();
            if seen >= most {
                return entries.first().map(|entry| entry.id);
            }
        }
        None
    }

    /// The first entry that counts for the age of the queue.
    pub(super) fn oldest(&self) -> Option<&Entry> {
        let board = self.boards.values().find(|board| board.waiting > 0)?;
        board.entries.iter().find(|entry| entry.counts_for_age())
    }
}

impl Board {
    fn add(&mut self, at: usize, entry: Entry) {
        if self.entries.capacity() < BOARD && self.entries.len() == self.entries.capacity() {
            // Doubling would end beyond the board.
            let room = (self.entries.len() * 2).clamp(8, BOARD) - self.entries.len();
            self.entries.reserve_exact(room);
        }
        self.waiting += usize::from(entry.counts_for_age());
        self.entries.insert(at, entry);
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut rest = Self { entries: self.entries.split_off(at), waiting: 0 };
        self.recount();
        rest.recount();
        rest
    }

    fn recount(&mut self) {
        self.waiting = self.entries.iter().filter(|entry| entry.counts_for_age()).count();
    }
}
