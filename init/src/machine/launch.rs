//! The launcher: opens what a machine may use, and starts its `loam-vmm` with that and nothing else.

use std::{
    collections::BTreeMap,
    ffi::CString,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc as blocking,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use loam_node_api::{
    WorkloadId,
    guest::CONFIG_PATH,
    machine::MachineDisk,
    path::{BIN, GUEST_INITRD, GUEST_KERNEL},
    vmm::{CONFIG_FD, ControlRequest, DiskConfig, Fd, InterfaceConfig, VmmConfig},
};
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};
use tokio::sync::mpsc;

use super::{
    control,
    disk_opener::{DiskOpener, Patience},
    initrd::archive_of_file,
    launcher::{Launcher, News, Order},
    resource::{self, DiskIdentity},
    seat::{self, Housekeeper, Seat},
    voice::Voice,
};
use crate::{
    event::Event,
    log::Log,
    spawn::{Confinement, Limits, Program, Spawn},
};

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

/// What opening may take altogether. A disk that was asleep answers sooner; one that recovers from
/// an error may take longer, and is asked again by whoever wants the machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct NodeLauncher {
    events: mpsc::Sender<Event>,
    log: Log,
    housekeeper: Housekeeper,
    disks: DiskOpener,
    places: BTreeMap<WorkloadId, Place>,
    means: Means,
}

/// How a launch opens what lies on the node, of which tests have none.
#[derive(Clone, Copy, Debug)]
struct Means {
    disk: fn(&MachineDisk) -> anyhow::Result<(OwnedFd, DiskIdentity)>,
    kvm: fn() -> anyhow::Result<OwnedFd>,
    /// Of the image.
    file: fn(&str) -> anyhow::Result<OwnedFd>,
    /// What all that may take together.
    patience: Duration,
}

impl Default for Means {
    fn default() -> Self {
        Self {
            disk: resource::open_disk,
            kvm: resource::open_kvm,
            file: resource::open_file,
            patience: PATIENCE,
        }
    }
}

/// What the launcher has for one machine, from its first opening until its release.
#[derive(Clone, Debug, Default)]
struct Place {
    seat: Arc<Mutex<Option<Arc<Seat>>>>,
    ready: Arc<Mutex<Option<Ready>>>,
    given_up: Arc<AtomicBool>,
    launch: u32,
}

/// All that is needed to make a process.
#[derive(Debug)]
struct Ready {
    program: OwnedFd,
    /// The configuration first, then what it names, in the order of its numbers.
    descriptors: Descriptors,
    seat: Arc<Seat>,
    user: u32,
    /// The reading end.
    events: OwnedFd,
    /// The reading end, then the one that is the process's.
    stderr: (OwnedFd, OwnedFd),
}

impl NodeLauncher {
    pub fn new(events: mpsc::Sender<Event>, log: Log) -> anyhow::Result<Self> {
        Ok(Self {
            events,
            log,
            housekeeper: Housekeeper::new().context("starting the housekeeper")?,
            disks: DiskOpener::default(),
            places: BTreeMap::new(),
            means: Means::default(),
        })
    }
}

impl Launcher for NodeLauncher {
    fn open(&mut self, order: Order) -> anyhow::Result<()> {
        let id = order.spec.id.clone();
        let place = self.places.entry(id.clone()).or_default();
        place.launch = order.launch;
        place.given_up = Arc::default();
        let opening = Opening {
            order,
            place: place.clone(),
            housekeeper: self.housekeeper.clone(),
            disks: self.disks.clone(),
            means: self.means,
        };
        let events = self.events.clone();
        let launch = place.launch;
        let thread = thread::Builder::new().name("launch".into());
        thread
            .spawn(move || {
                let opened = catch_unwind(AssertUnwindSafe(|| opening.run()))
                    .unwrap_or_else(|_| Err(anyhow!("opening what it uses panicked")))
                    .map_err(|error| format!("{error:#}"));
                let news = News::Opened(opened);
                // The main loop ends only with the node.
                let _ = events.blocking_send(Event::Machine { id, launch, news });
            })
            .context("making a thread for its launch")?;
        Ok(())
    }

    fn give_up(&mut self, id: &WorkloadId) {
        if let Some(place) = self.places.get(id) {
            place.given_up.store(true, Ordering::Relaxed);
        }
    }

    fn launch(&mut self, id: &WorkloadId) -> anyhow::Result<Pid> {
        let place = self.places.get(id).context("nothing was opened for it")?;
        let ready = lock(&place.ready).take();
        let Ready {
            program,
            descriptors,
            seat,
            user,
            events,
            stderr: (stderr, stderr_end),
        } = ready.context("nothing was opened for it")?;
        let voice = Voice {
            id: id.clone(),
            launch: place.launch,
            sender: self.events.clone(),
            log: self.log.clone(),
        };
        // Before there is a process: what cannot be listened to is not started.
        let ears = voice.ears(events, stderr)?;
        let spawn = Spawn {
            program: Program::File(program.as_fd()),
            arguments: vec![c"loam-vmm".to_owned()],
            environment: Vec::new(),
            stderr: stderr_end.as_fd(),
            descriptors: descriptors.0.iter().map(AsFd::as_fd).collect(),
            cgroup: Some(seat.group.folder()),
            oom_score: OOM_SCORE,
            limits: Limits {
                open_files: OPEN_FILES,
                locked_memory: LOCKED_MEMORY,
            },
            confinement: Confinement::Machine {
                user,
                empty: CString::new(EMPTY)?,
            },
        };
        let (pid, outcome) = spawn.start().context("starting loam-vmm")?;
        voice.listen(ears, outcome);
        Ok(pid)
    }

    fn ask_to_stop(&mut self, id: &WorkloadId) {
        let id = id.clone();
        tokio::task::spawn_local(async move {
            if let Err(error) = control::ask(&id, &ControlRequest::Stop).await {
                let error = format!("{error:#}");
                tracing::info!(machine = %id, error, "asking it to stop failed");
            }
        });
    }

    /// The process is the first of its PID namespace: nothing in there outlives it.
    fn kill(&mut self, pid: Pid) {
        // Only PID 1 reaps, so the number still means this process.
        if let Err(error) = kill_process(pid, Signal::KILL) {
            tracing::error!(pid = pid.as_raw_nonzero(), %error, "killing a machine failed");
        }
    }

    fn release(&mut self, id: &WorkloadId) {
        let Some(place) = self.places.remove(id) else {
            return;
        };
        let id = id.clone();
        self.housekeeper.order(move || {
            drop(lock(&place.ready).take());
            drop(lock(&place.seat).take());
            seat::take_away(&id);
        });
    }
}

/// Open files, among them a machine's disks: the last to close a file that was written may have to
/// wait for its disk, so a thread of its own does.
#[derive(Debug, Default)]
struct Descriptors(Vec<OwnedFd>);

impl Drop for Descriptors {
    fn drop(&mut self) {
        let descriptors = std::mem::take(&mut self.0);
        let closing = thread::Builder::new().name("close".into());
        // If that fails they have been closed here.
        if let Err(error) = closing.spawn(move || drop(descriptors)) {
            tracing::warn!(%error, "no thread to close disks");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What runs on a launch's own thread.
#[derive(Debug)]
struct Opening {
    order: Order,
    place: Place,
    housekeeper: Housekeeper,
    disks: DiskOpener,
    means: Means,
}

impl Opening {
    fn run(&self) -> anyhow::Result<Vec<DiskIdentity>> {
        let patience = Patience {
            until: Instant::now() + self.means.patience,
            given_up: self.place.given_up.clone(),
        };
        let seat = self.seat(&patience)?;
        let mut disks = Descriptors::default();
        let mut identities = Vec::new();
        for disk in &self.order.spec.disks {
            let (asked, open) = (disk.clone(), self.means.disk);
            let open = move || open(&asked);
            let (file, identity) = self.disks.open(&disk.path, &patience, open)?;
            disks.0.push(file);
            identities.push(identity);
        }
        let ready = self.ready(seat, disks)?;
        *lock(&self.place.ready) = Some(ready);
        Ok(identities)
    }

    fn seat(&self, patience: &Patience) -> anyhow::Result<Arc<Seat>> {
        if let Some(seat) = &*lock(&self.place.seat) {
            return Ok(seat.clone());
        }
        let (sender, made) = blocking::channel();
        let (spec, kept) = (self.order.spec.clone(), self.place.seat.clone());
        self.housekeeper.order(move || {
            let seat = Seat::make(&spec).map(Arc::new);
            if let Ok(seat) = &seat {
                *lock(&kept) = Some(seat.clone());
            }
            let _ = sender.send(seat);
        });
        let left = patience.until.saturating_duration_since(Instant::now());
        made.recv_timeout(left)
            .context("its cgroup and its socket were not made in time")?
    }

    fn ready(&self, seat: Arc<Seat>, mut disks: Descriptors) -> anyhow::Result<Ready> {
        let spec = &self.order.spec;
        let taps: Vec<_> = spec
            .interfaces
            .iter()
            .map(resource::open_tap)
            .collect::<Result<_, _>>()?;
        let archive = archive_of_file(CONFIG_PATH, &self.order.guest_config);
        let own_initrd = resource::sealed_memory(c"guest configuration", &archive)?;
        let (events, events_end) = pipe_with(PipeFlags::CLOEXEC)?;

        let mut held = Held::default();
        let config = VmmConfig {
            name: spec.id.to_string(),
            cpus: spec.cpus,
            memory: spec.memory,
            kvm: held.add((self.means.kvm)()?),
            kernel: held.add((self.means.file)(GUEST_KERNEL)?),
            initrds: vec![
                held.add((self.means.file)(GUEST_INITRD)?),
                held.add(own_initrd),
            ],
            command_line: COMMAND_LINE.to_owned(),
            disks: (spec.disks.iter().zip(disks.0.drain(..)))
                .map(|(disk, file)| DiskConfig {
                    file: held.add(file),
                    read_only: disk.read_only,
                    serial: disk.serial.clone(),
                })
                .collect(),
            interfaces: (spec.interfaces.iter().zip(taps))
                .map(|(interface, tap)| InterfaceConfig {
                    tap: held.add(tap),
                    mac: interface.mac,
                })
                .collect(),
            console: held.add(copy(self.order.console.as_fd())?),
            events: held.add(events_end),
            control: held.add(copy(seat.control.as_fd())?),
            seccomp: true,
        };
        let config = resource::sealed_memory(c"configuration", &serde_json::to_vec(&config)?)?;
        Ok(Ready {
            program: (self.means.file)(&format!("{BIN}/loam-vmm"))?,
            descriptors: held.after(config),
            seat,
            user: self.order.user,
            events,
            stderr: pipe_with(PipeFlags::CLOEXEC)?,
        })
    }
}

fn copy(descriptor: BorrowedFd) -> anyhow::Result<OwnedFd> {
    descriptor
        .try_clone_to_owned()
        .context("copying a descriptor")
}

/// Descriptors in the order of the numbers that they get: the first is the one after
/// [`CONFIG_FD`].
#[derive(Default)]
struct Held(Descriptors);

impl Held {
    fn add(&mut self, descriptor: OwnedFd) -> Fd {
        self.0.0.push(descriptor);
        CONFIG_FD + self.0.0.len() as Fd
    }

    fn after(mut self, config: OwnedFd) -> Descriptors {
        self.0.0.insert(0, config);
        self.0
    }
}

#[cfg(test)]
mod tests;
