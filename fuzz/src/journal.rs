//! The store's files, written as `docs/store.md` lays them out: an encoder of its own, so that recovery is not tested
//! with its own idea of them.

/// The mark of every journal here.
pub const MARK: [u8; 8] = *b"fuzzmark";
/// What every segment begins with.
pub const HEADER: usize = 28;

/// Kinds of records.
pub const ACCEPTED: u8 = 1;
/// See [`ACCEPTED`].
pub const ATTEMPTED: u8 = 2;
/// See [`ACCEPTED`].
pub const FINISHED: u8 = 3;
/// See [`ACCEPTED`].
pub const KEY: u8 = 4;
/// See [`ACCEPTED`].
pub const NOTICE: u8 = 5;
/// See [`ACCEPTED`].
pub const FORGOTTEN: u8 = 6;

/// A number with its CRC32C behind it.
pub fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// A segment under construction.
pub struct Segment {
    /// As in its name.
    pub number: u32,
    /// All of it so far.
    pub bytes: Vec<u8>,
}

impl Segment {
    /// A header and nothing else.
    pub fn new(number: u32) -> Self {
        let head = [&b"oncejrnl"[..], &1u32.to_be_bytes(), &number.to_be_bytes(), &MARK].concat();
        Self { number, bytes: sealed(head) }
    }

    /// Adds a record; gives back where it begins.
    pub fn add(&mut self, kind: u8, body: &[u8]) -> usize {
        let at = self.bytes.len();
        let content = [&[kind][..], body].concat();
        let place = [self.number.to_be_bytes(), u32::try_from(at).unwrap_or_default().to_be_bytes()].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&content), &place);
        self.bytes.extend_from_slice(&MARK);
        self.bytes.extend_from_slice(&u32::try_from(content.len()).unwrap_or_default().to_be_bytes());
        self.bytes.extend_from_slice(&crc.to_be_bytes());
        self.bytes.extend_from_slice(&content);
        at
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("{:08}.seg", self.number)
    }
}

/// What a body is written into.
#[derive(Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    /// Octets as they are.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A text with its length.
    pub fn text(self, text: &[u8]) -> Self {
        self.raw(&u32::try_from(text.len()).unwrap_or_default().to_be_bytes()).raw(text)
    }

    /// A text that may be missing.
    pub fn optional(self, text: Option<&[u8]>) -> Self {
        match text {
            None => self.raw(&[0]),
            Some(text) => self.raw(&[1]).text(text),
        }
    }

    /// `Accepted`: from `a@example.com` to `recipients` people.
    pub fn accepted(
        self,
        id: [u8; 16],
        at: u64,
        key: Option<(&[u8], u64)>,
        recipients: u32,
        content: &[u8],
    ) -> Self {
        let mut body = self.raw(&id).raw(&at.to_be_bytes());
        body = match key {
            None => body.raw(&[0]),
            Some((key, expires_at)) => {
                body.raw(&[1, 0, 0]).text(key).raw(&fingerprint(id)).raw(&expires_at.to_be_bytes())
            }
        };
        // Listener, user, client; reverse-path, BODY, marks, RET, ENVID.
        body = body
            .text(b"submission")
            .raw(&[0, 4, 192, 0, 2, 1])
            .optional(Some(b"a@example.com"))
            .raw(&[0, 0, 0, 0]);
        body = body.raw(&recipients.to_be_bytes());
        for number in 0..recipients {
            body = body.text(format!("r{number}@example.org").as_bytes()).raw(&[0, 0]);
        }
        body.text(b"<1@example.com>").text(content)
    }

    /// `Attempted`: every recipient queued again, or held; with so many notices in front.
    pub fn attempted(self, id: [u8; 16], queued: bool, due: u64, recipients: u32, notices: u32) -> Self {
        let marks = u8::from(queued) | if notices > 0 { 4 } else { 0 };
        let mut body = self.raw(&id).raw(&[marks]).raw(&due.to_be_bytes());
        if notices > 0 {
            body = body.raw(&notices.to_be_bytes());
        }
        body = body.raw(&1u32.to_be_bytes()).raw(&recipients.to_be_bytes());
        for _ in 0..recipients {
            // State, attempts, and one reply: when, code, times, route, host, text.
            body = body.raw(&[if queued { 0 } else { 3 }]).raw(&1u32.to_be_bytes()).raw(&1u32.to_be_bytes());
            body = body.raw(&due.to_be_bytes()).raw(&450u16.to_be_bytes()).raw(&1u32.to_be_bytes());
            body = body.text(b"default").text(b"mx.example.org").text(b"later");
        }
        body
    }

    /// `Finished`, with so many notices in front.
    pub fn finished(self, id: [u8; 16], notices: u32) -> Self {
        let body = self.raw(&id);
        if notices > 0 { body.raw(&notices.to_be_bytes()) } else { body }
    }
}

/// The fingerprint of the message of this id: version, mode, envelope, content.
pub fn fingerprint(id: [u8; 16]) -> Vec<u8> {
    [&[1, 0][..], &[id[0]; 32], &[id[1]; 32]].concat()
}

/// A run of the index: entries of key hash and record, each with its checksum.
pub fn run(bucket: u32, entries: &[([u8; 16], Vec<u8>)], blocks: u64) -> Vec<u8> {
    let mut out = Vec::new();
    for (hash, record) in entries {
        let entry = [&hash[..], &record[..]].concat();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bucket.to_be_bytes()), &entry);
        out.extend_from_slice(&entry);
        out.extend_from_slice(&crc.to_be_bytes());
    }
    let mut rest: Vec<u8> = entries.iter().step_by(64).flat_map(|(hash, _)| hash[..8].to_vec()).collect();
    // A filter that has everything: every lookup reads the entries.
    rest.resize(rest.len() + usize::try_from(blocks * 64).unwrap_or(0), 0xff);
    let footer = Body::default().raw(b"oncekeys").raw(&1u32.to_be_bytes()).raw(&bucket.to_be_bytes());
    let footer = footer.raw(&(entries.len() as u64).to_be_bytes()).raw(&blocks.to_be_bytes()).0;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&rest), &footer);
    [out, rest, footer, crc.to_be_bytes().to_vec()].concat()
}

/// What a checkpoint says of a message: id, places of its two records, the rest.
pub struct Living {
    /// Its id.
    pub id: [u8; 16],
    /// Segment, offset, length; of `Accepted`, then of `Attempted`.
    pub places: [[u32; 3]; 2],
    /// When it is due.
    pub due: u64,
    /// Marks, bucket and priority.
    pub rest: (u8, u32, u8),
}

/// A checkpoint.
pub fn checkpoint(runs: &[u32], position: (u32, u64), segments: &[u32], messages: &[Living]) -> Vec<u8> {
    let count = |len: usize| (len as u64).to_be_bytes();
    let mut body =
        Body::default().raw(b"oncechkp").raw(&4u32.to_be_bytes()).raw(&MARK).raw(&count(runs.len()));
    for run in runs {
        body = body.raw(&run.to_be_bytes());
    }
    body = body.raw(&position.0.to_be_bytes()).raw(&position.1.to_be_bytes()).raw(&count(segments.len()));
    for segment in segments {
        // Number, bytes, living bytes; no keys.
        body = body.raw(&segment.to_be_bytes()).raw(&position.1.to_be_bytes()).raw(&count(0)).raw(&count(0));
    }
    body = body.raw(&count(messages.len()));
    for message in messages {
        body = body.raw(&message.id);
        for number in message.places.iter().flatten() {
            body = body.raw(&number.to_be_bytes());
        }
        let (marks, bucket, priority) = message.rest;
        body = body.raw(&message.due.to_be_bytes()).raw(&[marks]).raw(&bucket.to_be_bytes()).raw(&[priority]);
    }
    body.raw(&count(0)).0
}
