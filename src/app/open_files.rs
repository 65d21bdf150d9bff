//! How many files and connections the system lets this process have open.
//!
//! A store that cannot open its next segment stops writing (D3), so clients must not be able to use up what it needs:
//! the limit is raised as far as the system allows, and `limits.connections` is lowered when even that is too little.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::relay::options::{Hosts, MX_CONNECTIONS, Route, Transport};

/// For the store, the log, and the threads that read messages back, each with one file open at a time: tokio has up to
/// 512 of them.
const KEPT: u64 = 640;

/// Raises the limit as far as the system allows, and gives it back; `u64::MAX` when there is none.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised,
        // The old limit still holds, and is what counts.
        Err(_) => limit,
    };
    limit.current.unwrap_or(u64::MAX)
}

/// What of `connections` clients may have under `limit`; `None` when not even one.
pub fn fit(connections: usize, routes: &[Route], limit: u64) -> Option<usize> {
    let fixed: u64 = routes.iter().map(outward).sum();
    let by_domain = routes.iter().any(is_by_domain);
    let outward = if by_domain { fixed.saturating_add(count(MX_CONNECTIONS)) } else { fixed };
    let room = usize::try_from(limit.saturating_sub(KEPT).saturating_sub(outward)).unwrap_or(usize::MAX);
    Some(connections.min(room)).filter(|connections| *connections > 0)
}

/// Connections of a route; the files that a directory route writes are among the kept ones.
fn outward(route: &Route) -> u64 {
    match &route.transport {
        Transport::Smtp(_) if is_by_domain(route) => 0,
        Transport::Smtp(smtp) => count(smtp.connections),
        Transport::Directory(_) | Transport::Discard => 0,
    }
}

/// Such routes share one bound for their connections, whatever their number.
fn is_by_domain(route: &Route) -> bool {
    matches!(&route.transport, Transport::Smtp(smtp) if matches!(smtp.hosts, Hosts::Mx(_)))
}

fn count(connections: usize) -> u64 {
    u64::try_from(connections).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::Family;
    use crate::relay::options::{InDoubt, Matches, Mx, Smtp};

    #[test]
    fn clients_get_what_the_store_and_the_routes_leave() {
        let smtp = Smtp { connections: 20, ..Smtp::new(Hosts::in_order(Vec::new())) };
        let route = Route {
            name: "out".to_owned(),
            matches: Matches::default(),
            transport: Transport::Smtp(smtp),
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        };
        assert_eq!(fit(2_000, &[], u64::MAX), Some(2_000));
        assert_eq!(fit(2_000, std::slice::from_ref(&route), 1_024), Some(1_024 - 640 - 20));
        assert_eq!(fit(2_000, std::slice::from_ref(&route), 660), None);
        assert_eq!(fit(2_000, std::slice::from_ref(&route), 256), None);
        let mx =
            Mx { port: 25, allow_private: false, mta_sts: false, mta_sts_port: 443, family: Family::Any };
        let mx = Route { transport: Transport::Smtp(Smtp::new(Hosts::Mx(mx))), ..route };
        let both = [mx.clone(), mx];
        assert_eq!(fit(2_000, &both, 2_640), Some(1_000), "counted once");
    }
}
