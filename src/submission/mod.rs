//! SMTP submission: listeners, connections, TLS and AUTH around the pure session of `smtp`.

pub mod options;
