//! A leg as it waits in its lane: as small as it can be (S2).

use std::sync::Arc;

use super::{Leg, Share};
use crate::mail::QueueId;
use crate::queue::Parked;

/// What waits.
pub(super) enum Stowed {
    /// Fresh, of a message that is split, or with something found out about it.
    Leg(Leg),
    /// Only an id: the whole message goes this way.
    Parked(Parked),
}

impl Stowed {
    /// As small as it can be, without letting go of what is fresh.
    pub(super) fn new(leg: Leg) -> Self {
        let Leg { lease, share } = leg;
        match share {
            Share::All => match Parked::fold(lease) {
                Ok(parked) => Self::Parked(parked),
                Err(lease) => Self::Leg(Leg { lease, share }),
            },
            Share::Only(_) => Self::Leg(Leg { lease, share }),
        }
    }

    /// Its message.
    pub(super) fn id(&self) -> QueueId {
        match self {
            Self::Leg(leg) => leg.lease.id(),
            Self::Parked(parked) => parked.id(),
        }
    }

    /// The leg again.
    pub(super) fn take_up(self) -> Option<Leg> {
        match self {
            Self::Leg(leg) => Some(leg),
            Self::Parked(parked) => {
                parked.unfold().map(|lease| Leg { lease: Arc::new(lease), share: Share::All })
            }
        }
    }

    /// Lets go of what can be read again, because it has to wait for long.
    pub(super) fn parked(self) -> Self {
        match self {
            Self::Leg(leg) => {
                leg.lease.park();
                Self::new(leg)
            }
            parked @ Self::Parked(_) => parked,
        }
    }

    /// Whether the message has other legs, which must not wait for this one, or something was found out about it.
    pub(super) fn is_engaged(&self) -> bool {
        matches!(self, Self::Leg(leg) if !leg.lease.is_untouched())
    }

    /// Whether its sender may have to be told. With what is engaged that is done at the end of its attempt.
    pub(super) fn is_late(&self) -> bool {
        match self {
            Self::Leg(leg) => leg.lease.is_untouched() && leg.lease.is_late(),
            Self::Parked(parked) => parked.is_late(),
        }
    }

    pub(super) fn is_expired(&self) -> bool {
        match self {
            Self::Leg(leg) => leg.lease.is_expired(),
            Self::Parked(parked) => parked.is_expired(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s2_a_leg_that_waits_takes_few_bytes() {
        assert!(size_of::<Stowed>() <= 48, "{}", size_of::<Stowed>());
    }
}
