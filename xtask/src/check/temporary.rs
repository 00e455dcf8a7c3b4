//! What tests leave in folders for what is temporary. One that is killed, by Ctrl-C or otherwise, cleans up
//! nothing behind itself: what it mounted or attached to a loop device there holds the folder until the next run
//! releases it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::mount::{UnmountFlags, unmount};

use crate::{image::stage::Key, program, workspace};

/// Device nodes of storaged's tests (`storaged/tests/kernel/loops.rs`): this, the process's number, `x` and a number.
const NODE: &str = "loamtest";

/// For tests of this clone that need no more than a few files: short, since sockets' names are.
pub fn folder() -> PathBuf {
    let clone = Key::new(&workspace::root().to_string_lossy()).hex();
    // As the kernel names what is mounted there.
    let place = std::env::temp_dir();
    let place = fs::canonicalize(&place).unwrap_or(place);
    place.join(format!("loam-tests-{}", &clone[..8]))
}

/// Makes the folder, empty, for us alone.
pub fn begin(folder: &Path) -> Result<()> {
    end(folder)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .with_context(|| format!("making {}", folder.display()))
}

/// Removes it, and releases what is still mounted or attached there.
pub fn end(folder: &Path) -> Result<()> {
    let mounts = fs::read("/proc/self/mountinfo").context("reading what is mounted")?;
    for mount in mounted_below(&mounts, folder) {
        // What cannot be released shows below, where it is in the way.
        let _ = unmount(&mount, UnmountFlags::DETACH);
    }
    for device in block_devices()? {
        let backing = Path::new("/sys/block")
            .join(&device)
            .join("loop/backing_file");
        if fs::read(backing)
            .is_ok_and(|file| Path::new(&OsString::from_vec(file)).starts_with(folder))
        {
            let _ = program::run(
                Command::new("losetup")
                    .arg("--detach")
                    .arg(Path::new("/dev").join(&device)),
            );
        }
    }
    for entry in fs::read_dir("/dev").context("reading /dev")? {
        let entry = entry.context("reading /dev")?;
        if is_of_a_dead_process(&entry.file_name().to_string_lossy()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    workspace::remove(folder)
}

fn block_devices() -> Result<Vec<OsString>> {
    let entries = fs::read_dir("/sys/block").context("reading /sys/block")?;
    let names: io::Result<_> = entries.map(|entry| Ok(entry?.file_name())).collect();
    names.context("reading /sys/block")
}

fn is_of_a_dead_process(node: &str) -> bool {
    let number = node
        .strip_prefix(NODE)
        .and_then(|rest| rest.split_once('x'));
    number.is_some_and(|(process, _)| !Path::new("/proc").join(process).exists())
}

/// By `/proc/self/mountinfo` (proc(5)), the last that was mounted first.
fn mounted_below(mounts: &[u8], folder: &Path) -> Vec<PathBuf> {
    let lines = mounts.split(|byte| *byte == b'\n').rev();
    let targets =
        lines.filter_map(|line| Some(unescaped(line.split(|byte| *byte == b' ').nth(4)?)));
    targets
        .filter(|target| target.starts_with(folder))
        .collect()
}

/// Blanks and backslashes are written as `\040`.
fn unescaped(target: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = target;
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        let (byte, left) = match escaped.filter(|_| *first == b'\\') {
            Some(byte) => (byte, &behind[3..]),
            None => (*first, behind),
        };
        bytes.push(byte);
        rest = left;
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_a_folder_is_found_the_last_first() {
        let mounts = b"20 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            30 20 7:0 / /tmp/of\\040tests/a rw,noatime shared:1 - btrfs /dev/loop0 rw\n\
            31 30 7:1 / /tmp/of\\040tests/a/b rw - btrfs /dev/loop1 rw\n\
            32 20 7:2 / /tmp/of\\040tests-not rw - btrfs /dev/loop2 rw\n";
        let below = mounted_below(mounts, Path::new("/tmp/of tests"));
        let expected = ["/tmp/of tests/a/b", "/tmp/of tests/a"];
        assert_eq!(below, expected.map(PathBuf::from));
        assert_eq!(unescaped(br"/a\134b\04"), Path::new(r"/a\b\04"));
    }

    #[test]
    fn nodes_of_those_who_live_stay() {
        let ours = format!("{NODE}{}x0", std::process::id());
        assert!(!is_of_a_dead_process(&ours));
        assert!(is_of_a_dead_process(&format!("{NODE}4294967295x3")));
        for other in ["loop0", "loamtest", "null"] {
            assert!(!is_of_a_dead_process(other), "{other}");
        }
    }

    #[test]
    fn a_folder_begins_empty_and_for_us_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("tests");
        begin(&folder).unwrap();
        fs::write(folder.join("left"), "").unwrap();
        begin(&folder).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert_eq!(
            fs::metadata(&folder).unwrap().permissions().mode() & 0o777,
            0o700
        );
        end(&folder).unwrap();
        assert!(!folder.exists());
        end(&folder).unwrap();
    }

    /// As a killed test leaves it. Needs root.
    #[test]
    fn what_is_mounted_and_attached_is_released() {
        let place = tempfile::tempdir().unwrap();
        let (folder, target) = (place.path().join("tests"), place.path().join("tests/at"));
        begin(&folder).unwrap();
        fs::create_dir(&target).unwrap();
        let file = folder.join("disk");
        fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
        program::run(Command::new("mkfs.ext4").arg("-q").arg(&file)).unwrap();
        let find = |command: &mut Command| {
            program::run(command.arg("--find").arg("--show").arg(&file)).unwrap()
        };
        let device = find(&mut Command::new("losetup"));
        program::run(Command::new("mount").arg(device.trim()).arg(&target)).unwrap();
        end(&folder).unwrap();
        assert!(!folder.exists());
        let attached = program::run(Command::new("losetup").arg("--all")).unwrap();
        assert!(!attached.contains(&*folder.to_string_lossy()), "{attached}");
    }
}
