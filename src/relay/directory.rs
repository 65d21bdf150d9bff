//! The `directory` transport: one `.eml` per message, byte for byte, and a `.json` beside it with the envelope.
//!
//! Both are named after the queue id, and appear whole or not at all: a message that comes here a second time, after a
//! crash in between, replaces itself. The `.eml` appears last, so that who waits for it finds the `.json`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::transaction::Answer;
use crate::mail::Message;
use crate::queue::End;

/// One directory.
pub(super) struct Directory {
    path: PathBuf,
}

impl Directory {
    /// Makes the directory if it is missing. Mail is private: nobody but us reads what is made here.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        // Two spellings of one directory must be seen to be one.
        Ok(Self { path: path.canonicalize()? })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Writes one message, durably; away from the async threads.
    pub(super) async fn attempt(&self, message: &Arc<Message>, recipients: &[usize]) -> Answer {
        let (directory, written, recipients) = (self.path.clone(), message.clone(), recipients.to_vec());
        let writing = tokio::task::spawn_blocking(move || write(&directory, &written, &recipients));
        match writing.await {
            Ok(Ok(())) => Answer::local(End::Delivered, format!("2.0.0 saved as {}.eml", message.id)),
            Ok(Err(error)) => Answer::local(End::Deferred, format!("4.3.0 not saved: {error}")),
            Err(error) => Answer::local(End::Deferred, format!("4.3.0 not saved: {error}")),
        }
    }
}

fn write(directory: &Path, message: &Message, recipients: &[usize]) -> io::Result<()> {
    let mut envelope = serde_json::to_vec_pretty(&envelope(message, recipients))?;
    envelope.push(b'\n');
    publish(directory, &format!("{}.json", message.id), &envelope)?;
    publish(directory, &format!("{}.eml", message.id), &message.content)?;
    File::open(directory)?.sync_all()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the directory transport's own files: made whole, then renamed"
)]
fn publish(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let unfinished = directory.join(format!(".{name}.tmp"));
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&unfinished, directory.join(name))
    };
    write().inspect_err(|_| {
        // A full disk is not helped by half a message.
        let _ = fs::remove_file(&unfinished);
    })
}

fn envelope(message: &Message, recipients: &[usize]) -> serde_json::Value {
    let forward_paths: Vec<_> = recipients
        .iter()
        .filter_map(|number| message.envelope.recipients.get(*number))
        .map(|recipient| recipient.forward_path.as_str())
        .collect();
    json!({
        "queue_id": message.id.to_string(),
        "accepted_at": message.accepted_at.to_string(),
        "reverse_path": message.envelope.reverse_path.as_str(),
        "recipients": forward_paths,
        "key": message.key.as_ref().map(|key| &key.key),
        "message_id": message.message_id,
        "user": message.origin.user,
        "listener": message.origin.listener,
    })
}
