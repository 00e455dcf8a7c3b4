//! Emulation in software, or KVM where it really works.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::PROGRAM;
use super::process::Process;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// Software emulation, which runs everywhere, nested machines included.
    #[default]
    Tcg,
    Kvm,
}

/// What a person may ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    #[default]
    Tcg,
    Kvm,
    /// KVM if a kernel boots on it in time, else software.
    Auto,
}

/// A kernel that KVM runs is through in two seconds; one that is interpreted never is.
const PROBE_LIMIT: Duration = Duration::from_secs(20);

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        })
    }
}

impl Accel {
    pub fn arguments(self) -> [&'static str; 4] {
        match self {
            // QEMU 7.2 spoils the flags when cmpxchg16b meets an event that a nested guest must
            // take: kernels in the node's machines die of it. Without cx16 they do not use it.
            Self::Tcg => ["-accel", "tcg", "-cpu", "max,-cx16"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
        }
    }
}

/// Says what runs nodes where no command line does: the demo and the cases.
pub const VARIABLE: &str = "LOAM_ACCEL";

impl Choice {
    /// `$LOAM_ACCEL`, else software emulation.
    pub fn of_environment() -> Result<Self> {
        match env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => text.parse().context(VARIABLE),
            _ => Ok(Self::default()),
        }
    }

    /// `linux` is a bzImage to try.
    pub fn decide(self, linux: &Path) -> Accel {
        match self {
            Self::Tcg => Accel::Tcg,
            Self::Kvm => Accel::Kvm,
            Self::Auto if kvm_boots(linux) => Accel::Kvm,
            Self::Auto => Accel::Tcg,
        }
    }
}

impl FromStr for Choice {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "tcg" => Ok(Self::Tcg),
            "kvm" => Ok(Self::Kvm),
            "auto" => Ok(Self::Auto),
            _ => bail!("`{text}` is none of tcg, kvm, auto"),
        }
    }
}

/// `/dev/kvm` may be there and yet interpret every instruction, so only a boot tells.
fn kvm_boots(linux: &Path) -> bool {
    let refused = |why: &str| {
        eprintln!("software emulation is used: {why}");
        false
    };
    let kvm = File::options().read(true).write(true).open("/dev/kvm");
    if let Err(error) = kvm {
        return refused(&format!("/dev/kvm: {error}"));
    }
    if !linux.exists() {
        let linux = linux.display();
        return refused(&format!(
            "KVM was not tried for lack of {linux}, which `cargo xtask image` makes"
        ));
    }
    if !nested() {
        return refused("this machine's KVM cannot nest, and nodes run machines");
    }
    let kernel = [OsStr::new("-kernel"), linux.as_os_str()];
    if !boots(Accel::Kvm, &kernel, PROBE_LIMIT) {
        return refused("no kernel boots on this machine's KVM");
    }
    true
}

/// Whether guests may have guests (kvm.ko's parameter `nested`).
fn nested() -> bool {
    ["kvm_intel", "kvm_amd"].iter().any(|module| {
        let file = format!("/sys/module/{module}/parameters/nested");
        std::fs::read_to_string(file).is_ok_and(|value| matches!(value.trim(), "1" | "Y"))
    })
}

/// Whether a kernel comes up. Without a root file system it panics then, which it says on the
/// serial port, and `panic=-1` turns that into QEMU's end. The end alone says nothing: a machine
/// that dies at its first instruction ends QEMU as well, with the same status.
fn boots(accel: Accel, what: &[&OsStr], limit: Duration) -> bool {
    let Ok(said) = tempfile::NamedTempFile::new() else {
        return false;
    };
    let Ok(output) = said.reopen() else {
        return false;
    };
    let mut qemu = Command::new(PROGRAM);
    qemu.args(accel.arguments())
        .args(["-machine", "q35", "-m", "256", "-nodefaults"])
        .args(["-display", "none", "-no-reboot", "-serial", "stdio"])
        .args(what);
    if what.first().is_some_and(|option| *option == "-kernel") {
        qemu.args(["-append", "console=ttyS0 panic=-1"]);
    }
    qemu.stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null());
    let Ok(process) = Process::start(qemu, Vec::new()) else {
        return false;
    };
    let ended = process.wait(limit).is_some_and(|status| status.success());
    let said = std::fs::read(said.path()).unwrap_or_default();
    ended && String::from_utf8_lossy(&said).contains("Kernel panic - not syncing: VFS")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_choices() {
        assert_eq!("auto".parse::<Choice>().unwrap(), Choice::Auto);
        assert!("fast".parse::<Choice>().is_err());
    }

    #[test]
    fn a_machine_that_dies_at_once_does_not_boot() {
        let mut rom = vec![0; 64 << 10];
        // At the reset vector: an empty interrupt table (`lidt cs:[0xfff8]`), then `int3`.
        rom[0xfff0..0xfff7].copy_from_slice(&[0x2e, 0x0f, 0x01, 0x1e, 0xf8, 0xff, 0xcc]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), rom).unwrap();
        let bios = [OsStr::new("-bios"), file.path().as_os_str()];
        assert!(!boots(Accel::Tcg, &bios, Duration::from_secs(60)));
    }
}
