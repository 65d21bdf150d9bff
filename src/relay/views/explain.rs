//! What would happen to a message for an address, found out in the way that an attempt would, but for the connection.

use super::{HostState, Phase, wall};
use crate::mail::Address;
use crate::relay::Relay;
use crate::relay::mx;
use crate::relay::options::{Host, Hosts, InDoubt, Smtp, TlsPolicy};
use crate::relay::plan;
use crate::relay::route;
use crate::relay::security::Candidate;
use crate::relay::smarthost::Smarthost;
use crate::relay::way::{Transport, Way};

/// Hosts that are looked at; the others are only named.
const MOST_HOSTS: usize = 10;

/// Whose message it would be.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The recipient.
    pub to: Address,
    /// The sender's domain; `None` for the null sender, or for anyone.
    pub sender_domain: Option<String>,
    /// Who submits it.
    pub user: Option<String>,
    /// Through which listener.
    pub listener: Option<String>,
}

/// What was found out.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Explained {
    /// The route; `None`: none takes it.
    pub route: Option<String>,
    /// Routes before it, each with the condition that does not hold.
    pub passed_over: Vec<String>,
    /// As in [`super::Destination`].
    pub transport: Option<&'static str>,
    /// What the route asks of TLS.
    pub tls: Option<String>,
    /// In the order in which they would be asked.
    pub hosts: Vec<ExplainedHost>,
    /// Why there are none.
    pub trouble: Option<String>,
    /// Connections, rates, sizes, in words.
    pub limits: Vec<String>,
    /// `selector._domainkey.domain` of each key that would sign.
    pub dkim: Vec<String>,
    /// `resend` or `hold`.
    pub in_doubt: Option<&'static str>,
    /// Where it would wait, if mail has gone there lately.
    pub destination: Option<super::Destination>,
}

/// One host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExplainedHost {
    /// Its breaker.
    pub state: HostState,
    /// MX preference.
    pub preference: Option<u16>,
    /// Its addresses, in order.
    pub addresses: Vec<String>,
    /// What TLS must achieve with it.
    pub policy: Option<String>,
    /// Why it would not be asked.
    pub trouble: Option<String>,
}

impl Relay {
    /// Finds out the way of a message. Asks DNS, and may fetch an MTA-STS policy; sends nothing else.
    pub async fn explain(&self, asked: &Asked) -> Explained {
        let question = route::Asked {
            recipient_domain: asked.to.domain(),
            sender_domain: asked.sender_domain.as_deref(),
            user: asked.user.as_deref(),
            listener: asked.listener.as_deref().unwrap_or_default(),
        };
        let routing = self.routing.load_full();
        let routes = &routing.routes;
        let taken = route::first_for(routes, &question);
        let before = routes.iter().take(taken.unwrap_or(routes.len()));
        let passed_over = before
            .filter_map(|route| {
                Some(format!("{}: {} does not match", route.name, route::missed(&route.matches, &question)?))
            })
            .collect();
        let mut explained = Explained { passed_over, ..Explained::default() };
        let Some((route, way)) = taken.and_then(|number| Some((routes.get(number)?, routing.way(number)?)))
        else {
            return explained;
        };
        explained.route = Some(route.name.clone());
        explained.transport = Some(way.kind());
        explained.in_doubt = Some(match way.in_doubt {
            InDoubt::Resend => "resend",
            InDoubt::Hold => "hold",
        });
        way.explain(asked, &mut explained).await;
        explained
    }
}

impl Way {
    async fn explain(&self, asked: &Asked, explained: &mut Explained) {
        let domain = asked.to.domain().map(|domain| crate::mail::domain::canonical(domain).into_owned());
        let key = domain.as_deref().filter(|_| self.is_by_domain()).unwrap_or_default();
        explained.destination = self.lane(key).map(|lane| self.view(&lane));
        let Transport::Smarthost(smarthost) = &self.transport else { return };
        if let Some(sender) = &asked.sender_domain {
            explained.dkim = self.fields.dkim_names(sender);
        }
        explained.tls = Some(tls_words(smarthost.options.tls).to_owned());
        explained.limits = limits(&smarthost.options, self.fields.forward_keys());
        if self.is_by_domain() && key.is_empty() {
            explained.trouble = Some("without a domain there are no mail hosts to ask".to_owned());
            return;
        }
        match smarthost.explain(key, &self.surroundings.clock).await {
            Ok(hosts) => explained.hosts = hosts,
            Err(trouble) => explained.trouble = Some(trouble),
        }
    }
}

impl Smarthost {
    async fn explain(&self, domain: &str, clock: &crate::clock::Clock) -> Result<Vec<ExplainedHost>, String> {
        let (candidates, preferences) = match &self.options.hosts {
            Hosts::Fixed { hosts, weights } => {
                (plan::configured(hosts, weights, &mut rand::rng()), Vec::new())
            }
            Hosts::Mx(mx) => {
                let plan =
                    mx::plan(self.dns(), mx, &self.own(), domain).await.map_err(|refusal| refusal.text)?;
                let known = self.dns().mail_hosts(domain).await;
                (plan, known.map(|answer| answer.found).unwrap_or_default())
            }
        };
        let mut hosts = Vec::new();
        for candidate in candidates.iter().take(MOST_HOSTS) {
            let preference = preferences.iter().find(|host| host.name == candidate.host.name);
            let host = self.explain_host(domain, candidate, clock).await;
            hosts.push(ExplainedHost { preference: preference.map(|host| host.preference), ..host });
        }
        Ok(hosts)
    }

    async fn explain_host(
        &self,
        domain: &str,
        candidate: &Candidate,
        clock: &crate::clock::Clock,
    ) -> ExplainedHost {
        let mx = match &self.options.hosts {
            Hosts::Fixed { .. } => None,
            Hosts::Mx(mx) => Some(mx),
        };
        let state = self.state_of(&candidate.host, clock);
        let (addresses, no_address) = match mx::addresses(self.dns(), mx, &self.own(), candidate).await {
            Ok(addresses) => (addresses.iter().map(|address| address.ip().to_string()).collect(), None),
            Err(refusal) => (Vec::new(), Some(refusal.text)),
        };
        let (policy, no_policy) = match self.security().in_words(mx.map(|_| domain), candidate).await {
            Ok(policy) => (Some(policy), None),
            Err(trouble) => (None, Some(trouble)),
        };
        ExplainedHost { state, preference: None, addresses, policy, trouble: no_address.or(no_policy) }
    }

    fn state_of(&self, host: &Host, clock: &crate::clock::Clock) -> HostState {
        let (breaker, until) = self.breakers().state(host);
        let open_until = until.filter(|_| breaker == Phase::Open).map(|until| wall(clock, until));
        HostState { host: host.to_string(), breaker, open_until }
    }
}

fn tls_words(policy: TlsPolicy) -> &'static str {
    match policy {
        TlsPolicy::Required => "required: STARTTLS with a verified certificate",
        TlsPolicy::Opportunistic => "opportunistic: STARTTLS where it is offered",
        TlsPolicy::Dane => "dane: what TLSA records say, else where it is offered",
        TlsPolicy::Implicit => "implicit: TLS from the first byte with a verified certificate",
        TlsPolicy::None => "none",
    }
}

fn limits(smtp: &Smtp, forwards_keys: bool) -> Vec<String> {
    let mut limits = vec![
        format!("at most {} connections at a time", smtp.connections),
        format!("{} messages per connection", smtp.messages_per_connection),
        match forwards_keys {
            true => "1 recipient per transaction, because it is told keys".to_owned(),
            false => format!("{} recipients per transaction", smtp.recipients_per_transaction),
        },
    ];
    if let Some(rate) = smtp.rate {
        let each = rate.replenish_interval();
        limits.push(format!("one message every {each:?}, {} at once", rate.burst_size()));
    }
    limits
}
