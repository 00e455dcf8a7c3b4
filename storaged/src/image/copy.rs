//! An image's file, written once more.
//!
//! `mkfs.erofs` puts data aside in its own file, far behind the image's end, and has btrfs share the whole
//! blocks of it with the image. The rest is cut off, and takes its space all the same, for an extent is free
//! only when no block of it is referred to: of 100,000 files of a byte, with one of a block here and there,
//! came an image of 8 MiB that held 390. The ledger counts what a file is long, so no file may hold more.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};

use loam_deployment::Bytes;

use super::{
    erofs::PackError,
    watch::{Ended, Watch},
};

const PIECE: usize = 1 << 20;

/// Makes `target` of what `from` holds, with space of its own. Durable when it returns.
///
/// By reading and writing: `io::copy` would share blocks again. `builder` is the watch of who made `from`:
/// the copy has as much space, and time of its own. What the builder holds of the disk, which may be more than
/// its file shows, must leave as much as the copy takes.
pub fn copy(from: &File, target: &Path, builder: &Watch) -> Result<(), PackError> {
    let most = builder.space();
    // A builder that went astray may leave a file that is long and has nothing in it.
    let len = Bytes(from.metadata().map_err(io("looked at"))?.len());
    if len > most {
        return Err(Ended::TooMuch(most).into());
    }
    if !builder.has_room_for(len) {
        return Err(Ended::Short.into());
    }
    let mut watch = builder.of_copy();
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(target)
        .map_err(io("made"))?;
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    loop {
        watch.check(done, done).map_err(PackError::Uncopied)?;
        let len = match from.read_at(&mut piece, done) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(io("read")(error)),
        };
        copy.write_all(&piece[..len]).map_err(io("written"))?;
        done += len as u64;
    }
    copy.sync_all().map_err(io("synced"))
}

fn io(what: &'static str) -> impl Fn(io::Error) -> PackError {
    move |source| PackError::Io { what, source }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::PermissionsExt,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    use super::*;
    use crate::image::{failure::FetchError, pace::Patience, stop::Stop, watch::Room};

    #[test]
    fn a_copy_is_whole_and_nobody_s_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2 * PIECE as u32 + 5000).map(|n| n as u8).collect();
        let (from, target) = (folder.path().join("from"), folder.path().join("target"));
        fs::write(&from, &bytes).unwrap();
        let watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
        let from = File::open(from).unwrap();
        copy(&from, &target, &watch).unwrap();
        assert!(fs::read(&target).unwrap() == bytes);
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        copy(&from, &target, &watch).unwrap_err();
    }

    #[test]
    fn a_copy_that_nobody_wants_any_more_ends() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        let watch = Watch::new(&stop, &Patience::USUAL, Bytes::gib(1));
        stop.set();
        // A file that goes on for longer than anybody waits.
        let endless = File::open("/dev/zero").unwrap();
        let error = copy(&endless, &folder.path().join("target"), &watch).unwrap_err();
        assert!(
            matches!(error, PackError::Uncopied(Ended::Stopped)),
            "{error:?}"
        );
    }

    /// As on a slow disk: the builder has used its time up.
    #[test]
    fn a_copy_has_time_of_its_own_and_its_end_is_no_death_of_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let patience = Patience {
            pack: Duration::ZERO,
            ..Patience::USUAL
        };
        let mut watch = Watch::new(&Stop::default(), &patience, Bytes::mib(3));
        std::thread::sleep(Duration::from_millis(1));
        assert!(matches!(watch.check(1, 0), Err(Ended::TooLong(_))));
        let from = folder.path().join("from");
        fs::write(&from, vec![7; 3 << 20]).unwrap();
        let from = File::open(from).unwrap();
        copy(&from, &folder.path().join("target"), &watch).unwrap();
        // One that goes on though its length says nothing of it.
        let endless = File::open("/dev/zero").unwrap();
        let target = folder.path().join("endless");
        let error = copy(&endless, &target, &watch).unwrap_err();
        assert!(
            matches!(error, PackError::Uncopied(Ended::TooMuch(_))),
            "{error:?}"
        );
        assert!(fs::metadata(target).unwrap().len() <= 4 << 20);
        assert!(!FetchError::from(error).is_death());
    }

    #[test]
    fn a_file_that_is_longer_than_its_image_can_be_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::mib(3));
        let long = tempfile::tempfile().unwrap();
        long.set_len(1 << 40).unwrap();
        let target = folder.path().join("target");
        let error = copy(&long, &target, &watch).unwrap_err();
        assert!(
            matches!(error, PackError::Ended(Ended::TooMuch(_))),
            "{error:?}"
        );
        assert!(FetchError::from(error).is_death() && !target.exists());
    }

    /// What a disk has left, which only the test changes.
    #[derive(Debug)]
    struct Left(AtomicU64);

    impl Room for Left {
        fn left(&self) -> Option<Bytes> {
            Some(Bytes(self.0.load(Ordering::Relaxed)))
        }
    }

    /// Its builder pins extents that its file does not show until the copy is done.
    #[test]
    fn a_copy_takes_nothing_that_others_are_promised() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let left = Arc::new(Left(AtomicU64::new((2 << 20) - 1)));
        let watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::mib(3)).on(left.clone());
        let holes = tempfile::tempfile().unwrap();
        holes.set_len(2 << 20).unwrap();
        let error = copy(&holes, &target, &watch).unwrap_err();
        assert!(matches!(error, PackError::Ended(Ended::Short)), "{error:?}");
        assert!(FetchError::from(error).is_death() && !target.exists());

        left.0.store(2 << 20, Ordering::Relaxed);
        copy(&holes, &target, &watch).unwrap();
        // What others take meanwhile is no fault of the image's.
        left.0.store(0, Ordering::Relaxed);
        let endless = File::open("/dev/zero").unwrap();
        let error = copy(&endless, &folder.path().join("endless"), &watch).unwrap_err();
        assert!(
            matches!(error, PackError::Uncopied(Ended::Short)),
            "{error:?}"
        );
        assert!(!FetchError::from(error).is_death());
    }
}
