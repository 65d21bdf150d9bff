//! The key by which the log hides addresses: made once for a data directory, so that an address has the same hash after
//! a restart, and readable for its owner only.
//!
//! It never leaves the directory. Whoever removes the file has all hashes of old logs mean nothing any more. A file that
//! is no key is never replaced: the start fails, and says which file it is.

use std::io::{ErrorKind, IoSlice};
use std::path::Path;

use anyhow::{Context, anyhow};

use crate::store::files::Files;

/// The file's name in the data directory.
const NAME: &str = "log.key";
/// Under which it is written.
const NEW_NAME: &str = "log.key.new";
/// In octets; the file has nothing else.
pub const LEN: usize = 32;

/// The key of this data directory, both of which are made where they are not there.
///
/// # Errors
/// It cannot be read or made.
pub fn load(data_dir: &Path, files: &dyn Files) -> anyhow::Result<[u8; LEN]> {
    let path = data_dir.join(NAME);
    let about = || format!("the key of log.addresses = \"hashed\", {}", path.display());
    match files.open(&path) {
        Ok(file) => {
            let mut key = [0; LEN];
            if file.size().with_context(about)? != LEN as u64 {
                return Err(
                    anyhow!("it has not {LEN} octets; remove it to have a new one made").context(about())
                );
            }
            file.read_at(0, &mut key).with_context(about)?;
            Ok(key)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(data_dir, files).with_context(about),
        Err(error) => Err(error).with_context(about),
    }
}

/// Under its name there is a whole key or none, whenever the power goes.
fn make(data_dir: &Path, files: &dyn Files) -> anyhow::Result<[u8; LEN]> {
    let key: [u8; LEN] = rand::random();
    files.create_dir(data_dir)?;
    let new = data_dir.join(NEW_NAME);
    let file = files.create(&new)?;
    file.write_at(0, &[IoSlice::new(&key)])?;
    file.sync_data()?;
    files.rename(&new, &data_dir.join(NAME))?;
    files.sync_dir(data_dir)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::files::RealFiles;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = dir.path().join("var");
        let key = load(&data_dir, &RealFiles).unwrap();
        assert_eq!(load(&data_dir, &RealFiles).unwrap(), key);
        let mode = std::fs::metadata(data_dir.join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let other = dir.path().join("other");
        assert_ne!(load(&other, &RealFiles).unwrap(), key);
    }

    #[test]
    fn a_file_that_is_no_key_is_named_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        #[expect(clippy::disallowed_methods, reason = "a test's own file")]
        std::fs::write(&path, "short").unwrap();
        let error = format!("{:#}", load(dir.path(), &RealFiles).unwrap_err());
        assert!(error.contains("log.key") && error.contains("32 octets"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"short");
    }
}
