//! Messages and keys, and what is done with them.

use serde::{Deserialize, Serialize};

/// Where a message, or one recipient of it, stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for its first or next attempt.
    Queued,
    /// In the hands of the relay: waits for a connection, or is being sent. A message only.
    Active,
    /// Kept, and not tried until somebody says so.
    Held,
    /// The next hop has it.
    Delivered,
    /// The sender was told that it failed.
    Bounced,
    /// It failed, and nobody was told.
    Discarded,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Somebody's mail.
    #[default]
    Mail,
    /// A report to a sender, made here.
    Notice,
    /// An event on its way to a webhook or the event file.
    Event,
}

/// Which messages: all conditions that are there have to hold. In a query string the same names, lists with commas.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// In one of these states; none: queued, active or held.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<State>,
    /// What it is; none: mail and notices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kind: Vec<Kind>,
    /// A recipient has this address (domain in any case).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// A recipient's domain is this one, or under it for `*.example.com`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_domain: Option<String>,
    /// The reverse-path: an address, `@domain`, or `<>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The user that submitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The route that it would take now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Accepted longer ago than this: `90s`, `15m`, `2h`, `3d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older: Option<String>,
    /// Accepted more recently than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newer: Option<String>,
}

/// `GET /api/v1/messages`: newest first.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Messages {
    /// One page.
    pub messages: Vec<Summary>,
    /// Hand it back as `after` for the next page; absent: this was the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many messages of the queue match in all (those in the history are not counted).
    pub matched: u64,
    /// Messages that a start has found and that are not read yet: they match no filter but `state` and age until then.
    pub unread: u64,
}

/// One message in a list.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Its queue id.
    pub id: String,
    /// Where it stands; of several recipients the state of those who are furthest from their end.
    pub state: State,
    /// What it is.
    pub kind: Kind,
    /// When it was accepted.
    pub accepted_at: String,
    /// How long ago that was.
    pub age_seconds: u64,
    /// The reverse-path; empty for the null sender.
    pub from: String,
    /// The first recipients, at most three.
    pub to: Vec<String>,
    /// How many recipients there are.
    pub recipients: u32,
    /// Who submitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Through which listener; absent for what was made here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    /// The key that it came under.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The route of its first recipient that is not over: where it would go now, or where it went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// Octets.
    pub size: u64,
    /// Attempts that counted.
    pub attempts: u32,
    /// When it is due again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// What was said about it last: `451 4.7.1 try again later`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reply: Option<String>,
}

/// `GET /api/v1/messages/{id}`: its whole story.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Story {
    /// As in a list.
    #[serde(flatten)]
    pub summary: Summary,
    /// Message-ID with its angle brackets; empty when it has none.
    pub message_id: String,
    /// Only for those who may read contents, and only while the message is in the queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The client that submitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// Whose key it is; absent for clients that did not authenticate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_scope: Option<String>,
    /// The W3C trace context that the message came with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// MT-PRIORITY (RFC 6710).
    pub priority: i8,
    /// Not to be sent before (RFC 4865).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release_at: Option<String>,
    /// What is still queued then has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// When nothing was left to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<String>,
    /// The sender was told that it takes long.
    pub warned: bool,
    /// Every recipient with every reply.
    pub recipient_stories: Vec<RecipientStory>,
    /// Retries that were answered with this message's id, as far as they are remembered; oldest first, at most 100.
    pub replays: Vec<Replay>,
    /// How many there were in all.
    pub replay_count: u64,
}

/// One recipient of a message.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct RecipientStory {
    /// Its forward-path.
    pub address: String,
    /// Where it stands.
    pub state: State,
    /// Why it is held: `failed`, `expired`, `in_doubt` or `operator`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_cause: Option<String>,
    /// Transactions in which it was offered.
    pub attempts: u32,
    /// The route that it would take now; absent when it is over or has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// What was said about it, oldest first.
    pub replies: Vec<Reply>,
}

/// What a far side, the network, or an operator said about a recipient.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reply {
    /// When it was said last.
    pub at: String,
    /// How often in a row.
    pub times: u32,
    /// The route that was tried; empty for what an operator did.
    pub route: String,
    /// The host that said it; empty when there was none.
    pub host: String,
    /// Reply code; 0 when it was no reply of a server.
    pub code: u16,
    /// The text with its enhanced code, or what went wrong.
    pub text: String,
    /// `TLSv1.3 dane`; empty for none.
    pub tls: String,
}

/// A retry that was answered with the first queue id.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Replay {
    /// When.
    pub at: String,
    /// From where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// What an operator wants done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Queued recipients are tried now.
    Retry,
    /// Queued recipients are held.
    Hold,
    /// Held recipients are queued again, with their time starting anew.
    Release,
    /// Queued and held recipients fail, and the sender is told.
    Bounce,
    /// Queued and held recipients are forgotten, and nobody is told.
    Discard,
}

/// `POST /api/v1/messages/{id}/actions`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionRequest {
    /// What.
    pub action: Action,
    /// Why; kept with the message, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `POST /api/v1/messages/actions`: on all that match.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What.
    pub action: Action,
    /// On which; `state` empty: those that the action applies to.
    pub filter: Filter,
    /// Only say what would be done. Must be said: there is no default.
    pub dry_run: bool,
    /// Why; kept with each message, at most 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of an action on one message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Done, and durable.
    Done,
    /// An attempt is under way and is not cut off; it happens with that attempt's outcome.
    Pending,
    /// Nothing of the message is in a state that the action applies to.
    Unchanged,
    /// There is no such message in the queue (any more).
    Gone,
    /// It could not be made durable; the message stands as it was.
    Failed,
}

/// The answer to an action on one message.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ActionResult {
    /// The message.
    pub id: String,
    /// What became of it.
    pub effect: Effect,
    /// In words, where there is something to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The answer to an action on a filter.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct BulkResult {
    /// Nothing was changed.
    pub dry_run: bool,
    /// How many messages match.
    pub matched: u64,
    /// Effects and how many had them; all zero for a dry run.
    pub done: u64,
    /// See [`Effect::Pending`].
    pub pending: u64,
    /// See [`Effect::Unchanged`] and [`Effect::Gone`].
    pub unchanged: u64,
    /// See [`Effect::Failed`].
    pub failed: u64,
    /// Messages that a start has found and that are not read yet: whether they match is not known, and nothing is done
    /// with them.
    #[serde(default)]
    pub unread: u64,
    /// The newest that match, at most 20.
    pub sample: Vec<Summary>,
}

/// `GET /api/v1/keys?key=…&scope=…`: what became of order 123.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct KeyStory {
    /// The key.
    pub key: String,
    /// Whose; absent for clients that did not authenticate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The first submission's queue id.
    pub id: String,
    /// When that was.
    pub accepted_at: String,
    /// When the key ends, unless its message is still in the queue then.
    pub expires_at: String,
    /// How many retries were answered with the first id.
    pub replays: u64,
    /// When the last one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_replay_at: Option<String>,
    /// The message's story; absent when neither queue nor history have it any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Story>,
}
