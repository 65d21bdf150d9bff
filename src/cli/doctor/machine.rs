//! What the system lets this process do, and whether its clock can be believed.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::report::Check;
use crate::app::open_files;
use crate::clock::{Clock, Timestamp};
use crate::config::Config;

/// Nobody runs this before it was written.
const EARLIEST: Timestamp = Timestamp::from_millis(1_735_689_600_000);
/// A clock that says 2100 has not been set.
const LATEST: Timestamp = Timestamp::from_millis(4_102_444_800_000);
/// More than both clocks may differ by while the checks run.
const JUMP: Duration = Duration::from_secs(1);
/// What systemd-timesyncd leaves where it has found the time.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    wall: Timestamp,
    steady: Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { wall: Clock::system().now(), steady: Instant::now() }
    }
}

/// Retries, keys and certificates go by it.
pub(super) fn clock(begun: &Moment, ended: &Moment) -> Check {
    let what = "clock";
    let now = ended.wall;
    let set = "set the clock, and let NTP keep it";
    if now < EARLIEST || now > LATEST {
        return Check::fail(what, format!("it says {now}"), set);
    }
    let elapsed = ended.steady.saturating_duration_since(begun.steady);
    let expected = begun.wall.plus(elapsed);
    let off = now.since(expected).max(expected.since(now));
    if off > JUMP {
        let finding = format!("it jumped by {} s while this ran", off.as_secs());
        return Check::warn(what, finding, "see what sets it: retries and keys go by this clock");
    }
    let kept = if Path::new(SYNCHRONISED).exists() {
        "synchronised by systemd-timesyncd"
    } else {
        "whether NTP keeps it cannot be seen from here"
    };
    Check::ok(what, format!("{now}, {kept}"))
}

/// As a server that is started here would find it.
pub(super) fn open_files(config: &Config) -> Vec<Check> {
    let what = "open files";
    let limit = open_files::raise();
    let wanted = config.submission.limits.connections;
    let shown = if limit == u64::MAX { "no limit".to_owned() } else { format!("{limit} allowed") };
    let advice = "raise it: LimitNOFILE in the unit, ulimit -n, --ulimit nofile of a container";
    vec![match open_files::fit(wanted, &config.relay.routes, limit) {
        Some(room) if room >= wanted => Check::ok(what, format!("{shown}, enough for {wanted} clients")),
        Some(room) => {
            Check::warn(what, format!("{shown}: room for {room} clients instead of {wanted}"), advice)
        }
        None => Check::fail(what, format!("{shown}: too few to start with"), advice),
    }]
}

#[cfg(test)]
mod tests {
    use super::super::report::Status;
    use super::*;

    #[test]
    fn a_clock_that_cannot_be_believed_is_told() {
        let steady = Instant::now();
        let at = |wall: u64, after: u64| Moment {
            wall: Timestamp::from_millis(wall),
            steady: steady + Duration::from_millis(after),
        };
        let start = 1_800_000_000_000;
        assert_eq!(clock(&at(start, 0), &at(start + 5_000, 5_000)).status, Status::Ok);
        for end in [start + 60_000, start - 60_000] {
            assert_eq!(clock(&at(start, 0), &at(end, 5_000)).status, Status::Warn);
        }
        assert_eq!(clock(&at(0, 0), &at(0, 0)).status, Status::Fail);
    }
}
