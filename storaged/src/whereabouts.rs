//! Each pool's notes of which volumes are on the others.
//!
//! Without them, a volume whose disk is missing would look like one that was never made, and be
//! made anew, empty, elsewhere; its owner would find the data gone, and find it back when the disk
//! returns, without what was written since.
//!
//! They are read once, when the pool comes, and written on the pool's own thread, each after a look
//! whether it is still true: a volume that is deleted meanwhile leaves none behind. What cannot be
//! written now, since the pool hangs or its file system is full, is owed, and tried again until it is
//! done ([`pay`]). A new volume is noted before it is made.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Instant,
};

use loam_deployment::Version;
use loam_node_api::storage::{VolumeKey, VolumeSpec};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{durable, given_up, pool::Pool, volume, worker};

/// So many notes are written before others have their turn at the disk.
const AT_ONCE: usize = 16;

/// What `elsewhere/<name>.json` says: enough to list the volume when its disk is missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub key: VolumeKey,
    pub pool: Uuid,
    pub spec: VolumeSpec,
    /// The newest deployment that named it.
    pub version: Version,
}

/// The notes on one pool.
#[derive(Debug)]
pub struct Notes {
    folder: PathBuf,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    notes: BTreeMap<VolumeKey, Note>,
    /// File names of notes that say nothing any more: of these volumes nothing is known.
    unreadable: BTreeSet<String>,
    /// What is still to be put right.
    owed: BTreeMap<VolumeKey, Owed>,
}

/// A note that is to be put right when its pool's turn comes.
#[derive(Clone, Debug)]
struct Owed {
    /// Where the volume may be. Still looked at when one of their disks is gone by then: that is what
    /// the note is for.
    among: Arc<[Arc<Pool>]>,
    /// What another pool has noted of it, if none of these has it: its disk is missing.
    missing: Option<Note>,
    /// Whether it is known to be deleted if it is nowhere: then a note that cannot be read goes, too.
    deleted: bool,
    /// Whether a failure was logged.
    told: bool,
}

impl Notes {
    pub fn open(folder: PathBuf) -> io::Result<Self> {
        let mut noted = Noted::default();
        for path in durable::entries(&folder)? {
            match read(&path) {
                Ok(note) => {
                    noted.notes.insert(note.key.clone(), note);
                }
                Err(error) => {
                    let name = path.file_name().unwrap_or_default();
                    let name = name.to_string_lossy().into_owned();
                    tracing::error!(path = %path.display(), %error, "a note of where a volume is cannot be read");
                    noted.unreadable.insert(name);
                }
            }
        }
        Ok(Self {
            folder,
            noted: Mutex::new(noted),
        })
    }

    /// Where the volume is, if it is noted.
    fn get(&self, key: &VolumeKey) -> io::Result<Option<Note>> {
        let noted = self.lock();
        if noted.unreadable.contains(&file_name(key)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the note of where it is cannot be read",
            ));
        }
        Ok(noted.notes.get(key).cloned())
    }

    fn says(&self, note: &Note) -> bool {
        let noted = self.get(&note.key);
        noted.is_ok_and(|noted| noted.as_ref() == Some(note))
    }

    fn write(&self, note: Note) -> io::Result<()> {
        if self.says(&note) {
            return Ok(());
        }
        let name = file_name(&note.key);
        durable::write(&self.folder.join(&name), &serde_json::to_vec(&note)?)?;
        let mut noted = self.lock();
        noted.unreadable.remove(&name);
        noted.notes.insert(note.key.clone(), note);
        Ok(())
    }

    fn remove(&self, key: &VolumeKey) -> io::Result<()> {
        if self.get(key).is_ok_and(|note| note.is_none()) {
            return Ok(());
        }
        durable::remove(&self.folder.join(file_name(key)))?;
        let mut noted = self.lock();
        noted.unreadable.remove(&file_name(key));
        noted.notes.remove(key);
        Ok(())
    }

    /// Looks once more at what could not be read: a disk may fail for a while only.
    fn read_again(&self) {
        let unreadable = self.lock().unreadable.clone();
        for name in unreadable {
            if let Ok(note) = read(&self.folder.join(&name)) {
                let mut noted = self.lock();
                noted.unreadable.remove(&name);
                noted.notes.insert(note.key.clone(), note);
            }
        }
    }

    fn all(&self) -> Vec<Note> {
        self.lock().notes.values().cloned().collect()
    }

    /// Has the note of a volume put right later, by a look at where among these pools it is then.
    fn owe(&self, key: &VolumeKey, among: Arc<[Arc<Pool>]>) {
        let owed = Owed {
            among,
            missing: None,
            deleted: true,
            told: false,
        };
        self.lock().owed.insert(key.clone(), owed);
    }

    /// The same, with what is noted of it if its disk is missing. What is owed already stays, for it may know
    /// of a disk that is gone since; but it is looked for among these pools, too, for some may have come since.
    fn owe_also(&self, key: &VolumeKey, among: &Arc<[Arc<Pool>]>, missing: Option<&Note>) {
        let mut noted = self.lock();
        match noted.owed.entry(key.clone()) {
            Entry::Vacant(owed) => {
                owed.insert(Owed {
                    among: among.clone(),
                    missing: missing.cloned(),
                    deleted: false,
                    told: false,
                });
            }
            Entry::Occupied(owed) => {
                let owed = owed.into_mut();
                let is_among =
                    |gone: &&Arc<Pool>| among.iter().any(|pool| pool.uuid() == gone.uuid());
                let gone = owed.among.iter().filter(|pool| !is_among(pool));
                owed.among = among.iter().chain(gone).cloned().collect();
            }
        }
    }

    fn owed(&self, key: &VolumeKey) -> Option<Owed> {
        self.lock().owed.get(key).cloned()
    }

    fn is_paid(&self, key: &VolumeKey, paid: &Owed) {
        if let Entry::Occupied(owed) = self.lock().owed.entry(key.clone())
            && Arc::ptr_eq(&owed.get().among, &paid.among)
        {
            owed.remove();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the notes on every pool right: the volumes of the others and of disks that are missing, and
/// none that is gone. Removes what was given up and is there again.
pub fn share(pools: &[Arc<Pool>]) {
    given_up::bury(pools);
    // With what is noted of it, if its disk is missing.
    let mut keys = BTreeMap::<VolumeKey, Option<Note>>::new();
    for note in pools.iter().flat_map(|pool| pool.notes().all()) {
        let missing = keys.entry(note.key.clone()).or_default();
        let newest = missing.as_ref().is_none_or(|m| m.version < note.version);
        if newest && is_away(pools, &note) {
            *missing = Some(note);
        }
    }
    for key in pools.iter().flat_map(|pool| pool.volumes().keys()) {
        keys.entry(key).or_default();
    }
    for at in pools {
        let others = others(pools, at);
        for (key, missing) in &keys {
            at.notes().owe_also(key, &others, missing.as_ref());
        }
        let pool = at.clone();
        // If it does not answer now, it is owed.
        at.post(move || pay(&pool));
    }
}

/// As [`share`], for one volume.
pub fn share_one(pools: &[Arc<Pool>], key: &VolumeKey) {
    let away = away(pools, key).into_iter();
    let missing = away.max_by_key(|note| note.version);
    for at in pools {
        at.notes()
            .owe_also(key, &others(pools, at), missing.as_ref());
        let (pool, key) = (at.clone(), key.clone());
        // If it does not answer now, it is owed.
        at.post(move || drop(pay_one(&pool, &key)));
    }
}

/// Writes down on all pools but `home` that the volume is there, or is about to be.
pub fn note(pools: &[Arc<Pool>], key: &VolumeKey, home: &Arc<Pool>) -> Noting {
    let (answer, answers) = mpsc::channel();
    for at in pools.iter().filter(|pool| pool.uuid() != home.uuid()) {
        let notes = at.notes();
        let noted = note_of(home, key).is_some_and(|note| notes.says(&note));
        if noted && notes.owed(key).is_none() {
            // Nobody waits any more if another was faster.
            let _ = answer.send(Ok(()));
            continue;
        }
        notes.owe(key, others(pools, at));
        if at.is_writable() {
            let (at, key, answer) = (at.clone(), key.clone(), answer.clone());
            at.clone().post(move || match pay_one(&at, &key) {
                Err(error) if is_of_the_disk(&error) => {}
                result => drop(answer.send(result)),
            });
        }
    }
    Noting { answers }
}

/// A disk that fails is told of otherwise, and holds up nobody else's volume, as one that does not answer:
/// btrfs makes its pool read-only at the latest with the next commit.
fn is_of_the_disk(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::IO | Errno::ROFS))
}

/// Removes the notes of a volume that is on none of `pools` any more.
pub fn forget(pools: &[Arc<Pool>], key: &VolumeKey) {
    for at in pools {
        // It may have been made anew before its turn, and is then noted.
        at.notes().owe(key, others(pools, at));
        let (pool, key) = (at.clone(), key.clone());
        // If it does not answer now, it is owed.
        at.post(move || drop(pay_one(&pool, &key)));
    }
}

/// What other pools make of a note.
#[must_use]
#[derive(Debug)]
pub struct Noting {
    answers: mpsc::Receiver<io::Result<()>>,
}

impl Noting {
    /// Returns once one has it; an error if none has, and one said why. One that does not answer, or whose
    /// disk fails, holds up nobody: it is owed the note.
    pub fn wait(self) -> io::Result<()> {
        let until = Instant::now() + worker::PATIENCE;
        let mut failure = None;
        // Ends when all have answered, too.
        while let Ok(answer) = self
            .answers
            .recv_timeout(until.saturating_duration_since(Instant::now()))
        {
            match answer {
                Ok(()) => return Ok(()),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(()), Err)
    }
}

/// Puts right what is owed to a pool. On its own thread.
pub fn pay(at: &Arc<Pool>) {
    at.notes().read_again();
    if at.is_writable() {
        pay_behind(at, None);
    }
}

fn pay_behind(at: &Arc<Pool>, after: Option<VolumeKey>) {
    let owed: Vec<_> = {
        let noted = at.notes().lock();
        let keys = noted.owed.keys();
        let behind = keys.filter(|key| after.as_ref().is_none_or(|after| *key > after));
        behind.take(AT_ONCE).cloned().collect()
    };
    for key in &owed {
        // What fails is told, and stays owed.
        let _ = pay_one(at, key);
    }
    if owed.len() == AT_ONCE {
        let (pool, last) = (at.clone(), owed.last().cloned());
        at.post(move || pay_behind(&pool, last));
    }
}

fn pay_one(at: &Pool, key: &VolumeKey) -> io::Result<()> {
    let Some(owed) = at.notes().owed(key) else {
        return Ok(());
    };
    let result = put_right(at, key, &owed);
    match &result {
        Ok(()) => at.notes().is_paid(key, &owed),
        Err(error) if !owed.told => {
            tracing::error!(%key, pool = %at.uuid(), %error, "cannot note where a volume is; trying again");
            if let Some(owed) = at.notes().lock().owed.get_mut(key) {
                owed.told = true;
            }
        }
        Err(_) => {}
    }
    result
}

fn put_right(at: &Pool, key: &VolumeKey, owed: &Owed) -> io::Result<()> {
    // Looked at here and now: it may have been deleted or made anew since this was asked for.
    // One that was given up, and whose disk is back, is as good as deleted.
    let is_given_up = |pool: &Pool| {
        note_of(pool, key).is_some_and(|note| {
            given_up::reason_on(at, key, note.pool, note.version)
                .or_else(|| given_up::reason(&owed.among, key, note.pool, note.version))
                .is_some()
        })
    };
    let has = |pool: &&Arc<Pool>| pool.volumes().may_have(key) && !is_given_up(pool);
    let home = owed.among.iter().find(has);
    match (home, &owed.missing) {
        // Of one whose record cannot be read, what is noted stays.
        (Some(home), _) => note_of(home, key).map_or(Ok(()), |note| at.notes().write(note)),
        (None, _) if at.volumes().may_have(key) && !is_given_up(at) => Ok(()),
        (None, Some(missing)) => match at.notes().get(key) {
            Ok(Some(noted)) if noted.version >= missing.version => Ok(()),
            _ => at.notes().write(missing.clone()),
        },
        (None, None) if !owed.deleted && at.notes().get(key).is_err() => Ok(()),
        (None, None) => at.notes().remove(key),
    }
}

/// What the other pools note of a volume that is there, or about to be.
fn note_of(home: &Pool, key: &VolumeKey) -> Option<Note> {
    let (spec, version) = home.volumes().about(key)?;
    Some(Note {
        key: key.clone(),
        pool: home.uuid(),
        spec,
        version,
    })
}

fn others(pools: &[Arc<Pool>], at: &Pool) -> Arc<[Arc<Pool>]> {
    let others = pools.iter().filter(|pool| pool.uuid() != at.uuid());
    others.cloned().collect()
}

/// The volume's note, if it is on a pool that is not among `pools`, or has a record there that cannot
/// be read, and was not given up.
pub fn missing(pools: &[Arc<Pool>], key: &VolumeKey) -> io::Result<Option<Note>> {
    for pool in pools {
        pool.notes().get(key)?;
    }
    let notes = away(pools, key).into_iter();
    Ok(notes.max_by_key(|note| note.version))
}

/// All that is noted of a volume as [`missing`] means it.
pub fn away(pools: &[Arc<Pool>], key: &VolumeKey) -> Vec<Note> {
    let notes = pools.iter().filter_map(|pool| pool.notes().get(key).ok()?);
    notes.filter(|note| is_away(pools, note)).collect()
}

/// The volumes that are missing.
pub fn all_away(pools: &[Arc<Pool>]) -> BTreeSet<VolumeKey> {
    let notes = pools.iter().flat_map(|pool| pool.notes().all());
    let notes = notes.filter(|note| is_away(pools, note));
    notes.map(|note| note.key).collect()
}

fn is_away(pools: &[Arc<Pool>], note: &Note) -> bool {
    let home = pools.iter().find(|pool| pool.uuid() == note.pool);
    // Where it is nothing may be known of it.
    home.is_none_or(|home| home.volumes().unreadable(&note.key).is_some())
        && given_up::reason(pools, &note.key, note.pool, note.version).is_none()
}

fn read(path: &Path) -> io::Result<Note> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn file_name(key: &VolumeKey) -> String {
    format!("{}.json", volume::file_name(key))
}

#[cfg(test)]
#[path = "whereabouts_tests.rs"]
mod tests;
