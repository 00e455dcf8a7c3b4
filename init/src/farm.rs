//! Which farm the sticks and the kernel's command line name: looked for on a thread of its own and written to
//! [`path::FARM`] for noded, which decides.
//!
//! Of a stick one sector is read, where its kernel's name for a partition is that of our disk image's. The kernel
//! does not show a partition's type, and to read it as well would say no more: what counts is the sector's hash,
//! and whoever plugs a stick in has the machine. Each stick is read on a thread of its own, too, for one that
//! hangs must hold up no other, nor the end of the search.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use loam_deployment::FarmId;
use loam_node_api::{
    farm::{self, FarmSearch, SECTOR, Stick},
    path,
};
use rustix::time::{ClockId, clock_gettime};

use crate::uevent::Uevent;

/// How long a stick is waited for. storaged lets no new node begin sooner either (its `search`), so that nobody waits for
/// this.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// Since the kernel started, at least.
    least: Duration,
    /// Since the last device came that may lead to a stick: a port resets, its hub answers, a driver is loaded, which looks
    /// after a second (`usb-storage.delay_use`). A machine in emulation has its first USB device after 17 s, and three
    /// seconds later the stick.
    quiet: Duration,
    /// Since the kernel started, whatever comes and goes.
    most: Duration,
}

const PATIENCE: Patience = Patience {
    least: Duration::from_secs(20),
    quiet: Duration::from_secs(10),
    most: Duration::from_secs(60),
};

/// Whose devices lead to a stick, by the kernel's names.
const LEADING: [&str; 3] = ["usb", "scsi", "block"];

/// Sticks that are being read at a time. A machine has one or two; those that hang stay.
const MAX_READS: usize = 8;

/// Longer than any kernel's own (`COMMAND_LINE_SIZE`, 2 KiB on x86).
const MAX_COMMAND_LINE: u64 = 64 << 10;

/// Has the search look again.
#[derive(Clone, Debug)]
pub struct FarmFinder {
    heard: mpsc::Sender<Heard>,
    /// It is told already.
    told: Arc<AtomicBool>,
}

#[derive(Debug)]
enum Heard {
    /// A device has come.
    Device,
    Read {
        partition: Partition,
        farm: Option<FarmId>,
    },
}

impl FarmFinder {
    /// Begins. None if there can be no thread: then there is nothing but the command line.
    pub fn begin() -> Option<Self> {
        let command_line = read_command_line();
        let places = Places {
            blocks: "/sys/class/block".into(),
            devices: "/dev".into(),
            result: path::FARM.into(),
        };
        let (finder, search) = Search::new(places.clone(), command_line, PATIENCE, since_start());
        let begun = thread::Builder::new()
            .name("farm".into())
            .spawn(move || search.run());
        if let Err(error) = begun {
            tracing::error!(%error, "no stick is asked which farm it names");
            let alone = FarmSearch {
                command_line,
                over: true,
                ..FarmSearch::default()
            };
            write(&places.result, &alone);
            return None;
        }
        Some(finder)
    }

    /// A device came. Waits for nothing.
    pub fn device(&self, event: &Uevent) {
        let leads = match event {
            Uevent::Added { subsystem, .. } => LEADING.contains(&subsystem.as_str()),
            Uevent::Lost => true,
        };
        if leads && !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.heard.send(Heard::Device);
        }
    }
}

#[derive(Clone, Debug)]
struct Places {
    /// A folder a block device, with its `uevent`.
    blocks: PathBuf,
    devices: PathBuf,
    result: PathBuf,
}

/// A partition for a stick's state, as long as the stick is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Partition {
    /// Below `/dev`.
    name: String,
    /// The kernel gives none twice (`DISKSEQ`), while another stick may have this one's name later.
    sequence: String,
}

struct Search {
    places: Places,
    heard: mpsc::Receiver<Heard>,
    /// For those who read.
    sender: mpsc::Sender<Heard>,
    told: Arc<AtomicBool>,
    /// What each stick names; not known as long as it is being read.
    sticks: BTreeMap<Partition, Option<Option<FarmId>>>,
    reading: usize,
    patience: Patience,
    /// When the kernel started.
    start: Instant,
    /// When the last device came.
    last: Instant,
    now: FarmSearch,
    written: Option<FarmSearch>,
}

impl Search {
    fn new(
        places: Places,
        command_line: Option<FarmId>,
        patience: Patience,
        since_start: Duration,
    ) -> (FarmFinder, Self) {
        let (sender, heard) = mpsc::channel();
        let told = Arc::<AtomicBool>::default();
        let finder = FarmFinder {
            heard: sender.clone(),
            told: told.clone(),
        };
        let now = Instant::now();
        let search = Self {
            places,
            heard,
            sender,
            told,
            sticks: BTreeMap::new(),
            reading: 0,
            patience,
            start: now.checked_sub(since_start).unwrap_or(now),
            last: now,
            now: FarmSearch {
                command_line,
                ..FarmSearch::default()
            },
            written: None,
        };
        (finder, search)
    }

    fn run(mut self) {
        self.look();
        loop {
            self.tell();
            // The sender is this search's own, too: there is always somebody to wait for.
            let heard = match self.now.over {
                true => self
                    .heard
                    .recv()
                    .map_err(|_| RecvTimeoutError::Disconnected),
                false => self.heard.recv_timeout(self.left()),
            };
            match heard {
                Ok(Heard::Device) => {
                    // What comes from here on is looked for once more.
                    self.told.store(false, Ordering::Release);
                    self.last = Instant::now();
                    self.look();
                }
                Ok(Heard::Read { partition, farm }) => {
                    self.reading -= 1;
                    if let Some(stick) = self.sticks.get_mut(&partition) {
                        *stick = Some(farm);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.now.over |= self.left().is_zero();
        }
    }

    fn left(&self) -> Duration {
        let Patience { least, quiet, most } = self.patience;
        let end = (self.start + least).max(self.last + quiet);
        end.min(self.start + most)
            .saturating_duration_since(Instant::now())
    }

    /// Begins to read the sticks that are new, and forgets those that are gone.
    fn look(&mut self) {
        let there = partitions(&self.places.blocks);
        self.sticks.retain(|stick, _| there.contains(stick));
        for partition in there {
            if self.sticks.contains_key(&partition) || self.reading == MAX_READS {
                continue;
            }
            let (device, sender) = (
                self.places.devices.join(&partition.name),
                self.sender.clone(),
            );
            let read = partition.clone();
            let begun = thread::Builder::new()
                .name("farm's stick".into())
                .spawn(move || {
                    let farm = named_by(&device);
                    let partition = read;
                    let _ = sender.send(Heard::Read { partition, farm });
                });
            match begun {
                Ok(_) => {
                    self.reading += 1;
                    self.sticks.insert(partition, None);
                }
                Err(error) => tracing::error!(%error, "a stick is not asked for its farm"),
            }
        }
    }

    /// Writes what is news.
    fn tell(&mut self) {
        self.now.stick = Stick::of(self.sticks.values().copied().flatten().flatten());
        if self.written.as_ref() == Some(&self.now) {
            return;
        }
        let before = self.written.replace(self.now.clone());
        write(&self.places.result, &self.now);
        if let Stick::Disagree(one, other) = self.now.stick
            && before.is_none_or(|before| before.stick != self.now.stick)
        {
            tracing::warn!(%one, %other, "two sticks name different farms; neither counts");
        }
    }
}

fn partitions(blocks: &Path) -> Vec<Partition> {
    let entries = match fs::read_dir(blocks) {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "no stick is found, as /sys does not list devices");
            return Vec::new();
        }
    };
    let uevents = entries.flatten().filter_map(|entry| {
        // Devices go away while they are looked at.
        fs::read_to_string(entry.path().join("uevent")).ok()
    });
    uevents.filter_map(|uevent| partition(&uevent)).collect()
}

/// A device's `uevent` in `/sys`, if it is a partition of that name.
fn partition(uevent: &str) -> Option<Partition> {
    let value = |key: &str| {
        uevent
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
    };
    let is_ours =
        value("DEVTYPE") == Some("partition") && value("PARTNAME") == Some(farm::STATE_PARTITION);
    let name = value("DEVNAME").filter(|_| is_ours)?;
    Some(Partition {
        name: name.to_owned(),
        sequence: value("DISKSEQ").unwrap_or_default().to_owned(),
    })
}

/// What the stick names, if it can be read and says so.
fn named_by(device: &Path) -> Option<FarmId> {
    let device_name = device.display();
    let mut sector = [0; SECTOR];
    let read = File::open(device).and_then(|mut file| file.read_exact(&mut sector));
    if let Err(error) = read {
        tracing::warn!(device = %device_name, %error, "a stick does not say which farm it names");
        return None;
    }
    match farm::read_sector(&sector) {
        Ok(Some(farm)) => {
            tracing::info!(device = %device_name, %farm, "a stick names a farm");
            Some(farm)
        }
        Ok(None) => None,
        Err(error) => {
            tracing::warn!(device = %device_name, %error, "what a stick says of its farm does not count");
            None
        }
    }
}

fn read_command_line() -> Option<FarmId> {
    let mut text = Vec::new();
    let read = File::open("/proc/cmdline")
        .and_then(|file| file.take(MAX_COMMAND_LINE).read_to_end(&mut text));
    if let Err(error) = read {
        tracing::warn!(%error, "the kernel's command line cannot be read");
    }
    in_command_line(&String::from_utf8_lossy(&text))
}

/// Of several, the last counts, as the kernel has it for its own arguments.
fn in_command_line(text: &str) -> Option<FarmId> {
    let mut named = text
        .split_ascii_whitespace()
        .filter_map(|argument| argument.strip_prefix(farm::ARGUMENT));
    let named = named.next_back()?;
    let farm = farm::number(named.as_bytes());
    if farm.is_none() {
        tracing::warn!(named, "no farm's number on the kernel's command line");
    }
    farm
}

/// Whole, whoever reads it meanwhile.
fn write(place: &Path, search: &FarmSearch) {
    let new = place.with_extension("new");
    let written = serde_json::to_vec(search)
        .map_err(io::Error::other)
        .and_then(|bytes| fs::write(&new, bytes))
        .and_then(|()| fs::rename(&new, place));
    if let Err(error) = written {
        tracing::error!(%error, "noded is not told which farm is named");
    }
}

fn since_start() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::from_secs(now.tv_sec.try_into().unwrap_or_default())
}

#[cfg(test)]
mod tests;
