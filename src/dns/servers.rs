//! Who answers questions: name servers, unless a simulation answers in their place. What an answer means is decided above
//! this, in one place for both.

use std::future::Future;
use std::pin::Pin;

use hickory_resolver::TokioResolver;
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::{Name, RecordType};

/// A question that is out.
pub type Asking<'a> = Pin<Box<dyn Future<Output = Result<Lookup, NetError>> + Send + 'a>>;

/// See the module.
pub trait Servers: Send + Sync {
    /// Asks one question, with every CNAME on the way. The caller bounds the time.
    ///
    /// # Cancel safety
    /// Nothing is lost but the answer.
    fn lookup(&self, name: Name, kind: RecordType) -> Asking<'_>;
}

impl Servers for TokioResolver {
    fn lookup(&self, name: Name, kind: RecordType) -> Asking<'_> {
        Box::pin(self.lookup(name, kind))
    }
}
