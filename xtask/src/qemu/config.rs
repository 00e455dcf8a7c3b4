//! What a node is made of, and QEMU's command line for it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::disk::{Bus, Disk};
use super::node::{COMPLAINTS, Node, complaints};
use super::process::Process;
use super::qmp::Qmp;
use super::transcript::Transcript;
use super::{Accel, DebugPort, PROGRAM, debug_port, firmware};

/// A node as it could be bought. The same config started again is the same node after a power
/// cut: its disks and its firmware's settings are files in its folder.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    folder: PathBuf,
    image: PathBuf,
    memory_mib: u32,
    cpus: u32,
    accel: Accel,
    disks: Vec<Disk>,
    grid: Option<String>,
    time: Option<String>,
    /// (port of this machine on 127.0.0.1, port of the node)
    forwards: Vec<(u16, u16)>,
    ipv6_only: bool,
    slots: u8,
    watchdog: Option<WatchdogAction>,
    debug_port: bool,
    more: Vec<OsString>,
}

/// What QEMU does when nobody pets the watchdog in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAction {
    /// As hardware does.
    Reset,
    PowerOff,
    /// The node stands still, for a look.
    Pause,
    /// The event `WATCHDOG` alone.
    Tell,
}

impl NodeConfig {
    /// A node in `folder` that boots `image`: a disk (`.img`), or a UKI (`.efi`) that the firmware
    /// starts directly.
    pub fn new(folder: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            image: image.into(),
            memory_mib: 2048,
            cpus: 2,
            accel: Accel::default(),
            disks: Vec::new(),
            grid: None,
            time: None,
            forwards: Vec::new(),
            ipv6_only: false,
            slots: 0,
            watchdog: None,
            debug_port: false,
            more: Vec::new(),
        }
    }

    #[must_use]
    pub fn memory_mib(mut self, mebibytes: u32) -> Self {
        self.memory_mib = mebibytes;
        self
    }

    #[must_use]
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.cpus = cpus;
        self
    }

    #[must_use]
    pub fn accel(mut self, accel: Accel) -> Self {
        self.accel = accel;
        self
    }

    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// What an image with `allow_grid_override` reads instead of its own `/etc/loam/time.toml`.
    pub fn time(mut self, toml: impl Into<String>) -> Self {
        self.time = Some(toml.into());
        self
    }

    /// What an image with `allow_grid_override` reads instead of its own `/etc/loam/grid.toml`.
    #[must_use]
    pub fn grid(mut self, toml: impl Into<String>) -> Self {
        self.grid = Some(toml.into());
        self
    }

    /// Lets 127.0.0.1:`host` reach port `node` of the node. See also [`Node::forward`].
    #[must_use]
    pub fn forward(mut self, host: u16, node: u16) -> Self {
        self.forwards.push((host, node));
        self
    }

    /// Gives it a network without IPv4, from which this machine is [`HOST_BY_IPV6`](super::HOST_BY_IPV6).
    /// No port of such a node can be forwarded.
    #[must_use]
    pub fn ipv6_only(mut self) -> Self {
        self.ipv6_only = true;
        self
    }

    /// Gives it `number` PCIe slots in which disks can be pulled and plugged ([`Disk::slot`]).
    #[must_use]
    pub fn slots(mut self, number: u8) -> Self {
        self.slots = number;
        self
    }

    /// Gives it a watchdog (i6300esb), which waits until the node arms it.
    #[must_use]
    pub fn watchdog(mut self, action: WatchdogAction) -> Self {
        self.watchdog = Some(action);
        self
    }

    /// Lets us look into a node of a developer's image ([`Node::debug_port`]).
    #[must_use]
    pub fn debug_port(mut self) -> Self {
        self.debug_port = true;
        self
    }

    /// More of QEMU's own arguments, such as a second network.
    #[must_use]
    pub fn arguments(mut self, more: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.more.extend(more.into_iter().map(Into::into));
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the bytes of the [`Disk::new`] called `name` are.
    pub fn disk_file(&self, name: &str) -> PathBuf {
        Disk::file(&self.folder, name)
    }

    /// Starts the node with its console, its logs and its monitor in our hands.
    pub fn start(&self) -> Result<Node> {
        let mut qemu = self.command()?;
        let (console, console_end) = UnixStream::pair()?;
        let (logs, logs_end) = UnixStream::pair()?;
        let (monitor, monitor_end) = UnixStream::pair()?;
        let mut handed = Vec::new();
        for (name, end) in [
            ("console", console_end),
            ("logs", logs_end),
            ("monitor", monitor_end),
        ] {
            let end = OwnedFd::from(end);
            qemu.arg("-chardev")
                .arg(format!("socket,id={name},fd={}", end.as_raw_fd()));
            handed.push(end);
        }
        qemu.args(["-serial", "chardev:console", "-serial", "chardev:logs"])
            .args(["-mon", "chardev=monitor,mode=control"]);
        let mut debug_port = None;
        if self.debug_port {
            let (ours, end) = UnixStream::pair()?;
            let end = OwnedFd::from(end);
            qemu.args(debug_port::arguments(end.as_raw_fd()));
            handed.push(end);
            debug_port = Some(DebugPort::new(ours)?);
        }
        let complaints_file = self.folder.join(COMPLAINTS);
        let log = File::create(&complaints_file)
            .with_context(|| format!("making {}", complaints_file.display()))?;
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);

        let process = Process::start(qemu, handed)
            .with_context(|| format!("starting {PROGRAM}; `cargo xtask setup` installs it"))?;
        let transcript =
            Transcript::record(console.try_clone()?, &self.folder.join("console.log"))?;
        let logs = Transcript::record(logs, &self.folder.join("logs.jsonl"))?;
        let qmp = Qmp::new(monitor).map_err(|error| {
            error.context(format!("QEMU did not start: {}", complaints(&self.folder)))
        })?;
        Ok(Node {
            folder: self.folder.clone(),
            process,
            console,
            transcript,
            logs,
            debug_port,
            qmp,
        })
    }

    /// Runs the node with its console on our terminal until QEMU ends.
    pub fn run_in_terminal(&self) -> Result<ExitStatus> {
        let logs = self.folder.join("logs.jsonl");
        let mut qemu = self.command()?;
        qemu.args(["-serial", "mon:stdio", "-serial"])
            .arg(prefixed("file:", &logs)?);
        qemu.status()
            .with_context(|| format!("starting {PROGRAM}; `cargo xtask setup` installs it"))
    }

    /// QEMU with everything but serial ports and monitor.
    fn command(&self) -> Result<Command> {
        fs::create_dir_all(&self.folder)
            .with_context(|| format!("making {}", self.folder.display()))?;
        let firmware = firmware::find()?;
        let variables = firmware.variables(&self.folder)?;
        let mut qemu = Command::new(PROGRAM);
        qemu.args(self.accel.arguments())
            .args(["-machine", "q35", "-nodefaults", "-display", "none"])
            .args([
                "-m",
                &format!("{}M", self.memory_mib),
                "-smp",
                &self.cpus.to_string(),
            ])
            .args(["-device", "virtio-rng-pci"])
            .args(["-device", "qemu-xhci,id=usb"])
            .arg("-drive")
            .arg(prefixed(
                "if=pflash,unit=0,format=raw,readonly=on,file=",
                firmware.code,
            )?)
            .arg("-drive")
            .arg(prefixed("if=pflash,unit=1,format=raw,file=", &variables)?);
        self.add_boot(&mut qemu)?;
        self.add_disks(&mut qemu)?;
        self.add_network(&mut qemu);
        self.add_watchdog(&mut qemu);
        for (name, text) in [("grid.toml", &self.grid), ("time.toml", &self.time)] {
            let Some(text) = text else { continue };
            let file = self.folder.join(name);
            fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            qemu.arg("-fw_cfg")
                .arg(prefixed(&format!("name=opt/loam/{name},file="), &file)?);
        }
        qemu.args(&self.more);
        Ok(qemu)
    }

    fn add_boot(&self, qemu: &mut Command) -> Result<()> {
        if !self.image.exists() {
            bail!(
                "no image at {}: `cargo xtask image` makes it",
                self.image.display()
            );
        }
        if self
            .image
            .extension()
            .is_some_and(|extension| extension == "efi")
        {
            qemu.arg("-kernel").arg(&self.image);
            return Ok(());
        }
        qemu.arg("-drive")
            .arg(prefixed(
                "if=none,id=boot,format=raw,readonly=on,file=",
                &self.image,
            )?)
            .args(["-device", "usb-storage,drive=boot,bootindex=0"]);
        Ok(())
    }

    fn add_disks(&self, qemu: &mut Command) -> Result<()> {
        for number in 0..self.slots {
            let slot = json!({
                "driver": "pcie-root-port",
                "id": format!("slot{number}"),
                // Each port its own: what the kernel calls the slot.
                "chassis": number + 1,
            });
            qemu.arg("-device").arg(slot.to_string());
        }
        if self.disks.iter().any(|disk| disk.is_on(Bus::Scsi)) {
            qemu.args(["-device", "virtio-scsi-pci,id=scsi"]);
        }
        for disk in &self.disks {
            for node in disk.block_nodes(&self.folder)? {
                qemu.arg("-blockdev").arg(node.to_string());
            }
            qemu.arg("-device").arg(disk.device().to_string());
        }
        Ok(())
    }

    fn add_watchdog(&self, qemu: &mut Command) {
        let Some(action) = self.watchdog else {
            return;
        };
        let action = match action {
            WatchdogAction::Reset => "reset",
            WatchdogAction::PowerOff => "poweroff",
            WatchdogAction::Pause => "pause",
            WatchdogAction::Tell => "none",
        };
        qemu.args(["-device", "i6300esb", "-action"])
            .arg(format!("watchdog={action}"));
    }

    fn add_network(&self, qemu: &mut Command) {
        let mut uplink = String::from("user,id=uplink");
        if self.ipv6_only {
            uplink.push_str(",ipv4=off");
        }
        for (host, node) in &self.forwards {
            uplink.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{node}"));
        }
        qemu.args([
            "-netdev",
            &uplink,
            "-device",
            "virtio-net-pci,netdev=uplink",
        ]);
    }
}

/// A path inside an option of QEMU's, where a comma would end it.
pub(super) fn prefixed(options: &str, path: &Path) -> Result<OsString> {
    let path = path
        .to_str()
        .with_context(|| format!("QEMU cannot be told of {}: it is not UTF-8", path.display()))?;
    Ok(format!("{options}{}", path.replace(',', ",,")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_in_paths_stay_in_them() {
        assert_eq!(prefixed("file=", Path::new("/a,b")).unwrap(), "file=/a,,b");
    }

    #[test]
    fn says_that_the_image_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let error = NodeConfig::new(folder.path(), "/no/image.img")
            .start()
            .unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("cargo xtask"), "{said}");
    }
}
