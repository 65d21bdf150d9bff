//! A smarthost's hosts, each tried up to AUTH: see [`crate::relay::probe`].

use super::Smarthost;
use crate::relay::mx;
use crate::relay::opening::{Ready, Trouble};
use crate::relay::options::{Host, Hosts};
use crate::relay::probe::{Probed, Unusable, Usable};
use crate::relay::security::Candidate;

impl Smarthost {
    /// See [`crate::relay::probe::Prober::try_route`].
    pub(in crate::relay) async fn probe(&self) -> Vec<Probed> {
        let Hosts::Fixed { hosts, .. } = &self.options.hosts else { return Vec::new() };
        let mut probed: Vec<Probed> = Vec::new();
        for host in hosts {
            let is_refused = |probed: &Probed| {
                matches!(
                    probed.end,
                    Err(Unusable::Trouble { is_about_password: true, .. } | Unusable::Spared)
                )
            };
            let end = if probed.iter().any(is_refused) {
                Err(Unusable::Spared)
            } else {
                self.probe_host(host).await.map_err(|Trouble { code, text, is_about_password }| {
                    let text = if code == 0 { text } else { format!("{code} {text}") };
                    Unusable::Trouble { text, is_about_password }
                })
            };
            probed.push(Probed { host: host.clone(), end });
        }
        probed
    }

    async fn probe_host(&self, host: &Host) -> Result<Usable, Trouble> {
        let candidate = Candidate { host: host.clone(), secure: true };
        let addresses = mx::addresses(&self.dns, None, &self.own(), &candidate).await;
        let addresses = addresses.map_err(|refusal| Trouble::local(refusal.text))?;
        let demand = self.security.demand(None, &candidate, false).await?;
        let mut last = Trouble::local("there is no address");
        for address in addresses {
            match self.opening(host, &demand, address.ip()).run(address).await {
                Ok(Ready { mut wire, capabilities, tls, certificate, .. }) => {
                    // What it says to that changes nothing.
                    let _ = wire.command("QUIT\r\n", self.timeouts.command).await;
                    let authenticated = self.auth.is_some();
                    return Ok(Usable { address, tls, certificate, authenticated, size: capabilities.size });
                }
                Err(trouble) => last = trouble,
            }
            if last.is_about_password {
                break;
            }
        }
        Err(last)
    }
}
