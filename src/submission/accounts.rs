//! Users: who may log in, send from where, and how often.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::acquaintances::Acquaintances;
use super::failures::Failures;
use super::options::{Limits, NULL_SENDER, User};
use super::passwords::{BadHash, Finding, Passwords};
use crate::clock::Clock;
use crate::mail::{Address, ReversePath, Scope};
use crate::smtp::Reply;
use crate::smtp::sasl::Credentials;
use crate::smtp::session::Verdict;

/// All users. See the module.
pub(super) struct Accounts {
    users: HashMap<String, Account>,
    passwords: Passwords,
    /// Outlives a change of the users.
    failures: Arc<Failures>,
    /// Likewise.
    acquaintances: Arc<Acquaintances>,
}

struct Account {
    senders: Senders,
    scope: Scope,
    rate: Option<Rate>,
}

/// `rate` of a user, and how much of it is used up.
#[derive(Clone)]
struct Rate {
    quota: Quota,
    limiter: Arc<DefaultDirectRateLimiter>,
}

/// `senders` of a user.
enum Senders {
    Any,
    /// `user@domain` and `@domain`, domains in lower case; `<>` for the null sender.
    Only(Vec<String>),
}

impl Accounts {
    /// # Errors
    /// Names the user whose password hash cannot be used.
    pub(super) fn new(users: &[User], limits: &Limits, clock: &Clock) -> Result<Self, (String, BadHash)> {
        let passwords = Passwords::new(hashes(users), clock.clone())?;
        let failures = Arc::new(Failures::new(limits.auth_failures, clock.clone()));
        let users = users.iter().map(|user| (user.name.clone(), Account::new(user, None))).collect();
        let acquaintances = Arc::new(Acquaintances::new(clock.clone()));
        Ok(Self { users, passwords, failures, acquaintances })
    }

    /// Other users instead: what is known of failed logins stays, and so does what a user with the same rate has used up
    /// of it.
    ///
    /// # Errors
    /// Names the user whose password hash cannot be used.
    pub(super) fn replaced_by(&self, users: &[User]) -> Result<Self, (String, BadHash)> {
        let passwords = self.passwords.replaced_by(hashes(users))?;
        let account = |user: &User| {
            let used = self.users.get(&user.name).and_then(|account| account.rate.clone());
            (user.name.clone(), Account::new(user, used))
        };
        let (failures, acquaintances) = (self.failures.clone(), self.acquaintances.clone());
        Ok(Self { users: users.iter().map(account).collect(), passwords, failures, acquaintances })
    }

    /// Counts failed logins by another quota from now on.
    pub(super) fn limit_failures(&self, limits: &Limits) {
        self.failures.change(limits.auth_failures);
    }

    /// Whether this client may log in so.
    pub(super) async fn verify(&self, client: IpAddr, credentials: Credentials) -> Verdict {
        let may_go_on = || !self.failures.are_too_many(client);
        if !may_go_on() {
            return Verdict::TooManyFailures;
        }
        // A name that is not a user's may be a password typed into the wrong field.
        let name = self.users.contains_key(&credentials.user).then(|| credentials.user.clone());
        let is_stranger = !self.acquaintances.include(client);
        match self.passwords.verify(credentials, is_stranger, may_go_on).await {
            Some(Finding::Right) => {
                self.acquaintances.note(client);
                Verdict::Right
            }
            Some(Finding::Broken) => Verdict::Unknown,
            None => Verdict::TooManyFailures,
            Some(Finding::Wrong) => {
                let was_blocked = self.failures.are_too_many(client);
                self.failures.note(client);
                tracing::info!(%client, user = name, "authentication failed");
                if was_blocked { Verdict::TooManyFailures } else { Verdict::Wrong }
            }
        }
    }

    /// Whether `user` may start a message from `reverse_path` now, and whose keys it uses then; each yes counts towards its
    /// rate. A user that is not one any more may not.
    ///
    /// # Errors
    /// The reply that refuses it.
    pub(super) fn may_send(&self, user: Option<&str>, reverse_path: &ReversePath) -> Result<Scope, Reply> {
        let Some(user) = user else { return Ok(Scope::anonymous()) };
        let Some(account) = self.users.get(user) else {
            return Err(Reply::new(530, (5, 7, 0), "This user is not known any more; authenticate again"));
        };
        if !account.senders.contain(reverse_path) {
            return Err(Reply::new(553, (5, 7, 1), "This user may not send from this address"));
        }
        match &account.rate {
            Some(rate) if rate.limiter.check().is_err() => {
                Err(Reply::new(451, (4, 7, 1), "Too many messages; retry later"))
            }
            _ => Ok(account.scope.clone()),
        }
    }
}

impl Account {
    /// `used` is what is known of the user's rate already.
    fn new(user: &User, used: Option<Rate>) -> Self {
        let senders = match user.senders.as_slice() {
            [] => Senders::Any,
            some => Senders::Only(some.iter().map(|sender| canonical(sender)).collect()),
        };
        let rate = |quota| match used {
            Some(used) if used.quota == quota => used,
            _ => Rate { quota, limiter: Arc::new(RateLimiter::direct(quota)) },
        };
        Self { senders, scope: user.scope.clone(), rate: user.rate.map(rate) }
    }
}

impl Senders {
    fn contain(&self, reverse_path: &ReversePath) -> bool {
        let Self::Only(senders) = self else { return true };
        let Some(address) = reverse_path.mailbox() else { return senders.iter().any(|s| s == NULL_SENDER) };
        let (mailbox, domain) =
            (address.canonical(), address.domain().map(|d| format!("@{}", d.to_lowercase())));
        senders.iter().any(|sender| *sender == mailbox || Some(sender) == domain.as_ref())
    }
}

fn hashes(users: &[User]) -> impl Iterator<Item = (&str, &str)> {
    users.iter().map(|user| (user.name.as_str(), user.password_hash.as_str()))
}

fn canonical(sender: &str) -> String {
    match Address::parse(sender) {
        Ok(address) => address.canonical(),
        Err(_) => sender.to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(senders: &[&str], reverse_path: &str) -> bool {
        let user = User {
            name: "ann".into(),
            password_hash: String::new(),
            senders: senders.iter().map(|&s| s.into()).collect(),
            scope: Scope::named("ann"),
            rate: None,
        };
        let reverse_path = match reverse_path {
            "" => ReversePath::Null,
            text => ReversePath::Mailbox(Address::parse(text).unwrap()),
        };
        Account::new(&user, None).senders.contain(&reverse_path)
    }

    #[test]
    fn a_user_sends_only_from_its_own_addresses() {
        assert!(may(&[], "any@where.example") && may(&[], ""));
        assert!(may(&["@Shop.example"], "a@shop.EXAMPLE"));
        assert!(may(&["ceo@Example.com"], "ceo@example.COM"));
        assert!(!may(&["ceo@example.com"], "CEO@example.com"));
        assert!(!may(&["@shop.example"], "a@evil-shop.example"));
        assert!(!may(&["@shop.example"], "a@sub.shop.example"));
        assert!(!may(&["@shop.example"], "\"@shop.example\"@evil.example"));
        assert!(!may(&["@shop.example"], "") && may(&["<>"], ""));
    }
}
