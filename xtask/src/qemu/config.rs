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
use crate::image::media::network;

/// A node as it could be bought. The same config started again is the same node after a power
/// cut: its disks and its firmware's settings are files in its folder.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    folder: PathBuf,
    image: PathBuf,
    medium: Medium,
    bios: bool,
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

/// As what a node finds the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// A UKI, which its firmware starts directly.
    Kernel,
    /// A disk at its USB port.
    Stick,
    Cd,
    /// A folder that a server of its network has: by its firmware's own means (PXE).
    Network,
    /// The same by iPXE, as which QEMU's cards come with a BIOS anyway.
    Ipxe,
}

impl Medium {
    /// By what the image is: a folder, a UKI (`.efi`), a CD (`.iso`), or a disk.
    fn of(image: &Path) -> Self {
        match image.extension().and_then(|extension| extension.to_str()) {
            Some("efi") => Self::Kernel,
            Some("iso") => Self::Cd,
            _ if image.is_dir() => Self::Network,
            _ => Self::Stick,
        }
    }
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
    /// A node in `folder` that boots `image`: a disk (`.img`), a CD (`.iso`), a UKI (`.efi`) that the
    /// firmware starts directly, or a folder to boot over the network from. By UEFI.
    pub fn new(folder: impl Into<PathBuf>, image: impl Into<PathBuf>) -> Self {
        let image = image.into();
        Self {
            folder: folder.into(),
            medium: Medium::of(&image),
            image,
            bios: false,
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

    /// Has it find the image as this, whatever it is made for: an `.iso` is also a stick.
    #[must_use]
    pub fn medium(mut self, medium: Medium) -> Self {
        self.medium = medium;
        self
    }

    /// Gives it the firmware of an old machine: a BIOS, no UEFI.
    #[must_use]
    pub fn bios(mut self) -> Self {
        self.bios = true;
        self
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

    /// Puts something behind the kernel's command line, by what a UKI's stub takes from a virtual machine's SMBIOS
    /// (systemd-stub(7)): with UEFI alone.
    #[must_use]
    pub fn command_line(self, more: &str) -> Self {
        // A comma ends a value, and two are one of it.
        let more = more.replace(',', ",,");
        let value = format!("type=11,value=io.systemd.stub.kernel-cmdline-extra={more}");
        self.arguments(["-smbios".to_owned(), value])
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
            .args(["-device", "qemu-xhci,id=usb"]);
        // Without UEFI it is QEMU's own firmware, SeaBIOS.
        if !self.bios {
            let firmware = firmware::find()?;
            let variables = firmware.variables(&self.folder)?;
            qemu.arg("-drive")
                .arg(prefixed(
                    "if=pflash,unit=0,format=raw,readonly=on,file=",
                    firmware.code,
                )?)
                .arg("-drive")
                .arg(prefixed("if=pflash,unit=1,format=raw,file=", &variables)?);
        }
        self.add_boot(&mut qemu)?;
        self.add_disks(&mut qemu)?;
        self.add_network(&mut qemu)?;
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
        let device = match self.medium {
            Medium::Kernel => {
                qemu.arg("-kernel").arg(&self.image);
                return Ok(());
            }
            // With its card.
            Medium::Network | Medium::Ipxe => return Ok(()),
            Medium::Stick => "usb-storage,drive=boot,bootindex=0,removable=on",
            Medium::Cd => "ide-cd,drive=boot,bootindex=0",
        };
        qemu.arg("-drive")
            .arg(prefixed(
                "if=none,id=boot,format=raw,readonly=on,file=",
                &self.image,
            )?)
            .args(["-device", device]);
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

    fn add_network(&self, qemu: &mut Command) -> Result<()> {
        let mut uplink = OsString::from("user,id=uplink");
        if self.ipv6_only {
            uplink.push(",ipv4=off");
        }
        for (host, node) in &self.forwards {
            uplink.push(format!(",hostfwd=tcp:127.0.0.1:{host}-:{node}"));
        }
        let mut card = String::from("virtio-net-pci,netdev=uplink");
        let boots = match (self.medium, self.bios) {
            // Without its own firmware, OVMF has the card boot.
            (Medium::Network, false) => Some((network::UKI, ",bootindex=0,romfile=")),
            (Medium::Network, true) | (Medium::Ipxe, _) => Some((network::SCRIPT, ",bootindex=0")),
            (Medium::Kernel | Medium::Stick | Medium::Cd, _) => None,
        };
        if let Some((file, options)) = boots {
            uplink.push(prefixed(",tftp=", &self.image)?);
            uplink.push(format!(",bootfile={file}"));
            card.push_str(options);
        }
        qemu.arg("-netdev").arg(uplink).args(["-device", &card]);
        Ok(())
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
