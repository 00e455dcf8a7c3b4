//! Loading the modules that the devices ask for: [`Coldplug`] does so, on the thread of
//! [`Hotplug`], at start for the devices that are there, and then for those that come. Nobody waits for it: what hangs
//! holds up the devices behind it, and nothing else.

use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, TrySendError},
    },
    thread,
};

use anyhow::Context;
use loam_init::module::{LoadError, Loader, ModuleIndex};

use crate::uevent::Uevent;

/// Deeper than any device is in `/sys/devices`; a bound for a walk of what the kernel made.
const MAX_DEPTH: usize = 32;

/// Devices that wait for their modules. More are noticed, and answered by looking at all again.
const MAX_WAITING: usize = 1024;

/// What watches over the node comes first, and what leads to one: the bridges in which Intel's watchdogs are.
const WATCHDOGS: [&str; 7] = [
    "i6300esb",
    "iTCO_wdt",
    "lpc_ich",
    "i2c_i801",
    "sp5100_tco",
    "wdat_wdt",
    "ipmi_si",
];

/// Added to the thread's niceness when the devices that every node needs are there.
const NICE: i32 = 10;

/// When a device gets its driver. The node's first minute is about its disks and cables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Turn {
    Watchdog,
    Needed,
    Other,
}

#[derive(Clone, Debug)]
pub struct Coldplug {
    loader: Loader,
}

impl Coldplug {
    pub fn new() -> anyhow::Result<Self> {
        let folder = modules_folder();
        let index = ModuleIndex::read(Path::new(&folder))
            .with_context(|| format!("reading modules.dep and modules.alias in {folder}"))?;
        tracing::info!(folder, modules = index.len(), "module index");
        Ok(Self {
            loader: Loader::new(index),
        })
    }

    /// Shares what it has loaded.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    fn device(&mut self, event: &Uevent) {
        match event {
            Uevent::Added {
                modalias: Some(modalias),
                ..
            } => self.load_for_device(modalias),
            Uevent::Added { .. } => {}
            Uevent::Lost => {
                tracing::warn!("too many devices at once; looking at all again");
                self.walk();
            }
        }
    }

    fn load_for_device(&mut self, modalias: &str) {
        let (loaded, errors) = self.loader.load(modalias);
        // A device that this image has no driver for is no fault.
        let errors = errors
            .into_iter()
            .filter(|error| !matches!(error, LoadError::Missing(_)));
        report(modalias, &loaded, errors);
    }

    /// Loads what every device of the machine asks for.
    fn walk(&mut self) {
        for modalias in devices() {
            self.load_for_device(&modalias);
        }
    }

    /// The same when the node starts: the watchdog first, and what can wait as what can wait.
    fn walk_first(&mut self) {
        let turn = |modalias: String| (turn(&modalias, &self.loader.resolve(&modalias)), modalias);
        let mut devices: Vec<_> = devices().into_iter().map(turn).collect();
        devices.sort_unstable();
        let mut nice = false;
        for (turn, modalias) in devices {
            if turn == Turn::Other && !std::mem::replace(&mut nice, true) {
                // Of this thread alone, by Linux. Without it the start takes longer.
                let _ = rustix::process::nice(NICE);
            }
            self.load_for_device(&modalias);
        }
    }
}

/// What the devices that are there ask for, each once: processors ask for the same.
fn devices() -> Vec<String> {
    let mut found = Vec::new();
    if let Err(error) = modaliases(Path::new("/sys/devices"), MAX_DEPTH, &mut found) {
        tracing::warn!(%error, "reading /sys/devices");
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// By the modules for a device and what it is: a class of PCI (`include/linux/pci_ids.h`) or a device of virtio
/// (`include/uapi/linux/virtio_ids.h`).
fn turn(modalias: &str, modules: &[String]) -> Turn {
    const NEEDED: [&str; 4] = ["bc01", "bc02", "d00000001v", "d00000002v"];
    if modules
        .iter()
        .any(|module| WATCHDOGS.contains(&module.as_str()))
    {
        return Turn::Watchdog;
    }
    let needed = match modalias.split_once(':') {
        Some(("pci", rest)) => NEEDED[..2].iter().any(|class| rest.contains(class)),
        Some(("virtio", rest)) => NEEDED[2..].iter().any(|device| rest.starts_with(device)),
        _ => false,
    };
    match needed {
        true => Turn::Needed,
        false => Turn::Other,
    }
}

/// Who loads what a device asks for.
pub trait Loads: Send + 'static {
    /// A device came.
    fn device(&mut self, event: &Uevent);
}

impl Loads for Coldplug {
    fn device(&mut self, event: &Uevent) {
        Self::device(self, event);
    }
}

type Job<M> = Box<dyn FnOnce(&mut M) + Send>;

/// A thread that loads modules: one that initialises its device may take as long as that does.
#[derive(Debug)]
pub struct Hotplug<M = Coldplug> {
    jobs: mpsc::SyncSender<Job<M>>,
    /// Some devices were not told.
    lost: Arc<AtomicBool>,
    /// The devices that were there at the start have their drivers.
    settled: Arc<AtomicBool>,
}

impl Hotplug {
    pub fn new(modules: Coldplug) -> io::Result<Self> {
        Self::with(modules)
    }

    /// Loads what every device asks for that is there. Waits for nothing.
    pub fn begin(&self) {
        let settled = self.settled.clone();
        self.order(move |modules| {
            modules.walk_first();
            settled.store(true, Ordering::Relaxed);
            tracing::info!("devices have their drivers");
        });
    }

    /// Whether the devices that were there at the start have their drivers.
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Relaxed)
    }

    /// Loads by name, after what waits. Does not wait for it.
    pub fn load_named(&self, name: &'static str) {
        self.order(move |modules| load_named(&modules.loader, name));
    }
}

impl<M: Loads> Hotplug<M> {
    fn with(mut modules: M) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::sync_channel::<Job<M>>(MAX_WAITING);
        thread::Builder::new()
            .name("modules".into())
            .spawn(move || {
                for job in waiting {
                    if catch_unwind(AssertUnwindSafe(|| job(&mut modules))).is_err() {
                        tracing::error!("loading modules panicked");
                    }
                }
            })?;
        Ok(Self {
            jobs,
            lost: Arc::default(),
            settled: Arc::default(),
        })
    }

    /// A device came. Does not wait for its modules.
    pub fn device(&self, event: Uevent) {
        let missed = self.lost.clone();
        let load = move |modules: &mut M| {
            let event = match missed.swap(false, Ordering::Relaxed) {
                true => Uevent::Lost,
                false => event,
            };
            modules.device(&event);
        };
        if let Err(TrySendError::Full(_)) = self.jobs.try_send(Box::new(load)) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    fn order(&self, job: impl FnOnce(&mut M) + Send + 'static) {
        if self.jobs.try_send(Box::new(job)).is_err() {
            tracing::error!("modules are not loaded, as a driver hangs");
        }
    }
}

/// Loads by name, and says so when it cannot.
pub fn load_named(loader: &Loader, name: &str) {
    let (loaded, errors) = loader.load(name);
    report(name, &loaded, errors);
}

pub fn modules_folder() -> String {
    let release = rustix::system::uname();
    format!("/usr/lib/modules/{}", release.release().to_string_lossy())
}

fn report(asked: &str, loaded: &[String], errors: impl IntoIterator<Item = LoadError>) {
    // A processor's modalias has hundreds of features.
    let asked = asked.get(..100).unwrap_or(asked);
    if !loaded.is_empty() {
        tracing::info!(asked, modules = loaded.join(" "), "modules loaded");
    }
    for error in errors {
        // ENODEV: the module looked for its hardware (kvm_intel on AMD) and found none.
        let absent = matches!(&error, LoadError::Refused { source, .. }
            if source.raw_os_error() == Some(libc::ENODEV));
        if !absent {
            tracing::warn!(asked, error = %error, "module was not loaded");
        }
    }
}

fn modaliases(folder: &Path, depth: usize, found: &mut Vec<String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let Ok(entry) = entry else { continue };
        // Not following links: every device is reached once, by its place.
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if kind.is_dir() && depth > 0 {
            // Devices go away while they are looked at.
            let _ = modaliases(&entry.path(), depth - 1, found);
        } else if entry.file_name() == "modalias"
            && let Ok(text) = fs::read_to_string(entry.path())
            && !text.trim().is_empty()
        {
            found.push(text.trim().to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl<F: FnMut(&Uevent) + Send + 'static> Loads for F {
        fn device(&mut self, event: &Uevent) {
            self(event);
        }
    }

    #[test]
    fn a_module_that_hangs_holds_up_nobody_and_no_device_is_lost() {
        let (let_go, hung) = mpsc::channel::<()>();
        let (begun, at_work) = mpsc::channel();
        let (loaded, seen) = mpsc::channel();
        let hotplug = Hotplug::with(move |event: &Uevent| {
            begun.send(()).unwrap();
            let _ = hung.recv();
            loaded.send(event.clone()).unwrap();
        })
        .unwrap();
        let device = Uevent::Added {
            subsystem: "pci".into(),
            modalias: Some("pci:x".into()),
        };
        hotplug.device(device.clone());
        // It hangs from here on, so that none of the others is taken meanwhile.
        at_work.recv().unwrap();
        for _ in 1..2 * MAX_WAITING {
            hotplug.device(device.clone());
        }
        drop((let_go, hotplug));
        let seen: Vec<_> = seen.iter().collect();
        assert!(seen.len() <= MAX_WAITING + 1);
        assert_eq!(
            seen.iter().filter(|event| **event == Uevent::Lost).count(),
            1
        );
    }

    #[test]
    fn watchdogs_come_first_then_disks_and_cables() {
        let mut devices = [
            ("pci:v00008086d00002918sv0sd0bc06sc01i00", &["lpc_ich"][..]),
            ("pci:v00001AF4d00001000sv0sd0bc02sc00i00", &["virtio_pci"]),
            ("pci:v00008086d00002922sv0sd0bc01sc06i01", &["ahci"]),
            ("virtio:d00000001v00001AF4", &["virtio_net"]),
            ("virtio:d00000002v00001AF4", &["virtio_blk"]),
            ("virtio:d00000004v00001AF4", &["virtio_rng"]),
            ("pci:v00001B36d0000000Dsv0sd0bc0Csc03i30", &["xhci_pci"]),
            ("acpi:PNP0C0C:", &["button"]),
            ("bc01", &[]),
        ]
        .map(|(modalias, modules)| {
            let modules: Vec<String> = modules.iter().map(|name| name.to_string()).collect();
            (
                turn(modalias, &modules),
                modules.first().cloned().unwrap_or_default(),
            )
        });
        devices.sort();
        let order = devices.map(|(turn, module)| format!("{turn:?} {module}"));
        assert_eq!(
            order,
            [
                "Watchdog lpc_ich",
                "Needed ahci",
                "Needed virtio_blk",
                "Needed virtio_net",
                "Needed virtio_pci",
                "Other ",
                "Other button",
                "Other virtio_rng",
                "Other xhci_pci",
            ]
        );
    }

    #[test]
    fn a_panic_while_loading_is_survived() {
        let (loaded, seen) = mpsc::channel();
        let hotplug = Hotplug::with(move |event: &Uevent| {
            loaded.send(event.clone()).unwrap();
            panic!("on purpose");
        })
        .unwrap();
        hotplug.device(Uevent::Lost);
        hotplug.device(Uevent::Lost);
        drop(hotplug);
        assert_eq!(seen.iter().count(), 2);
    }

    #[test]
    fn every_device_is_found_once() {
        let root = tempfile::tempdir().unwrap();
        let device = root.path().join("pci/virtio0");
        fs::create_dir_all(&device).unwrap();
        fs::write(device.join("modalias"), "virtio:d1\n").unwrap();
        fs::write(root.path().join("modalias"), "cpu:x\n").unwrap();
        fs::write(root.path().join("pci/modalias"), "\n").unwrap();
        std::os::unix::fs::symlink(root.path(), device.join("loop")).unwrap();
        let mut found = Vec::new();
        modaliases(root.path(), MAX_DEPTH, &mut found).unwrap();
        found.sort();
        assert_eq!(found, ["cpu:x", "virtio:d1"]);
    }
}
