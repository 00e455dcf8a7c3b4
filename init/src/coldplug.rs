//! Loading the modules that the devices ask for: [`Coldplug`] does so, on the thread of
//! [`Hotplug`], at start for the devices that are there, and then for those that come.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, TrySendError},
    },
    thread,
    time::Duration,
};

use anyhow::Context;
use loam_init::module::{LoadError, Loader, ModuleIndex};

use crate::uevent::{self, Uevent};

/// One module's name a line, loaded whatever the devices say; made with the image.
const LIST: &str = "/etc/loam/modules";

/// Deeper than any device is in `/sys/devices`; a bound for a walk of what the kernel made.
const MAX_DEPTH: usize = 32;

/// Devices that wait for their modules. More are noticed, and answered by looking at all again.
const MAX_WAITING: usize = 1024;

/// How long the node's start waits for the modules of the devices that are there. A module waits for
/// its disks; one that is dying takes the kernel minutes, for each of which nothing else would run.
/// What is not there by then comes later, as a device does that is plugged in.
const AT_START: Duration = Duration::from_secs(120);

/// How long anybody waits for one module.
const ONE: Duration = Duration::from_secs(10);

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

    /// Loads the list that the image names.
    fn load_list(&mut self) {
        let list = match fs::read_to_string(LIST) {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(file = LIST, %error, "no list of modules");
                return;
            }
        };
        for name in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
            self.load_named(name);
        }
    }

    /// Loads the image's list beside what every device of the machine asks for, as either takes its time: some of the
    /// list measure the processor, and some devices have to be waited for.
    fn load_all(&mut self, events: &OwnedFd) {
        let mut beside = self.clone();
        thread::scope(|scope| {
            let list = scope.spawn(move || {
                beside.load_list();
                beside.loader
            });
            self.load_devices(events);
            match list.join() {
                Ok(loader) => self.loader.learn(loader),
                Err(_) => tracing::error!("loading the list of modules panicked"),
            }
        });
    }

    /// Loads what every device of the machine asks for, and what appears meanwhile.
    fn load_devices(&mut self, events: &OwnedFd) {
        self.walk();
        while let Ok(event) = uevent::receive(events.as_fd()) {
            if let Some(event) = event {
                self.device(&event);
            }
        }
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

    /// Loads by name, and says so when it cannot.
    fn load_named(&mut self, name: &str) {
        let (loaded, errors) = self.loader.load(name);
        report(name, &loaded, errors);
    }

    fn load_for_device(&mut self, modalias: &str) {
        let (loaded, errors) = self.loader.load(modalias);
        // A device that this image has no driver for is no fault.
        let errors = errors
            .into_iter()
            .filter(|error| !matches!(error, LoadError::Missing(_)));
        report(modalias, &loaded, errors);
    }

    fn walk(&mut self) {
        let mut found = Vec::new();
        if let Err(error) = modaliases(Path::new("/sys/devices"), MAX_DEPTH, &mut found) {
            tracing::warn!(%error, "reading /sys/devices");
        }
        found.sort_unstable();
        found.dedup();
        for modalias in found {
            self.load_for_device(&modalias);
        }
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
}

impl Hotplug {
    pub fn new(modules: Coldplug) -> io::Result<Self> {
        Self::with(modules)
    }

    /// Loads the image's list, what every device asks for, and what appears meanwhile; waits for
    /// it, but not for ever. `devices` gives the events of [`uevent::open`].
    pub fn load_all(&self, devices: OwnedFd) {
        let all = move |modules: &mut Coldplug| modules.load_all(&devices);
        if !self.done(AT_START, all) {
            tracing::error!("a driver hangs; going on without the devices behind it");
        }
    }

    /// Loads by name. Waits for it, but not for ever.
    pub fn load_named(&self, name: &'static str) {
        if !self.done(ONE, move |modules| modules.load_named(name)) {
            tracing::error!(module = name, "not loaded yet, as a driver hangs");
        }
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
        let lost = Arc::new(AtomicBool::new(false));
        Ok(Self { jobs, lost })
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

    /// Whether `job` has been done within `patience`. Else it will be when those before it are.
    fn done(&self, patience: Duration, job: impl FnOnce(&mut M) + Send + 'static) -> bool {
        let (sender, done) = mpsc::sync_channel(1);
        let job = move |modules: &mut M| {
            job(modules);
            // Nobody may wait any longer.
            let _ = sender.send(());
        };
        self.jobs.try_send(Box::new(job)).is_ok() && done.recv_timeout(patience).is_ok()
    }
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
    fn a_driver_that_hangs_at_start_is_not_waited_for_for_ever_and_goes_on_later() {
        let (let_go, hung) = mpsc::channel::<()>();
        let (loaded, seen) = mpsc::channel();
        let hotplug = Hotplug::with(move |event: &Uevent| loaded.send(event.clone()).unwrap());
        let hotplug = hotplug.unwrap();
        assert!(hotplug.done(AT_START, |_| ()));
        let hangs = move |modules: &mut _| {
            let _ = hung.recv();
            Loads::device(modules, &Uevent::Lost);
        };
        assert!(!hotplug.done(Duration::ZERO, hangs));
        assert!(!hotplug.done(Duration::ZERO, |_| ()));
        drop(let_go);
        assert_eq!(seen.recv(), Ok(Uevent::Lost));
        assert!(hotplug.done(AT_START, |_| ()));
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
