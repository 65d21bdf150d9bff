//! How many file descriptors the process may have open.
//!
//! Every connection takes one, and so does every file of the store. If clients could take all of them, the store could
//! not open its next segment and would stop writing (D3). So the limit is raised as far as the system lets us, and
//! clients get no more than leaves the others enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the store, the relay's connections and the rest.
const KEPT_BACK: u64 = 256;

/// Raises the limit; gives back how many of the wanted client connections there is room for.
pub(super) fn make_room(connections: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let available = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of file descriptors cannot be raised");
            limit.current
        }
    };
    let room = room(available, connections);
    if room < connections {
        tracing::warn!(
            wanted = connections,
            room,
            file_descriptors = available,
            "the system allows fewer file descriptors than limits.connections needs; raise its hard limit (nofile)"
        );
    }
    room
}

/// `None` is no limit.
fn room(available: Option<u64>, wanted: usize) -> usize {
    let Some(available) = available else { return wanted };
    let left = available - KEPT_BACK.min(available / 2);
    usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_descriptors_for_the_store() {
        assert_eq!(room(None, 2_000), 2_000);
        assert_eq!(room(Some(20_000), 2_000), 2_000);
        assert_eq!(room(Some(1_024), 2_000), 768);
        assert_eq!(room(Some(100), 2_000), 50);
        assert_eq!(room(Some(0), 2_000), 0);
    }
}
