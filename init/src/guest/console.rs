//! The machine's console: the command's terminal, and where guest init says what went wrong.

use std::{
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::patience::{self, DEVICE_LIMIT};

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// Waits for the console, which the VMM announces only after it has seen the driver. A machine without a virtio console is one run by hand, and the kernel's
/// own console is seen there.
pub fn find() -> Result<&'static Path> {
    let path = ["/dev/hvc0", "/dev/console"]
        .into_iter()
        .find(|path| patience::until(DEVICE_LIMIT, || open(Path::new(path)).ok()).is_some())
        .context("neither /dev/hvc0 nor /dev/console can be opened")?;
    Ok(PATH.get_or_init(|| path.into()))
}

pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOCTTY.bits().cast_signed();
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

/// Says something to whoever reads the machine's log.
///
/// Opens the console anew each time: when a command ends whose terminal it was, the kernel hangs
/// up all that had it open.
pub fn say(text: impl Display) {
    let line = format!("loam: {text}\n");
    // Nobody is left to hear that nobody hears.
    let _ = match PATH.get().map(|path| open(path)) {
        Some(Ok(mut console)) => console.write_all(line.as_bytes()),
        Some(Err(_)) | None => io::stderr().write_all(line.as_bytes()),
    };
}
