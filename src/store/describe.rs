//! What a message is, without its content: for a list of many, read in the background.
//!
//! Of a message's record only the beginning is read, and not verified, because its checksum covers the content too: a
//! million contents would take hours. So what is read here is for finding messages, and never for relaying one. Fails
//! by leaving a message out.

use std::io;
use std::sync::Arc;

use super::codec;
use super::files::StoreFile;
use super::journal::segment_name;
use super::record::{self, Place};
use super::shared::Shared;
use crate::mail::{Envelope, Origin, Progress, QueueId};

/// So much of a record is read at first, bytes: nearly every envelope ends before …
const FIRST_READ: u32 = 4096;
/// … and so many times as much when it does not. The content behind it may be megabytes, and is not wanted.
const NEXT_READ: u32 = 16;

/// Who a message is from and for, how it came in, and how far it has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Described {
    /// The message.
    pub id: QueueId,
    /// Who it is from and for.
    pub envelope: Envelope,
    /// How it came in.
    pub origin: Origin,
    /// How far it has come.
    pub progress: Progress,
}

/// Reads all of `ids` that there are, in the order of the journal.
pub fn all(shared: &Shared, ids: Vec<QueueId>) -> Vec<Described> {
    let mut places: Vec<_> = ids.into_iter().filter_map(|id| Some((id, shared.places(id)?))).collect();
    places.sort_unstable_by_key(|(_, (accepted, _))| (accepted.segment, accepted.offset));
    let mut open: Option<(u32, Arc<dyn StoreFile>)> = None;
    let mut found = Vec::with_capacity(places.len());
    for (id, (accepted, attempted)) in places {
        match one(shared, &mut open, id, accepted, attempted) {
            Ok(described) => found.push(described),
            // It may have moved, or ended, meanwhile.
            Err(error) => tracing::debug!(queue_id = %id, %error, "a message could not be described"),
        }
    }
    found
}

fn one(
    shared: &Shared,
    open: &mut Option<(u32, Arc<dyn StoreFile>)>,
    id: QueueId,
    accepted: Place,
    attempted: Option<Place>,
) -> io::Result<Described> {
    let malformed = |error: codec::Malformed| io::Error::new(io::ErrorKind::InvalidData, error);
    let file = match open {
        Some((segment, file)) if *segment == accepted.segment => file.clone(),
        _ => {
            let file = shared.files.open(&shared.journal_dir().join(segment_name(accepted.segment)))?;
            *open = Some((accepted.segment, file.clone()));
            file
        }
    };
    let start = |most| {
        let (kind, body) = record::read_start(&*file, shared.mark, accepted, most)?;
        codec::decode_envelope(&codec::accepted_body(kind, body).map_err(malformed)?).map_err(malformed)
    };
    let mut most = FIRST_READ;
    let (found, origin, envelope) = loop {
        match start(most) {
            // A thousand recipients take more.
            Err(_) if most < accepted.len => most = most.saturating_mul(NEXT_READ),
            read => break read?,
        }
    };
    let progress = match attempted {
        None => Progress::fresh(envelope.recipients.len(), envelope.due_at(id.accepted_at())),
        Some(place) => codec::decode_attempted(&shared.read(place)?.1).map_err(malformed)?.1,
    };
    if found != id || progress.recipients.len() != envelope.recipients.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the record is another message's"));
    }
    Ok(Described { id, envelope, origin, progress })
}
