//! A machine without a node: the guests' kernel and guest init alone in QEMU, with what the VMM would
//! give them. A case takes seconds, and reaches what needs a kernel but no daemon.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{PROGRAM, Transcript, accel::Choice, config::prefixed, process::Process};
use crate::{
    image::{self, GuestFiles, cpio, tree::Tree},
    oci::{self, Entry},
    program::run,
};
use anyhow::{Context, Result, bail, ensure};
use loam_node_api::{
    guest::{
        AGENT_PORT, CONFIG_PATH, GuestConfig, GuestEvent, GuestInterface, GuestMount, GuestRequest,
    },
    network::Mac,
};

/// Far above what a loaded machine with two cores needs in software emulation.
const PATIENCE: Duration = Duration::from_secs(300);

/// As init starts machines, but for the early console, for which this machine has no place.
const COMMAND_LINE: &str = "quiet console=hvc0 panic=1";

const IMAGE: &str = "image";
const LAYER: &str = "layer";

/// QEMU's user network, which leads nowhere but to this machine's loopback.
const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ADDRESS: &str = "10.0.2.15/24";
const GATEWAY: &str = "10.0.2.2";

/// Less than usual, as behind a tunnel.
pub const MTU: u16 = 1400;

/// What a machine is started with.
#[derive(Debug)]
pub struct GuestOptions {
    pub config: GuestConfig,
    /// MiB.
    pub memory: u32,
    /// Bytes; sparse.
    pub layer: u64,
    disks: Vec<(String, PathBuf)>,
    image: PathBuf,
    folder: PathBuf,
    agent: bool,
}

impl GuestOptions {
    /// Of an image with these things in it; `command` runs. What the machine needs goes to `folder`.
    pub fn new(folder: PathBuf, entries: &[Entry], command: &[&str]) -> Result<Self> {
        let tar = folder.join("image.tar");
        fs::write(&tar, oci::tar(entries)?)?;
        Self::of_tar(folder, &tar, command)
    }

    /// Of an image with one layer, a tar archive.
    pub fn of_layer(folder: PathBuf, tar: &Path) -> Result<Self> {
        Self::of_tar(folder, tar, &[])
    }

    fn of_tar(folder: PathBuf, tar: &Path, command: &[&str]) -> Result<Self> {
        let image = folder.join("image.erofs");
        // Built beside the daemons.
        run(Command::new(
            image::daemons::folder(image::daemons::Profile::Work).join("pack_image"),
        )
        .args([&image, tar]))?;
        Ok(Self {
            config: GuestConfig::bare("guest", IMAGE, LAYER, command),
            memory: 256,
            layer: 1 << 30,
            disks: Vec::new(),
            image,
            folder,
            agent: true,
        })
    }

    /// With a network card in QEMU's network.
    pub fn network(mut self) -> Result<Self> {
        self.config.interfaces.push(GuestInterface {
            mac: MAC,
            addresses: vec![ADDRESS.parse()?],
            gateways: vec![GATEWAY.parse()?],
            mtu: Some(MTU),
        });
        Ok(self)
    }

    /// With a disk of this many bytes, made by mkfs.ext4 or not at all.
    pub fn volume(mut self, path: &str, filesystem: Option<&str>, size: u64) -> Result<Self> {
        let serial = format!("volume{}", self.disks.len());
        let file = self.folder.join(&serial);
        match filesystem {
            Some("ext4") => make_ext4(&file, size)?,
            None => File::create(&file)?.set_len(size)?,
            Some(other) => bail!("nobody here makes {other}"),
        }
        self.disks.push((serial.clone(), file));
        self.config.mounts.push(GuestMount {
            disk: serial,
            path: path.to_owned(),
            filesystem: filesystem.map(str::to_owned),
        });
        Ok(self)
    }

    /// Without the line to the VMM.
    pub fn without_agent(mut self) -> Self {
        self.agent = false;
        self
    }

    /// On the guests' own kernel. The machine's disks stay, so that it can be started again with another
    /// configuration.
    pub fn start(&self) -> Result<Guest> {
        self.start_on(&image::guest()?)
    }

    /// On another kernel, with what belongs to it.
    pub fn start_on(&self, guest: &GuestFiles) -> Result<Guest> {
        let layer = self.folder.join("layer.ext4");
        if !layer.exists() {
            make_ext4(&layer, self.layer)?;
        }
        let initrd = self.folder.join("initrd");
        fs::write(&initrd, initrd_of(guest, &self.config)?)?;

        let mut qemu = Command::new(PROGRAM);
        let accel = Choice::of_environment()?.decide(&image::linux());
        qemu.args(accel.arguments())
            .args(["-M", "q35", "-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-device", "virtio-rng-pci"])
            .args(["-m", &self.memory.to_string()])
            .args(["-append", COMMAND_LINE, "-kernel"])
            .arg(&guest.kernel)
            .arg("-initrd")
            .arg(&initrd);
        let own = [(IMAGE, &self.image, "on"), (LAYER, &layer, "off")];
        let more = self
            .disks
            .iter()
            .map(|(serial, file)| (serial.as_str(), file, "off"));
        for (serial, file, read_only) in own.into_iter().chain(more) {
            qemu.arg("-drive")
                .arg(prefixed(
                    &format!("if=none,id={serial},format=raw,readonly={read_only},file="),
                    file,
                )?)
                .arg("-device")
                .arg(format!("virtio-blk-pci,drive={serial},serial={serial}"));
        }
        if !self.config.interfaces.is_empty() {
            qemu.args(["-netdev", "user,id=net,restrict=on", "-device"])
                .arg(format!("virtio-net-pci,netdev=net,mac={MAC}"));
        }
        let (console, console_end) = UnixStream::pair()?;
        let (agent, agent_end) = UnixStream::pair()?;
        let (console_end, agent_end) = (OwnedFd::from(console_end), OwnedFd::from(agent_end));
        qemu.args(["-device", "virtio-serial-pci,max_ports=2"])
            .arg("-chardev")
            .arg(format!("socket,id=console,fd={}", console_end.as_raw_fd()))
            .args(["-device", "virtconsole,chardev=console,nr=0"]);
        let mut handed = vec![console_end];
        if self.agent {
            qemu.arg("-chardev")
                .arg(format!("socket,id=agent,fd={}", agent_end.as_raw_fd()))
                .arg("-device")
                .arg(format!(
                    "virtserialport,chardev=agent,nr=1,name={AGENT_PORT}"
                ));
            handed.push(agent_end);
        }
        let log = File::create(self.folder.join("qemu.log"))?;
        qemu.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let process = Process::start(qemu, handed).context("starting QEMU")?;
        let said = self.folder.join("console.txt");
        let transcript = Transcript::record(console.try_clone()?, &said)?;
        let guest = Guest {
            process,
            console,
            transcript,
            events: events(agent.try_clone()?),
            agent,
        };
        if self.agent {
            let first = guest.event()?;
            ensure!(
                first == GuestEvent::Booted,
                "guest init's first word is {first:?}"
            );
        }
        Ok(guest)
    }
}

/// A running machine. Dropped, it loses its power.
#[derive(Debug)]
pub struct Guest {
    process: Process,
    console: UnixStream,
    transcript: Transcript,
    agent: UnixStream,
    events: Receiver<Result<GuestEvent>>,
}

impl Guest {
    /// What the console has shown.
    pub fn console(&self) -> &Transcript {
        &self.transcript
    }

    /// Waits until the console has shown it, also if that was before the call.
    pub fn wait_said(&self, text: &str) -> Result<()> {
        self.transcript.wait_for(text, PATIENCE)
    }

    pub fn type_text(&self, text: &str) -> Result<()> {
        (&self.console)
            .write_all(text.as_bytes())
            .context("typing on the machine's console")
    }

    /// The next that guest init tells the VMM, after its first word.
    pub fn event(&self) -> Result<GuestEvent> {
        match self.events.recv_timeout(PATIENCE) {
            Ok(event) => event,
            Err(RecvTimeoutError::Timeout) => bail!("guest init tells nothing; {}", self.last()),
            Err(RecvTimeoutError::Disconnected) => bail!("the machine is off; {}", self.last()),
        }
    }

    /// As the VMM asks for the end.
    pub fn ask_stop(&self) -> Result<()> {
        self.ask(&GuestRequest::Stop)
    }

    pub fn ask(&self, request: &GuestRequest) -> Result<()> {
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        (&self.agent)
            .write_all(line.as_bytes())
            .with_context(|| format!("asking the machine for {request:?}"))
    }

    /// Waits until it has powered off or reset itself; gives all that its console has shown.
    pub fn wait_off(&self) -> Result<String> {
        match self.process.wait(PATIENCE) {
            Some(status) => ensure!(status.success(), "QEMU ended with {status}"),
            None => bail!("the machine is still on; {}", self.last()),
        }
        self.transcript.whole(PATIENCE)
    }

    /// Takes its power, and waits until it is gone.
    pub fn kill(self) -> Result<()> {
        self.process.kill();
        let ended = self.process.wait(PATIENCE);
        ended.map(drop).context("QEMU does not end")
    }

    fn last(&self) -> String {
        format!("its console:\n{}", self.transcript.tail(30))
    }
}

/// Those that come in, until the machine is off.
fn events(agent: UnixStream) -> Receiver<Result<GuestEvent>> {
    let (sender, events) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(agent).lines() {
            let Ok(line) = line else { return };
            let event = serde_json::from_str(&line)
                .with_context(|| format!("guest init tells `{line}`, which is no event"));
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    events
}

/// Guest init, what belongs to the kernel, and the configuration.
fn initrd_of(guest: &GuestFiles, config: &GuestConfig) -> Result<Vec<u8>> {
    let mut initrd = Vec::new();
    for part in &guest.initrd {
        let mut part = fs::read(part).with_context(|| format!("reading {}", part.display()))?;
        initrd.append(&mut part);
        cpio::align(&mut initrd);
    }
    let mut tree = Tree::default();
    tree.file(CONFIG_PATH, 0o600, serde_json::to_vec(config)?);
    initrd.append(&mut cpio::archive(&tree));
    Ok(initrd)
}

fn make_ext4(file: &Path, size: u64) -> Result<()> {
    File::create(file)?.set_len(size)?;
    run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(file)).map(drop)
}
