//! Where images are unpacked: a btrfs on a file, made anew for each who is measured.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::program;

/// Sparse. Room for the image three times: packed, being built, and built.
const DISK: u64 = 6 << 30;

/// In a mount namespace of its own, with which it goes.
#[derive(Debug)]
pub struct Ground {
    folder: PathBuf,
}

impl Ground {
    pub fn make(folder: &Path) -> Result<Self> {
        let ground = Self {
            folder: folder.to_owned(),
        };
        let pool = ground.pool();
        fs::create_dir_all(&pool).with_context(|| format!("making {}", pool.display()))?;
        // What an earlier run left.
        let _ = fs::remove_file(ground.disk());
        let disk = File::create(ground.disk()).context("making the pool's disk")?;
        disk.set_len(DISK)?;
        Ok(ground)
    }

    /// Makes the pool empty.
    pub fn renew(&self) -> Result<()> {
        let pool = self.pool();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let is_there = |line: &str| line.split(' ').nth(4) == pool.to_str();
        if mounts.lines().any(is_there) {
            run(Command::new("umount").arg(&pool))?;
        }
        // As storaged makes and mounts one.
        let options = ["--quiet", "--force", "--nodiscard"];
        let kept = ["--metadata", "dup", "--data", "single"];
        let mut mkfs = Command::new("mkfs.btrfs");
        run(mkfs.args(options).args(kept).arg(self.disk()))?;
        // The loop device goes with the mount.
        let options = ["-t", "btrfs", "-o", "loop,noatime,nosuid,nodev,noexec"];
        run(Command::new("mount")
            .args(options)
            .arg(self.disk())
            .arg(&pool))?;
        // What others have left unwritten is not to be written while this one is measured.
        rustix::fs::sync();
        Ok(())
    }

    pub fn pool(&self) -> PathBuf {
        self.folder.join("pool")
    }

    fn disk(&self) -> PathBuf {
        self.folder.join("disk")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // Also while it is mounted: the blocks go with the mount.
        let _ = fs::remove_file(self.disk());
    }
}

fn run(command: &mut Command) -> Result<()> {
    program::run(command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")).map(drop)
}
