//! What was decided since the node booted, and must stay decided when storaged is restarted: which
//! set of pools is ours, and on which disk each pool runs. Kept under `/run`, which a reboot empties.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::durable;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    pub set: Option<Uuid>,
    /// Whether the set was begun in this boot.
    #[serde(default)]
    pub begun: bool,
    /// The id of the disk that each pool runs on, also when the disk is gone.
    pub runs_on: BTreeMap<Uuid, String>,
    /// Pools of this node that could not be used on some disk: when they had been used last by the header
    /// of each, by the disk's id.
    #[serde(default)]
    pub unopened: BTreeMap<Uuid, BTreeMap<String, u64>>,
    /// Of which disk the mount of each pool is, by the kernel's count of the disks: one that was pulled
    /// and put back is another, and what was mounted of it before is dead.
    #[serde(default)]
    pub mounted: BTreeMap<Uuid, u64>,
}

impl Decided {
    /// The disk of this id, which shows that this pool was used last at that time, cannot be used.
    pub fn could_not_use(&mut self, pool: Uuid, disk: &str, used: u64) {
        let disks = self.unopened.entry(pool).or_default();
        let noted = disks.entry(disk.to_owned()).or_default();
        *noted = used.max(*noted);
    }

    /// When this pool was used last on any disk on which it could not be used; 0 if on none.
    pub fn unopened_at(&self, pool: Uuid) -> u64 {
        let disks = self.unopened.get(&pool).into_iter().flatten();
        disks.map(|(_, used)| *used).max().unwrap_or_default()
    }
}

/// The kernel's name for this boot (random(4)).
pub fn id() -> Option<Uuid> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Uuid::try_parse(text.trim()).ok()
}

#[derive(Debug)]
pub struct Boot {
    path: PathBuf,
    decided: Decided,
}

impl Boot {
    /// Absent or unreadable: nothing was decided yet.
    pub fn open(path: &Path) -> Self {
        let decided = fs::read(path)
            .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other))
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(%error, "cannot read what was decided before; deciding anew");
                }
            })
            .unwrap_or_default();
        Self {
            path: path.to_owned(),
            decided,
        }
    }

    pub fn decided(&self) -> &Decided {
        &self.decided
    }

    pub fn change(&mut self, act: impl FnOnce(&mut Decided)) {
        let before = self.decided.clone();
        act(&mut self.decided);
        if self.decided != before
            && let Err(error) = self.write()
        {
            tracing::error!(%error, "cannot keep what was decided; a restart of storaged may decide anew");
        }
    }

    fn write(&self) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        durable::write(&self.path, &serde_json::to_vec(&self.decided)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_has_one_name() {
        assert!(id().is_some() && id() == id());
    }

    #[test]
    fn decisions_outlive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loam/storaged.json");
        let mut boot = Boot::open(&path);
        assert_eq!(*boot.decided(), Decided::default());
        let (set, pool) = (Uuid::new_v4(), Uuid::new_v4());
        boot.change(|decided| {
            decided.set = Some(set);
            decided.begun = true;
            decided.runs_on.insert(pool, "WD-1".to_owned());
            decided.mounted.insert(pool, 7);
            decided.could_not_use(pool, "WD-2", 9);
            decided.could_not_use(pool, "WD-2", 8);
            decided.could_not_use(pool, "WD-3", 7);
        });
        let again = Boot::open(&path);
        assert_eq!(again.decided().set, Some(set));
        assert!(again.decided().begun);
        assert_eq!(again.decided().runs_on[&pool], "WD-1");
        assert_eq!(again.decided().mounted[&pool], 7);
        let unopened = [("WD-2", 9), ("WD-3", 7)].map(|(disk, used)| (disk.to_owned(), used));
        assert_eq!(again.decided().unopened[&pool], BTreeMap::from(unopened));
        assert_eq!(again.decided().unopened_at(pool), 9);
        assert_eq!(again.decided().unopened_at(set), 0);

        let without_disk = format!(r#"{{"set":null,"runs_on":{{}},"unopened":{{"{pool}":9}}}}"#);
        for unreadable in ["{", &without_disk] {
            fs::write(&path, unreadable).unwrap();
            assert_eq!(*Boot::open(&path).decided(), Decided::default());
        }
    }
}
