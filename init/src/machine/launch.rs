//! The launcher: opens what a machine may use, and starts its `loam-vmm` with that and nothing else.

use std::{
    ffi::CString,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixListener,
    },
};

use anyhow::{Context, ensure};
use loam_node_api::{
    guest::CONFIG_PATH,
    machine::MachineSpec,
    path::{BIN, GUEST_INITRD, GUEST_KERNEL},
    vmm::{CONFIG_FD, DiskConfig, Fd, InterfaceConfig, VmmConfig},
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::Pid,
};

use super::{
    console::ConsoleRing,
    initrd::archive_of_file,
    resource::{self, DiskIdentity},
};
use crate::spawn::{Confinement, Limits, Program, Spawn};

/// Over it the machine's empty root is mounted, in its own mount namespace.
pub const EMPTY: &str = "/run/loam/empty";

/// The guest's console is `hvc0`. Until that is there, the early console shows why a kernel does
/// not come up; the kernel ends it as `hvc0` registers. `quiet` stands first, so that the early
/// console heeds it too. A guest that panics resets itself.
const COMMAND_LINE: &str = "quiet earlycon=uart8250,io,0x3f8,115200 console=hvc0 panic=1";

/// Files, event counters and the connections of the control socket.
const OPEN_FILES: u64 = 1024;

/// What a VMM locks: rings of io_uring at most.
const LOCKED_MEMORY: u64 = 64 << 20;

/// The kernel kills a machine before any daemon.
const OOM_SCORE: i16 = 500;

#[derive(Debug)]
pub struct Launch<'a> {
    pub spec: &'a MachineSpec,
    /// As [`super::request::check`] gave it.
    pub guest_config: &'a [u8],
    pub console: &'a ConsoleRing,
    pub control: &'a UnixListener,
    pub cgroup: BorrowedFd<'a>,
    pub user: u32,
}

#[derive(Debug)]
pub struct Launched {
    pub pid: Pid,
    /// Reading ends.
    pub events: OwnedFd,
    pub stderr: OwnedFd,
}

impl Launch<'_> {
    /// Opens the disks alone, to learn which files they are.
    pub fn open_disks(&self) -> anyhow::Result<(Vec<OwnedFd>, Vec<DiskIdentity>)> {
        let disks: Result<Vec<_>, _> = self.spec.disks.iter().map(resource::open_disk).collect();
        Ok(disks?.into_iter().unzip())
    }

    pub fn start(&self, disks: &[OwnedFd]) -> anyhow::Result<Launched> {
        let taps: Vec<_> = self
            .spec
            .interfaces
            .iter()
            .map(resource::open_tap)
            .collect::<Result<_, _>>()?;
        let kvm = resource::open_kvm()?;
        let kernel = resource::open_file(GUEST_KERNEL)?;
        let initrd = resource::open_file(GUEST_INITRD)?;
        let archive = archive_of_file(CONFIG_PATH, self.guest_config);
        let own_initrd = resource::sealed_memory(c"guest configuration", &archive)?;
        let (events, events_end) = pipe_with(PipeFlags::CLOEXEC)?;
        let (stderr, stderr_end) = pipe_with(PipeFlags::CLOEXEC)?;

        let mut held = Held::default();
        let config = VmmConfig {
            name: self.spec.id.to_string(),
            cpus: self.spec.cpus,
            memory: self.spec.memory,
            kvm: held.add(&kvm),
            kernel: held.add(&kernel),
            initrds: vec![held.add(&initrd), held.add(&own_initrd)],
            command_line: COMMAND_LINE.to_owned(),
            disks: (self.spec.disks.iter().zip(disks))
                .map(|(disk, file)| DiskConfig {
                    file: held.add(file),
                    read_only: disk.read_only,
                    serial: disk.serial.clone(),
                })
                .collect(),
            interfaces: (self.spec.interfaces.iter().zip(&taps))
                .map(|(interface, tap)| InterfaceConfig {
                    tap: held.add(tap),
                    mac: interface.mac,
                })
                .collect(),
            console: held.add(self.console),
            events: held.add(&events_end),
            control: held.add(self.control),
            seccomp: true,
        };
        ensure!(
            config.disks.len() == self.spec.disks.len(),
            "not every disk was opened"
        );
        let config = resource::sealed_memory(c"configuration", &serde_json::to_vec(&config)?)?;
        let program = resource::open_file(&format!("{BIN}/loam-vmm"))?;

        let spawn = Spawn {
            program: Program::File(program.as_fd()),
            arguments: vec![c"loam-vmm".to_owned()],
            environment: Vec::new(),
            stderr: stderr_end.as_fd(),
            descriptors: held.after(config.as_fd()),
            cgroup: Some(self.cgroup),
            oom_score: OOM_SCORE,
            limits: Limits {
                open_files: OPEN_FILES,
                locked_memory: LOCKED_MEMORY,
            },
            confinement: Confinement::Machine {
                user: self.user,
                empty: CString::new(EMPTY)?,
            },
        };
        let pid = spawn.start().context("starting loam-vmm")?;
        Ok(Launched {
            pid,
            events,
            stderr,
        })
    }
}

/// Descriptors in the order of the numbers that they get: the first is the one after
/// [`CONFIG_FD`].
#[derive(Default)]
struct Held<'a>(Vec<BorrowedFd<'a>>);

impl<'a> Held<'a> {
    fn add(&mut self, fd: &'a impl AsFd) -> Fd {
        self.0.push(fd.as_fd());
        CONFIG_FD + self.0.len() as Fd
    }

    fn after(self, config: BorrowedFd<'a>) -> Vec<BorrowedFd<'a>> {
        [config].into_iter().chain(self.0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn numbers_are_those_that_the_child_sees() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let mut held = Held::default();
        assert_eq!(held.add(&null), 4);
        assert_eq!(held.add(&zero), 5);
        let config = std::fs::File::open("/dev/full").unwrap();
        // The child sees the list from number 3 on.
        let order: Vec<_> = held
            .after(config.as_fd())
            .iter()
            .map(|fd| fd.as_raw_fd())
            .collect();
        assert_eq!(
            order,
            [config.as_raw_fd(), null.as_raw_fd(), zero.as_raw_fd()]
        );
    }
}
