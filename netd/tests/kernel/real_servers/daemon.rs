//! Daemons of other makes in the foreground, with their files in a folder that goes with the test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use tempfile::TempDir;

use crate::host::Host;

use super::lan::LINK;

/// The folder that they are unpacked into.
const VARIABLE: &str = "LOAM_LEASE_SERVERS";

/// One that runs, and is killed with the test.
pub struct Daemon(Child);

impl Daemon {
    /// `SIGKILL`: it writes and says nothing any more.
    pub fn kill(self) {}

    /// Asks it to end in order, and waits until it has.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon's configuration and what it remembers.
pub struct Files(TempDir);

impl Files {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// As when a router without a disk loses its power.
    pub fn forget_leases(&self) {
        fs::remove_file(self.leases()).unwrap();
    }

    fn leases(&self) -> PathBuf {
        self.0.path().join("leases")
    }

    fn configuration(&self, text: &str) -> PathBuf {
        let path = self.0.path().join("configuration");
        fs::write(&path, text).unwrap();
        path
    }

    /// Of its own each: the one before may still hold its file's lock, by a child that follows it.
    fn pid(&self) -> PathBuf {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        self.0.path().join(format!("pid-{number}"))
    }

    /// ISC's server for IPv4 (`-4`) or IPv6 (`-6`).
    pub fn dhcpd(&self, host: &Host, family: &str, configuration: &str) -> Daemon {
        // It makes none itself.
        let leases = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.leases());
        leases.unwrap();
        start(
            host,
            unpacked("dhcpd")
                .args([family, "-f", "-d", "-cf"])
                .arg(self.configuration(configuration))
                .arg("-lf")
                .arg(self.leases())
                .arg("-pf")
                .arg(self.pid())
                .arg(LINK),
        )
    }

    /// `kea-dhcp4` or `kea-dhcp6` with what is in `Dhcp4` or `Dhcp6` beside files, links and logging.
    pub fn kea(&self, host: &Host, program: &str, configuration: &str) -> Daemon {
        let (room, identity) = match program {
            // Else it makes one and keeps it where an installed one does.
            "kea-dhcp6" => (
                "Dhcp6",
                r#""server-id": {"type": "LL", "htype": 1, "identifier": "020000000002", "persist": false},"#,
            ),
            _ => ("Dhcp4", ""),
        };
        let leases = self.leases();
        let leases = leases.display();
        let text = format!(
            r#"{{"{room}": {{
                "interfaces-config": {{"interfaces": ["{LINK}"]}},
                "lease-database": {{"type": "memfile", "name": "{leases}", "lfc-interval": 0}},
                "loggers": [{{"name": "{program}", "severity": "INFO",
                    "output_options": [{{"output": "stderr"}}]}}],
                {identity}
                {configuration}
            }}}}"#
        );
        start(
            host,
            unpacked(program)
                .arg("-c")
                .arg(self.configuration(&text))
                .env("KEA_PIDFILE_DIR", self.0.path())
                .env("KEA_LOCKFILE_DIR", self.0.path())
                // Later versions write nowhere else.
                .env("KEA_DHCP_DATA_DIR", self.0.path()),
        )
    }

    pub fn radvd(&self, host: &Host, configuration: &str) -> Daemon {
        start(
            host,
            unpacked("radvd")
                .args(["--nodaemon", "--logmethod=stderr", "--config"])
                .arg(self.configuration(configuration))
                .arg("--pidfile")
                .arg(self.pid()),
        )
    }

    pub fn dnsmasq(&self, host: &Host, arguments: &[&str]) -> Daemon {
        let option = |name: &str, path: PathBuf| format!("--{name}={}", path.display());
        start(
            host,
            Command::new("dnsmasq")
                .args([
                    // Who changes his user survives his parent, and in this mode it stays who it is.
                    "--no-daemon",
                    "--conf-file=/dev/null",
                    "--log-facility=-",
                    "--log-dhcp",
                    "--port=0",
                ])
                .arg(format!("--interface={LINK}"))
                .arg(option("pid-file", self.pid()))
                .arg(option("dhcp-leasefile", self.leases()))
                .args(arguments),
        )
    }
}

fn start(host: &Host, command: &mut Command) -> Daemon {
    let child = host.spawn(command);
    Daemon(child.unwrap_or_else(|error| {
        let program = command.get_program().display();
        panic!("`{program}` does not run ({error}); `cargo xtask setup` brings it")
    }))
}

fn unpacked(program: &str) -> Command {
    let folder = std::env::var_os(VARIABLE).unwrap_or_else(|| {
        panic!("{VARIABLE} does not say where `cargo xtask setup` has unpacked {program}")
    });
    let folder = Path::new(&folder);
    let mut command = Command::new(folder.join("usr/sbin").join(program));
    // kea's libraries are beside it.
    command.env("LD_LIBRARY_PATH", folder.join("usr/lib/x86_64-linux-gnu"));
    command
}
