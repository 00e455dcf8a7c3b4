//! [`Record`]: one machine with all that is kept for it.

use std::{
    fs, io,
    os::unix::{fs::DirBuilderExt, net::UnixListener},
    time::Instant,
};

use anyhow::{Context, bail};
use loam_node_api::machine::{Machine, MachineSpec, MachineState};
use rustix::process::Pid;

use super::{
    console::{Console, ConsoleRing, ConsoleTail},
    control,
    launch::{Launch, Launched},
    lifecycle::{Input, Lifecycle},
    memory,
    resource::DiskIdentity,
};
use crate::cgroup::{Group, GroupLimits, MACHINES};

/// Threads of a VMM beside its virtual CPUs: devices, control, the kernel's own workers of io_uring.
const OTHER_THREADS: u32 = 64;

#[derive(Debug)]
pub struct Record {
    pub spec: MachineSpec,
    pub life: Lifecycle,
    pub console: Console,
    /// User and group of the VMM.
    pub user: u32,
    /// Present while a process is to be waited for.
    pub pid: Option<Pid>,
    /// How many processes were started for it.
    pub launches: u32,
    guest_config: Vec<u8>,
    started: Instant,
    disks: Vec<DiskIdentity>,
    /// Given back when the machine is over.
    seat: Option<Seat>,
}

/// What a machine has of the node as long as it is not over.
#[derive(Debug)]
struct Seat {
    group: Group,
    /// The same for every process of the machine, so that its socket never goes away between two.
    control: UnixListener,
}

impl Record {
    /// `before` is the console's end of the machine that it replaces.
    pub fn new(
        spec: MachineSpec,
        guest_config: Vec<u8>,
        user: u32,
        before: &ConsoleTail,
    ) -> anyhow::Result<Self> {
        let console = ConsoleRing::make(&spec.id, before).context("making its console")?;
        Ok(Self {
            spec,
            life: Lifecycle::new(),
            console: Console::Ring(console),
            user,
            pid: None,
            launches: 0,
            guest_config,
            started: Instant::now(),
            disks: Vec::new(),
            seat: None,
        })
    }

    /// Starts a process for it. `others` are those that run.
    pub fn launch<'a>(
        &mut self,
        mut others: impl Iterator<Item = &'a Self>,
        now: Instant,
    ) -> anyhow::Result<Launched> {
        let seat = match self.seat.take() {
            Some(seat) => seat,
            None => Seat::make(&self.spec)?,
        };
        let seat = self.seat.insert(seat);
        let Console::Ring(console) = &self.console else {
            bail!("it has ended");
        };
        let launch = Launch {
            spec: &self.spec,
            guest_config: &self.guest_config,
            console,
            control: &seat.control,
            cgroup: seat.group.folder(),
            user: self.user,
        };
        let (files, disks) = launch.open_disks()?;
        let taken = |disk: &DiskIdentity| {
            others.find(|other| other.disks.iter().any(|theirs| theirs.conflicts_with(disk)))
        };
        if let Some(other) = disks.iter().find_map(taken) {
            bail!("machine {} has one of its disks", other.spec.id);
        }
        let launched = launch.start(&files)?;
        self.disks = disks;
        self.pid = Some(launched.pid);
        self.started = now;
        self.launches += 1;
        self.life.step(now, Input::Launched);
        Ok(launched)
    }

    pub fn describe(&self, now: Instant) -> Machine {
        Machine {
            id: self.spec.id.clone(),
            fingerprint: self.spec.fingerprint.clone(),
            state: self.life.state(),
            age_seconds: now.saturating_duration_since(self.started).as_secs(),
            resets: self.life.resets(),
            console_position: self.console.position(),
        }
    }

    /// What a list shows of it, but for what only grows.
    pub fn shown(&self) -> (MachineState, u32) {
        (self.life.state(), self.life.resets())
    }

    pub fn kill(&self) {
        let Some(seat) = &self.seat else { return };
        if let Err(error) = seat.group.kill() {
            tracing::error!(machine = %self.spec.id, %error, "killing its cgroup failed");
        }
    }

    /// Gives back cgroup, socket, disks and most of the console.
    pub fn release(&mut self) {
        self.console.shrink();
        self.disks.clear();
        let Some(seat) = self.seat.take() else { return };
        let id = &self.spec.id;
        if let Err(error) = seat.group.remove() {
            tracing::warn!(machine = %id, %error, "its cgroup stays");
        }
        match fs::remove_dir_all(control::folder(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(machine = %id, %error, "its socket stays");
            }
            _ => {}
        }
    }
}

impl Seat {
    fn make(spec: &MachineSpec) -> anyhow::Result<Self> {
        let limits = GroupLimits {
            memory_max: Some(memory::cost(spec.memory)),
            cpu_weight: Some((spec.cpus * 100).clamp(1, 10_000)),
            // One more than the guest sees, for the threads that serve its devices.
            cpus: Some(spec.cpus + 1),
            tasks: Some(spec.cpus + OTHER_THREADS),
        };
        let group = Group::make(&format!("{MACHINES}/{}", spec.id), limits)?;
        let folder = control::folder(&spec.id);
        // What a predecessor of this name left is nobody's: its record is gone.
        let _ = fs::remove_dir_all(&folder);
        (fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder))
        .with_context(|| format!("making {}", folder.display()))?;
        let control =
            UnixListener::bind(control::socket(&spec.id)).context("making its control socket")?;
        Ok(Self { group, control })
    }
}
