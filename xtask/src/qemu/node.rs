//! One node: what it is made of ([`NodeConfig`]), and the running machine ([`Node`]).

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::process::Process;
use super::qmp::Qmp;
use super::transcript::Transcript;
use super::{Accel, PROGRAM, firmware};

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
    /// (port of this machine on 127.0.0.1, port of the node)
    forwards: Vec<(u16, u16)>,
    more: Vec<OsString>,
}

/// A data disk: a sparse file in the node's folder.
#[derive(Debug, Clone)]
pub struct Disk {
    /// The file's name, and the disk's serial number.
    pub name: String,
    /// Bytes. A file that is there keeps its size.
    pub size: u64,
    pub bus: Bus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    Virtio,
    Nvme,
    Sata,
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
            forwards: Vec::new(),
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

    /// More of QEMU's own arguments, such as a second network.
    #[must_use]
    pub fn arguments(mut self, more: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.more.extend(more.into_iter().map(Into::into));
        self
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a disk's bytes are.
    pub fn disk_file(&self, disk: &Disk) -> PathBuf {
        self.folder.join(format!("{}.disk", disk.name))
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
        let complaints_file = self.folder.join("qemu.log");
        let complaints = File::create(&complaints_file)
            .with_context(|| format!("making {}", complaints_file.display()))?;
        qemu.stdin(Stdio::null())
            .stdout(complaints.try_clone()?)
            .stderr(complaints);

        let process = Process::start(qemu, handed)
            .with_context(|| format!("starting {PROGRAM}; `cargo xtask setup` installs it"))?;
        let transcript =
            Transcript::record(console.try_clone()?, &self.folder.join("console.log"))?;
        let logs = Transcript::record(logs, &self.folder.join("logs.jsonl"))?;
        let qmp = Qmp::new(monitor).map_err(|error| {
            let said = read_lossy(&complaints_file);
            error.context(format!("QEMU did not start: {}", said.trim()))
        })?;
        Ok(Node {
            process,
            console,
            transcript,
            logs,
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
        if let Some(grid) = &self.grid {
            let file = self.folder.join("grid.toml");
            fs::write(&file, grid).with_context(|| format!("writing {}", file.display()))?;
            qemu.arg("-fw_cfg")
                .arg(prefixed("name=opt/loam/grid.toml,file=", &file)?);
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
            .args(["-device", "qemu-xhci"])
            .args(["-device", "usb-storage,drive=boot,bootindex=0"]);
        Ok(())
    }

    fn add_disks(&self, qemu: &mut Command) -> Result<()> {
        for disk in &self.disks {
            let file = self.disk_file(disk);
            if !file.exists() {
                File::create(&file)
                    .and_then(|sparse| sparse.set_len(disk.size))
                    .with_context(|| format!("making {}", file.display()))?;
            }
            let name = &disk.name;
            // The host's memory keeps what the node has written even if QEMU is killed, which is
            // the power cut of our tests; waiting for the host's disk would only cost time.
            let backend = format!("if=none,id={name},format=raw,cache=unsafe,discard=unmap,file=");
            let device = match disk.bus {
                Bus::Virtio => "virtio-blk-pci",
                Bus::Nvme => "nvme",
                Bus::Sata => "ide-hd",
            };
            qemu.arg("-drive")
                .arg(prefixed(&backend, &file)?)
                .args(["-device", &format!("{device},drive={name},serial={name}")]);
        }
        Ok(())
    }

    fn add_network(&self, qemu: &mut Command) {
        let mut uplink = String::from("user,id=uplink");
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

/// A running node. Dropped, it loses its power.
#[derive(Debug)]
pub struct Node {
    process: Process,
    console: UnixStream,
    transcript: Transcript,
    logs: Transcript,
    qmp: Qmp,
}

impl Node {
    /// What the screen has shown (the first serial port).
    pub fn console(&self) -> &Transcript {
        &self.transcript
    }

    /// What the daemons have logged (the second serial port): JSON lines.
    pub fn logs(&self) -> &Transcript {
        &self.logs
    }

    /// Types on the console.
    pub fn type_text(&mut self, text: &str) -> Result<()> {
        self.console
            .write_all(text.as_bytes())
            .context("writing to the node's console")
    }

    /// Lets a free port of 127.0.0.1 reach TCP port `port` of the node, from now on; returns it.
    pub fn forward(&mut self, port: u16) -> Result<u16> {
        let refused = self
            .qmp
            .monitor(&format!("hostfwd_add uplink tcp:127.0.0.1:0-:{port}"))?;
        if !refused.trim().is_empty() {
            bail!("QEMU cannot forward to port {port}: {}", refused.trim());
        }
        let connections = self.qmp.monitor("info usernet")?;
        forwarded(&connections, port).with_context(|| {
            format!("QEMU does not say how it forwards to port {port}:\n{connections}")
        })
    }

    /// Presses the power button, which asks the node to shut down.
    pub fn press_power_button(&mut self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(|_| ())
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(|_| ())
    }

    /// Pulls or plugs in the uplink's cable.
    pub fn set_link(&mut self, up: bool) -> Result<()> {
        self.qmp
            .execute("set_link", json!({ "name": "uplink", "up": up }))
            .map(|_| ())
    }

    /// Waits for the node to switch itself off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        match self.process.wait(limit) {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("QEMU ended with {status}"),
            None => bail!(
                "the node is still on; its console:\n{}",
                self.transcript.tail(20)
            ),
        }
    }

    /// Pulls the power plug.
    pub fn kill(self) {
        self.process.kill();
    }
}

/// The port of this machine that leads to `port`, the last added first.
fn forwarded(connections: &str, port: u16) -> Option<u16> {
    connections.lines().rev().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["TCP[HOST_FORWARD]", _, _, host, _, node, ..] if node.parse() == Ok(port) => {
                host.parse().ok()
            }
            _ => None,
        }
    })
}

/// A path inside an option of QEMU's, where a comma would end it.
fn prefixed(options: &str, path: &Path) -> Result<OsString> {
    let path = path
        .to_str()
        .with_context(|| format!("QEMU cannot be told of {}: it is not UTF-8", path.display()))?;
    Ok(format!("{options}{}", path.replace(',', ",,")).into())
}

fn read_lossy(file: &Path) -> String {
    let mut bytes = Vec::new();
    // What QEMU said only explains a failure that is reported anyway.
    if let Ok(mut file) = File::open(file) {
        let _ = file.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_forwarded_port() {
        let said = "Hub -1 (uplink):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n\
                    TCP[HOST_FORWARD]  17       127.0.0.1 35991       10.0.2.15    80     0     0\r\n\
                    TCP[ESTABLISHED]   18       127.0.0.1 80       10.0.2.15    8080     0     0\r\n";
        assert_eq!(forwarded(said, 80), Some(35991));
        assert_eq!(forwarded(said, 8080), None);
    }

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
