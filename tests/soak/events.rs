//! The event file: what the relay has told others of outcomes. An event is committed with its outcome (D2), so of each
//! outcome there is one, under one id, and its line is there at least once.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

/// Old ones that are kept: more than a round fills.
pub const KEPT: u32 = 50;

/// What stands in the file.
#[derive(Default)]
pub struct Events {
    /// Ids of events by message, recipient and type.
    pub told: HashMap<(String, String, String), HashSet<String>>,
    /// Lines of an event that was there already.
    pub again: u64,
    /// Lines that a kill has cut off.
    pub torn: u64,
}

/// Where it is, beside the configuration.
pub fn path(config: &Path) -> PathBuf {
    config.with_file_name("events.jsonl")
}

/// Reads all there is.
pub fn read(config: &Path) -> Result<Events> {
    let mut events = Events::default();
    let mut seen = HashSet::new();
    for file in files(config) {
        for line in fs::read(file)?.split(|octet| *octet == b'\n').filter(|line| !line.is_empty()) {
            let Ok(event) = serde_json::from_slice::<Value>(line) else {
                events.torn += 1;
                continue;
            };
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let about = (text(&event["message"]["id"]), text(&event["recipient"]), text(&event["type"]));
            let id = text(&event["id"]);
            events.again += u64::from(!seen.insert(id.clone()));
            events.told.entry(about).or_default().insert(id);
        }
    }
    Ok(events)
}

/// Removes what has been accounted for; while nobody writes.
pub fn forget(config: &Path) -> Result<()> {
    files(config).into_iter().try_for_each(|file| Ok(fs::remove_file(file)?))
}

fn files(config: &Path) -> Vec<PathBuf> {
    let path = path(config);
    let older = (1..=KEPT).map(|number| path.with_extension(format!("jsonl.{number}")));
    std::iter::once(path.clone()).chain(older).filter(|path| path.exists()).collect()
}

impl Events {
    /// What is wrong about the events of one recipient, whose end was this: none while it is queued or held.
    pub fn wrong(&self, id: &str, recipient: &str, end: Option<&str>) -> Option<String> {
        let count = |kind: &str| {
            let about = (id.to_owned(), recipient.to_owned(), kind.to_owned());
            self.told.get(&about).map_or(0, HashSet::len)
        };
        let (delivered, bounced) = (count("delivered"), count("bounced"));
        let wanted = (usize::from(end == Some("delivered")), usize::from(end == Some("bounced")));
        let wrong = (delivered, bounced) != wanted;
        wrong.then(|| format!("{id} to {recipient}: {end:?}, but events say {delivered} times delivered, {bounced} times bounced (D2)"))
    }
}
