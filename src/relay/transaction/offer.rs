//! The offer: MAIL, RCPT… and DATA, pipelined where the far side can (RFC 2920).

use std::time::Duration;

use super::replies::Replies;
use super::{Parcel, Session};
use crate::relay::commands::{self, Needs};
use crate::relay::opening::Trouble;
use crate::relay::options::Timeouts;
use crate::smtp::Reply;

/// RCPT commands that are written before their replies are read: neither side's buffers can fill up (RFC 2920 §3.1).
const RCPTS_PER_WRITE: usize = 100;

impl Session {
    /// MAIL, RCPT… and DATA, and the replies to them.
    pub(super) async fn offer(
        &mut self,
        parcel: Parcel<'_>,
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        self.wire.expect_silence().await.map_err(|error| Trouble::lost("MAIL", &error))?;
        if self.capabilities.pipelining {
            self.offer_pipelined(parcel, needs, timeouts).await
        } else {
            self.offer_in_turn(parcel, needs, timeouts).await
        }
    }

    async fn offer_pipelined(
        &mut self,
        parcel: Parcel<'_>,
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        let Parcel { message, recipients, .. } = parcel;
        let limit = timeouts.command;
        let mut lines = String::with_capacity(256);
        let resets = std::mem::take(&mut self.needs_reset);
        if resets {
            lines.push_str("RSET\r\n");
        }
        commands::mail(&mut lines, message, parcel.size(), needs, &self.capabilities);
        let mut replies: Option<Replies> = None;
        let mut groups = recipients.chunks(RCPTS_PER_WRITE).peekable();
        while let Some(group) = groups.next() {
            for recipient in group.iter().filter_map(|number| message.envelope.recipients.get(*number)) {
                commands::rcpt(&mut lines, recipient, &self.capabilities);
            }
            let is_last = groups.peek().is_none();
            if is_last {
                lines.push_str("DATA\r\n");
            }
            self.wire.send(lines.as_bytes(), limit).await.map_err(|error| Trouble::lost("MAIL", &error))?;
            lines.clear();
            let so_far = match &mut replies {
                Some(so_far) => so_far,
                None => {
                    if resets {
                        self.read_reset(limit).await?;
                    }
                    replies.insert(Replies::new(self.read("MAIL", limit).await?))
                }
            };
            if !so_far.broken {
                self.read_group(so_far, group.len(), is_last, timeouts).await?;
            }
            if so_far.broken || !so_far.mail.is_positive() {
                break;
            }
        }
        replies.ok_or_else(|| Trouble::local("a message without recipients"))
    }

    /// The replies to one pipelined group. Once it is clear that nothing is sent, a lost connection loses nothing.
    async fn read_group(
        &mut self,
        replies: &mut Replies,
        rcpts: usize,
        with_data: bool,
        timeouts: &Timeouts,
    ) -> Result<(), Trouble> {
        for _ in 0..rcpts {
            match self.read("RCPT", timeouts.command).await {
                Ok(reply) => replies.add_rcpt(&reply),
                Err(trouble) => return replies.broken_off(trouble, false),
            }
            if replies.broken {
                return Ok(());
            }
        }
        if with_data {
            match self.read("DATA", timeouts.data_initiation).await {
                Ok(reply) => replies.data = Some(reply),
                Err(trouble) => return replies.broken_off(trouble, true),
            }
        }
        Ok(())
    }

    async fn offer_in_turn(
        &mut self,
        parcel: Parcel<'_>,
        needs: Needs,
        timeouts: &Timeouts,
    ) -> Result<Replies, Trouble> {
        let Parcel { message, recipients, .. } = parcel;
        let limit = timeouts.command;
        if std::mem::take(&mut self.needs_reset) {
            self.wire.send(b"RSET\r\n", limit).await.map_err(|error| Trouble::lost("RSET", &error))?;
            self.read_reset(limit).await?;
        }
        let mut line = String::with_capacity(128);
        commands::mail(&mut line, message, parcel.size(), needs, &self.capabilities);
        let mail = self.wire.command(&line, limit).await.map_err(|error| Trouble::lost("MAIL", &error))?;
        let mut replies = Replies::new(mail);
        if !replies.mail.is_positive() {
            return Ok(replies);
        }
        for recipient in recipients.iter().filter_map(|number| message.envelope.recipients.get(*number)) {
            line.clear();
            commands::rcpt(&mut line, recipient, &self.capabilities);
            let reply =
                self.wire.command(&line, limit).await.map_err(|error| Trouble::lost("RCPT", &error))?;
            replies.add_rcpt(&reply);
            if replies.broken {
                return Ok(replies);
            }
        }
        if replies.rcpts.iter().any(Reply::is_positive) {
            let sent = self.wire.send(b"DATA\r\n", limit).await;
            sent.map_err(|error| Trouble::lost("DATA", &error))?;
            replies.data = Some(self.read("DATA", timeouts.data_initiation).await?);
        }
        Ok(replies)
    }

    async fn read(&mut self, step: &str, limit: Duration) -> Result<Reply, Trouble> {
        self.wire.reply(limit).await.map_err(|error| Trouble::lost(step, &error))
    }

    async fn read_reset(&mut self, limit: Duration) -> Result<(), Trouble> {
        let reply = self.read("RSET", limit).await?;
        if reply.is_positive() { Ok(()) } else { Err(Trouble::refused("RSET", &reply)) }
    }
}
