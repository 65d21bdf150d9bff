//! What is counted of questions to name servers: how long each took, and which got no answer of use.

use std::fmt;
use std::time::Duration;

use hickory_resolver::proto::rr::RecordType;

use super::Dns;
use crate::metrics::{
    Collector, Count, DescriptorEncoder, Latency, Registry, Tally, counters, label, latencies, one_counter,
};

label! {
    /// What is asked for.
    Kind as "type" {
        A = "A",
        Aaaa = "AAAA",
        Cname = "CNAME",
        Mx = "MX",
        Tlsa = "TLSA",
        Txt = "TXT",
        Other = "other",
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DnsMetrics {
    took: Tally<Kind, Latency>,
    failures: Tally<Kind>,
    from_cache: Count,
}

impl Dns {
    /// Has what is counted here shown.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.metrics.clone()));
    }
}

impl DnsMetrics {
    /// A question has come to its end; what does not exist is an answer too.
    pub(super) fn asked(&self, kind: RecordType, took: Duration, is_answered: bool) {
        let kind = Kind::from(kind);
        if let Some(latency) = self.took.of(kind) {
            latency.observe(took);
        }
        if !is_answered {
            self.failures.add_one(kind);
        }
    }

    /// An answer was known.
    pub(super) fn known(&self) {
        self.from_cache.add_one();
    }
}

impl Collector for DnsMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let took = ("dns_seconds", "Questions to name servers, with the repeats of each.");
        latencies(encoder, took, self.took.labelled())?;
        let failures = (
            "dns_failures",
            "Questions without an answer of use: none in time, an error, or not to be trusted.",
        );
        counters(encoder, failures, self.failures.samples())?;
        let known = ("dns_cache_hits", "Questions that were answered from memory.");
        one_counter(encoder, known, self.from_cache.get())
    }
}

impl From<RecordType> for Kind {
    fn from(kind: RecordType) -> Self {
        match kind {
            RecordType::A => Self::A,
            RecordType::AAAA => Self::Aaaa,
            RecordType::CNAME => Self::Cname,
            RecordType::MX => Self::Mx,
            RecordType::TLSA => Self::Tlsa,
            RecordType::TXT => Self::Txt,
            _ => Self::Other,
        }
    }
}
