//! What is known of one disk, and what follows from it for the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_node_api::storage::{Disk, DiskState};
use uuid::Uuid;

use crate::{
    boot::Decided,
    disk::{SysDisk, Unfit},
    header::{self, Found, Header, State},
    machine::Machine,
    original::{InDoubt, MayHold},
    pool::{Health, Pool},
    probe::{self, Finding},
    takeover::{Seen, Surroundings, Waiting, What},
};

/// A disk that failed is tried again: a cable is put right, a predecessor's `mkfs` ends.
const RETRY: Duration = Duration::from_secs(30);

/// For so long a disk is waited for when the node starts. The kernel gives up on most in this time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A disk that has answered with nothing but errors for so long, some ten attempts, is dead, and no
/// reason any more not to begin a new node on the others. A disk that had trouble only when power came
/// back is read by then, and if it is read later still, [`crate::set`] says what becomes of it.
const GIVEN_UP: Duration = Duration::from_secs(5 * 60);

const SILENT: &str = "does not answer";

#[derive(Debug)]
pub struct Known {
    pub sys: SysDisk,
    pub stage: Stage,
    pub since: Instant,
    /// What was found last, which is shown while it is looked at again.
    pub found: Option<DiskState>,
    /// Since when it has not been read, though it was tried.
    unread_since: Option<Instant>,
}

#[derive(Debug)]
pub enum Stage {
    Looking,
    /// Waits for a decision, and for what else, if for anything.
    Seen(Finding, Option<Waiting>),
    /// Is mounted or made a pool.
    Opening(Option<Uuid>),
    InUse(Arc<Pool>),
    Left(DiskState, Doubt),
}

/// Whether a disk that is left alone may be this node's all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It was read and is not, or can be no pool, or its pool is already known as one of this node's.
    None,
    /// It could not be read to the end.
    Unread,
    /// It holds this pool, of this set, that cannot be used.
    Pool { uuid: Uuid, set: Uuid },
    /// It holds a pool of another Loam, which does not say whose it is.
    OtherFormat,
    /// It shows what another disk shows, and may be that disk under another name.
    Copy,
    /// It shows the pool that other disks of its id show, and the pool is used on none of them.
    Twin { uuid: Uuid, set: Uuid },
}

impl Stage {
    /// Whether both wait for the same.
    pub fn waits_as(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Seen(_, one), Self::Seen(_, other)) if one == other)
    }
}

impl Known {
    pub fn new(sys: SysDisk, stage: Stage, before: Option<&Self>) -> Self {
        let before_found = before.and_then(|known| known.found.clone());
        let found = match &stage {
            Stage::Left(state, _) => Some(state.clone()),
            Stage::InUse(pool) => Some(DiskState::Pool(pool.uuid().to_string())),
            _ => before_found,
        };
        let now = Instant::now();
        let unread_before = before.and_then(|known| known.unread_since);
        Self {
            unread_since: match &stage {
                Stage::Left(_, Doubt::Unread) => Some(unread_before.unwrap_or(now)),
                Stage::Looking => unread_before,
                _ => None,
            },
            sys,
            stage,
            since: now,
            found,
        }
    }

    /// A disk that is ours stays known when the kernel changes its mind about details such as its size;
    /// one that was pulled and put back is another.
    pub fn is(&self, disk: &SysDisk) -> bool {
        let same = self.sys.name == disk.name && self.sys.id == disk.id && self.sys.seq == disk.seq;
        *disk == self.sys || (same && self.pool().is_some())
    }

    pub fn pool(&self) -> Option<&Arc<Pool>> {
        match &self.stage {
            Stage::InUse(pool) => Some(pool),
            _ => None,
        }
    }

    pub fn is_to_be_retried(&self) -> bool {
        let failed = matches!(
            self.stage,
            Stage::Left(DiskState::Failed(_), _) | Stage::Left(_, Doubt::Unread)
        );
        failed && self.since.elapsed() >= RETRY
    }

    pub fn is_copy(&self) -> bool {
        matches!(self.stage, Stage::Left(_, Doubt::Copy | Doubt::Twin { .. }))
    }

    /// Whether something is under way that is still waited for.
    pub fn is_busy(&self) -> bool {
        let under_way = matches!(self.stage, Stage::Looking | Stage::Opening(_));
        under_way && self.since.elapsed() < PATIENCE
    }

    /// What it may hold that is not known of; nothing if that is known.
    fn may_hold(&self, now: Instant) -> Option<MayHold> {
        match self.stage {
            Stage::Looking if self.sys.can_be_no_pool() => None,
            Stage::Looking | Stage::Left(_, Doubt::OtherFormat) => Some(MayHold::Anything),
            Stage::Left(_, Doubt::Pool { uuid, set } | Doubt::Twin { uuid, set }) => {
                Some(MayHold::Pool { uuid, set })
            }
            Stage::Left(_, Doubt::Unread) => {
                let is_given_up = |since| now.saturating_duration_since(since) >= GIVEN_UP;
                match self.unread_since.is_some_and(is_given_up) {
                    true => Some(MayHold::GivenUp),
                    false => Some(MayHold::Anything),
                }
            }
            Stage::Left(_, Doubt::None | Doubt::Copy)
            | Stage::Seen(..)
            | Stage::Opening(_)
            | Stage::InUse(_) => None,
        }
    }

    /// Whether it is waited for when it drops off the bus: it may be this node's, and is not in use.
    pub fn is_missed(&self, now: Instant) -> bool {
        let shows_pool = matches!(self.stage, Stage::Seen(Finding::Pool { .. }, _));
        shows_pool || self.may_hold(now).is_some()
    }

    /// What is shown; nothing for a disk that is still being looked at for the first time.
    pub fn describe(&self) -> Option<Disk> {
        let late = self.since.elapsed() >= PATIENCE;
        let state = match &self.stage {
            Stage::Looking | Stage::Opening(_) if late => DiskState::Failed(SILENT.to_owned()),
            // Most waiting is over soon, and no news.
            Stage::Seen(_, Some(waiting)) if late => DiskState::Failed(waiting.to_string()),
            Stage::Looking | Stage::Opening(_) | Stage::Seen(..) => self.found.clone()?,
            Stage::InUse(pool) => match pool.health() {
                Health::Well => DiskState::Pool(pool.uuid().to_string()),
                Health::Hangs => DiskState::Failed(SILENT.to_owned()),
                Health::Fails(why) => DiskState::Failed(why),
            },
            Stage::Left(state, _) => state.clone(),
        };
        Some(Disk {
            id: self.sys.id.clone(),
            device: self.sys.device.clone(),
            size: self.sys.size,
            media: self.sys.media,
            state,
        })
    }
}

/// The disks that wait for a decision, and what it depends on beside them.
pub fn survey(
    disks: &BTreeMap<String, Known>,
    machine: Option<Machine>,
    now: Instant,
) -> (Vec<Seen>, Surroundings) {
    let mut waiting = Vec::new();
    let mut around = Surroundings {
        machine,
        ..Surroundings::default()
    };
    for (name, known) in disks {
        around
            .in_doubt
            .extend(known.may_hold(now).map(|may_hold| InDoubt {
                id: known.sys.id.clone(),
                may_hold,
            }));
        if matches!(known.stage, Stage::Opening(_) | Stage::InUse(_)) {
            around.ids_in_use.insert(known.sys.id.clone());
        }
        match &known.stage {
            Stage::Seen(finding, _) => {
                let what = match finding {
                    Finding::Pool { header, generation } => What::Pool {
                        header: *header,
                        generation: *generation,
                    },
                    _ => What::Blank,
                };
                waiting.push(Seen {
                    name: name.clone(),
                    seq: known.sys.seq,
                    id: known.sys.id.clone(),
                    what,
                });
            }
            Stage::Opening(uuid) => {
                around.in_use.extend(*uuid);
                around.opening |= uuid.is_some();
            }
            Stage::InUse(pool) => {
                around.in_use.insert(pool.uuid());
            }
            Stage::Looking | Stage::Left(..) => {}
        }
    }
    (waiting, around)
}

/// Why pools of this node may be missing among those that are in use, if so.
pub fn missing(disks: &BTreeMap<String, Known>, decided: &Decided, now: Instant) -> Option<String> {
    let pools: BTreeSet<Uuid> = disks
        .values()
        .filter_map(|known| known.pool().map(|pool| pool.uuid()))
        .collect();
    let is_in_doubt = |known: &&Known| match known.may_hold(now) {
        // A copy of one that is in use is no loss.
        Some(MayHold::Pool { uuid, set }) => {
            !pools.contains(&uuid) && decided.set.is_none_or(|ours| ours == set)
        }
        Some(MayHold::Anything) => true,
        Some(MayHold::GivenUp) | None => false,
    };
    if let Some(known) = disks.values().find(is_in_doubt) {
        return Some(format!("disk {} does not say what it holds", known.sys.id));
    }
    for known in disks.values() {
        if let Stage::Seen(Finding::Pool { header, .. }, Some(waiting)) = &known.stage
            && decided.set == Some(header.set)
        {
            let (uuid, disk) = (header.uuid, &known.sys.id);
            return Some(format!("pool {uuid} on disk {disk} {waiting}"));
        }
    }
    // The disks of all that were in use since the node booted.
    let runs_on = &decided.runs_on;
    let away = runs_on.iter().find(|(uuid, _)| !pools.contains(uuid));
    if let Some((uuid, disk)) = away {
        return Some(format!("pool {uuid} on disk {disk} is not in use"));
    }
    let unopened = decided.unopened.iter().find(|uuid| !pools.contains(uuid));
    unopened.map(|uuid| format!("pool {uuid} could not be used"))
}

/// Reads what a disk holds, as far as it takes to know a pool.
pub fn judge(disk: &SysDisk) -> Stage {
    let left = |unfit: Unfit, doubt| Stage::Left(DiskState::Unfit(unfit.to_string()), doubt);
    let read_only = match (disk.unfit, &disk.in_use) {
        (None, Some(what)) => return foreign(what.clone()),
        (None, None) => false,
        // It cannot be used, but it may be the only disk that says whose node this is.
        (Some(Unfit::ReadOnly), None) => true,
        // A disk that has not spun up yet, or never will.
        (Some(unfit @ Unfit::Sizeless), _) => return left(unfit, Doubt::Unread),
        (Some(unfit), _) => return left(unfit, Doubt::None),
    };
    let size = disk.size.get();
    let file = match File::open(&disk.device) {
        Ok(file) => file,
        Err(error) => return unread(format!("cannot be opened: {error}")),
    };
    match probe::glance(&file, size) {
        Ok(Finding::Pool { header, .. }) if read_only => {
            let what = format!("{}, and it holds {}", Unfit::ReadOnly, name(&header));
            Stage::Left(DiskState::Unfit(what), doubt(&header))
        }
        Ok(Finding::Unusable { what, header }) => {
            let state = match read_only {
                true => DiskState::Unfit(format!("{}: {what}", Unfit::ReadOnly)),
                false => DiskState::Foreign(what),
            };
            Stage::Left(state, header.as_ref().map_or(Doubt::OtherFormat, doubt))
        }
        Ok(_) if read_only => left(Unfit::ReadOnly, Doubt::None),
        Ok(Finding::Foreign(what)) => foreign(what),
        Ok(finding) => Stage::Seen(finding, None),
        Err(error) => match Header::read(&file, header::filesystem_size(size)) {
            Ok(Found::Header(header)) if header.state == State::Pool => {
                let why = format!("cannot be read: {error}; it holds {}", name(&header));
                Stage::Left(DiskState::Failed(why), doubt(&header))
            }
            _ if read_only => left(Unfit::ReadOnly, Doubt::Unread),
            _ => unread(format!("cannot be read: {error}")),
        },
    }
}

pub fn doubt(header: &Header) -> Doubt {
    Doubt::Pool {
        uuid: header.uuid,
        set: header.set,
    }
}

fn name(header: &Header) -> String {
    match header.node {
        Some(node) => format!("a pool of node {node}"),
        None => format!("pool {}", header.uuid),
    }
}

fn foreign(what: String) -> Stage {
    Stage::Left(DiskState::Foreign(what), Doubt::None)
}

pub fn unread(why: String) -> Stage {
    Stage::Left(DiskState::Failed(why), Doubt::Unread)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::FileExt, path::Path};

    use loam_deployment::{Bytes, payload::Media};
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{header::DiskTag, original::Awaited};

    const SIZE: u64 = 1 << 30;

    /// A file that stands for a disk.
    fn disk(device: &Path, unfit: Option<Unfit>) -> SysDisk {
        SysDisk {
            name: "sda".to_owned(),
            device: device.to_owned(),
            seq: 1,
            id: "a".to_owned(),
            named: true,
            size: Bytes(SIZE),
            media: Media::Ssd,
            unfit,
            in_use: None,
        }
    }

    fn blank() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        file
    }

    /// With a header, and as much of a superblock as is asked about.
    fn pool() -> tempfile::NamedTempFile {
        let file = blank();
        let header = Header {
            state: State::Pool,
            ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a"))
        };
        header.write(file.as_file()).unwrap();
        let mut block = [0; 4096];
        block[0x20..0x30].copy_from_slice(header.uuid.as_bytes());
        block[0x40..0x48].copy_from_slice(b"_BHRfS_M");
        block[0x88] = 1;
        file.as_file().write_all_at(&block, 64 << 10).unwrap();
        file
    }

    /// Whether beside this disk a new node waits, now and when the disk is given up.
    fn waits_beside(disk: &SysDisk) -> (bool, bool) {
        let known = Known::new(disk.clone(), judge(disk), None);
        let disks = BTreeMap::from([(disk.name.clone(), known)]);
        let unknown = |now| survey(&disks, None, now).1.unknown();
        let now = Instant::now();
        (unknown(now), unknown(now + GIVEN_UP))
    }

    #[test]
    fn a_disk_that_answers_with_errors_may_be_ours_until_it_is_given_up() {
        // A folder can be opened and not read.
        let folder = tempfile::tempdir().unwrap();
        for device in [folder.path(), Path::new("/nowhere")] {
            for unfit in [None, Some(Unfit::ReadOnly), Some(Unfit::Sizeless)] {
                let disk = disk(device, unfit);
                assert_eq!(waits_beside(&disk), (true, false), "{device:?} {unfit:?}");
            }
        }
    }

    #[test]
    fn the_time_until_it_is_given_up_goes_on_while_it_is_tried_again() {
        let disk = disk(Path::new("/nowhere"), None);
        let first = Known::new(disk.clone(), judge(&disk), None);
        let again = Known::new(disk.clone(), Stage::Looking, Some(&first));
        let now = Instant::now() + GIVEN_UP;
        assert_eq!(again.may_hold(now), Some(MayHold::Anything));
        let last = Known::new(disk.clone(), judge(&disk), Some(&again));
        assert_eq!(last.unread_since, first.unread_since);
    }

    #[test]
    fn a_disk_that_shows_a_pool_and_cannot_be_used_is_never_given_up() {
        let pool = pool();
        let locked = disk(pool.path(), Some(Unfit::ReadOnly));
        assert_eq!(waits_beside(&locked), (true, true));
        let Stage::Left(DiskState::Unfit(what), _) = judge(&locked) else {
            panic!("used")
        };
        assert!(what.starts_with("read-only, and it holds pool"), "{what}");
    }

    #[test]
    fn a_pool_that_waits_for_its_original_is_missing() {
        let header = Header::for_disk(SIZE, Uuid::from_u128(1), DiskTag::of("b"));
        let finding = Finding::Pool {
            header,
            generation: 7,
        };
        let awaited = Awaited::Disk("b".to_owned());
        let stage = Stage::Seen(finding, Some(Waiting::Original(awaited)));
        let known = Known::new(disk(Path::new("/nowhere"), None), stage, None);
        let disks = BTreeMap::from([("sda".to_owned(), known)]);
        let of_set = |set| {
            let set = Some(Uuid::from_u128(set));
            let decided = Decided {
                set,
                ..Decided::default()
            };
            missing(&disks, &decided, Instant::now())
        };
        assert!(of_set(1).is_some_and(|why| why.contains("disk b")));
        assert_eq!(of_set(2), None);
    }

    #[test]
    fn what_is_in_doubt_is_told_by_what_was_read() {
        let pool = pool();
        let Ok(Finding::Pool { header, .. }) = probe::glance(pool.as_file(), SIZE) else {
            panic!("no pool")
        };
        let (uuid, set) = (header.uuid, header.set);
        let locked = judge(&disk(pool.path(), Some(Unfit::ReadOnly)));
        let silent = || judge(&disk(Path::new("/nowhere"), None));
        let now = Instant::now();
        for (stage, later, may_hold) in [
            (Stage::Looking, false, Some(MayHold::Anything)),
            (Stage::Looking, true, Some(MayHold::Anything)),
            (silent(), false, Some(MayHold::Anything)),
            (silent(), true, Some(MayHold::GivenUp)),
            (locked, true, Some(MayHold::Pool { uuid, set })),
            (foreign("ext4".to_owned()), false, None),
        ] {
            let at = if later { now + 2 * GIVEN_UP } else { now };
            let known = Known::new(disk(Path::new("/nowhere"), None), stage, None);
            let disks = BTreeMap::from([("sda".to_owned(), known)]);
            let found = survey(&disks, None, at).1.in_doubt;
            let expected = may_hold.map(|may_hold| InDoubt {
                id: "a".to_owned(),
                may_hold,
            });
            assert_eq!(found, Vec::from_iter(expected));
        }
    }

    #[test]
    fn something_may_be_missing_until_all_of_this_nodes_disks_are_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let pool = Arc::new(crate::pool::testing::pool(folder.path(), Media::Ssd));
        let disk = disk(Path::new("/nowhere"), None);
        let there = |stage| {
            let known = Known::new(disk.clone(), stage, None);
            BTreeMap::from([(disk.name.clone(), known)])
        };
        let ours = Decided {
            set: Some(Uuid::from_u128(1)),
            runs_on: BTreeMap::from([(pool.uuid(), "a".to_owned())]),
            ..Decided::default()
        };
        let now = Instant::now();
        let failed = Stage::Left(DiskState::Failed("cannot be mounted".into()), Doubt::None);
        for stage in [Stage::Looking, Stage::Opening(Some(pool.uuid())), failed] {
            assert!(missing(&there(stage), &ours, now).is_some());
        }
        assert!(missing(&BTreeMap::new(), &ours, now).is_some());
        let used = pool.clone();
        assert_eq!(missing(&there(Stage::InUse(pool)), &ours, now), None);
        // On a node that has nothing of its own yet, only what was not read counts.
        let none = Decided::default();
        assert_eq!(missing(&there(foreign("ext4".into())), &none, now), None);
        // And a pool of this node's that cannot be used, but no other's.
        let locked = |set| {
            let doubt = Doubt::Pool {
                uuid: Uuid::from_u128(7),
                set: Uuid::from_u128(set),
            };
            there(Stage::Left(DiskState::Unfit("read-only".into()), doubt))
        };
        let none_yet = Decided {
            set: Some(Uuid::from_u128(1)),
            ..Decided::default()
        };
        assert!(missing(&locked(1), &none_yet, now).is_some());
        assert_eq!(missing(&locked(2), &none_yet, now), None);
        // A copy of one that is in use has nothing that this one has not.
        let doubt = Doubt::Pool {
            uuid: used.uuid(),
            set: Uuid::from_u128(1),
        };
        let copy = Stage::Left(DiskState::Foreign("a copy".into()), doubt);
        let mut both = there(Stage::InUse(used));
        both.insert("sdb".to_owned(), Known::new(disk.clone(), copy, None));
        assert_eq!(missing(&both, &ours, now), None);
        let dead = there(unread("cannot be read".into()));
        assert!(missing(&dead, &none, now).is_some());
        assert_eq!(missing(&dead, &none, Instant::now() + GIVEN_UP), None);
    }

    #[test]
    fn what_was_read_or_can_be_no_pool_is_no_reason_to_wait() {
        let (blank, pool) = (blank(), pool());
        for (file, unfit) in [
            (&blank, None),
            (&blank, Some(Unfit::ReadOnly)),
            (&pool, None),
            // The stick that the node booted from.
            (&pool, Some(Unfit::Removable)),
            (&pool, Some(Unfit::Small)),
        ] {
            let disk = disk(file.path(), unfit);
            assert_eq!(waits_beside(&disk), (false, false), "{unfit:?}");
        }
        let partitioned = SysDisk {
            in_use: Some("partitions (sda1)".to_owned()),
            ..disk(Path::new("/nowhere"), Some(Unfit::ReadOnly))
        };
        assert_eq!(waits_beside(&partitioned), (false, false));
        // Nor before it has said what it is called.
        for in_use in [None, Some("partitions (sda1)".to_owned())] {
            for unfit in [
                None,
                Some(Unfit::Removable),
                Some(Unfit::Small),
                Some(Unfit::Sizeless),
                Some(Unfit::ReadOnly),
            ] {
                let disk = SysDisk {
                    in_use: in_use.clone(),
                    ..disk(Path::new("/nowhere"), unfit)
                };
                let is_none = matches!(judge(&disk), Stage::Left(_, Doubt::None));
                let silent = Known::new(disk, Stage::Looking, None);
                assert_eq!(silent.may_hold(Instant::now()).is_none(), is_none);
            }
        }
    }

    #[test]
    fn a_pool_of_another_format_or_without_its_superblock_is_not_passed_over() {
        let other_format = blank();
        let mut sector = Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("a")).encode();
        sector[16..20].copy_from_slice(&99u32.to_le_bytes());
        let sum = Sha256::digest(&sector[..480]);
        sector[480..].copy_from_slice(&sum);
        let at = header::filesystem_size(SIZE);
        other_format.as_file().write_all_at(&sector, at).unwrap();
        let bare = pool();
        bare.as_file().write_all_at(&[0; 4096], 64 << 10).unwrap();
        for file in [&other_format, &bare] {
            for unfit in [None, Some(Unfit::ReadOnly)] {
                let disk = disk(file.path(), unfit);
                assert_eq!(waits_beside(&disk), (true, true));
                let stage = judge(&disk);
                assert!(
                    unfit.is_some() || matches!(stage, Stage::Left(DiskState::Foreign(_), _)),
                    "{stage:?}"
                );
                let disks = BTreeMap::from([("sda".to_owned(), Known::new(disk, stage, None))]);
                let later = Instant::now() + GIVEN_UP;
                assert!(missing(&disks, &Decided::default(), later).is_some());
            }
        }
        // Copied onto a larger disk, whose own end was not empty.
        let copy = self::pool();
        copy.as_file()
            .write_all_at(b"EFI PART", SIZE - 512)
            .unwrap();
        for unfit in [None, Some(Unfit::ReadOnly)] {
            assert_eq!(waits_beside(&disk(copy.path(), unfit)), (true, true));
        }
        // What another program made of our disk is that program's.
        bare.as_file().write_all_at(b"EFI PART", 512).unwrap();
        assert_eq!(waits_beside(&disk(bare.path(), None)), (false, false));
    }
}
