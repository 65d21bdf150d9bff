//! Idempotency keys: what became of order 123, and forgetting it.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;

use super::access::Caller;
use super::messages::find_story;
use super::model::KeyStory;
use super::parameters::Parameters;
use super::refusal::Refusal;
use super::request::Operator;
use super::server::Shared;
use super::story::told;
use crate::mail::{KeyKind, Scope, ScopedKey};
use crate::store::Forgotten;

const KNOWN: &[&str] = &["key", "scope", "kind"];
const KINDS: &[(&str, KeyKind)] =
    &[("header", KeyKind::Header), ("message-id", KeyKind::MessageId), ("content", KeyKind::Content)];

/// `GET /api/v1/keys`.
pub(super) async fn show(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    RawQuery(query): RawQuery,
) -> Result<Json<KeyStory>, Refusal> {
    let key = read(query.as_deref())?;
    let record = shared.store.find_key(&key).await?.ok_or_else(|| unknown(&key))?;
    let message = find_story(&shared, record.id, caller.contents).await?;
    let replays = match (&message, shared.history.clone()) {
        (Some(_), _) | (None, None) => None,
        // The message's end may be forgotten, and its replays not.
        (None, Some(history)) => {
            let found = shared.reads.block(move || history.find(record.id)).await?;
            found.map_err(|error| Refusal::broken("the history cannot be read", &error))?
        }
    };
    let told_replays =
        message.as_ref().map(|story| (story.replay_count, story.replays.last().map(|last| last.at.clone())));
    let told_replays = told_replays.or_else(|| {
        replays.map(|past| (past.replay_count, past.replays.last().map(|(at, _)| at.to_string())))
    });
    let (replays, last_replay_at) = told_replays.unwrap_or_default();
    Ok(Json(KeyStory {
        scope: key.scope.name().map(str::to_owned),
        key: key.key,
        id: record.id.to_string(),
        accepted_at: record.accepted_at.to_string(),
        expires_at: told(record.expires_at).unwrap_or_default(),
        replays,
        last_replay_at,
        message,
    }))
}

/// `DELETE /api/v1/keys`: what comes under it next is a first submission.
pub(super) async fn forget(
    State(shared): State<Arc<Shared>>,
    Operator(caller): Operator,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, Refusal> {
    let key = read(query.as_deref())?;
    let (store, wanted) = (shared.store.clone(), key.clone());
    // Of its own: it is logged also when the client is gone meanwhile.
    let work = tokio::spawn(async move {
        let forgotten = store.forget_key(&wanted).await;
        if let Ok(Forgotten::Key(record)) = &forgotten {
            let what = format!("{:?} of {:?}", wanted.key, wanted.scope.name());
            super::audit(&caller, "forget key", &what, &record.id.to_string());
        }
        forgotten
    });
    match work.await.map_err(|error| Refusal::broken("the key could not be forgotten", &error))?? {
        Forgotten::Key(_) => {}
        Forgotten::Unknown => return Err(unknown(&key)),
        Forgotten::TooMany => {
            return Err(Refusal::busy("too many keys were forgotten before their time: later again"));
        }
    }
    Ok(StatusCode::NO_CONTENT)
}

fn read(query: Option<&str>) -> Result<ScopedKey, Refusal> {
    let query = Parameters::read(query, KNOWN)?;
    Ok(ScopedKey {
        scope: query.text("scope").map_or_else(Scope::anonymous, Scope::named),
        kind: query.choice("kind", KeyKind::Header, KINDS)?,
        key: query.required("key")?.to_owned(),
    })
}

fn unknown(key: &ScopedKey) -> Refusal {
    let whose = match key.scope.name() {
        Some(scope) => format!("the scope {scope:?}"),
        None => "clients that did not authenticate (say whose it is with `scope`)".to_owned(),
    };
    Refusal::not_found(format!("no such key of {whose}, or it has expired"))
}
