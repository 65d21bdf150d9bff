//! sled, in front of the journal: bucket and key hash → what the key remembers.
//!
//! It is never the truth: everything in it can be made again from the journal, and is, whenever it does not open or
//! does not match. It must never be asked on a tokio worker; only [`Index::candidates`] may be, which reads memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use super::KeyRecord;
use super::codec::{Reader, Writer};
use super::filter::Filter;
use super::keys::{Bucket, KeyHash};

/// Keys noted in the filters at a time, so that lookups wait for microseconds only.
const NOTE_AT_ONCE: usize = 1024;

/// See the module.
pub struct Index {
    db: sled::Db,
    keys: sled::Tree,
    path: PathBuf,
    buckets: RwLock<BTreeMap<Bucket, BucketFilter>>,
}

/// What is known of a bucket without reading it.
enum BucketFilter {
    /// It was there at the start and has not been read through: anything may be in it. What has been added since, or
    /// was read already, is collected.
    Unread(Filter),
    /// Complete.
    Ready(Filter),
}

/// Opening, reading or writing the index failed.
#[derive(Debug, thiserror::Error)]
#[error("the index: {0}")]
pub struct IndexError(String);

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<io::Error> for IndexError {
    fn from(error: io::Error) -> Self {
        Self(error.to_string())
    }
}

impl Index {
    /// Opens the index in `path`, or makes one.
    ///
    /// # Errors
    /// Also when sled panics over what it finds.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, IndexError> {
        let config = sled::Config::new()
            .path(path)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::HighThroughput)
            .flush_every_ms(None);
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let db = config.open()?;
            let keys = db.open_tree("keys")?;
            let buckets = find_buckets(&keys)?;
            Ok::<_, IndexError>((db, keys, buckets))
        }));
        let (db, keys, buckets) = opened.map_err(|_| IndexError("sled panicked while opening".into()))??;
        let unread = |bucket| (bucket, BucketFilter::Unread(Filter::default()));
        let buckets = RwLock::new(buckets.into_iter().map(unread).collect());
        Ok(Self { db, keys, path: path.to_owned(), buckets })
    }

    /// The token of the last checkpoint that this index was part of.
    ///
    /// # Errors
    /// sled's.
    pub fn token(&self) -> Result<Option<u64>, IndexError> {
        let token = self.db.get("checkpoint")?;
        Ok(token.and_then(|t| t.as_ref().try_into().ok()).map(u64::from_be_bytes))
    }

    /// Notes the checkpoint, and makes everything durable.
    ///
    /// # Errors
    /// sled's, or the system's.
    pub fn checkpoint(&self, token: u64) -> Result<(), IndexError> {
        self.db.insert("checkpoint", &token.to_be_bytes())?;
        self.db.flush()?;
        // sled's flush does not sync on Linux.
        Ok(sync_tree(&self.path)?)
    }

    /// Puts keys in.
    ///
    /// # Errors
    /// sled's.
    pub fn insert<'a>(
        &self,
        records: impl Iterator<Item = (Bucket, &'a KeyHash, &'a KeyRecord)>,
    ) -> Result<(), IndexError> {
        let mut sorted: Vec<_> = records.collect();
        sorted.sort_unstable_by_key(|(bucket, hash, _)| (*bucket, *hash));
        for (bucket, hash, record) in &sorted {
            let mut value = Writer(Vec::with_capacity(super::codec::KEY_VALUE_LEN));
            value.key_record(record);
            self.keys.insert(index_key(*bucket, hash), value.0)?;
        }
        for some in sorted.chunks(NOTE_AT_ONCE) {
            let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
            for (bucket, hash, _) in some {
                let ready = || BucketFilter::Ready(Filter::default());
                buckets.entry(*bucket).or_insert_with(ready).filter_mut().insert(hash);
            }
        }
        Ok(())
    }

    /// The buckets that may hold a key. Reads memory only.
    pub fn candidates(&self, hash: &KeyHash) -> Vec<Bucket> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.iter().filter(|(_, filter)| filter.may_contain(hash)).map(|(bucket, _)| *bucket).collect()
    }

    /// What the index holds of a key in these buckets. Reads the disk.
    ///
    /// # Errors
    /// sled's, or a value that does not follow its layout.
    pub fn read(&self, hash: &KeyHash, buckets: &[Bucket]) -> Result<Vec<KeyRecord>, IndexError> {
        let mut found = Vec::new();
        for bucket in buckets {
            if let Some(value) = self.keys.get(index_key(*bucket, hash))? {
                found.push(decode(&value)?);
            }
        }
        Ok(found)
    }

    /// The first keys of the buckets before `end`, at most `limit`.
    ///
    /// # Errors
    /// sled's, or an entry that does not follow its layout.
    pub fn first_before(
        &self,
        end: Bucket,
        limit: usize,
    ) -> Result<Vec<(Bucket, KeyHash, KeyRecord)>, IndexError> {
        let range = self.keys.range(..index_key(end, &KeyHash::default()));
        range.take(limit).map(|entry| decode_entry(&entry?)).collect()
    }

    /// Takes keys out.
    ///
    /// # Errors
    /// sled's.
    pub fn remove(&self, keys: &[(Bucket, KeyHash)]) -> Result<(), IndexError> {
        for (bucket, hash) in keys {
            self.keys.remove(index_key(*bucket, hash))?;
        }
        Ok(())
    }

    /// Forgets the filters of the buckets before `end`, which must be empty.
    pub fn forget_before(&self, end: Bucket) {
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        *buckets = buckets.split_off(&end);
    }

    /// The first bucket that has not been read through since the start.
    pub fn unread(&self) -> Option<Bucket> {
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
        buckets.iter().find(|(_, f)| matches!(f, BucketFilter::Unread(_))).map(|(bucket, _)| *bucket)
    }

    /// Reads some of an unread bucket into its filter, from behind `after` on; gives back where to go on, or `None`
    /// when its filter is complete.
    ///
    /// # Errors
    /// sled's, or an entry that does not follow its layout.
    pub fn read_through(
        &self,
        bucket: Bucket,
        after: Option<KeyHash>,
    ) -> Result<Option<KeyHash>, IndexError> {
        let start = index_key(bucket, &after.unwrap_or_default());
        let end = index_key(Bucket(bucket.0.saturating_add(1)), &KeyHash::default());
        let mut hashes = Vec::with_capacity(NOTE_AT_ONCE);
        for entry in self.keys.range(start..end).take(NOTE_AT_ONCE) {
            let (key, _) = entry?;
            hashes.push(split_key(&key)?.1);
        }
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        let Some(filter) = buckets.get_mut(&bucket) else { return Ok(None) };
        for hash in &hashes {
            filter.filter_mut().insert(hash);
        }
        if hashes.len() == NOTE_AT_ONCE {
            return Ok(hashes.last().copied());
        }
        if let BucketFilter::Unread(complete) = filter {
            *filter = BucketFilter::Ready(std::mem::take(complete));
        }
        Ok(None)
    }
}

impl BucketFilter {
    fn filter_mut(&mut self) -> &mut Filter {
        match self {
            Self::Unread(filter) | Self::Ready(filter) => filter,
        }
    }

    fn may_contain(&self, hash: &KeyHash) -> bool {
        match self {
            Self::Unread(_) => true,
            Self::Ready(filter) => filter.may_contain(hash),
        }
    }
}

/// Big-endian, so that sled's order is the order of expiry.
fn index_key(bucket: Bucket, hash: &KeyHash) -> [u8; 20] {
    let mut key = [0; 20];
    let parts = bucket.0.to_be_bytes().into_iter().chain(*hash);
    key.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
    key
}

fn split_key(key: &[u8]) -> Result<(Bucket, KeyHash), IndexError> {
    let mut r = Reader(key);
    let parts = (|| Ok((Bucket(r.u32()?), r.array()?)))();
    parts.map_err(|e: super::codec::Malformed| IndexError(e.to_string()))
}

fn decode(value: &[u8]) -> Result<KeyRecord, IndexError> {
    Reader(value).key_record().map_err(|e| IndexError(e.to_string()))
}

fn decode_entry((key, value): &(sled::IVec, sled::IVec)) -> Result<(Bucket, KeyHash, KeyRecord), IndexError> {
    let (bucket, hash) = split_key(key)?;
    Ok((bucket, hash, decode(value)?))
}

/// The buckets that hold anything: one look at the front of each.
fn find_buckets(keys: &sled::Tree) -> Result<Vec<Bucket>, IndexError> {
    let mut buckets = Vec::new();
    let mut from = Bucket(0);
    while let Some(entry) = keys.range(index_key(from, &KeyHash::default())..).next() {
        let (bucket, _) = split_key(&entry?.0)?;
        buckets.push(bucket);
        let Some(next) = bucket.0.checked_add(1) else { break };
        from = Bucket(next);
    }
    Ok(buckets)
}

/// Syncs every file and directory below `path`.
fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_data()?,
                // sled removes old snapshots by itself.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(path)?.sync_all()
}
