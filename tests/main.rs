//! Every promise of oncemail, one file each, in one binary.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests fail by panicking"
)]

mod accept_model;
mod api;
mod bounces;
mod breakers;
mod cli;
mod clock_set;
mod common;
mod config;
mod crash;
mod descriptors;
mod destinations;
mod dialogs;
mod disk_full;
mod dkim;
mod doctor;
mod downgrade;
mod events;
mod forwarding;
mod history;
mod hostile_clients;
mod hostile_dns;
mod hostile_far_sides;
mod idempotency;
mod in_doubt;
mod injection;
mod kill;
mod lanes;
mod layers;
mod mail_hosts;
mod metrics;
mod metrics_text;
mod mx;
mod next_hop_auth;
mod oauth;
mod orders;
mod orders_at_scale;
mod orders_model;
mod outbound;
mod privacy;
mod process;
mod proxy_protocol;
mod queue;
mod queue_order;
mod recipients;
mod refused_recipients;
mod register;
mod relay;
mod relay_views;
mod reload;
mod reports;
mod rerouting;
mod routing;
mod secrets;
mod shutdown;
mod siege;
mod simulation;
mod smuggling;
mod steering;
mod store;
mod store_damage;
mod store_linear;
mod store_model;
mod store_notices;
mod submission;
mod suppression;
mod systemd;
mod tls;
mod tls_over_dns;
mod tls_policy;
mod webhooks;
