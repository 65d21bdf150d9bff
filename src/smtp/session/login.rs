//! AUTH (RFC 4954) and STARTTLS (RFC 3207).

use std::sync::Arc;

use super::{Action, AuthPolicy, Hello, Session, State, Verdict, close, out_of_sequence};
use crate::smtp::command::Auth;
use crate::smtp::reply::Reply;
use crate::smtp::sasl::{Exchange, SaslFault};

impl Session {
    pub(super) fn auth(&mut self, state: State, auth: Auth<'_>) -> (State, Action) {
        let refusal = match &state {
            _ if self.settings.auth == AuthPolicy::Off => {
                Some(Reply::new(502, (5, 5, 1), "AUTH is not offered here"))
            }
            _ if !self.offers_auth() => {
                Some(Reply::new(538, (5, 7, 11), "Encryption required; send STARTTLS first"))
            }
            _ if self.user.is_some() => Some(out_of_sequence("Already authenticated")),
            State::Ready(hello) if hello.extended => None,
            State::Start | State::Ready(_) => Some(out_of_sequence("Send EHLO first")),
            _ => Some(out_of_sequence("AUTH is not possible within a transaction")),
        };
        match (refusal, state) {
            (None, State::Ready(hello)) => {
                self.exchange(hello, Exchange::begin(auth.mechanism, auth.initial))
            }
            (refusal, state) => {
                self.error(state, refusal.unwrap_or_else(|| out_of_sequence("Send EHLO first")))
            }
        }
    }

    pub(super) fn exchange(
        &mut self,
        hello: Hello,
        exchange: Result<Exchange, SaslFault>,
    ) -> (State, Action) {
        match exchange {
            Ok(Exchange::Challenge(challenge)) => {
                let prompt = Reply::bare(334, challenge.prompt());
                (State::Challenged(hello, challenge), Action::Reply(prompt))
            }
            Ok(Exchange::Done(credentials)) => {
                let user = Arc::from(credentials.user.as_str());
                (State::Verifying(hello, user), Action::Verify(credentials))
            }
            Err(fault) => self.error(State::Ready(hello), fault.reply()),
        }
    }

    pub(super) fn verified(&mut self, hello: Hello, user: Arc<str>, verdict: Verdict) -> (State, Action) {
        let reply = match verdict {
            Verdict::Right => {
                self.user = Some(user);
                Reply::new(235, (2, 7, 0), "Authentication succeeded")
            }
            Verdict::Wrong => Reply::new(535, (5, 7, 8), "Authentication failed"),
            Verdict::Unknown => Reply::new(454, (4, 7, 0), "Authentication is not possible now; retry later"),
            Verdict::TooManyFailures => {
                return close(Reply::new(421, (4, 7, 0), "Too many failed authentications; retry later"));
            }
        };
        (State::Ready(hello), Action::Reply(reply))
    }

    pub(super) fn start_tls(&mut self, state: State) -> (State, Action) {
        if self.tls.is_some() {
            return self.error(state, out_of_sequence("TLS is on already"));
        }
        if !self.settings.starttls {
            return self.error(state, Reply::new(502, (5, 5, 1), "STARTTLS is not offered here"));
        }
        if state.into_hello().is_none() {
            return self.error(State::Start, out_of_sequence("Send EHLO first"));
        }
        (State::Handshaking, Action::StartTls(Reply::new(220, (2, 0, 0), "Go ahead")))
    }

    /// RFC 3207 §4.2: all that was learnt before is forgotten.
    pub(super) fn encrypted(&mut self, tls: String) -> (State, Action) {
        self.tls = Some(tls);
        self.user = None;
        // The client speaks next; there is no greeting inside TLS.
        (State::Start, Action::Continue)
    }
}
