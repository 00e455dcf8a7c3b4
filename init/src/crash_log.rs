//! What the kernel wrote down when it last panicked: onto the screen and into the log of the next boot.
//!
//! A kernel that panics has nowhere to write but to what needs no driver: with UEFI to variables of the firmware
//! (`efi_pstore`), a KiB each, which are files of the file system `pstore` at the next boot
//! (Documentation/ABI/testing/pstore).

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    sync::{Arc, OnceLock},
    thread,
};

use crate::{coldplug::load_named, early};
use loam_init::{module::Loader, mount};

const STORE: &str = "/sys/fs/pstore";

/// Of one record, whatever the firmware says that it has.
const MOST_BYTES: u64 = 64 << 10;
/// Records that are looked at: a crash has some twenty.
const MOST_RECORDS: usize = 200;

/// What stands before the reason of a panic (`panic()` in the kernel).
const PANIC: &str = "Kernel panic - not syncing: ";

/// What came of the boot before, once it is known.
#[derive(Clone, Debug, Default)]
pub struct LastBoot(Arc<OnceLock<String>>);

impl LastBoot {
    /// Reads what was kept, and has the kernel keep what comes, in a thread of its own: firmware may take its time.
    pub fn look(modules: Option<Loader>) -> Self {
        let found = Self::default();
        let last = found.clone();
        let looking = thread::Builder::new()
            .name("crash log".into())
            .spawn(move || {
                if early::has_efi_variables()
                    && let Some(modules) = modules
                {
                    load_named(&modules, "efi_pstore");
                }
                if let Err(error) = mount::mount("pstore", STORE, "pstore", early::SEALED, "") {
                    tracing::info!(
                        error = format!("{error:#}"),
                        "no crash of this node is kept"
                    );
                    return;
                }
                let Some(crash) = take(Path::new(STORE)) else {
                    return;
                };
                for line in &crash.lines {
                    tracing::info!(line, "before the last crash");
                }
                tracing::error!(
                    reason = crash.reason,
                    "the boot before ended in a crash of the kernel"
                );
                let _ = last
                    .0
                    .set(format!("ended in a crash of the kernel: {}", crash.reason));
            });
        if let Err(error) = looking {
            tracing::warn!(%error, "whether the boot before has crashed is not known");
        }
        found
    }

    pub fn said(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// The kernel's last lines.
#[derive(Debug, PartialEq, Eq)]
struct Crash {
    reason: String,
    lines: Vec<String>,
}

/// A part of what was written at one time. Ordered as it was written.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Part {
    /// When, in seconds since 1970, and how often since that boot.
    time: u64,
    count: u64,
    /// The last lines are in the first part.
    part: std::cmp::Reverse<u64>,
    text: String,
}

/// The newest crash that is kept, if any. All are removed: a firmware whose variables are full may not start any more.
fn take(store: &Path) -> Option<Crash> {
    let records = fs::read_dir(store).ok()?.flatten().take(MOST_RECORDS);
    let mut parts = Vec::new();
    for record in records {
        let name = record.file_name();
        let path = record.path();
        if let Some(part) = name.to_str().and_then(|name| read(name, &path)) {
            parts.push(part);
        }
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(?name, %error, "a record of a crash stays");
        }
    }
    parts.sort();
    newest(&parts)
}

/// `dmesg-efi_pstore-169999999901001`: time, two digits of the part and three of the count
/// (`generic_id` in drivers/firmware/efi/efi-pstore.c). Other stores number theirs.
fn read(name: &str, path: &Path) -> Option<Part> {
    let id: u64 = name
        .strip_prefix("dmesg-")?
        .rsplit_once('-')?
        .1
        .parse()
        .ok()?;
    let mut bytes = Vec::new();
    File::open(path)
        .ok()?
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(Part {
        time: id / 100_000,
        count: id % 1000,
        part: std::cmp::Reverse(id / 1000 % 100),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

/// Of what was written last: that of a panic before that of an oops, which is what leads to one.
fn newest(parts: &[Part]) -> Option<Crash> {
    let crashes = parts.chunk_by(|a, b| (a.time, a.count) == (b.time, b.count));
    let crashes: Vec<Crash> = crashes.map(put_together).collect();
    let panicked = crashes.iter().rposition(|crash| crash.is_panic());
    let index = panicked.or(crashes.len().checked_sub(1))?;
    crashes.into_iter().nth(index)
}

fn put_together(parts: &[Part]) -> Crash {
    // The first line of each says which part it is.
    let lines = parts.iter().flat_map(|part| part.text.lines().skip(1));
    let lines: Vec<String> = lines.map(str::to_owned).collect();
    let reason = lines
        .iter()
        .rev()
        .find_map(|line| Some(line.split_once(PANIC)?.1));
    let last = || lines.iter().rev().find(|line| !line.trim().is_empty());
    let reason = reason.map(str::to_owned).or_else(|| last().cloned());
    Crash {
        reason: reason.unwrap_or_else(|| "it did not say why".to_owned()),
        lines,
    }
}

impl Crash {
    fn is_panic(&self) -> bool {
        self.lines.iter().any(|line| line.contains(PANIC))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(records: &[(&str, &str)]) -> tempfile::TempDir {
        let store = tempfile::tempdir().unwrap();
        for (name, text) in records {
            fs::write(store.path().join(name), text).unwrap();
        }
        store
    }

    #[test]
    fn the_newest_panic_is_put_together_and_nothing_stays() {
        let store = store(&[
            (
                "dmesg-efi_pstore-170000000001001",
                "Oops#1 Part1\n<4>[9] Oops: int3\n",
            ),
            (
                "dmesg-efi_pstore-170000000001002",
                "Panic#2 Part1\n<0>[10] Kernel panic - not syncing: Fatal exception\n<0>[10] ---[ end\n",
            ),
            (
                "dmesg-efi_pstore-170000000002002",
                "Panic#2 Part2\n<6>[1] first\n",
            ),
            (
                "dmesg-efi_pstore-160000000001001",
                "Panic#1 Part1\nKernel panic - not syncing: long ago\n",
            ),
            ("console-ramoops-0", "something else"),
        ]);
        let crash = take(store.path()).unwrap();
        assert_eq!(crash.reason, "Fatal exception");
        assert_eq!(crash.lines.len(), 3);
        assert_eq!(crash.lines[0], "<6>[1] first");
        assert_eq!(fs::read_dir(store.path()).unwrap().count(), 0);
        assert_eq!(take(store.path()), None);
    }

    #[test]
    fn what_firmware_kept_badly_is_a_crash_all_the_same() {
        let records: [&[(&str, &str)]; 3] = [
            &[(
                "dmesg-efi_pstore-170000000001001",
                "Oops#1 Part1\nBUG: bad page\n\n",
            )],
            &[("dmesg-efi_pstore-170000000001001", "")],
            &[("dmesg-efi_pstore-x", "Panic"), ("dmesg-", ""), ("odd", "")],
        ];
        let reasons = records.map(|records| take(store(records).path()).map(|crash| crash.reason));
        assert_eq!(reasons[0].as_deref(), Some("BUG: bad page"));
        assert_eq!(reasons[1].as_deref(), Some("it did not say why"));
        assert_eq!(reasons[2], None);
    }
}
