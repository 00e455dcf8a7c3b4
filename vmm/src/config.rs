//! The launcher's configuration: read once from descriptor 3, checked, and turned into owned
//! descriptors, each of which belongs to exactly one part.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read},
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

use loam_deployment::Bytes;
use loam_node_api::{
    network::Mac,
    vmm::{CONFIG_FD, VmmConfig},
};

use crate::hw::{pci::root::MOST_FUNCTIONS, virtio::block::SERIAL_LEN};

/// 31 disks and interfaces and a long command line take a few kibibytes.
const MOST_BYTES: u64 = 1 << 20;
/// As the interface says; also far below what one local APIC id can name.
const MOST_CPUS: u32 = 64;
/// The console and the random number generator.
const OWN_FUNCTIONS: usize = 2;
const FIRST_FD: RawFd = CONFIG_FD + 1;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration from descriptor {CONFIG_FD}: {0}")]
    Read(io::Error),
    #[error("the configuration is longer than {MOST_BYTES} bytes")]
    TooLong,
    #[error("the configuration on descriptor {CONFIG_FD} is not valid: {0}")]
    Parse(#[from] serde_json::Error),
    #[error("cpus = {0}: a machine has 1 to {MOST_CPUS} virtual CPUs")]
    Cpus(u32),
    #[error("{0} disks and interfaces: a machine has at most {most} together", most = MOST_FUNCTIONS - OWN_FUNCTIONS)]
    Devices(usize),
    #[error("the disk serial `{0}` is not 1 to {SERIAL_LEN} printable ASCII characters")]
    Serial(String),
    #[error(
        "descriptor {0} is named for {1}, but it is below {FIRST_FD}, not open, or named twice"
    )]
    Descriptor(RawFd, &'static str),
}

#[derive(Debug)]
pub struct Config {
    pub name: String,
    pub cpus: u32,
    pub memory: Bytes,
    pub kvm: OwnedFd,
    pub kernel: OwnedFd,
    pub initrds: Vec<OwnedFd>,
    pub command_line: String,
    pub disks: Vec<Disk>,
    pub interfaces: Vec<Interface>,
    pub console: OwnedFd,
    pub events: OwnedFd,
    pub control: OwnedFd,
    pub seccomp: bool,
}

#[derive(Debug)]
pub struct Disk {
    pub file: OwnedFd,
    pub read_only: bool,
    pub serial: String,
}

#[derive(Debug)]
pub struct Interface {
    pub tap: OwnedFd,
    pub mac: Mac,
}

/// Reads the configuration from its descriptor, which is closed afterwards.
pub fn read() -> Result<VmmConfig, ConfigError> {
    // SAFETY: the launcher gives this descriptor to us, and nothing else in the process uses it.
    let file = unsafe { File::from_raw_fd(CONFIG_FD) };
    parse(file)
}

fn parse(source: impl Read) -> Result<VmmConfig, ConfigError> {
    let mut text = Vec::new();
    source
        .take(MOST_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(ConfigError::Read)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(ConfigError::TooLong);
    }
    Ok(serde_json::from_slice(&text)?)
}

impl Config {
    /// # Safety
    ///
    /// The descriptors that the configuration names must belong to nothing else in this process.
    pub unsafe fn new(config: VmmConfig) -> Result<Self, ConfigError> {
        if config.cpus == 0 || config.cpus > MOST_CPUS {
            return Err(ConfigError::Cpus(config.cpus));
        }
        let devices = config.disks.len() + config.interfaces.len();
        if devices > MOST_FUNCTIONS - OWN_FUNCTIONS {
            return Err(ConfigError::Devices(devices));
        }
        for disk in &config.disks {
            let serial = &disk.serial;
            let fits = (1..=SERIAL_LEN).contains(&serial.len());
            if !fits || !serial.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(ConfigError::Serial(serial.clone()));
            }
        }
        let mut taken = BTreeSet::new();
        // SAFETY: passed on from this function's caller.
        let mut own = |fd, what| unsafe { own(fd, what, &mut taken) };
        Ok(Self {
            name: config.name,
            cpus: config.cpus,
            memory: config.memory,
            events: own(config.events, "events")?,
            kvm: own(config.kvm, "kvm")?,
            kernel: own(config.kernel, "the kernel")?,
            initrds: config
                .initrds
                .into_iter()
                .map(|fd| own(fd, "an initrd"))
                .collect::<Result<_, _>>()?,
            command_line: config.command_line,
            disks: config
                .disks
                .into_iter()
                .map(|disk| {
                    Ok(Disk {
                        file: own(disk.file, "a disk")?,
                        read_only: disk.read_only,
                        serial: disk.serial,
                    })
                })
                .collect::<Result<_, ConfigError>>()?,
            interfaces: config
                .interfaces
                .into_iter()
                .map(|interface| {
                    Ok(Interface {
                        tap: own(interface.tap, "a tap")?,
                        mac: interface.mac,
                    })
                })
                .collect::<Result<_, ConfigError>>()?,
            console: own(config.console, "the console")?,
            control: own(config.control, "the control socket")?,
            seccomp: config.seccomp,
        })
    }
}

/// # Safety
///
/// If `fd` is open, it must belong to nothing else in this process.
unsafe fn own(
    fd: RawFd,
    what: &'static str,
    taken: &mut BTreeSet<RawFd>,
) -> Result<OwnedFd, ConfigError> {
    // SAFETY: F_GETFD looks a number up, open or not.
    let open = fd >= FIRST_FD && unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if !open || !taken.insert(fd) {
        return Err(ConfigError::Descriptor(fd, what));
    }
    // SAFETY: open, and ours by the promise of the caller, and taken only once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsRawFd, IntoRawFd};

    use loam_node_api::vmm::DiskConfig;

    use super::*;

    fn fd() -> RawFd {
        // Numbers of the test process's own files, high enough to be told from the standard ones.
        let file = tempfile::tempfile().unwrap();
        let high = rustix::io::fcntl_dupfd_cloexec(&file, 10).unwrap();
        high.into_raw_fd()
    }

    fn config() -> VmmConfig {
        VmmConfig {
            name: "test".into(),
            cpus: 1,
            memory: Bytes::mib(128),
            kvm: fd(),
            kernel: fd(),
            initrds: vec![fd()],
            command_line: String::new(),
            disks: vec![DiskConfig {
                file: fd(),
                read_only: false,
                serial: "disk".into(),
            }],
            interfaces: vec![],
            console: fd(),
            events: fd(),
            control: fd(),
            seccomp: true,
        }
    }

    fn check(config: VmmConfig) -> Result<Config, ConfigError> {
        // SAFETY: `fd` made each descriptor for this configuration alone, or the number is not open.
        unsafe { Config::new(config) }
    }

    #[test]
    fn descriptors_become_owned() {
        let config = config();
        let kernel = config.kernel;
        assert_eq!(check(config).unwrap().kernel.as_raw_fd(), kernel);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let cases: [fn(&mut VmmConfig); 6] = [
            |config| config.cpus = 0,
            |config| config.cpus = 65,
            |config| config.disks[0].serial = "x".repeat(21),
            |config| config.disks[0].serial = "a b".into(),
            |config| config.kernel = 3,
            |config| config.initrds = vec![1 << 20],
        ];
        for (index, change) in cases.iter().enumerate() {
            let mut config = config();
            change(&mut config);
            assert!(check(config).is_err(), "case {index}");
        }
        let mut twice = config();
        twice.initrds = vec![twice.kvm];
        assert!(matches!(check(twice), Err(ConfigError::Descriptor(..))));
    }

    #[test]
    fn refuses_endless_and_malformed_text() {
        assert!(matches!(parse(io::repeat(b' ')), Err(ConfigError::TooLong)));
        assert!(matches!(parse(&b"{}"[..]), Err(ConfigError::Parse(_))));
    }
}
