//! A data disk: what the node sees of it (bus, serial number), and what QEMU has beneath it: a
//! sparse file, or any other block driver, under filters that spoil, record or hold requests.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

/// Names become identifiers and serial numbers, of which virtio's are the shortest.
const LONGEST_NAME: usize = 20;

/// A disk, from the node's side down: a device, filters from the last added to the first, and the
/// bottom that keeps the bytes.
#[derive(Debug, Clone)]
pub struct Disk {
    name: String,
    bus: Bus,
    slot: Option<u8>,
    serial: Option<String>,
    properties: Map<String, Value>,
    cache: Cache,
    bottom: Bottom,
    /// Block nodes above the bottom, each over one of those before it.
    filters: Vec<Value>,
    /// Files that filters write, made anew.
    logs: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    Nvme,
    Sata,
    /// Behind one virtio-scsi controller.
    Scsi,
    Usb,
}

/// What becomes of writes and flushes on their way to this machine's disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Cache {
    /// Flushes end here. This machine's memory keeps what the node has written even when QEMU is
    /// killed, so a cut of the power loses nothing; waiting for a disk would only cost time.
    #[default]
    Unsafe,
    /// Flushes reach this machine's disk.
    Writeback,
    /// The node is told that its disk has no cache: each write reaches this machine's disk.
    Writethrough,
    /// As `Writeback`, past this machine's page cache.
    Direct,
}

#[derive(Debug, Clone)]
enum Bottom {
    /// A sparse file in the node's folder. One that is there keeps its bytes and its size.
    File { bytes: u64 },
    /// In QEMU's words.
    Driver(Value),
}

impl Disk {
    /// An empty disk of `bytes` in a sparse file, on virtio, with its name as serial number.
    pub fn new(name: impl Into<String>, bytes: u64) -> Self {
        Self::with(name.into(), Bottom::File { bytes })
    }

    /// A disk over any of QEMU's block drivers, as `blockdev-add` takes it: an NBD client is
    /// `{"driver": "nbd", "server": {"type": "unix", "path": ...}}`.
    pub fn over(name: impl Into<String>, driver: Value) -> Self {
        Self::with(name.into(), Bottom::Driver(driver))
    }

    fn with(name: String, bottom: Bottom) -> Self {
        Self {
            serial: Some(name.clone()),
            name,
            bus: Bus::Virtio,
            slot: None,
            properties: Map::new(),
            cache: Cache::default(),
            bottom,
            filters: Vec::new(),
            logs: Vec::new(),
        }
    }

    #[must_use]
    pub fn bus(mut self, bus: Bus) -> Self {
        self.bus = bus;
        self
    }

    /// Puts it into a slot of [`super::NodeConfig::slots`], counted from 0. virtio and NVMe are
    /// pulled and plugged in slots only; SCSI and USB need none, SATA cannot be pulled.
    #[must_use]
    pub fn slot(mut self, number: u8) -> Self {
        self.slot = Some(number);
        self
    }

    /// `None` is a disk that has no serial number; an NVMe disk must have one.
    #[must_use]
    pub fn serial(mut self, serial: Option<&str>) -> Self {
        self.serial = serial.map(str::to_owned);
        self
    }

    #[must_use]
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// One of the device's own properties, such as `("logical_block_size", 4096)`.
    #[must_use]
    pub fn property(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.properties.insert(name.to_owned(), value.into());
        self
    }

    /// Lays a filter over all that is there. `make` is told the name of the block node below:
    /// `|below| json!({"driver": "blkdebug", "image": below, "inject-error": [...]})`.
    #[must_use]
    pub fn filter(mut self, make: impl FnOnce(&str) -> Value) -> Self {
        let filter = make(&self.top());
        self.filters.push(filter);
        self
    }

    /// Records every write and flush in `log`, as dm-log-writes does; what is there goes.
    #[must_use]
    pub fn log_writes(mut self, log: &Path) -> Self {
        self.logs.push(log.to_owned());
        let log = json!({ "driver": "file", "filename": log, "cache": { "no-flush": true } });
        self.filter(|below| json!({ "driver": "blklogwrites", "file": below, "log": log }))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the bytes of a disk made by [`Self::new`] are, in its node's folder.
    pub(super) fn file(folder: &Path, name: &str) -> PathBuf {
        folder.join(format!("{name}.disk"))
    }

    pub(super) fn is_on(&self, bus: Bus) -> bool {
        self.bus == bus
    }

    /// Makes what must be there before QEMU opens it; gives the arguments of `blockdev-add`, from
    /// the bottom up.
    pub(super) fn block_nodes(&self, folder: &Path) -> Result<Vec<Value>> {
        let name = &self.name;
        ensure!(
            name.starts_with(|first: char| first.is_ascii_alphabetic())
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && name.len() <= LONGEST_NAME,
            "`{name}` is no name for a disk: a letter, then up to {} letters, digits and -",
            LONGEST_NAME - 1
        );
        let bottom = match &self.bottom {
            Bottom::File { bytes } => {
                let file = Self::file(folder, name);
                if !file.exists() {
                    File::create(&file)
                        .and_then(|sparse| sparse.set_len(*bytes))
                        .with_context(|| format!("making {}", file.display()))?;
                }
                json!({ "driver": "file", "filename": file })
            }
            Bottom::Driver(driver) => driver.clone(),
        };
        for log in &self.logs {
            File::create(log).with_context(|| format!("making {}", log.display()))?;
        }
        let named = std::iter::once(&bottom).chain(&self.filters).enumerate();
        named
            .map(|(level, node)| {
                let mut node = node
                    .as_object()
                    .cloned()
                    .context("a block node is a JSON object")?;
                node.insert("node-name".into(), self.block_node(level).into());
                node.entry("discard").or_insert_with(|| "unmap".into());
                node.entry("cache").or_insert_with(|| {
                    json!({
                        "direct": self.cache == Cache::Direct,
                        // A filter shall see flushes even if the bottom does nothing about them.
                        "no-flush": self.cache == Cache::Unsafe && level == 0,
                    })
                });
                Ok(Value::Object(node))
            })
            .collect()
    }

    /// The arguments of `device_add`.
    pub(super) fn device(&self) -> Value {
        let driver = match self.bus {
            Bus::Virtio => "virtio-blk-pci",
            Bus::Nvme => "nvme",
            Bus::Sata => "ide-hd",
            Bus::Scsi => "scsi-hd",
            Bus::Usb => "usb-storage",
        };
        let mut device = json!({ "driver": driver, "id": self.device_id(), "drive": self.top() });
        if let Some(serial) = &self.serial {
            device["serial"] = serial.as_str().into();
        }
        match (self.slot, self.bus) {
            (Some(slot), _) => device["bus"] = format!("slot{slot}").into(),
            (None, Bus::Scsi) => device["bus"] = "scsi.0".into(),
            (None, Bus::Usb) => device["bus"] = "usb.0".into(),
            (None, Bus::Virtio | Bus::Nvme | Bus::Sata) => {}
        }
        if self.cache == Cache::Writethrough {
            device["write-cache"] = "off".into();
        }
        for (name, value) in &self.properties {
            device[name] = value.clone();
        }
        device
    }

    /// What QEMU calls the device.
    pub fn device_id(&self) -> String {
        format!("{}-disk", self.name)
    }

    /// The names of its block nodes, from the top down: the order in which they can be removed.
    pub(super) fn block_node_names(&self) -> impl Iterator<Item = String> {
        (0..=self.filters.len())
            .rev()
            .map(|level| self.block_node(level))
    }

    fn top(&self) -> String {
        self.block_node(self.filters.len())
    }

    fn block_node(&self, level: usize) -> String {
        format!("{}-{level}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_stand_on_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new("data", 1 << 20)
            .filter(|below| json!({ "driver": "blkdebug", "image": below }))
            .log_writes(&folder.path().join("log"))
            .cache(Cache::Direct)
            .serial(None)
            .property("physical_block_size", 4096);
        let nodes = disk.block_nodes(folder.path()).unwrap();
        let names: Vec<&Value> = nodes.iter().map(|node| &node["node-name"]).collect();
        assert_eq!(names, ["data-0", "data-1", "data-2"]);
        assert_eq!(
            nodes[0]["cache"],
            json!({ "direct": true, "no-flush": false })
        );
        assert_eq!(nodes[1]["image"], "data-0");
        assert_eq!(nodes[2]["file"], "data-1");
        let device = disk.device();
        assert_eq!(device["drive"], "data-2");
        assert_eq!(device["physical_block_size"], 4096);
        assert_eq!(device.get("serial"), None);
        let made = std::fs::metadata(Disk::file(folder.path(), "data")).unwrap();
        assert_eq!(made.len(), 1 << 20);
    }

    #[test]
    fn refuses_names_that_qemu_would() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["", "0", "a,b", "a/b", "as-long-as-no-serial-is"] {
            let error = Disk::new(name, 1).block_nodes(folder.path()).unwrap_err();
            assert!(error.to_string().contains("no name"), "{error}");
        }
    }
}
