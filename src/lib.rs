//! oncemail: an SMTP submission relay that accepts each message once.
//!
//! # Map
//! | Module | What it is for |
//! |---|---|
//! | [`mail`] | addresses, envelopes, queue ids, messages, keys, progress: pure values |
//! | [`smtp`] | the protocol with no I/O: commands, replies, DATA, the session's states |
//! | [`bounce`] | reports about a message to its sender (RFC 3464), as bytes |
//! | [`dns`] | names to addresses, mail hosts, TLSA and TXT records |
//! | [`store`] | the durable memory: journal, index, recovery |
//! | [`queue`] | which message is due, and when again |
//! | [`intake`] | the only way in: key, fingerprint, claim, commit |
//! | [`relay`] | the way out: routes, connections, transactions, outcomes |
//! | [`submission`] | listeners, connections, TLS, AUTH |
//! | [`admin`] | HTTP API, dashboard, metrics, health: for those who look after mail |
//! | [`config`] | file and environment to validated options, or to everything that is wrong with them |
//! | [`app`] | starts the parts in order and stops them in order |
//! | [`cli`] | one file per subcommand |
//!
//! # Layers
//! `cli → app → {submission, relay, admin} → {intake, queue} → {store, dns} → bounce → smtp → mail`. A module imports only what stands to the
//! right of it, siblings never import each other, `chance`, `clock` and `metrics` may be imported by all, and only `cli` and `app` see
//! `config`. `tests/layers.rs` checks this.
//!
//! # Invariants
//! Code that upholds one names it in a comment (`D2`), tests of one name it in front (`d2_…`, `d1_d2_…`).
//!
//! - **D1** No 250 after the final dot before the message, its envelope and its key are on stable storage.
//! - **D2** Message, recipients and key are one commit; so are a notice to the sender and the outcome that it tells of.
//! - **D3** A failed write or sync latches the store: 451 from then on, readiness false, no fsync is ever retried; a
//!   restart recovers. Only a full disk that shows before any sync is undone instead.
//! - **D4** Recovery uses only whole, checksummed records; a torn tail is cut off, other damage is set aside in a
//!   named file and reported, nothing is dropped silently.
//! - **D5** One process per data directory (lock, retried for a few seconds after a crash).
//! - **D6** No recipient of an acknowledged message is ever in no state: it is queued, held, delivered, or bounced.
//! - **I1** Same scope, key and fingerprint: the first queue id, always, over crashes and restarts.
//! - **I2** Concurrent submissions with one key create one message.
//! - **I3** A key outlives its message's time in the queue.
//! - **I4** A submission that got no 250 leaves nothing behind that could turn its retry into a duplicate or a 554.
//! - **R1** Between writing the final dot and reading its reply an attempt is *in doubt*. It is not cancelled there
//!   (a shutdown waits, up to `shutdown_grace`), and its end is never guessed: the reply decides, and without one the
//!   message is deferred and marked as in doubt, or held where its route says so (`in_doubt = "hold"`).
//! - **R2** A 5xx that says something about *us* (AUTH refused, TLS failed, sender not allowed at the smarthost, 5xx
//!   to EHLO or the greeting) defers and counts towards the breaker; it never fails the users' mail.
//! - **S1** Only CRLF ends a line and only CRLF.CRLF ends DATA, in both directions; a bare CR or LF in a message is
//!   refused (`550 5.6.11`). No byte that arrived before a TLS handshake is read after it.
//! - **S2** Memory is bounded by configuration, whatever clients or destinations do.

pub mod admin;
pub mod app;
pub mod bounce;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod dns;
pub mod intake;
pub mod mail;
pub mod metrics;
pub mod queue;
pub mod relay;
pub mod smtp;
pub mod store;
pub mod submission;
