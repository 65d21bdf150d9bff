//! Seeing and steering: the HTTP API, the dashboard, metrics and health, for people and programs that look after mail.
//!
//! It must never be in the way of mail: it holds no lock for longer than a few thousand entries take, whatever it reads
//! from the disk is bounded by the page that was asked for, and a client that is slow or gone costs nothing but its own
//! connection. What changes something is durable before the answer says so, and the log says who did it. A wrong
//! request is answered with a problem document (RFC 9457), and changes nothing.
//!
//! What it knows of the ways in and out it is told through [`ports`], which `app` connects.

pub mod dashboard;
pub mod model;
pub mod ports;
