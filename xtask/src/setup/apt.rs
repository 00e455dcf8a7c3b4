//! Debian packages of the host: QEMU and the like.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::phase;
use crate::qemu::firmware;
use crate::up::interrupt;

/// A package, and what it is for.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    pub name: &'static str,
    pub why: &'static str,
    present: fn() -> bool,
}

/// Disks of others, which storaged must know and leave alone.
const MAKES_DISKS: &str = "makes disks of its kind for storaged's tests";

const PACKAGES: [Package; 21] = [
    Package {
        name: "qemu-system-x86",
        why: "boots the image",
        present: || in_path(crate::qemu::PROGRAM),
    },
    Package {
        name: "ovmf",
        why: "is QEMU's UEFI firmware, which starts the image as a real machine's does",
        present: || firmware::find().is_ok(),
    },
    Package {
        name: "iproute2",
        why: "lays the networks of netd's tests",
        present: || in_path("ip"),
    },
    Package {
        name: "chrony",
        why: "is the time server that clockd is tried against",
        present: || Path::new("/usr/sbin/chronyd").exists(),
    },
    Package {
        name: "xfsprogs",
        why: MAKES_DISKS,
        present: || in_path("mkfs.xfs"),
    },
    Package {
        name: "btrfs-progs",
        why: MAKES_DISKS,
        present: || in_path("mkfs.btrfs"),
    },
    Package {
        name: "f2fs-tools",
        why: MAKES_DISKS,
        present: || in_path("mkfs.f2fs"),
    },
    Package {
        name: "reiserfsprogs",
        why: MAKES_DISKS,
        present: || in_path("mkreiserfs"),
    },
    Package {
        name: "ntfs-3g",
        why: MAKES_DISKS,
        present: || in_path("mkntfs"),
    },
    Package {
        name: "ocfs2-tools",
        why: MAKES_DISKS,
        present: || in_path("mkfs.ocfs2"),
    },
    Package {
        name: "jfsutils",
        why: MAKES_DISKS,
        present: || in_path("mkfs.jfs"),
    },
    Package {
        name: "nilfs-tools",
        why: MAKES_DISKS,
        present: || in_path("mkfs.nilfs2"),
    },
    Package {
        name: "gfs2-utils",
        why: MAKES_DISKS,
        present: || in_path("mkfs.gfs2"),
    },
    Package {
        name: "exfatprogs",
        why: MAKES_DISKS,
        present: || in_path("mkfs.exfat"),
    },
    Package {
        name: "dosfstools",
        why: MAKES_DISKS,
        present: || in_path("mkfs.vfat"),
    },
    Package {
        name: "udftools",
        why: MAKES_DISKS,
        present: || in_path("mkudffs"),
    },
    Package {
        name: "lvm2",
        why: MAKES_DISKS,
        present: || in_path("pvcreate"),
    },
    Package {
        name: "gdisk",
        why: MAKES_DISKS,
        present: || in_path("sgdisk"),
    },
    Package {
        name: "bcache-tools",
        why: MAKES_DISKS,
        present: || in_path("make-bcache"),
    },
    Package {
        name: "nodejs",
        why: "runs solc, which compiles the contract",
        present: || in_path("node"),
    },
    Package {
        name: "npm",
        why: "brings anvil, the chain of the demo and the tests, and solc",
        present: || in_path("npm"),
    },
];

/// What this machine lacks.
pub fn missing() -> Vec<Package> {
    PACKAGES
        .into_iter()
        .filter(|package| !(package.present)())
        .collect()
}

/// Installs the packages where we may, else says with which command a person can.
pub fn install(packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let install = ["apt-get", "install", "--yes", "--no-install-recommends"];
    let Some(prefix) = privilege() else {
        let names = names.join(" ");
        bail!(
            "this account may not install packages. Run this, then again what you ran:\n\n    sudo {} {names}\n",
            install.join(" ")
        );
    };
    phase::run("Debian packages", |phase| {
        phase.note("apt-get update");
        execute(&[prefix, &["apt-get", "update", "-q"]].concat())?;
        phase.note(format!("apt-get install {}", names.join(" ")));
        execute(&[prefix, &install, &names].concat())?;
        Ok::<_, anyhow::Error>(((), names.join(" ")))
    })?;
    let still: Vec<&str> = missing().iter().map(|package| package.name).collect();
    ensure!(
        still.is_empty(),
        "apt-get has installed {}, but what they bring is not found: is their place in $PATH?",
        still.join(", ")
    );
    Ok(())
}

/// What to put before a command to run it as root; nothing fits for some.
fn privilege() -> Option<&'static [&'static str]> {
    if !in_path("apt-get") {
        return None;
    }
    if rustix::process::geteuid().is_root() {
        return Some(&[]);
    }
    let passwordless = Command::new("sudo")
        .args(["-n", "true"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    passwordless.then_some(&["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"])
}

fn execute(words: &[&str]) -> Result<()> {
    let (program, arguments) = words.split_first().context("a command has a first word")?;
    // dpkg that is broken off leaves the machine's packages half installed: Ctrl-C in the terminal
    // does not reach it in its own group, and ours waits.
    let _finish = interrupt::finish_first();
    let output = Command::new(program)
        .args(arguments)
        .process_group(0)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {program}"))?;
    ensure!(
        output.status.success(),
        "`{}` failed:\n{}{}",
        words.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Looks where root does too, for whoever asks.
fn in_path(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_in_the_path() {
        assert!(in_path("sh"));
        assert!(!in_path("no-such-program-anywhere"));
    }
}
