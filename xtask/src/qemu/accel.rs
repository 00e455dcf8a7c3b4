//! Emulation in software, or KVM where it really works.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Result, bail};

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

impl Choice {
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

/// `/dev/kvm` may be there and yet interpret every instruction, so only a boot tells. Without a
/// root file system the kernel panics once it is up, and `panic=-1` turns that into QEMU's end.
fn kvm_boots(linux: &Path) -> bool {
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
        || !linux.exists()
    {
        return false;
    }
    let mut qemu = Command::new(PROGRAM);
    qemu.args(Accel::Kvm.arguments())
        .args([
            "-machine",
            "q35",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args(["-append", "panic=-1", "-kernel"])
        .arg(linux)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let Ok(process) = Process::start(qemu, Vec::new()) else {
        return false;
    };
    process
        .wait(PROBE_LIMIT)
        .is_some_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_choices() {
        assert_eq!("auto".parse::<Choice>().unwrap(), Choice::Auto);
        assert!("fast".parse::<Choice>().is_err());
    }
}
