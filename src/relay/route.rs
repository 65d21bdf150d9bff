//! Which route a recipient takes: the first whose conditions all hold. Pure.

use super::options::{Matches, Route};
use crate::mail::{Envelope, Message, Recipient, domain};

/// The first route that takes `recipient` of `message`, by number; `None` when there is none.
pub(super) fn first_match(routes: &[Route], message: &Message, recipient: &Recipient) -> Option<usize> {
    routes.iter().position(|route| applies(&route.matches, message, recipient))
}

/// Whether a route takes everything, so that no message has to be read to know where it goes.
pub(super) fn takes_everything(matches: &Matches) -> bool {
    let Matches { recipient_domains, sender_domains, users, listeners } = matches;
    recipient_domains.is_empty() && sender_domains.is_empty() && users.is_empty() && listeners.is_empty()
}

/// What routes ask of a recipient of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) recipient_domain: Option<&'a str>,
    pub(super) sender_domain: Option<&'a str>,
    pub(super) user: Option<&'a str>,
    pub(super) listener: &'a str,
}

/// The first route that takes mail of this kind, by number.
pub(super) fn first_for(routes: &[Route], asked: &Asked<'_>) -> Option<usize> {
    routes.iter().position(|route| missed(&route.matches, asked).is_none())
}

/// The first condition that does not hold, by its key.
pub(super) fn missed(matches: &Matches, asked: &Asked<'_>) -> Option<&'static str> {
    let conditions = [
        ("recipient_domains", in_domains(&matches.recipient_domains, asked.recipient_domain)),
        ("sender_domains", in_domains(&matches.sender_domains, asked.sender_domain)),
        ("users", in_names(&matches.users, asked.user)),
        ("listeners", in_names(&matches.listeners, Some(asked.listener))),
    ];
    conditions.into_iter().find(|(_, holds)| !holds).map(|(key, _)| key)
}

fn applies(matches: &Matches, message: &Message, recipient: &Recipient) -> bool {
    let asked = Asked {
        recipient_domain: recipient.forward_path.domain(),
        sender_domain: sender_domain(&message.envelope),
        user: message.origin.user.as_deref(),
        listener: &message.origin.listener,
    };
    missed(matches, &asked).is_none()
}

fn sender_domain(envelope: &Envelope) -> Option<&str> {
    envelope.reverse_path.mailbox().and_then(|mailbox| mailbox.domain())
}

fn in_names(names: &[String], name: Option<&str>) -> bool {
    names.is_empty() || name.is_some_and(|name| names.iter().any(|n| n == name))
}

/// Exact, or under a `*.suffix` (at any depth, but not the suffix itself), however either is spelled: a route must not be
/// missed because a domain was written in Unicode.
fn in_domains(patterns: &[String], domain: Option<&str>) -> bool {
    let Some(domain) = domain else { return patterns.is_empty() };
    let domain = domain::canonical(domain);
    patterns.is_empty()
        || patterns.iter().any(|pattern| match pattern.strip_prefix("*.") {
            None => domain == domain::canonical(pattern),
            Some(suffix) => domain
                .strip_suffix(&*domain::canonical(suffix))
                .and_then(|above| above.strip_suffix('.'))
                .is_some_and(|above| !above.is_empty()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::mail::{Address, Body, Handling, Origin, QueueId, ReversePath};
    use crate::relay::options::{InDoubt, Transport};

    fn message(sender: &str, user: Option<&str>, recipient: &str) -> Message {
        let recipient = Recipient {
            forward_path: Address::parse(recipient).unwrap(),
            notify: None,
            orcpt: None,
            unverified: false,
        };
        let reverse_path = match sender {
            "" => ReversePath::Null,
            sender => ReversePath::Mailbox(Address::parse(sender).unwrap()),
        };
        Message {
            id: QueueId::new(Timestamp::from_millis(1)),
            accepted_at: Timestamp::from_millis(1),
            envelope: Envelope {
                reverse_path,
                recipients: vec![recipient],
                body: Body::SevenBit,
                smtputf8: false,
                ret: None,
                envid: None,
                handling: Handling::default(),
            },
            origin: Origin { listener: "main".into(), user: user.map(Into::into), client: None },
            key: None,
            message_id: String::new(),
            content: bytes::Bytes::new(),
        }
    }

    fn route(matches: Matches) -> Route {
        Route {
            name: "r".into(),
            matches,
            transport: Transport::Directory("x".into()),
            in_doubt: InDoubt::Resend,
            forward_key_as: None,
        }
    }

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn domains_match_exactly_or_under_a_suffix() {
        let patterns = strings(&["corp.example", "*.shop.example"]);
        for (domain, expected) in [
            (Some("corp.example"), true),
            (Some("CORP.Example"), true),
            (Some("a.corp.example"), false),
            (Some("a.shop.example"), true),
            (Some("a.B.Shop.example"), true),
            (Some("shop.example"), false),
            (Some(".shop.example"), false),
            (Some("myshop.example"), false),
            (Some("é.shop.example"), true),
            (None, false),
        ] {
            assert_eq!(in_domains(&patterns, domain), expected, "{domain:?}");
        }
        assert!(in_domains(&[], None));
        // In Unicode, with A-labels, or in full-width letters, which are the same names to DNS.
        for domain in ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example", "ｂücher.example"] {
            let under = format!("a.{domain}");
            for pattern in ["bücher.example", "xn--bcher-kva.example"] {
                assert!(in_domains(&strings(&[pattern]), Some(domain)), "{pattern} {domain}");
                let suffix = strings(&[&format!("*.{pattern}")]);
                assert!(in_domains(&suffix, Some(&under)) && !in_domains(&suffix, Some(domain)), "{domain}");
            }
        }
    }

    #[test]
    fn the_first_route_whose_conditions_all_hold_is_taken() {
        let routes = [
            route(Matches {
                recipient_domains: strings(&["b.example"]),
                users: strings(&["u"]),
                ..Matches::default()
            }),
            route(Matches { sender_domains: strings(&["a.example"]), ..Matches::default() }),
            route(Matches { listeners: strings(&["main"]), ..Matches::default() }),
        ];
        let first = |m: Message| first_match(&routes, &m, &m.envelope.recipients[0]);
        assert_eq!(first(message("x@a.example", Some("u"), "y@b.example")), Some(0));
        assert_eq!(first(message("x@a.example", None, "y@b.example")), Some(1));
        assert_eq!(first(message("", None, "y@b.example")), Some(2));
        assert_eq!(first(message("", Some("u"), "postmaster")), Some(2));
        let m = message("x@c.example", None, "y@c.example");
        assert_eq!(first_match(&routes[..2], &m, &m.envelope.recipients[0]), None);
        assert!(takes_everything(&Matches::default()) && !takes_everything(&routes[2].matches));
    }
}
