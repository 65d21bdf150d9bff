//! What stands in the bodies of journal records. `docs/store.md` has the layouts as tables.
//!
//! Numbers are big-endian, texts and lists carry a u32 length. Reading never panics, whatever the bytes are, and never
//! sets memory aside for a length that the bytes do not cover.

mod accepted;
mod attempted;
#[cfg(test)]
mod tests;

pub use accepted::{
    AcceptedHead, accepted_body, decode_accepted, decode_accepted_head, decode_envelope, decode_handling,
    decode_notice_head, encode_accepted, encode_notice, read_client, read_scoped_key, write_client,
    write_scoped_key,
};
pub use attempted::{
    decode_attempted, decode_attempted_head, decode_finished, decode_forgotten, encode_attempted,
    encode_finished, encode_forgotten, read_progress, without_notices, write_progress,
};

use super::KeyRecord;
use crate::clock::Timestamp;
use crate::mail::{Fingerprint, FingerprintMode, QueueId};

/// The bytes are not what the layout says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} does not follow the record's layout")]
pub struct Malformed(pub &'static str);

/// Collects a body.
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Bytes without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A count or a length. Nothing that the relay takes comes near 4 GiB; what does is caught by the record's bound.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX));
    }

    /// A text with its length.
    pub fn text(&mut self, text: &str) {
        self.count(text.len());
        self.raw(text.as_bytes());
    }

    /// A text, or that there is none.
    pub fn optional_text(&mut self, text: Option<&str>) {
        self.u8(text.is_some().into());
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        self.u8(fingerprint.version);
        self.u8(match fingerprint.mode {
            FingerprintMode::Content => 0,
            FingerprintMode::Exact => 1,
        });
        self.raw(&fingerprint.envelope);
        self.raw(&fingerprint.content);
    }

    /// A key record: fingerprint, queue id, acceptance, expiry; [`KEY_VALUE_LEN`] bytes.
    pub fn key_record(&mut self, record: &KeyRecord) {
        self.fingerprint(&record.fingerprint);
        self.raw(&record.id.to_bytes());
        self.u64(record.accepted_at.as_millis());
        self.u64(record.expires_at.as_millis());
    }
}

/// Length of a key record in the index and in `Key` records, bytes.
pub const KEY_VALUE_LEN: usize = 66 + 16 + 8 + 8;

/// Takes a body apart.
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// The next `len` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed("a length"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed("a length"))
    }

    /// One byte.
    ///
    /// # Errors
    /// When none is left.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Four bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A queue id.
    ///
    /// # Errors
    /// When fewer than 16 bytes are left.
    pub fn id(&mut self) -> Result<QueueId, Malformed> {
        Ok(QueueId::from_bytes(self.array()?))
    }

    /// A point in time.
    ///
    /// # Errors
    /// When fewer than 8 bytes are left.
    pub fn time(&mut self) -> Result<Timestamp, Malformed> {
        Ok(Timestamp::from_millis(self.u64()?))
    }

    /// A text with its length.
    ///
    /// # Errors
    /// When it is none.
    pub fn text(&mut self) -> Result<&'a str, Malformed> {
        let len = self.u32()? as usize;
        str::from_utf8(self.take(len)?).map_err(|_| Malformed("a text"))
    }

    /// Yes or no.
    ///
    /// # Errors
    /// When it is neither.
    pub fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed("a flag")),
        }
    }

    /// A text, or that there is none.
    ///
    /// # Errors
    /// When it is neither.
    pub fn optional_text(&mut self) -> Result<Option<&'a str>, Malformed> {
        Ok(if self.flag()? { Some(self.text()?) } else { None })
    }

    /// A count of things that take at least `least` bytes each.
    ///
    /// # Errors
    /// When fewer bytes are left.
    pub fn count(&mut self, least: usize) -> Result<usize, Malformed> {
        let count = self.u32()? as usize;
        if count > self.0.len() / least {
            return Err(Malformed("a count"));
        }
        Ok(count)
    }

    fn fingerprint(&mut self) -> Result<Fingerprint, Malformed> {
        let version = self.u8()?;
        let mode = match self.u8()? {
            0 => FingerprintMode::Content,
            1 => FingerprintMode::Exact,
            _ => return Err(Malformed("a fingerprint's mode")),
        };
        Ok(Fingerprint { version, mode, envelope: self.array()?, content: self.array()? })
    }

    /// What [`Writer::key_record`] wrote.
    ///
    /// # Errors
    /// When it is none.
    pub fn key_record(&mut self) -> Result<KeyRecord, Malformed> {
        let fingerprint = self.fingerprint()?;
        Ok(KeyRecord { id: self.id()?, fingerprint, accepted_at: self.time()?, expires_at: self.time()? })
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// When something does.
    pub fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed("the end")) }
    }
}
