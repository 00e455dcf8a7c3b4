//! [`Preload`]: the modules that the daemons need whatever hardware there is, loaded in groups beside one another and beside
//! those of the devices.
//!
//! A daemon is started when its own group is there: the first waits for no other's.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use loam_init::module::Loader;

use crate::coldplug::load_named;

/// A group and a module's name a line, in the order of their loading; made with the image.
const LIST: &str = "/etc/loam/modules";

/// A module of theirs takes a second at most. One that hangs leaves its daemon without it, which says more than a daemon
/// that is never started.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whose modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Group {
    Networks = 1,
    Pools = 2,
    Machines = 4,
}

impl Group {
    /// Those of one part are loaded one after the other: what is needed first comes first.
    const PARTS: [&[Self]; 2] = [&[Self::Networks], &[Self::Pools, Self::Machines]];

    fn name(self) -> &'static str {
        match self {
            Self::Networks => "networks",
            Self::Pools => "pools",
            Self::Machines => "machines",
        }
    }
}

/// Which groups are there.
#[derive(Clone, Debug)]
pub struct Preload {
    loaded: Arc<AtomicU8>,
    begun: Instant,
}

impl Preload {
    /// Begins; what it gives tells how far it is.
    pub fn begin(loader: &Loader) -> Self {
        let list = fs::read_to_string(LIST).unwrap_or_else(|error| {
            tracing::error!(file = LIST, %error, "no list of modules");
            String::new()
        });
        let loader = loader.clone();
        Self::of(&list, move |name| load_named(&loader, name))
    }

    fn of(list: &str, load: impl Fn(&str) + Clone + Send + 'static) -> Self {
        let preload = Self {
            loaded: Arc::default(),
            begun: Instant::now(),
        };
        for part in Group::PARTS {
            let work: Vec<(Group, Vec<String>)> = part
                .iter()
                .map(|group| (*group, names(list, *group)))
                .collect();
            let (loaded, load) = (preload.loaded.clone(), load.clone());
            let work = move || {
                for (group, names) in work {
                    // Also if one of them panics.
                    let _done = Done(&loaded, group);
                    names.iter().for_each(|name| load(name));
                }
            };
            if let Err(error) = spawn(work) {
                tracing::error!(%error, "some modules are not loaded");
            }
        }
        preload
    }

    /// Whether the group's daemon can be started now.
    pub fn has(&self, group: Group, now: Instant) -> bool {
        self.loaded.load(Ordering::Acquire) & group as u8 != 0
            || now.saturating_duration_since(self.begun) >= PATIENCE
    }
}

fn spawn(work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name("modules".into()).spawn(work)?;
    Ok(())
}

struct Done<'a>(&'a AtomicU8, Group);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_or(self.1 as u8, Ordering::Release);
        tracing::info!(group = self.1.name(), "modules of a group are loaded");
    }
}

fn names(list: &str, group: Group) -> Vec<String> {
    list.lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(of, _)| *of == group.name())
        .map(|(_, name)| name.trim().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const TEXT: &str = "networks veth\npools btrfs\nmachines kvm\nnetworks bridge\nodd\nother x\n";

    #[test]
    fn a_group_has_its_modules_in_their_order() {
        assert_eq!(names(TEXT, Group::Networks), ["veth", "bridge"]);
        assert_eq!(names(TEXT, Group::Pools), ["btrfs"]);
        assert_eq!(names(TEXT, Group::Machines), ["kvm"]);
    }

    fn wait_for(preload: &Preload, group: Group) {
        while !preload.has(group, preload.begun) {
            thread::yield_now();
        }
    }

    #[test]
    fn a_module_that_hangs_or_panics_holds_up_no_other_part_and_its_own_not_for_ever() {
        let (let_go, hung) = mpsc::channel::<()>();
        let hung = Arc::new(std::sync::Mutex::new(hung));
        let preload = Preload::of(TEXT, move |name| match name {
            "btrfs" => drop(hung.lock().unwrap().recv()),
            "veth" => panic!("on purpose"),
            _ => {}
        });
        let now = preload.begun;
        wait_for(&preload, Group::Networks);
        assert!(!preload.has(Group::Pools, now + PATIENCE - Duration::from_millis(1)));
        assert!(!preload.has(Group::Machines, now));
        assert!(preload.has(Group::Pools, now + PATIENCE));
        drop(let_go);
        wait_for(&preload, Group::Pools);
        wait_for(&preload, Group::Machines);
    }
}
