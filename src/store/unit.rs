//! An outcome and its notices are one (D2): at a replay they count together or not at all.
//!
//! Notices stand directly in front of their outcome, in the same commit and so in the same segment, and the outcome says
//! how many they are. Whatever tears or damages one of these records makes all the others count for nothing: the
//! original message stays as it was before that outcome, and none of its notices is queued.

use super::ledger::Entry;
use super::record::Place;
use crate::mail::QueueId;

/// Notices that wait for their outcome.
#[derive(Default)]
pub struct Unit {
    /// The message that they are about.
    original: Option<QueueId>,
    notices: Vec<(QueueId, Entry)>,
}

impl Unit {
    /// Takes the next notice; gives back those in front that do not belong to it and so have no outcome.
    pub fn add(&mut self, original: QueueId, id: QueueId, notice: Entry) -> Vec<Place> {
        let belongs = self.original == Some(original) && self.ends_at(notice.accepted);
        let strays = if belongs { Vec::new() } else { self.strays() };
        self.original = Some(original);
        self.notices.push((id, notice));
        strays
    }

    /// The outcome of `original` is at `place`, and has so many notices, at least one.
    ///
    /// # Errors
    /// When they are not all there: the records that count for nothing, the outcome included.
    pub fn end(
        &mut self,
        original: QueueId,
        place: Place,
        notices: u32,
    ) -> Result<Vec<(QueueId, Entry)>, Vec<Place>> {
        let is_whole =
            self.notices.len() == notices as usize && self.original == Some(original) && self.ends_at(place);
        if is_whole {
            self.original = None;
            return Ok(std::mem::take(&mut self.notices));
        }
        Err(self.strays().into_iter().chain([place]).collect())
    }

    /// Something else follows, or nothing: the notices that have no outcome.
    pub fn strays(&mut self) -> Vec<Place> {
        self.original = None;
        self.notices.drain(..).map(|(_, notice)| notice.accepted).collect()
    }

    fn ends_at(&self, next: Place) -> bool {
        self.notices.last().is_some_and(|(_, last)| {
            let last = last.accepted;
            last.segment == next.segment && last.offset.checked_add(last.len) == Some(next.offset)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::Handling;

    fn id(n: u8) -> QueueId {
        QueueId::from_bytes([n; 16])
    }

    fn at(number: u32) -> Place {
        Place { segment: 1, offset: 28 + number * 100, len: 100 }
    }

    /// Notices about message 1 in the places `numbers`, and then its outcome in the last one.
    fn read(numbers: &[u32], count: u32) -> Result<usize, Vec<Place>> {
        let mut unit = Unit::default();
        let (outcome, notices) = numbers.split_last().unwrap();
        let mut strays = Vec::new();
        for number in notices {
            let entry = Entry::fresh(at(*number), Timestamp::default(), Handling::default(), None);
            strays.extend(unit.add(id(1), id(9), entry));
        }
        let end = unit.end(id(1), at(*outcome), count).map(|notices| notices.len());
        end.map_err(|more| strays.into_iter().chain(more).collect())
    }

    #[test]
    fn d2_an_outcome_counts_with_all_its_notices_directly_in_front() {
        assert_eq!(read(&[0, 1], 1), Ok(1));
        assert_eq!(read(&[3, 4, 5, 6], 3), Ok(3));
    }

    #[test]
    fn d2_a_gap_or_a_missing_notice_makes_all_of_it_count_for_nothing() {
        assert_eq!(read(&[0], 1), Err(vec![at(0)]));
        assert_eq!(read(&[0, 1], 2), Err(vec![at(0), at(1)]));
        assert_eq!(read(&[0, 2], 1), Err(vec![at(0), at(2)]));
        assert_eq!(read(&[0, 2, 3], 2), Err(vec![at(0), at(2), at(3)]));
    }

    #[test]
    fn d2_notices_never_count_with_the_outcome_of_another_message() {
        let mut unit = Unit::default();
        let entry = |n| Entry::fresh(at(n), Timestamp::default(), Handling::default(), None);
        assert_eq!(unit.add(id(1), id(8), entry(0)), []);
        assert_eq!(unit.add(id(2), id(9), entry(1)), [at(0)]);
        assert_eq!(unit.end(id(1), at(2), 1), Err(vec![at(1), at(2)]));
        assert_eq!(unit.add(id(1), id(8), entry(3)), []);
        assert_eq!(unit.strays(), [at(3)]);
        assert_eq!(unit.end(id(1), at(4), 1), Err(vec![at(4)]));
    }
}
