//! How the relay's counters are shown.

use std::fmt;
use std::sync::Arc;

use super::counters::{Counters, Fate};
use crate::metrics::{
    Collector, DescriptorEncoder, Label, Registry, counters, gauges, latencies, one_counter, one_gauge,
    one_latency,
};

impl Counters {
    /// Has everything shown.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }

    fn encode_routes(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.routes.all();
        let deliveries =
            ("deliveries", "What attempts brought for recipients, by route; expired: their time was up.");
        let samples = routes.iter().flat_map(|(name, route)| {
            let each = route.outcomes.each();
            each.map(|(outcome, count)| ([("route", &**name), (Fate::NAME, outcome)], count.get()))
        });
        counters(encoder, deliveries, samples)?;
        let attempts = ("attempts", "Transactions and other attempts that brought an answer, by route.");
        let samples = routes.iter().map(|(name, route)| ([("route", &**name)], route.attempts.count()));
        counters(encoder, attempts, samples)?;
        let took = ("attempt_seconds", "From choosing a host to the last reply, by route.");
        let samples = routes.iter().map(|(name, route)| ([("route", &**name)], &route.attempts));
        latencies(encoder, took, samples)
    }
}

impl Collector for Counters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        self.encode_routes(encoder)?;
        let delivery =
            ("delivery_seconds", "From acceptance to delivery, where the first attempt brought it.");
        one_latency(encoder, delivery, self.delivery())?;
        let connections =
            ("outbound_connections", "Connections to far sides that were ready for mail, by TLS version.");
        counters(encoder, connections, self.connections.samples())?;
        let failures = (
            "outbound_connection_failures",
            "Connections to far sides that could not be made, or not secured.",
        );
        one_counter(encoder, failures, self.not_connected.get())?;
        let open = ("outbound_connections_open", "Connections to far sides that are open now.");
        one_gauge(encoder, open, self.as_ref().get() as f64)?;
        one_gauge(
            encoder,
            ("destinations", "Destinations that mail waits for, or went to lately."),
            self.lanes.get() as f64,
        )?;
        let (open, half_open) = self.open_breakers();
        let breakers = ("breakers", "Hosts that are left alone, or probed, because they failed.");
        let states = [("open", open), ("half_open", half_open)];
        gauges(encoder, breakers, states.map(|(state, hosts)| ([("state", state)], hosts as f64)))?;
        let transitions = ("breaker_transitions", "Changes of breakers, by the state that they led to.");
        counters(encoder, transitions, self.transitions.samples())
    }
}
