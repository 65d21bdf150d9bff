//! `[history]`: for how long it is remembered what became of messages.

use std::time::Duration;

use super::errors::Problems;
use super::section::Section;
use super::tree::Table;
use crate::store::history::Options;

const DAY: Duration = Duration::from_secs(86_400);
const MB: u64 = 1_000_000;

/// Reads `[history]`. `retention = "off"` remembers nothing. Nothing is written while fewer bytes than `min_free` are
/// free.
pub(super) fn read(root: &Table, problems: &Problems, min_free: u64) -> Options {
    let section = Section::once(root, "history", problems);
    let range = Duration::from_secs(60)..=3_660 * DAY;
    let is_off = section.says("retention", "off");
    let retention = if is_off { Duration::ZERO } else { section.duration("retention", 7 * DAY, &range) };
    let max_bytes = section.size("size", 512 * MB, &(8 * MB..=1_000_000 * MB));
    Options { retention, max_bytes, min_free }
}
