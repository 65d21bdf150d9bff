//! `[suppression]` and `[verify]`: which recipients are refused when a client names them.

use std::time::Duration;

use super::errors::Problems;
use super::files;
use super::section::Section;
use super::tree::Table;
use crate::submission::options::Verify;

const DAY: Duration = Duration::from_secs(86_400);

/// Reads `[suppression]`: how long an address that bounced is remembered, if at all.
pub(super) fn suppression(root: &Table, problems: &Problems) -> Option<Duration> {
    let section = Section::once(root, "suppression", problems);
    let ttl = section.duration("ttl", 90 * DAY, &(Duration::from_secs(1)..=3_660 * DAY));
    section.flag("on_hard_bounce", false).then_some(ttl)
}

/// Reads `[verify]`.
pub(super) fn verify(root: &Table, problems: &Problems) -> Verify {
    let section = Section::once(root, "verify", problems);
    // An empty text is none: whoever writes it so names no file.
    let is_none = section.says("disposable_file", "");
    let disposable_file = if is_none { None } else { section.path("disposable_file") };
    if let Some(path) = &disposable_file {
        section.noted("disposable_file", files::text(path));
    }
    Verify { syntax: section.flag("syntax", false), mx: section.flag("mx", false), disposable_file }
}
