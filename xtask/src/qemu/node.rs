//! A running node.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::debug_port::DebugPort;
use super::disk::Disk;
use super::process::Process;
use super::qmp::Qmp;
use super::transcript::{self, Transcript};

/// What QEMU itself complains about, in the node's folder.
pub(super) const COMPLAINTS: &str = "qemu.log";

/// Lines of it in an error.
const LAST_COMPLAINTS: usize = 10;

/// A running node. Dropped, it loses its power.
#[derive(Debug)]
pub struct Node {
    pub(super) folder: PathBuf,
    pub(super) process: Process,
    pub(super) console: UnixStream,
    pub(super) transcript: Transcript,
    pub(super) logs: Transcript,
    pub(super) debug_port: Option<DebugPort>,
    pub(super) qmp: Qmp,
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

    /// The debug port of a node that was given one.
    pub fn debug_port(&self) -> Result<&DebugPort> {
        let port = self.debug_port.as_ref();
        port.context("the node was started without a debug port")
    }

    /// Types on the console.
    pub fn type_text(&self, text: &str) -> Result<()> {
        (&self.console)
            .write_all(text.as_bytes())
            .context("writing to the node's console")
    }

    /// Lets a free port of 127.0.0.1 reach TCP port `port` of the node, from now on; returns it.
    pub fn forward(&self, port: u16) -> Result<u16> {
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
    pub fn press_power_button(&self) -> Result<()> {
        self.qmp.execute("system_powerdown", json!({})).map(|_| ())
    }

    /// Presses the reset button.
    pub fn reset(&self) -> Result<()> {
        self.qmp.execute("system_reset", json!({})).map(|_| ())
    }

    /// Pulls or plugs in the uplink's cable.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.qmp
            .execute("set_link", json!({ "name": "uplink", "up": up }))
            .map(|_| ())
    }

    /// Plugs a disk in; the node sees it once its kernel has looked.
    pub fn plug(&self, disk: &Disk) -> Result<()> {
        for node in disk.block_nodes(&self.folder)? {
            self.qmp.execute("blockdev-add", node)?;
        }
        self.qmp.execute("device_add", disk.device())?;
        Ok(())
    }

    /// Asks the node to let go of a disk, waits until it has, and takes it out. Its bytes stay.
    pub fn unplug(&self, disk: &Disk, limit: Duration) -> Result<()> {
        let device = disk.device_id();
        self.qmp.execute("device_del", json!({ "id": device }))?;
        self.qmp
            .wait_event(limit, |event| {
                (event["event"] == "DEVICE_DELETED" && event["data"]["device"] == device)
                    .then_some(())
            })
            .with_context(|| format!("waiting for the node to let go of {}", disk.name()))?;
        for node in disk.block_node_names() {
            self.qmp
                .execute("blockdev-del", json!({ "node-name": node }))?;
        }
        Ok(())
    }

    /// Any command of QEMU's control protocol; gives what it returns.
    pub fn command(&self, command: &str, arguments: Value) -> Result<Value> {
        self.qmp.execute(command, arguments)
    }

    /// The next event called `name`, such as `WATCHDOG` or `BLOCK_IO_ERROR`, also one that came
    /// before the call and was not given yet.
    pub fn wait_event(&self, name: &str, limit: Duration) -> Result<Value> {
        self.qmp
            .wait_event(limit, |event| {
                (event["event"] == name).then(|| event.clone())
            })
            .with_context(|| format!("waiting for QEMU's event {name}"))
    }

    /// Waits for the node to switch itself off.
    pub fn wait_off(&self, limit: Duration) -> Result<()> {
        match self.process.wait(limit) {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(ended(&self.folder, status)),
            None => bail!(
                "the node is still on; its console:\n{}",
                self.transcript.tail(20)
            ),
        }
    }

    /// An error once QEMU has ended, however it did: with its status and its last words.
    pub fn check_on(&self) -> Result<()> {
        match self.process.wait(Duration::ZERO) {
            Some(status) => Err(ended(&self.folder, status)),
            None => Ok(()),
        }
    }

    /// For whoever waits for something else: an error once QEMU has crashed. A node that switched
    /// itself off is none.
    pub fn crash(&self) -> impl Fn() -> Result<()> + Send + 'static {
        let (exit, folder) = (self.process.exit(), self.folder.clone());
        move || match exit.wait(Duration::ZERO) {
            Some(status) if !status.success() => Err(ended(&folder, status)),
            _ => Ok(()),
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

fn ended(folder: &Path, status: ExitStatus) -> anyhow::Error {
    let said = complaints(folder);
    let said = if said.is_empty() { "nothing" } else { &said };
    anyhow::anyhow!("QEMU ended with {status}; it said: {said}")
}

/// QEMU's last words. They only explain a failure that is told anyway.
pub(super) fn complaints(folder: &Path) -> String {
    let said = fs::read(folder.join(COMPLAINTS)).unwrap_or_default();
    transcript::tail(&String::from_utf8_lossy(&said), LAST_COMPLAINTS)
}

#[cfg(test)]
mod tests {
    use super::super::{Bus, Cache, NodeConfig, WatchdogAction};
    use super::*;

    #[test]
    fn finds_the_forwarded_port() {
        let said = "Hub -1 (uplink):\r\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r\n\
                    TCP[HOST_FORWARD]  17       127.0.0.1 35991       10.0.2.15    80     0     0\r\n\
                    TCP[ESTABLISHED]   18       127.0.0.1 80       10.0.2.15    8080     0     0\r\n";
        assert_eq!(forwarded(said, 80), Some(35991));
        assert_eq!(forwarded(said, 8080), None);
    }

    const LONG: Duration = Duration::from_secs(120);

    /// A machine that stands still before its first instruction, so that nothing need be on its
    /// disks.
    fn standing(folder: &Path, change: impl FnOnce(NodeConfig) -> NodeConfig) -> Node {
        let image = folder.join("image.img");
        fs::write(&image, [0; 512]).unwrap();
        let config = NodeConfig::new(folder.join("node"), image)
            .memory_mib(64)
            .arguments(["-S"]);
        change(config).start().unwrap()
    }

    #[test]
    fn takes_disks_of_every_kind() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("writes.log");
        let spoiled = json!([{ "event": "none", "iotype": "write", "errno": 5, "once": false }]);
        let node = standing(folder.path(), |config| {
            config
                .slots(2)
                .watchdog(WatchdogAction::Tell)
                .disk(Disk::new("virtio", 1 << 20).slot(0))
                .disk(Disk::new("nvme", 1 << 20).bus(Bus::Nvme).cache(Cache::Direct))
                .disk(Disk::new("sata", 1 << 20).bus(Bus::Sata).serial(None))
                .disk(
                    Disk::new("scsi", 1 << 20)
                        .bus(Bus::Scsi)
                        .cache(Cache::Writethrough)
                        .property("wwn", 0x5000_c500_a1b2_c3d4_u64),
                )
                .disk(Disk::new("spoiled", 1 << 20).serial(Some("same")).filter(
                    |below| json!({ "driver": "blkdebug", "image": below, "inject-error": spoiled }),
                ))
                .disk(Disk::new("logged", 1 << 20).log_writes(&log))
                .disk(Disk::over("null", json!({ "driver": "null-co", "size": 1 << 20 })))
        });
        let tree = node.qmp.monitor("info qtree").unwrap();
        for device in ["virtio-blk-pci", "nvme", "ide-hd", "scsi-hd", "i6300esb"] {
            assert!(tree.contains(&format!("dev: {device}, ")), "{tree}");
        }
        assert!(tree.contains(r#"serial = "same""#), "{tree}");

        // As the node would write: the record grows behind its head.
        let device = "qemu-io -d /machine/peripheral/logged-disk/virtio-backend";
        let write = format!("{device} \"write -P 7 0 4k\"");
        node.qmp.monitor(&write).unwrap();
        node.qmp.monitor(&format!("{device} flush")).unwrap();
        let record = fs::read(&log).unwrap();
        let said = complaints(&node.folder);
        assert!(record.windows(4096).any(|seen| seen == [7; 4096]), "{said}");
        // Magic, version, and how many entries are whole since the last flush: these two.
        assert_eq!(record[16..24], 2_u64.to_le_bytes(), "{said}");

        let stick = Disk::new("stick", 1 << 20).bus(Bus::Usb);
        // Twice: nothing of the first time is left.
        for _ in 0..2 {
            node.plug(&stick).unwrap();
            node.unplug(&stick, LONG).unwrap();
        }
        let disk = Disk::new("later", 1 << 20).slot(1);
        node.plug(&disk).unwrap();
        assert!(node.qmp.monitor("info qtree").unwrap().contains("later-0"));
    }

    #[test]
    fn tells_how_qemu_ended() {
        let folder = tempfile::tempdir().unwrap();
        let node = standing(folder.path(), |config| config);
        let crash = node.crash();
        node.check_on().unwrap();
        crash().unwrap();
        fs::write(node.folder.join(COMPLAINTS), "out of luck\n").unwrap();
        node.process.kill();
        for error in [
            node.check_on().unwrap_err(),
            node.wait_off(LONG).unwrap_err(),
            crash().unwrap_err(),
        ] {
            let said = error.to_string();
            assert!(
                said.contains("signal: 9") && said.contains("out of luck"),
                "{said}"
            );
        }
    }

    #[test]
    fn tells_why_qemu_did_not_start() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("image.img"), [0; 512]).unwrap();
        let error = NodeConfig::new(folder.path().join("node"), folder.path().join("image.img"))
            .arguments(["-no-such-option"])
            .start()
            .unwrap_err();
        let said = format!("{error:#}");
        assert!(said.contains("no-such-option"), "{said}");
    }
}
