//! The machine's console: the command's terminal, and where guest init says what went wrong.

use std::{
    fmt::Display,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use anyhow::{Context, Result};
use loam_node_api::window::WindowSize;
use rustix::{
    fs::OFlags,
    termios::{Winsize, tcsetwinsize},
};

use crate::patience::{self, DEVICE_LIMIT};

static PATH: OnceLock<PathBuf> = OnceLock::new();

/// How large it is shown, as far as anybody has said.
static SIZE: Mutex<Option<WindowSize>> = Mutex::new(None);

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

/// Tells the programs at the console how large it is shown: the kernel sends them SIGWINCH.
pub fn resize(size: WindowSize) {
    *SIZE.lock().unwrap_or_else(PoisonError::into_inner) = Some(size);
    resize_again();
}

/// A terminal forgets its size when nobody has it open, as before the command was started.
pub fn resize_again() {
    let size = *SIZE.lock().unwrap_or_else(PoisonError::into_inner);
    // A console that is none has no size.
    if let (Some(path), Some(size)) = (PATH.get(), size) {
        let _ = set_size(path, size);
    }
}

fn set_size(path: &Path, size: WindowSize) -> io::Result<()> {
    let size = Winsize {
        ws_col: size.columns,
        ws_row: size.rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(tcsetwinsize(open(path)?, size)?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{fixture, process::tests::Started};

    #[test]
    fn the_command_hears_of_the_window_s_size() {
        let script = "trap 'echo now $(stty size)' WINCH; echo up; while :; do sleep 0.05; done";
        let mut started = Started::new(&loam_node_api::guest::GuestConfig {
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            ..fixture::config()
        });
        started.until("up\n");
        let console = started.console.clone();
        for (columns, rows) in [(132, 50), (80, 24)] {
            set_size(&console, WindowSize { columns, rows }).unwrap();
            started.until(&format!("now {rows} {columns}\n"));
        }
    }
}
