//! A node in QEMU, in the hands of a case.

use std::{
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, bail};
use loam_chain::NodeRecord;
use loam_node_api::debug::{DebugRequest, DebugResponse};
use serde_json::json;
use xtask::qemu::{Disk, Medium, Node as Machine, NodeConfig, WatchdogAction, accel::Choice};

use crate::{
    folder,
    grid::Grid,
    wait::{LIMIT, Watched, wait_for},
};

/// Lines of a console shown when a case fails.
const LAST_LINES: usize = 80;

/// What each daemon says once it has found what was there before its start.
const READY: [(&str, &str); 4] = [
    // Nobody answers it in our tests.
    ("clockd", "the clock is not set"),
    ("noded", "this node"),
    ("netd", "took over what was here"),
    ("storaged", "every disk has been looked at"),
];

/// The image that is tested, as a disk; its other media are beside it.
pub fn tested_image() -> anyhow::Result<PathBuf> {
    let image = std::env::var_os("LOAM_IMAGE").map(PathBuf::from);
    image.context("LOAM_IMAGE does not name the image; run `cargo xtask test`")
}

/// What QEMU's user network gives a node.
#[derive(Clone, Copy, Debug)]
pub enum Uplink {
    Ipv4AndIpv6,
    /// Nothing of IPv4. On this machine's `::1` the chain is at this port, and no port of the node is
    /// reached.
    Ipv6 {
        chain_port: u16,
    },
}

#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub uplink: Uplink,
    pub memory_mib: u32,
    /// Empty disks of this many bytes each.
    pub disks: Vec<u64>,
    /// Disks that hold something already; the node has the files themselves, not copies.
    pub full_disks: Vec<PathBuf>,
    /// Disks of any kind, after those.
    pub more_disks: Vec<Disk>,
    /// Disks that are there at the first boot alone; later they have to be plugged in.
    pub loose_disks: Vec<Disk>,
    /// PCIe slots in which disks can be pulled and plugged.
    pub slots: u8,
    pub watchdog: Option<WatchdogAction>,
    /// Whether it has a graphics card; a keyboard it has anyway.
    pub screen: bool,
    /// What the battery's clock says at the start, as QEMU's `-rtc base=` has it; this machine's time
    /// when absent.
    pub battery_clock: Option<&'static str>,
    /// `time.toml` in place of the image's own.
    pub time: Option<String>,
    /// What it boots in place of the image that is tested.
    pub image: Option<PathBuf>,
    /// As what it finds that, if it may be several.
    pub medium: Option<Medium>,
    /// Whether it has a BIOS, and no UEFI.
    pub bios: bool,
    /// `grid.toml` that QEMU offers, in place of that of the case's grid.
    pub offered_grid: Option<String>,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            uplink: Uplink::Ipv4AndIpv6,
            memory_mib: 2048,
            disks: vec![4 << 30, 4 << 30],
            full_disks: Vec::new(),
            more_disks: Vec::new(),
            loose_disks: Vec::new(),
            slots: 0,
            watchdog: None,
            screen: false,
            battery_clock: None,
            time: None,
            image: None,
            medium: None,
            bios: false,
            offered_grid: None,
        }
    }
}

/// A node that was booted, and is on the chain of its grid.
#[derive(Debug)]
pub struct Node<'a> {
    /// The node must not outlive its chain.
    _grid: &'a Grid,
    config: NodeConfig,
    /// None while its power is cut.
    machine: Option<Machine>,
    watched: Option<Watched>,
    record: Option<NodeRecord>,
}

impl<'a> Node<'a> {
    /// Boots a new node, and waits until it is registered.
    pub fn boot(grid: &'a Grid, options: NodeOptions) -> anyhow::Result<Self> {
        let image = match options.image {
            Some(image) => image,
            None => tested_image()?,
        };
        let known = grid.latest_nodes()?;
        let offered = match options.offered_grid {
            Some(grid) => grid,
            None => grid.node_config(options.uplink)?,
        };
        let mut config = NodeConfig::new(folder::new("node")?, image)
            .memory_mib(options.memory_mib)
            .cpus(1)
            .accel(Choice::of_environment()?.decide(&xtask::image::linux()))
            .slots(options.slots)
            .grid(offered)
            .debug_port();
        if let Uplink::Ipv6 { .. } = options.uplink {
            config = config.ipv6_only();
        }
        if let Some(medium) = options.medium {
            config = config.medium(medium);
        }
        if options.bios {
            config = config.bios();
        }
        for (index, source) in options.full_disks.iter().enumerate() {
            let name = format!("full{index}");
            symlink(std::path::absolute(source)?, config.disk_file(&name))?;
            config = config.disk(Disk::new(name, std::fs::metadata(source)?.len()));
        }
        for (index, size) in options.disks.iter().enumerate() {
            config = config.disk(Disk::new(format!("empty{index}"), *size));
        }
        for disk in options.more_disks {
            config = config.disk(disk);
        }
        if let Some(action) = options.watchdog {
            config = config.watchdog(action);
        }
        if options.screen {
            config = config.arguments(["-device", "VGA"]);
        }
        if let Some(clock) = options.battery_clock {
            config = config.arguments(["-rtc".to_owned(), format!("base={clock}")]);
        }
        if let Some(time) = options.time {
            config = config.time(time);
        }
        let mut first = config.clone();
        for disk in options.loose_disks {
            first = first.disk(disk);
        }
        let mut node = Self {
            _grid: grid,
            config,
            machine: None,
            watched: None,
            record: None,
        };
        node.switch_on_as(&first)?;
        node.record = Some(wait_for("the node to register", || {
            node.qemu()?.check_on()?;
            let nodes = grid.latest_nodes()?;
            Ok(nodes
                .into_iter()
                .find(|new| known.iter().all(|old| old.key != new.key)))
        })?);
        Ok(node)
    }

    /// The node's record on the chain, as it was when it registered.
    pub fn record(&self) -> anyhow::Result<&NodeRecord> {
        self.record.as_ref().context("the node is not registered")
    }

    /// The address on this machine that leads to TCP port `port` of the node, from now on.
    pub fn forward(&mut self, port: u16) -> anyhow::Result<SocketAddr> {
        let host = self.qemu()?.forward(port)?;
        Ok((Ipv4Addr::LOCALHOST, host).into())
    }

    /// Pulls the power plug.
    pub fn cut_power(&mut self) {
        self.watched = None;
        if let Some(machine) = self.machine.take() {
            machine.kill();
        }
    }

    /// Presses the power button, and waits until the node is off; gives what it logged.
    pub fn press_power_button_and_wait(&mut self) -> anyhow::Result<String> {
        self.qemu()?.press_power_button()?;
        self.qemu()?.wait_off(LIMIT)?;
        let logs = self.logs()?;
        self.cut_power();
        Ok(logs)
    }

    /// Switches it on again, with the disks as they are.
    pub fn switch_on(&mut self) -> anyhow::Result<()> {
        self.switch_on_as(&self.config.clone())
    }

    fn switch_on_as(&mut self, config: &NodeConfig) -> anyhow::Result<()> {
        let machine = config.start()?;
        self.watched = Some(Watched::new(machine.crash()));
        self.machine = Some(machine);
        Ok(())
    }

    /// Waits for a line or a part of one in the daemons' log, also if it is there already.
    pub fn wait_logged(&self, pattern: &str) -> anyhow::Result<()> {
        wait_for(&format!("`{pattern}` in the log"), || {
            self.qemu()?.check_on()?;
            Ok(self.logs()?.contains(pattern).then_some(()))
        })
    }

    /// All that the daemons have logged since it was switched on.
    pub fn logs(&self) -> anyhow::Result<String> {
        Ok(self.qemu()?.logs().text())
    }

    /// How much the daemons have logged so far; see [`Node::logged_since`].
    pub fn log_mark(&self) -> anyhow::Result<usize> {
        Ok(self.qemu()?.logs().mark())
    }

    /// What the daemons have logged after a mark.
    pub fn logged_since(&self, mark: usize) -> anyhow::Result<String> {
        Ok(self.logs()?.get(mark..).unwrap_or_default().to_owned())
    }

    /// Waits until a daemon has logged a line with `pattern` after a mark.
    pub fn wait_logged_since(
        &self,
        mark: usize,
        service: &str,
        pattern: &str,
    ) -> anyhow::Result<()> {
        let who = format!("\"service\":\"{service}\"");
        wait_for(&format!("`{pattern}` of {service} in the log"), || {
            self.qemu()?.check_on()?;
            let logs = self.logged_since(mark)?;
            // A line that is still coming in is looked at again.
            let mut whole = logs
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            Ok(whole
                .any(|line| line.contains(&who) && line.contains(pattern))
                .then_some(()))
        })
    }

    /// All that its screen has shown since it was switched on.
    pub fn console(&self) -> anyhow::Result<String> {
        Ok(self.qemu()?.console().text())
    }

    /// The bytes of one of its disks: `full0` and so on, `empty0` and so on, or by its own name.
    pub fn disk(&self, name: &str) -> PathBuf {
        self.config.disk_file(name)
    }

    /// The machine itself, to pull disks, press buttons, or ask QEMU.
    pub fn qemu(&self) -> anyhow::Result<&Machine> {
        self.machine.as_ref().context("the node's power is cut")
    }

    /// `kill -9` of a daemon; waits until another has taken its place and does its work.
    pub fn kill_daemon(&self, service: &str) -> anyhow::Result<()> {
        let ready = READY
            .iter()
            .find_map(|(name, line)| (*name == service).then_some(line))
            .with_context(|| format!("{service} is no daemon"))?;
        let mark = self.log_mark()?;
        match self.debug(&DebugRequest::Kill {
            service: service.to_owned(),
        })? {
            DebugResponse::Killed { .. } => self.wait_logged_since(mark, service, ready),
            other => bail!("killing {service}: {other:?}"),
        }
    }

    /// `kill -9` of what draws its screen; waits until another has taken its place.
    pub fn kill_screen(&self) -> anyhow::Result<()> {
        let mark = self.log_mark()?;
        match self.debug(&DebugRequest::Kill {
            service: "screen".to_owned(),
        })? {
            DebugResponse::Killed { .. } => self.wait_logged_since(mark, "init", "screen started"),
            other => bail!("killing the screen: {other:?}"),
        }
    }

    /// What its own screen shows, row by row, without blanks at the ends.
    pub fn screen(&self) -> anyhow::Result<Vec<String>> {
        // Rows, columns, the cursor's place, then a character and its colours for each cell (vcs(4)).
        let bytes = self.read("/dev/vcsa1")?;
        let [_, columns, _, _, cells @ ..] = bytes.as_slice() else {
            bail!("/dev/vcsa1 has {} bytes", bytes.len());
        };
        let letter = |cell: &[u8]| match cell {
            [letter @ b' '..=b'~', _] => char::from(*letter),
            _ => '?',
        };
        let row = |cells: &[u8]| {
            let row: String = cells.chunks(2).map(letter).collect();
            row.trim_end().to_owned()
        };
        Ok(cells
            .chunks(2 * usize::from(*columns).max(1))
            .map(row)
            .collect())
    }

    /// The names in a folder of the node; none if there is no such folder.
    pub fn list(&self, path: &str) -> anyhow::Result<Vec<String>> {
        match self.debug(&DebugRequest::List {
            path: path.to_owned(),
        })? {
            DebugResponse::Names { names } => Ok(names),
            DebugResponse::Error { reason } if reason.contains("No such file") => Ok(Vec::new()),
            other => bail!("listing {path}: {other:?}"),
        }
    }

    /// A file of the node, 64 KiB at most.
    pub fn read(&self, path: &str) -> anyhow::Result<Vec<u8>> {
        match self.debug(&DebugRequest::Read {
            path: path.to_owned(),
        })? {
            DebugResponse::Bytes { bytes } => Ok(bytes),
            other => bail!("reading {path}: {other:?}"),
        }
    }

    fn debug(&self, request: &DebugRequest) -> anyhow::Result<DebugResponse> {
        self.qemu()?.debug_port()?.ask(request)
    }

    fn show(&self, machine: &Machine) {
        // Of one that has stopped, or that goes round and round, this says where.
        for _ in 0..2 {
            let asked = json!({ "command-line": "info registers" });
            if let Ok(registers) = machine.command("human-monitor-command", asked) {
                let registers = registers.as_str().unwrap_or_default().to_owned();
                let told = registers
                    .lines()
                    .filter(|line| line.contains("RIP") || line.contains("RSP"));
                eprintln!("── processor: {}", told.collect::<Vec<_>>().join(" "));
            }
            thread::sleep(Duration::from_millis(100));
        }
        let files = self.folder().display();
        eprintln!(
            "── log, the end of {files}/logs.jsonl\n{}",
            machine.logs().tail(LAST_LINES)
        );
        eprintln!(
            "── screen, the end of {files}/console.log\n{}\n──",
            machine.console().tail(LAST_LINES)
        );
    }

    /// Where its files are, for a look after a failure.
    pub fn folder(&self) -> &Path {
        self.config.folder()
    }
}

/// The harness keeps what a case prints to itself unless the case fails.
impl Drop for Node<'_> {
    fn drop(&mut self) {
        if let Some(machine) = &self.machine {
            self.show(machine);
        }
    }
}
