//! Debian's chrony, the time server that clockd is tried against.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::unpacked::Unpacked;
use crate::program::run;

pub const CHRONY: Unpacked = Unpacked {
    folder: "chrony",
    packages: &["chrony"],
    why: "is the time server that clockd is tried against",
    check: |folder| runs(&program(folder)),
};

/// Where a machine has it that serves the time by it.
const INSTALLED: &str = "/usr/sbin/chronyd";

/// The one in the cache, else the machine's own; none if neither is there and runs.
pub fn find() -> Result<Option<PathBuf>> {
    if let Some(folder) = CHRONY.find()? {
        return Ok(Some(program(&folder)));
    }
    let installed = PathBuf::from(INSTALLED);
    Ok(runs(&installed).is_ok().then_some(installed))
}

fn program(folder: &Path) -> PathBuf {
    folder.join("usr/sbin/chronyd")
}

fn runs(program: &Path) -> Result<()> {
    run(Command::new(program).arg("--version")).map(drop)
}
