//! The ways of events: one for each webhook, and one for the event file. Nothing of mail ever goes there.

use std::sync::Arc;

use super::SetupError;
use super::breakers::Breakers;
use super::event_file::EventFile;
use super::hook::Hook;
use super::options::{Options, Sink, SinkTransport};
use super::routing::{Builder, Makeup};
use super::tls::Trust;
use super::way::{Transport, Way};
use crate::dns::Dns;

impl Builder {
    /// The way of a sink: that of `known` which is as it should be, or a new one.
    ///
    /// # Errors
    /// Names the sink and its file.
    pub(super) fn sink_way(
        &self,
        sink: &Sink,
        options: &Options,
        dns: &Arc<Dns>,
        known: &[Arc<Way>],
    ) -> Result<Arc<Way>, SetupError> {
        let makeup = Makeup::of_sink(sink, options, dns);
        if let Some(same) = known.iter().find(|way| way.makeup.is_like(&makeup)) {
            return Ok(same.clone());
        }
        let transport = self.sink_transport(sink, options, dns)?;
        Ok(Way::new(makeup, &self.signers, transport, self.surroundings.of_a_way()))
    }

    fn sink_transport(
        &self,
        sink: &Sink,
        options: &Options,
        dns: &Arc<Dns>,
    ) -> Result<Transport, SetupError> {
        let fault = |error: String| SetupError::Sink { name: sink.name.clone(), error };
        match &sink.transport {
            SinkTransport::File(file) => EventFile::open(file.clone())
                .map(Transport::EventFile)
                .map_err(|error| fault(format!("{}: {error}", file.path.display()))),
            SinkTransport::Webhook(webhook) => {
                let trust = match &webhook.ca_file {
                    Some(file) => Trust::only(file).map_err(|error| fault(format!("ca_file: {error}")))?,
                    None => Trust::system(self.system.clone()),
                };
                let (clock, counters) = (self.surroundings.clock.clone(), self.surroundings.counters.clone());
                let breakers = Arc::new(Breakers::new(
                    sink.name.clone(),
                    options.breaker,
                    clock.clone(),
                    counters.clone(),
                ));
                counters.watch(&breakers);
                let hook = Hook::new(&sink.name, webhook.clone(), trust, dns.clone(), breakers, clock);
                Ok(Transport::Hook(Box::new(hook)))
            }
        }
    }
}
