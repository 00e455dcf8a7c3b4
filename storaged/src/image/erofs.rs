//! A tar stream as a file system: the last step of an image.

pub mod directory;
pub mod format;
pub mod live;
pub mod slots;
pub mod stored;
pub mod xattrs;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, chown},
    path::Path,
};

use super::{
    copy::copy,
    feed::feed,
    merged::MergedError,
    watch::{Ended, Watch},
};
use crate::{
    cgroup::Group,
    program::{self, Confinement, ProgramError},
};

/// User and group of `mkfs.erofs`, which reads bytes that strangers chose. Nothing else on a node
/// has this number (below what Debian gives to people, above what it gives to daemons, and far
/// below the machines' own).
pub const BUILDER_ID: u32 = 990;

/// A large image is made in minutes; only one that exploits a flaw takes an hour of work.
const CPU_SECONDS: u64 = 3600;

/// It reserves much more than it uses, for each of its threads.
const ADDRESS_SPACE: u64 = 4 << 30;

/// What it may really use: all names, 1 KiB each at most, and what it writes until the disk has it.
const MEMORY: u64 = 768 << 20;

/// A number that the format has no room for. What layers may have is limited to much less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the image is too large: {0} are more than its file system can have")]
pub struct TooLarge(pub &'static str);

#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error(transparent)]
    Merged(#[from] MergedError),
    #[error(transparent)]
    Program(#[from] ProgramError),
    #[error("the image's builder {0}")]
    Ended(#[from] Ended),
    /// Which is no fault of the image's: it was built.
    #[error("the copy of the image {0}")]
    Uncopied(Ended),
    #[error("the image's builder cannot be given limits, and does not run without: {0}")]
    Unconfined(String),
    #[error("the image's file cannot be {what}: {source}")]
    Io {
        what: &'static str,
        source: io::Error,
    },
}

/// Writes the stream that it is given.
pub type Stream<'a> = &'a mut dyn FnMut(&mut dyn Write) -> Result<(), MergedError>;

/// Makes a file system of a tar stream.
pub trait Pack: Send + Sync + std::fmt::Debug {
    /// `target` does not exist yet. Its contents are durable on return, if there is no error. Ends
    /// soon after `watch` says so.
    fn pack(&self, target: &Path, stream: Stream<'_>, watch: &mut Watch) -> Result<(), PackError>;
}

/// Debian's `mkfs.erofs`, from erofs-utils 1.8 or later (for `--tar`).
#[derive(Debug, Default)]
pub struct MkfsErofs {
    group: Group,
}

impl MkfsErofs {
    /// After another storaged may have been killed: what its builders started and left is ended.
    pub fn after_another() -> Self {
        let group = Group::default();
        group.clear();
        Self { group }
    }
}

impl Pack for MkfsErofs {
    fn pack(&self, target: &Path, stream: Stream<'_>, watch: &mut Watch) -> Result<(), PackError> {
        let packed = target.with_extension("packed");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&packed)
            .map_err(io("made"))?;
        let made = chown(&packed, Some(BUILDER_ID), Some(BUILDER_ID))
            .map_err(io("given away"))
            .and_then(|()| self.run(&packed, &file, stream, watch));
        // From here on it is for us alone, and goes with us: whatever the builder started is ended.
        let removed = fs::remove_file(&packed).map_err(io("removed"));
        made.and(removed)?;
        copy(&file, target, watch)
    }
}

impl MkfsErofs {
    fn run(
        &self,
        target: &Path,
        output: &File,
        stream: Stream<'_>,
        watch: &mut Watch,
    ) -> Result<(), PackError> {
        let confinement = Confinement {
            id: BUILDER_ID,
            cpu_seconds: CPU_SECONDS,
            address_space: ADDRESS_SPACE,
        };
        let mut mkfs = program::command("mkfs.erofs", Some(confinement))?;
        // Not compressed: machines start faster.
        // No build time and no UUID: the same image gives the same file on every node.
        mkfs.args([
            "--quiet",
            "-T0",
            "--mkfs-time",
            "-Uclear",
            "-b4096",
            "--tar=f",
        ])
        .arg(target);
        feed(mkfs, output, stream, watch, |pid| {
            self.group.confine(pid, MEMORY)
        })
    }
}

fn io(what: &'static str) -> impl Fn(io::Error) -> PackError {
    move |source| PackError::Io { what, source }
}
