//! Debian packages of the host: QEMU and the like.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::Need;
use crate::debian::release;
use crate::interrupt;
use crate::phase;
use crate::qemu::firmware;

/// A package, and what it is for.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    pub name: &'static str,
    pub why: &'static str,
    need: Need,
    present: fn() -> bool,
}

/// Disks of others, which storaged must know and leave alone.
const MAKES_DISKS: &str = "makes disks of its kind for storaged's tests";

/// The kernel that machines boot.
const COMPILES_KERNEL: &str = "compiles the kernel that machines boot";

/// What storaged makes of layers, beside what others do.
const UNPACKS_LAYERS: &str = "packs and unpacks layers for storaged's tests";

/// Debian's, when packages are chosen anew.
const CHECKS_INDEXES: &str = "says that an index of packages is Debian's";

const PACKAGES: [Package; 35] = [
    Package {
        name: "qemu-system-x86",
        why: "boots the image",
        need: Need::Demo,
        present: || in_path(crate::qemu::PROGRAM),
    },
    Package {
        name: "ovmf",
        why: "is QEMU's UEFI firmware, which starts the image as a real machine's does",
        need: Need::Demo,
        present: || firmware::find().is_ok(),
    },
    Package {
        name: "gpgv",
        why: CHECKS_INDEXES,
        need: Need::Demo,
        present: || in_path("gpgv"),
    },
    Package {
        name: "debian-archive-keyring",
        why: CHECKS_INDEXES,
        need: Need::Demo,
        present: || Path::new(release::KEYRING).exists(),
    },
    Package {
        name: "build-essential",
        why: COMPILES_KERNEL,
        need: Need::Demo,
        present: || in_path("gcc") && in_path("make"),
    },
    Package {
        name: "flex",
        why: COMPILES_KERNEL,
        need: Need::Demo,
        present: || in_path("flex"),
    },
    Package {
        name: "bison",
        why: COMPILES_KERNEL,
        need: Need::Demo,
        present: || in_path("bison"),
    },
    Package {
        name: "bc",
        why: COMPILES_KERNEL,
        need: Need::Demo,
        present: || in_path("bc"),
    },
    Package {
        name: "libelf-dev",
        why: COMPILES_KERNEL,
        need: Need::Demo,
        present: || Path::new("/usr/include/libelf.h").exists(),
    },
    Package {
        name: "kmod",
        why: "makes the list of what that kernel has built in",
        need: Need::Demo,
        present: || in_path("depmod"),
    },
    Package {
        name: "busybox-static",
        why: "is all that most machines of the tests have in them",
        need: Need::Tests,
        present: || Path::new("/bin/busybox").exists(),
    },
    Package {
        name: "mmdebstrap",
        why: "makes images of ordinary software for the tests",
        need: Need::Tests,
        present: || in_path("mmdebstrap"),
    },
    Package {
        name: "skopeo",
        why: "is who we must agree with about what a registry has",
        need: Need::Tests,
        present: || in_path("skopeo"),
    },
    Package {
        name: "iproute2",
        why: "lays the networks of netd's tests",
        need: Need::Tests,
        present: || in_path("ip"),
    },
    Package {
        name: "dnsmasq-base",
        why: "is router and DHCPv6 server in netd's tests",
        need: Need::Tests,
        present: || in_path("dnsmasq"),
    },
    Package {
        name: "xfsprogs",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.xfs"),
    },
    Package {
        name: "btrfs-progs",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.btrfs"),
    },
    Package {
        name: "f2fs-tools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.f2fs"),
    },
    Package {
        name: "reiserfsprogs",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkreiserfs"),
    },
    Package {
        name: "ntfs-3g",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkntfs"),
    },
    Package {
        name: "ocfs2-tools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.ocfs2"),
    },
    Package {
        name: "jfsutils",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.jfs"),
    },
    Package {
        name: "nilfs-tools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.nilfs2"),
    },
    Package {
        name: "gfs2-utils",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.gfs2"),
    },
    Package {
        name: "exfatprogs",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.exfat"),
    },
    Package {
        name: "dosfstools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkfs.vfat"),
    },
    Package {
        name: "udftools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("mkudffs"),
    },
    Package {
        name: "lvm2",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("pvcreate"),
    },
    Package {
        name: "xorriso",
        why: "reads the ISO of an image as others would",
        need: Need::Tests,
        present: || in_path("xorriso"),
    },
    Package {
        name: "gdisk",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("sgdisk"),
    },
    Package {
        name: "bcache-tools",
        why: MAKES_DISKS,
        need: Need::Tests,
        present: || in_path("make-bcache"),
    },
    Package {
        name: "libarchive-tools",
        why: UNPACKS_LAYERS,
        need: Need::Tests,
        present: || in_path("bsdtar"),
    },
    Package {
        name: "umoci",
        why: UNPACKS_LAYERS,
        need: Need::Tests,
        present: || in_path("umoci"),
    },
    Package {
        name: "nodejs",
        why: "runs npm and solc, which compiles the contract",
        need: Need::Demo,
        present: || in_path("node"),
    },
    Package {
        name: "npm",
        why: "brings anvil, the chain of the demo and the tests, and solc",
        need: Need::Demo,
        present: || in_path("npm"),
    },
];

/// What this machine lacks.
pub fn missing(need: Need) -> Vec<Package> {
    PACKAGES
        .into_iter()
        .filter(|package| package.need <= need && !(package.present)())
        .collect()
}

/// Installs the packages where we may, else says with which command a person can.
pub fn install(packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = packages.iter().map(|package| package.name).collect();
    let install = ["apt-get", "install", "--yes", "--no-install-recommends"];
    let simulate = [&install[..], &["--simulate"], &names].concat();
    let Some(prefix) = privilege() else {
        let names = names.join(" ");
        bail!(
            "this account may not install packages. Run this, then again what you ran:\n\n    sudo {} {names}\n",
            install.join(" ")
        );
    };
    let simulated = phase::run("Debian's index", |_| {
        update(prefix)?;
        Ok::<_, anyhow::Error>((execute(&simulate)?, String::new()))
    })?;
    let removed = removed(&simulated);
    if !removed.is_empty() {
        let removed = removed.join(", ");
        println!("setup: to install these, apt-get would remove {removed}");
        ensure!(
            env::var_os("CI").is_some() || confirm("Remove it?")?,
            "nothing was changed. To let it happen:\n\n    sudo {} {}\n",
            install.join(" "),
            names.join(" ")
        );
    }
    phase::run("Debian packages", |phase| {
        phase.note(format!("apt-get install {}", names.join(" ")));
        execute(&[prefix, &install, &names].concat())?;
        Ok::<_, anyhow::Error>(((), names.join(" ")))
    })?;
    let still: Vec<&str> = packages
        .iter()
        .filter(|package| !(package.present)())
        .map(|package| package.name)
        .collect();
    ensure!(
        still.is_empty(),
        "apt-get has installed {}, but what they bring is not found: is their place in $PATH?",
        still.join(", ")
    );
    Ok(())
}

/// Reads what the archives have now.
pub fn update(prefix: &[&str]) -> Result<()> {
    execute(&[prefix, &["apt-get", "update", "-q"]].concat()).map(drop)
}

/// The packages that go, by what `apt-get --simulate` says: `Remv NAME [VERSION] ...`.
fn removed(simulated: &str) -> Vec<&str> {
    simulated
        .lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split(' ').next())
        .collect()
}

/// Yes by a person at a terminal; nobody else is asked.
fn confirm(question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("{question} [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// What to put before a command to run it as root; nothing fits for some.
pub fn privilege() -> Option<&'static [&'static str]> {
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

/// Gives what it prints.
fn execute(words: &[&str]) -> Result<String> {
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
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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

    #[test]
    fn what_an_installation_would_remove_is_told() {
        let simulated = "\
Reading package lists...
The following packages will be REMOVED:
  qemu-utils systemd-timesyncd
Remv systemd-timesyncd [252.38-1~deb12u1]
Remv qemu-utils [1:10.0.2+ds-2~bpo12+1] [qemu-system-x86:amd64 ]
Inst qemu-system-x86 (1:7.2+dfsg-7 Debian:12.11/stable [amd64])
";
        assert_eq!(removed(simulated), ["systemd-timesyncd", "qemu-utils"]);
        assert!(removed("Inst ovmf (2022.11-6 Debian:12.11/stable [all])\n").is_empty());
    }

    #[test]
    fn the_demo_needs_no_tools_of_the_tests() {
        let of = |need| PACKAGES.iter().filter(move |package| package.need <= need);
        assert!(of(Need::Demo).all(|package| package.why != MAKES_DISKS));
        assert_eq!(of(Need::Tests).count(), PACKAGES.len());
    }
}
