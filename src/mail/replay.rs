//! A retry that was told the first queue id: what the intake knows of it, and others may be told.

use std::net::IpAddr;

use super::{QueueId, ReversePath, Scope};
use crate::clock::Timestamp;

/// A retry that is answered with the first queue id.
#[derive(Clone, Copy, Debug)]
pub struct Replay<'a> {
    /// The first submission's queue id.
    pub first: QueueId,
    /// When the retry came.
    pub at: Timestamp,
    /// The key, the client's own or a derived one; `None` where it is not known.
    pub key: Option<&'a str>,
    /// Whose keys they are.
    pub scope: &'a Scope,
    /// Message-ID of the retry.
    pub message_id: Option<&'a str>,
    /// Who it is from.
    pub reverse_path: &'a ReversePath,
    /// Who submitted it.
    pub user: Option<&'a str>,
    /// From where.
    pub client: Option<IpAddr>,
    /// The trace context of the retry.
    pub traceparent: Option<&'a str>,
}
