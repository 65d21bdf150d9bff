//! Looks through what is remembered: one message by its id, or all that match, newest first.

use std::io;
use std::path::Path;

use super::log::View;
use super::record::{self, FRAME, Next};
use super::segment::{Entry, HEADER, read_body, segment_name};
use super::{Ended, Past, PastPage, PastWanted};
use crate::clock::Timestamp;
use crate::mail::{Address, QueueId, RecipientProgress, ReversePath, domain};
use crate::store::files::{Files, StoreFile};

/// Replays that are given back of one message.
const MOST_REPLAYS: usize = 100;
/// Bytes read for one page at most.
const MOST_READ: u64 = 32 << 20;
/// Bytes read at a time.
const CHUNK: u64 = 256 << 10;

/// What is remembered of a message: the newest of its replays.
///
/// # Errors
/// The system's.
pub fn find(files: &dyn Files, dir: &Path, view: View, id: QueueId) -> io::Result<Option<Past>> {
    let mut past = Past { id, ended: None, replays: Vec::new(), replay_count: 0 };
    let mut found_any = false;
    let most = MOST_REPLAYS as u64 + 1;
    let open = view.open.map(|(number, _, mut entries)| {
        entries.sort_unstable();
        (number, entries.len() as u64, entries)
    });
    let sealed = view.sealed.iter().rev().map(|segment| {
        let (count, entries) = segment.find(files, dir, id, most)?;
        Ok((segment.number, count, entries))
    });
    for part in open.into_iter().map(Ok).chain(sealed) {
        let (number, count, entries) = match part {
            // Its time was up a moment ago.
            Err(error) if is_gone(&error) => continue,
            other => other?,
        };
        if entries.is_empty() {
            continue;
        }
        found_any = true;
        let ends = entries.iter().filter(|entry| entry.is_end()).count() as u64;
        past.replay_count += count.saturating_sub(ends);
        match files.open(&dir.join(segment_name(number))) {
            Ok(file) => read_part(&*file, &entries, &mut past)?,
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    past.replays.reverse();
    Ok(found_any.then_some(past))
}

fn read_part(file: &dyn StoreFile, entries: &[Entry], past: &mut Past) -> io::Result<()> {
    for entry in entries.iter().rev() {
        let is_wanted = if entry.is_end() { past.ended.is_none() } else { past.replays.len() < MOST_REPLAYS };
        if !is_wanted {
            continue;
        }
        let Some(body) = undamaged(read_body(file, entry.offset()))? else { continue };
        if entry.is_end() {
            past.ended = record::decode_ended(&body).ok().filter(|(id, _)| *id == past.id).map(|(_, e)| e);
        } else if let Ok((id, at, client)) = record::decode_replayed(&body)
            && id == past.id
        {
            past.replays.push((at, client));
        }
    }
    Ok(())
}

/// Damage costs the record that it is in.
fn undamaged(read: io::Result<Vec<u8>>) -> io::Result<Option<Vec<u8>>> {
    match read {
        Ok(body) => Ok(Some(body)),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) => {
            tracing::warn!(%error, "a record of the history cannot be read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// A page of ends, from `after` on backwards.
///
/// # Errors
/// The system's; `InvalidInput` when `after` is nothing that a page has said.
pub fn search(
    files: &dyn Files,
    dir: &Path,
    view: &View,
    wanted: &PastWanted,
    after: Option<&str>,
    most: usize,
) -> io::Result<PastPage> {
    let filter = Filter::new(wanted);
    let from = after.map(cursor).transpose()?.unwrap_or((u32::MAX, u64::MAX));
    let mut page = Page { page: PastPage::default(), most: most.max(1), read: 0, next: None };
    let open = view.open.iter().map(|(number, len, entries)| (*number, *len, Some(entries)));
    let sealed = view.sealed.iter().rev().map(|segment| (segment.number, segment.data_len, None));
    for (number, len, open_entries) in open.chain(sealed) {
        if number > from.0 {
            continue;
        }
        let sealed = view.sealed.iter().find(|segment| segment.number == number);
        let entries = match (open_entries, sealed) {
            (Some(entries), _) => Ok(entries.clone()),
            (None, Some(segment)) if filter.is_too_late_for(segment.span.last) => continue,
            (None, Some(segment)) => segment.entries(files, dir),
            (None, None) => continue,
        };
        let file = files.open(&dir.join(segment_name(number)));
        let (entries, file) = match entries.and_then(|entries| Ok((entries, file?))) {
            Err(error) if is_gone(&error) => continue,
            other => other?,
        };
        let before = if number == from.0 { from.1 } else { u64::MAX };
        let mut offsets: Vec<u64> =
            entries.iter().filter(|e| e.is_end() && e.offset() < before).map(|e| e.offset()).collect();
        offsets.sort_unstable_by(|one, other| other.cmp(one));
        page.segment(&*file, number, len.min(before), &offsets, &filter)?;
        if page.next.is_some() {
            break;
        }
    }
    page.page.next = page.next.map(|(number, offset)| format!("{number}:{offset}"));
    Ok(page.page)
}

fn cursor(text: &str) -> io::Result<(u32, u64)> {
    let parts = text.split_once(':').and_then(|(number, offset)| {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let offset = Some(offset).filter(|part| is_number(part))?.parse().ok()?;
        Some((Some(number).filter(|part| is_number(part))?.parse().ok()?, offset))
    });
    let known = parts.filter(|(_, offset)| *offset >= HEADER as u64);
    known.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "this is no place in the history"))
}

struct Page {
    page: PastPage,
    most: usize,
    read: u64,
    /// Where to go on, once the page is full or enough has been read.
    next: Option<(u32, u64)>,
}

impl Page {
    /// Adds what matches of the records at `offsets`, the last first, which stand before `end`.
    fn segment(
        &mut self,
        file: &dyn StoreFile,
        number: u32,
        mut end: u64,
        mut offsets: &[u64],
        filter: &Filter,
    ) -> io::Result<()> {
        while let Some(last) = offsets.first() {
            if self.read >= MOST_READ {
                self.next = Some((number, end));
                return Ok(());
            }
            // As many as stand within one chunk, and at least one.
            let count =
                offsets.iter().take_while(|offset| end.saturating_sub(**offset) <= CHUNK).count().max(1);
            let (some, rest) = offsets.split_at(count);
            let start = some.last().copied().unwrap_or(*last);
            let mut bytes =
                vec![0; usize::try_from(end.saturating_sub(start).min(CHUNK)).unwrap_or_default()];
            match file.read_at(start, &mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => bytes.clear(),
                other => other?,
            }
            self.read += bytes.len() as u64;
            for offset in some {
                let at = usize::try_from(offset - start).unwrap_or(usize::MAX);
                let body = match record::next(bytes.get(at..).unwrap_or_default()) {
                    Next::Record(body, _) => Some(body.to_vec()),
                    _ => undamaged(read_body(file, *offset))?.inspect(|body| {
                        self.read += (FRAME + body.len()) as u64;
                    }),
                };
                let Some(found) = body.and_then(|body| filter.pick(&body)) else { continue };
                self.page.messages.push(found);
                if self.page.messages.len() >= self.most {
                    self.next = Some((number, *offset));
                    return Ok(());
                }
            }
            (end, offsets) = (start, rest);
        }
        Ok(())
    }
}

/// What is wanted, in the spelling that things are compared in.
struct Filter<'a> {
    wanted: &'a PastWanted,
    to: Option<String>,
    from: Option<String>,
}

impl<'a> Filter<'a> {
    fn new(wanted: &'a PastWanted) -> Self {
        let canonical = |text: &String| match Address::parse(text) {
            Ok(address) => address.canonical(),
            Err(_) => text.clone(),
        };
        Self { wanted, to: wanted.to.as_ref().map(canonical), from: wanted.from.as_ref().map(canonical) }
    }

    /// Whether nothing that ended at `last` or before it can match: it was accepted before that.
    fn is_too_late_for(&self, last: Timestamp) -> bool {
        self.wanted.accepted_from.is_some_and(|from| last < from)
    }

    fn pick(&self, body: &[u8]) -> Option<(QueueId, Ended)> {
        let accepted_at = record::decode_accepted_at(body).ok()?;
        let is_in_time = self.wanted.accepted_before.is_none_or(|before| accepted_at < before)
            && self.wanted.accepted_from.is_none_or(|from| accepted_at >= from);
        if !is_in_time {
            return None;
        }
        record::decode_ended(body).ok().filter(|(_, ended)| self.takes(ended))
    }

    fn takes(&self, ended: &Ended) -> bool {
        let is_users =
            self.wanted.user.as_ref().is_none_or(|user| ended.user.as_deref() == Some(user.as_str()));
        is_users
            && self.from.as_ref().is_none_or(|from| is_from(from, &ended.reverse_path))
            && (self.is_any_recipient()
                || ended.recipients.iter().any(|(to, reached)| self.reaches(to, reached)))
    }

    fn is_any_recipient(&self) -> bool {
        let PastWanted { states, to, to_domain, route, .. } = self.wanted;
        states.is_empty() && to.is_none() && to_domain.is_none() && route.is_none()
    }

    /// What is asked about a recipient has to hold for one and the same.
    fn reaches(&self, to: &str, reached: &RecipientProgress) -> bool {
        let last = || reached.replies.last().map(|reply| reply.route.as_str());
        let address = || Address::parse(to).ok();
        (self.wanted.states.is_empty() || self.wanted.states.contains(&reached.state))
            && self.wanted.route.as_ref().is_none_or(|route| last() == Some(route.as_str()))
            && self.to.as_ref().is_none_or(|to| address().is_some_and(|address| address.canonical() == *to))
            && self.wanted.to_domain.as_ref().is_none_or(|pattern| {
                address().is_some_and(|a| a.domain().is_some_and(|domain| is_in_domain(pattern, domain)))
            })
    }
}

/// `user@domain`, `@domain`, or `<>`.
fn is_from(wanted: &str, reverse_path: &ReversePath) -> bool {
    let Some(mailbox) = reverse_path.mailbox() else { return wanted == "<>" };
    match wanted.strip_prefix('@') {
        Some(pattern) => mailbox.domain().is_some_and(|domain| is_in_domain(pattern, domain)),
        None => mailbox.canonical() == wanted,
    }
}

/// Exact, or under a `*.suffix`, however either is spelled: as routes are matched.
fn is_in_domain(pattern: &str, name: &str) -> bool {
    let name = domain::canonical(name);
    match pattern.strip_prefix("*.") {
        None => name == domain::canonical(pattern),
        Some(suffix) => name
            .strip_suffix(&*domain::canonical(suffix))
            .and_then(|above| above.strip_suffix('.'))
            .is_some_and(|above| !above.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::store::files::RealFiles;
    use crate::store::history::segment::{Segment, Span, header};

    #[test]
    fn a_cursor_is_two_numbers_and_nothing_else() {
        assert_eq!(cursor("3:20").unwrap(), (3, 20));
        for wrong in ["", ":", "3", "3:", ":20", "3:19", "3:+20", "-3:20", "3:20:1", "a:20", "99999999999:20"]
        {
            assert_eq!(cursor(wrong).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{wrong}");
        }
    }

    #[test]
    fn senders_and_domains_match_as_the_queues_filter_says() {
        let sender = |text: &str| match text {
            "" => ReversePath::Null,
            text => ReversePath::Mailbox(Address::parse(text).unwrap()),
        };
        for (wanted, from, expected) in [
            ("<>", "", true),
            ("<>", "a@x.example", false),
            ("a@x.example", "a@X.Example", true),
            ("a@x.example", "A@x.example", false),
            ("@bücher.example", "a@xn--bcher-kva.example", true),
            ("@x.example", "a@sub.x.example", false),
            ("@x.example", "", false),
        ] {
            let wanted = PastWanted { from: Some(wanted.into()), ..PastWanted::default() };
            let from_filter = Filter::new(&wanted).from.unwrap();
            assert_eq!(is_from(&from_filter, &sender(from)), expected, "{from_filter} {from}");
        }
        assert!(is_in_domain("*.x.example", "a.X.example") && !is_in_domain("*.x.example", "x.example"));
    }

    #[test]
    fn d4_an_index_that_points_behind_its_segment_finds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = RealFiles.create(&dir.path().join(segment_name(1))).unwrap();
        file.write_at(0, &[IoSlice::new(&header(1))]).unwrap();
        let mut entries = [Entry::new(QueueId::from_bytes([1; 16]), 4000, true)];
        let mut span = Span::default();
        span.add(Timestamp::from_millis(1_795_343_400_000));
        let segment = Segment::write(&RealFiles, dir.path(), 1, HEADER as u64, span, &mut entries).unwrap();
        let view = View { sealed: vec![segment.into()], open: None };
        let page = search(&RealFiles, dir.path(), &view, &PastWanted::default(), None, 10).unwrap();
        assert!(page.messages.is_empty());
    }
}
