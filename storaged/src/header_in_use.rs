//! The header of a pool that is in use: what it says is known, and kept up to date.

use std::{
    io,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use loam_deployment::NodeKey;
use loam_node_api::clock::UnixTime;

use crate::header::{Header, Use};

/// After a failure: what is written once a day is worth no more of a bad disk's time.
const PAUSE: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct HeaderInUse {
    device: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// As it is on the disk.
    header: Header,
    /// How the pool was taken into use, as long as the header does not say so.
    owed: Option<Use>,
    /// When it could not be written last that the pool is in use.
    failed: Option<Instant>,
}

impl HeaderInUse {
    /// Of the pool on the disk at `device`. `owed` is how it was taken into use, if that could not be
    /// written.
    pub fn new(device: PathBuf, header: Header, owed: Option<Use>) -> Self {
        let failed = owed.map(|_| Instant::now());
        let state = Mutex::new(State {
            header,
            owed,
            failed,
        });
        Self { device, state }
    }

    /// Whose pool it is. Waits for who is writing it.
    pub fn node(&self) -> Option<NodeKey> {
        self.lock().header.node
    }

    /// Writes whose pool this is. On the pool's own thread.
    pub fn name_node(&self, node: NodeKey) -> io::Result<()> {
        let mut state = self.lock();
        match state.header.node {
            Some(noted) if noted == node => Ok(()),
            Some(other) => Err(io::Error::other(format!(
                "it is marked as a pool of node {other}"
            ))),
            None => {
                let named = Header {
                    node: Some(node),
                    ..state.header
                };
                self.replace(&mut state, named)
            }
        }
    }

    /// Writes that the pool is in use at `proved`, once a day: of two copies the one that ran for a month
    /// counts, also when the clock was not yet set at the start of that month. On the pool's own thread.
    pub fn note_use(&self, proved: Option<UnixTime>, now: Instant) {
        let mut state = self.lock();
        let is_soon = |failed| now.saturating_duration_since(failed) < PAUSE;
        if state.failed.is_some_and(is_soon) {
            return;
        }
        let changed = match (state.owed, proved) {
            // Dated alone, it would say that the disk and the machine of before were used last.
            (Some(using), _) => state.header.taken_into_use(&using),
            (None, Some(proved)) => state.header.still_used_at(proved),
            (None, None) => return,
        };
        match self.replace(&mut state, changed) {
            Ok(()) => {
                state.owed = None;
                state.failed = None;
            }
            Err(error) => {
                // Of a use that is owed it was told when the pool was opened.
                if state.failed.is_none() {
                    tracing::error!(pool = %state.header.uuid, %error, "cannot note in this pool's header that it is used; trying again each hour");
                }
                state.failed = Some(now);
            }
        }
    }

    fn replace(&self, state: &mut State, changed: Header) -> io::Result<()> {
        if changed != state.header {
            state.header.replace(&self.device, &changed)?;
            state.header = changed;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        path::Path,
    };

    use uuid::Uuid;

    use super::*;
    use crate::{
        header::{DiskTag, Found, filesystem_size},
        machine::Machine,
    };

    const SIZE: u64 = 64 << 20;
    const DAY: u64 = 24 * 3600;

    /// On a disk below `root`, just made, used on another and in another machine.
    fn header(root: &Path) -> (Header, PathBuf) {
        let disk = root.join("disk");
        let file = File::create_new(&disk).unwrap();
        file.set_len(SIZE).unwrap();
        let header = Header {
            used: 7,
            ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a"))
        };
        header.write(&file).unwrap();
        (header, disk)
    }

    fn header_of(disk: &Path) -> Header {
        match Header::read(&File::open(disk).unwrap(), filesystem_size(SIZE)).unwrap() {
            Found::Header(header) => header,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_pool_in_use_says_so_each_day() {
        let root = tempfile::tempdir().unwrap();
        let (header, disk) = header(root.path());
        let used = HeaderInUse::new(disk.clone(), header, None);
        let note = |at| used.note_use(Some(UnixTime(at)), Instant::now());
        note(100 * DAY);
        assert_eq!(header_of(&disk).used, 100 * DAY);
        note(101 * DAY - 1);
        note(3);
        used.note_use(None, Instant::now());
        assert_eq!(header_of(&disk).used, 100 * DAY);
        note(101 * DAY);
        used.name_node(NodeKey([1; 32])).unwrap();
        let header = header_of(&disk);
        assert_eq!(
            (header.used, header.node),
            (101 * DAY, Some(NodeKey([1; 32])))
        );
    }

    #[test]
    fn what_cannot_be_written_is_tried_again_each_hour() {
        let root = tempfile::tempdir().unwrap();
        let (header, disk) = header(root.path());
        let used = HeaderInUse::new(disk.clone(), header, None);
        let away = root.path().join("away");
        let now = Instant::now();
        let note = |after| used.note_use(Some(UnixTime(100 * DAY)), now + after);
        fs::rename(&disk, &away).unwrap();
        note(Duration::ZERO);
        fs::rename(&away, &disk).unwrap();
        note(PAUSE - Duration::from_secs(1));
        assert_eq!(header_of(&disk).used, 7);
        note(PAUSE);
        assert_eq!(header_of(&disk).used, 100 * DAY);
    }

    #[test]
    fn a_use_that_could_not_be_written_is_written_whole_or_not_at_all() {
        let root = tempfile::tempdir().unwrap();
        let (header, disk) = header(root.path());
        let using = Use {
            machine: Some(Machine([3; 16])),
            disk: DiskTag::of("b"),
            now: 50,
            instead_of: 110 * DAY,
            boot: Some(Uuid::from_u128(5)),
            set_is_new: false,
        };
        let used = HeaderInUse::new(disk.clone(), header, Some(using));
        let note = |after| used.note_use(Some(UnixTime(100 * DAY)), Instant::now() + after);
        note(Duration::ZERO);
        assert_eq!(header_of(&disk), header);
        note(PAUSE);
        assert_eq!(header_of(&disk), header.taken_into_use(&using));
        // From then on it is dated as any other, and never before what it was used in place of.
        note(PAUSE);
        assert_eq!(header_of(&disk).used, 110 * DAY + 1);
        used.note_use(Some(UnixTime(112 * DAY)), Instant::now() + PAUSE);
        let dated = header_of(&disk);
        assert_eq!((dated.used, dated.disk), (112 * DAY, DiskTag::of("b")));
    }

    #[test]
    fn the_node_is_named_once() {
        let root = tempfile::tempdir().unwrap();
        let (header, disk) = header(root.path());
        let used = HeaderInUse::new(disk.clone(), header, None);
        used.name_node(NodeKey([1; 32])).unwrap();
        used.name_node(NodeKey([1; 32])).unwrap();
        let error = used.name_node(NodeKey([2; 32])).unwrap_err().to_string();
        assert!(error.contains(&NodeKey([1; 32]).to_string()), "{error}");
        assert_eq!(header_of(&disk).node, Some(NodeKey([1; 32])));
    }
}
