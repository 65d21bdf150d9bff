//! Names that many messages share, each kept once and counted. Pure.
//!
//! A number that is given back may stand for another name later, but never while somebody looks through the register
//! ([`Names::hold`]): what was found out about a number stays true for as long as a look takes.

use std::collections::HashMap;
use std::sync::Arc;

/// A shared name, or none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Name(u32);

impl Name {
    /// No name at all.
    pub(super) const NONE: Self = Self(0);
    /// Names have 31 bits: an entry keeps a mark in the last.
    pub(super) const BITS: u32 = 31;

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Names {
    numbers: HashMap<Arc<str>, u32>,
    /// The slot of `Name(n)` is `n - 1`.
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Let go while somebody looked.
    let_go: Vec<u32>,
    is_held: bool,
}

#[derive(Default)]
struct Slot {
    text: Option<Arc<str>>,
    uses: u64,
}

impl Names {
    /// The number of a name, which is used once more from now on.
    pub(super) fn take(&mut self, text: Option<&str>) -> Name {
        let Some(text) = text else { return Name::NONE };
        if let Some(number) = self.numbers.get(text) {
            let name = Name(*number);
            if let Some(slot) = self.slot(name) {
                slot.uses += 1;
            }
            return name;
        }
        let Some(number) = self.new_number() else { return Name::NONE };
        let text: Arc<str> = text.into();
        self.numbers.insert(text.clone(), number);
        if let Some(slot) = self.slot(Name(number)) {
            *slot = Slot { text: Some(text), uses: 1 };
        }
        Name(number)
    }

    /// Uses it once less.
    pub(super) fn give_back(&mut self, name: Name) {
        let is_held = self.is_held;
        let Some(slot) = self.slot(name) else { return };
        slot.uses = slot.uses.saturating_sub(1);
        if slot.uses > 0 {
            return;
        }
        let text = slot.text.take();
        if let Some(text) = text {
            self.numbers.remove(&text);
            if is_held { self.let_go.push(name.0) } else { self.free.push(name.0) }
        }
    }

    /// The number of a name that is in use.
    pub(super) fn find(&self, text: &str) -> Option<Name> {
        self.numbers.get(text).copied().map(Name)
    }

    /// The name.
    pub(super) fn text(&self, name: Name) -> Option<&Arc<str>> {
        let slot = self.slots.get(usize::try_from(name.0.checked_sub(1)?).ok()?)?;
        slot.text.as_ref()
    }

    /// From now on no number gets another meaning. One look at a time.
    pub(super) fn hold(&mut self) {
        self.is_held = true;
    }

    /// The look is over.
    pub(super) fn unhold(&mut self) {
        self.is_held = false;
        self.free.append(&mut self.let_go);
    }

    /// `None` beyond two thousand million names: a message is not found by such a one.
    fn new_number(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        self.slots.push(Slot::default());
        u32::try_from(self.slots.len()).ok().filter(|number| *number < 1 << Name::BITS)
    }

    fn slot(&mut self, name: Name) -> Option<&mut Slot> {
        self.slots.get_mut(usize::try_from(name.0.checked_sub(1)?).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_forgotten_with_its_last_use() {
        let mut names = Names::default();
        let one = names.take(Some("a.example"));
        assert_eq!((names.take(Some("a.example")), names.find("a.example")), (one, Some(one)));
        assert_eq!(names.take(None), Name::NONE);
        names.give_back(one);
        assert_eq!(names.text(one).map(|text| &**text), Some("a.example"));
        names.give_back(one);
        assert_eq!((names.text(one), names.find("a.example")), (None, None));
        assert_eq!(names.take(Some("b.example")), one, "its number is used again");
    }

    #[test]
    fn while_somebody_looks_a_number_keeps_its_meaning() {
        let mut names = Names::default();
        let one = names.take(Some("a.example"));
        names.hold();
        names.give_back(one);
        assert_ne!(names.take(Some("b.example")), one);
        names.unhold();
        assert_eq!(names.take(Some("c.example")), one);
    }
}
