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

use super::{erofs::PackError, watch::Watch};

const PIECE: usize = 1 << 20;

/// Makes `target` of what `from` holds, with space of its own. Durable when it returns.
///
/// By reading and writing: `io::copy` would share blocks again.
pub fn copy(from: &File, target: &Path, watch: &mut Watch) -> Result<(), PackError> {
    let mut copy = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o400)
        .open(target)
        .map_err(io("made"))?;
    let mut piece = vec![0; PIECE];
    let mut done = 0;
    loop {
        // A builder that went astray may leave a file that is long and has nothing in it.
        watch.check(done, done)?;
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
    use std::{fs, os::unix::fs::PermissionsExt};

    use loam_deployment::Bytes;

    use super::*;
    use crate::image::{
        pace::Patience,
        stop::Stop,
        watch::{Ended, Watch},
    };

    #[test]
    fn a_copy_is_whole_and_nobody_s_to_change() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..2 * PIECE as u32 + 5000).map(|n| n as u8).collect();
        let (from, target) = (folder.path().join("from"), folder.path().join("target"));
        fs::write(&from, &bytes).unwrap();
        let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
        let from = File::open(from).unwrap();
        copy(&from, &target, &mut watch).unwrap();
        assert!(fs::read(&target).unwrap() == bytes);
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        copy(&from, &target, &mut watch).unwrap_err();
    }

    #[test]
    fn a_copy_that_nobody_wants_any_more_ends() {
        let folder = tempfile::tempdir().unwrap();
        let stop = Stop::default();
        let mut watch = Watch::new(&stop, &Patience::USUAL, Bytes(u64::MAX));
        stop.set();
        // A file that goes on for longer than anybody waits.
        let endless = File::open("/dev/zero").unwrap();
        let error = copy(&endless, &folder.path().join("target"), &mut watch).unwrap_err();
        assert!(
            matches!(error, PackError::Ended(Ended::Stopped)),
            "{error:?}"
        );
    }
    #[test]
    fn a_file_that_is_longer_than_its_image_can_be_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::mib(3));
        let long = tempfile::tempfile().unwrap();
        long.set_len(1 << 40).unwrap();
        let target = folder.path().join("target");
        let error = copy(&long, &target, &mut watch).unwrap_err();
        assert!(
            matches!(error, PackError::Ended(Ended::TooMuch(_))),
            "{error:?}"
        );
        assert!(fs::metadata(target).unwrap().len() <= 4 << 20);
    }
}
