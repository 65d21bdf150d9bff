//! What is looked at when RCPT names a recipient: suppressions, disposable domains, the domain's form, its mail hosts.
//!
//! A failure never refuses mail: where something cannot be found out now, the recipient is accepted and marked as
//! unverified. A wait for DNS ends after [`LOOKUP`], and all waits of one message after [`LOOKUPS`]; mail servers that
//! answer slowly make recipients unverified, never a client wait for minutes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::domain_list::DomainList;
use super::options::Verify;
use crate::clock::Clock;
use crate::dns::{Answer, Dns, Fault, MailHost};
use crate::mail::{Address, domain};
use crate::smtp::Reply;
use crate::smtp::session::RecipientCheck;
use crate::store::suppression::{Suppressed, Suppressions};

/// The longest wait for the mail hosts of one domain.
const LOOKUP: Duration = Duration::from_secs(5);
/// The longest wait for those of all recipients of a message, together.
const LOOKUPS: Duration = Duration::from_secs(20);
/// A reply's line is at most 512 octets with its codes and CRLF (RFC 5321 §4.5.3.1.5).
const MAX_TEXT: usize = 480;

/// Whom to ask about recipients.
pub struct Recipients {
    /// For `verify.mx`.
    pub dns: Arc<Dns>,
    /// Addresses that refused mail for good; `None`: nothing is remembered.
    pub suppressions: Option<Arc<Suppressions>>,
}

/// The checks that are switched on. See the module.
pub(super) struct Checks {
    dns: Arc<Dns>,
    suppressions: Option<Arc<Suppressions>>,
    syntax: bool,
    mx: bool,
    disposable: Option<Arc<DomainList>>,
}

/// How long the recipients of one message may still wait for DNS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(LOOKUPS)
    }
}

impl Checks {
    /// Reads the file of disposable domains; blocks.
    ///
    /// # Errors
    /// That file cannot be read.
    pub(super) fn new(verify: &Verify, recipients: Recipients, clock: &Clock) -> io::Result<Self> {
        let Recipients { dns, suppressions } = recipients;
        let disposable = match &verify.disposable_file {
            Some(file) => Some(Arc::new(DomainList::load(file, clock.clone())?)),
            None => None,
        };
        Ok(Self { dns, suppressions, syntax: verify.syntax, mx: verify.mx, disposable })
    }

    /// Whether there is anything to check at all.
    pub(super) fn any(&self) -> bool {
        self.suppressions.is_some() || self.syntax || self.mx || self.disposable.is_some()
    }

    /// Checks one recipient; what is quick and certain comes first.
    ///
    /// # Cancel safety
    /// Nothing is left behind.
    pub(super) async fn check(&self, address: &Address, patience: &mut Patience) -> RecipientCheck {
        let suppressed = self.suppressions.as_ref().and_then(|suppressions| suppressions.find(address));
        if let Some(suppressed) = suppressed {
            return RecipientCheck::Refuse(suppressed_reply(address, &suppressed));
        }
        // `postmaster` alone is ours to deliver, and a literal names its host itself.
        let Some(domain) = address.domain().filter(|domain| !domain.starts_with('[')) else {
            return RecipientCheck::Accept;
        };
        let ascii = ascii_domain(domain);
        if let (Some(list), Some(domain)) = (&self.disposable, &ascii)
            && list.contains(domain).await
        {
            return refuse(550, (5, 7, 1), format!("No mail is sent to disposable addresses ({domain})"));
        }
        if self.syntax
            && let Err(problem) = well_formed(ascii.as_deref())
        {
            return refuse(553, (5, 1, 3), format!("The recipient's domain {problem}"));
        }
        // As it came: what is no valid name may be in the DNS all the same.
        if self.mx { self.check_mail_hosts(address, domain, patience).await } else { RecipientCheck::Accept }
    }

    async fn check_mail_hosts(
        &self,
        address: &Address,
        domain: &str,
        patience: &mut Patience,
    ) -> RecipientCheck {
        let began = Instant::now();
        let found = timeout(patience.0.min(LOOKUP), self.dns.mail_hosts(domain)).await;
        patience.0 = patience.0.saturating_sub(began.elapsed());
        let found =
            found.unwrap_or_else(|_| Err(Fault::Temporary(format!("no answer in time about {domain}"))));
        judge(address, found)
    }
}

/// What the answer about a domain's mail hosts means for its recipient.
fn judge(address: &Address, found: Result<Answer<Vec<MailHost>>, Fault>) -> RecipientCheck {
    match found {
        Ok(_) => RecipientCheck::Accept,
        Err(fault @ (Fault::NoSuchDomain(_) | Fault::NoRecords(_))) => {
            refuse(550, (5, 1, 2), fault.to_string())
        }
        // RFC 7505 §4.2, with the code of RFC 7504 §3.
        Err(fault @ Fault::NullMx(_)) => refuse(556, (5, 1, 10), fault.to_string()),
        Err(Fault::Temporary(reason)) => {
            tracing::info!(
                target: "oncemail::submission",
                recipient = %address,
                unverified = true,
                reason,
                "recipient accepted without its check"
            );
            RecipientCheck::Unverified
        }
    }
}

fn suppressed_reply(address: &Address, suppressed: &Suppressed) -> Reply {
    let Suppressed { since, reason } = suppressed;
    // The words are a far side's; beyond ASCII they could not be said to every client (RFC 6531 §3.7.4.2).
    let reason: String = reason.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
    Reply::new(550, (5, 1, 1), cut(format!("<{address}> suppressed since {since}: {reason}")))
}

fn refuse(code: u16, enhanced: (u8, u16, u16), text: String) -> RecipientCheck {
    RecipientCheck::Refuse(Reply::new(code, enhanced, cut(text)))
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT));
    text
}

/// A domain as DNS knows it. `None` when it can have no such form; unlike DNS itself, this looks into A-labels.
pub(super) fn ascii_domain(domain: &str) -> Option<String> {
    idna::domain_to_ascii(domain).ok().filter(|ascii| domain::is_name(ascii))
}

/// Whether mail can be sent to a domain, as far as its form goes. The top-level domains that are refused are those that
/// never lead to another host: `.invalid` and `.localhost` (RFC 6761 §6.3, §6.4). `.local`, `.internal` and `.test` are
/// in use inside companies, and pass.
///
/// # Errors
/// What is wrong, as the end of a sentence.
fn well_formed(domain: Option<&str>) -> Result<(), &'static str> {
    let domain = domain.ok_or("is no valid domain name")?;
    let (_, top) = domain.rsplit_once('.').ok_or("has only one label")?;
    match top {
        // RFC 3696 §2: a top-level domain is not all numeric, so that no address is taken for a name.
        _ if top.bytes().all(|b| b.is_ascii_digit()) => {
            Err("ends in a number; an address is written [192.0.2.1]")
        }
        _ if top.len() < 2 || top.contains('_') => Err("has no valid top-level domain"),
        "invalid" | "localhost" => Err("is reserved and takes no mail"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::dns;

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn checks(verify: &Verify) -> Checks {
        let dns = Arc::new(Dns::new(dns::Options::default()));
        Checks::new(verify, Recipients { dns, suppressions: None }, &Clock::system()).unwrap()
    }

    fn text(check: &RecipientCheck) -> String {
        match check {
            RecipientCheck::Refuse(reply) => reply.to_string(),
            check => format!("{check:?}"),
        }
    }

    #[tokio::test]
    async fn a_domain_that_can_have_no_mail_is_refused_by_its_form() {
        let checks = checks(&Verify { syntax: true, ..Verify::default() });
        assert!(checks.any());
        for (to, expected) in [
            ("a@b.example", "Accept"),
            ("a@B.Example", "Accept"),
            ("a@bücher.example", "Accept"),
            ("a@under_score.example", "Accept"),
            ("a@mail.local", "Accept"),
            ("a@xn--bcher-kva.example", "Accept"),
            ("a@[192.0.2.1]", "Accept"),
            ("a@[IPv6:2001:db8::1]", "Accept"),
            ("postmaster", "Accept"),
            ("a@localhost", "553 5.1.3 The recipient's domain has only one label"),
            (
                "a@192.0.2.1",
                "553 5.1.3 The recipient's domain ends in a number; an address is written [192.0.2.1]",
            ),
            ("a@b.c", "553 5.1.3 The recipient's domain has no valid top-level domain"),
            ("a@b.invalid", "553 5.1.3 The recipient's domain is reserved and takes no mail"),
            ("a@x.LOCALHOST", "553 5.1.3 The recipient's domain is reserved and takes no mail"),
            ("a@xn--zzzzzzzzz.example", "553 5.1.3 The recipient's domain is no valid domain name"),
            ("a@a\u{200b}\u{fffd}b.example", "553 5.1.3 The recipient's domain is no valid domain name"),
        ] {
            assert_eq!(text(&checks.check(&address(to), &mut Patience::default()).await), expected, "{to}");
        }
    }

    #[tokio::test]
    async fn nothing_is_checked_unless_it_is_switched_on() {
        let checks = checks(&Verify::default());
        assert!(!checks.any());
        let check = checks.check(&address("a@localhost"), &mut Patience::default()).await;
        assert_eq!(check, RecipientCheck::Accept);
    }

    #[test]
    fn only_what_dns_says_for_good_refuses_a_recipient() {
        let to = address("a@b.example");
        let judged = |fault: Fault| text(&judge(&to, Err(fault)));
        let found = Answer { found: vec![MailHost { preference: 0, name: "b".into() }], secure: false };
        assert_eq!(judge(&to, Ok(found)), RecipientCheck::Accept);
        assert_eq!(
            judged(Fault::NoSuchDomain("b.example".into())),
            "550 5.1.2 the domain b.example does not exist"
        );
        assert_eq!(
            judged(Fault::NoRecords("b.example has no mail host".into())),
            "550 5.1.2 b.example has no mail host"
        );
        assert_eq!(
            judged(Fault::NullMx("b.example".into())),
            "556 5.1.10 the domain b.example takes no mail (null MX)"
        );
        assert_eq!(judged(Fault::Temporary("servfail".into())), "Unverified");
    }

    #[tokio::test]
    async fn s2_a_silent_dns_server_costs_a_message_no_more_than_its_patience() {
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let options = dns::Options {
            servers: vec![silent.local_addr().unwrap()],
            timeout: LOOKUP,
            ..dns::Options::default()
        };
        let recipients = Recipients { dns: Arc::new(Dns::new(options)), suppressions: None };
        let verify = Verify { mx: true, ..Verify::default() };
        let checks = Checks::new(&verify, recipients, &Clock::system()).unwrap();
        let mut patience = Patience(Duration::from_millis(50));
        let began = Instant::now();
        for domain in 0..100 {
            let to = address(&format!("a@b{domain}.example"));
            assert_eq!(checks.check(&to, &mut patience).await, RecipientCheck::Unverified);
        }
        // One recipient's patience alone would be five seconds.
        assert!(began.elapsed() < LOOKUP, "{:?}", began.elapsed());
    }

    #[test]
    fn a_suppressed_recipient_is_refused_in_one_line_that_fits() {
        let since = Timestamp::from_millis(1_795_343_400_000);
        let reply = |reason: &str| {
            let reply =
                suppressed_reply(&address("b@example.org"), &Suppressed { since, reason: reason.into() });
            let mut out = Vec::new();
            reply.write_to(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            reply("550 5.1.1 User unknown"),
            "550 5.1.1 <b@example.org> suppressed since 2026-11-22T10:30:00Z: 550 5.1.1 User unknown\r\n"
        );
        let long = reply(&"ü\r\n250 OK ".repeat(1_000));
        assert!(long.len() <= 512 && long.matches('\n').count() == 1 && long.is_ascii(), "{long}");
    }
}
