//! What is no record is kept all the same (D4): copied to `damaged/`, or, for want of room, left where it is and named.
//!
//! A start must not fail for want of room: what is queued can end, and so make some. And of the room that is kept back
//! for outcomes it takes only a little.

use std::io;
use std::path::{Path, PathBuf};

use super::Replay;
use crate::store::embedded::OpenError;
use crate::store::files::{StoreFile, is_full};
use crate::store::record::Place;
use crate::store::{LeftInPlace, damage, reserve};

impl Replay<'_> {
    /// Renames something to `<name>.damaged`, in the place of what was set aside so before.
    pub(super) fn set_name_aside(&mut self, path: &Path) -> Result<(), OpenError> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        let aside = PathBuf::from(aside);
        self.files.rename(path, &aside).map_err(OpenError::at(path))?;
        let dir = path.parent().unwrap_or(self.dir);
        self.files.sync_dir(dir).map_err(OpenError::at(dir))?;
        self.recovery.set_aside.push(aside);
        Ok(())
    }

    /// Copies bytes that are no record; false when there is no room for the copy, and they stay in their segment.
    pub(super) fn copy_aside(
        &mut self,
        file: &dyn StoreFile,
        number: u32,
        offset: u64,
        len: u64,
    ) -> io::Result<bool> {
        let copy = || damage::set_aside(self.files, self.dir, file, number, offset, len);
        let spent = self.spent.unwrap_or(0).saturating_add(len);
        let may_spend = spent <= reserve::FOR_DAMAGE;
        let copied = match self.spent {
            Some(_) if !may_spend => Err(io::ErrorKind::StorageFull.into()),
            Some(_) => copy(),
            None => match copy() {
                Err(error) if is_full(&error) && may_spend && reserve::give_up(self.files, self.dir)? => {
                    self.spent = Some(0);
                    copy()
                }
                other => other,
            },
        };
        match copied {
            Ok(path) => {
                self.spent = self.spent.map(|_| spent);
                self.recovery.set_aside.push(path);
                Ok(true)
            }
            Err(error) if is_full(&error) => {
                let left = LeftInPlace { segment: number, offset, len };
                tracing::error!(%left, "damaged bytes of the journal cannot be set aside: the disk is full");
                self.recovery.left_in_place.push(left);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub(super) fn set_aside(
        &mut self,
        file: &dyn StoreFile,
        number: u32,
        offset: u64,
        len: u64,
    ) -> Result<(), OpenError> {
        self.copy_aside(file, number, offset, len).map_err(OpenError::at(self.dir)).map(|_| ())
    }

    pub(super) fn set_records_aside(
        &mut self,
        file: &dyn StoreFile,
        places: Vec<Place>,
    ) -> Result<(), OpenError> {
        for place in places {
            self.set_aside(file, place.segment, place.offset.into(), place.len.into())?;
        }
        Ok(())
    }
}
