//! Where images are unpacked: a btrfs on a file, made anew for each who is measured, in a root that has the
//! image's programs at the places where storaged looks for them, and nothing else.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
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
    /// `programs` is a folder with `usr`; `fetch_image` is static.
    pub fn make(folder: &Path, programs: &Path, fetch_image: &Path) -> Result<Self> {
        let ground = Self {
            folder: folder.to_owned(),
        };
        let root = ground.root();
        fs::create_dir_all(&root).with_context(|| format!("making {}", root.display()))?;
        let options = ["-t", "tmpfs", "-o", "mode=0755", "tmpfs"];
        run(Command::new("mount").args(options).arg(&root))?;
        for place in ["usr", "proc", "dev", "pool"] {
            fs::create_dir(root.join(place))?;
        }
        for (from, to) in [
            (programs.join("usr"), "usr"),
            ("/proc".into(), "proc"),
            ("/dev".into(), "dev"),
        ] {
            run(Command::new("mount")
                .arg("--bind")
                .arg(from)
                .arg(root.join(to)))?;
        }
        for place in ["lib", "lib64"] {
            symlink(format!("usr/{place}"), root.join(place))?;
        }
        fs::copy(fetch_image, root.join("fetch_image"))
            .with_context(|| format!("copying {}", fetch_image.display()))?;
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

    /// To be entered by chroot.
    pub fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    pub fn pool(&self) -> PathBuf {
        self.root().join("pool")
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
