//! The disks that the kernel shows, read from sysfs (Linux `Documentation/ABI/stable/sysfs-block`).

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use loam_deployment::{Bytes, payload::Media};
use loam_node_api::storage::REMOVABLE;

/// Where the kernel describes block devices.
pub const SYS_BLOCK: &str = "/sys/block";

/// Below this a pool would be all overhead: btrfs keeps two copies of its metadata.
pub const MINIMUM: Bytes = Bytes::gib(1);

/// Devices that are not disks of their own: made of memory, of other disks, or of media that change.
const NOT_DISKS: [&str; 10] = [
    "loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "mtdblock", "rbd",
];

/// What sysfs says about one disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysDisk {
    /// The kernel's name, as in `/sys/block/vda`. Another one after the next boot.
    pub name: String,
    pub device: PathBuf,
    /// The kernel's count of the disks that it has seen: another one when the same disk was pulled
    /// and put back.
    pub seq: u64,
    /// Stable across boots.
    pub id: String,
    /// False until the disk has been asked for its id ([`ask_name`]); until then `id` is where it is
    /// plugged in.
    pub named: bool,
    pub size: Bytes,
    pub media: Media,
    /// Why it can never be made a pool, whatever it holds.
    pub unfit: Option<Unfit>,
    /// Partitions that the kernel found, or devices made from the disk (LVM, RAID).
    pub in_use: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    Removable,
    Small,
    /// As a disk has it that has not said yet how large it is, or cannot.
    Sizeless,
    ReadOnly,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Removable => f.write_str(REMOVABLE),
            Self::Small => write!(f, "smaller than {MINIMUM}"),
            Self::Sizeless => write!(f, "without a size"),
            Self::ReadOnly => write!(f, "read-only"),
        }
    }
}

impl SysDisk {
    /// Whether it is no pool and never one of this node's, whatever it holds.
    pub fn can_be_no_pool(&self) -> bool {
        match self.unfit {
            Some(Unfit::Removable | Unfit::Small) => true,
            Some(Unfit::Sizeless) => false,
            Some(Unfit::ReadOnly) | None => self.in_use.is_some(),
        }
    }

    /// Keeps the id by which it was known `before`, if it is that disk still: what fails to be read now
    /// makes it no other.
    pub fn keep_id(&mut self, before: &Self) {
        let same = self.name == before.name && self.seq == before.seq && self.seq != 0;
        if same && before.named {
            self.id.clone_from(&before.id);
            self.named = true;
        }
    }
}

/// Every disk under `sys_block`, without waiting for any. A disk that vanishes while being read is left
/// out.
pub fn scan(sys_block: &Path) -> io::Result<Vec<SysDisk>> {
    let mut disks = Vec::new();
    for entry in fs::read_dir(sys_block)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if NOT_DISKS.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        if let Some(disk) = read(&entry.path(), name) {
            disks.push(disk);
        }
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

fn read(folder: &Path, name: String) -> Option<SysDisk> {
    // Hidden devices are the single paths of an NVMe disk that has several; they have no node.
    if attribute(folder, "hidden").as_deref() == Some("1") {
        return None;
    }
    // In units of 512 bytes whatever the disk's sector size is.
    let size = Bytes(
        attribute(folder, "size")?
            .parse::<u64>()
            .ok()?
            .checked_mul(512)?,
    );
    let media = match attribute(folder, "queue/rotational").as_deref() {
        Some("1") => Media::Hdd,
        _ => Media::Ssd,
    };
    let flag = |file| attribute(folder, file).as_deref() == Some("1");
    let unfit = if flag("removable") {
        Some(Unfit::Removable)
    } else if size == Bytes(0) {
        Some(Unfit::Sizeless)
    } else if size < MINIMUM {
        Some(Unfit::Small)
    } else if flag("ro") {
        Some(Unfit::ReadOnly)
    } else {
        None
    };
    let (id, named) = identity(folder, &name);
    Some(SysDisk {
        device: Path::new("/dev").join(&name),
        seq: attribute(folder, "diskseq")
            .and_then(|seq| seq.parse().ok())
            .unwrap_or(0),
        id,
        named,
        in_use: in_use(folder, &name),
        name,
        size,
        media,
        unfit,
    })
}

/// The worldwide id, else model and serial number, else the place where the disk is plugged in; and
/// whether that is its name, as far as it has one.
fn identity(folder: &Path, name: &str) -> (String, bool) {
    let known = |file| attribute(folder, file).filter(|text| !text.is_empty());
    let at_place = || printable(&format!("path-{}", place(folder, name)));
    if is_asked(name) {
        return (at_place(), false);
    }
    if let Some(wwid) = known("wwid").or_else(|| known("device/wwid")) {
        return (printable(&wwid), true);
    }
    let serial = known("serial").or_else(|| known("device/serial"));
    let id = match (known("device/model"), serial) {
        (Some(model), Some(serial)) => printable(&format!("{model}-{serial}")),
        (None, Some(serial)) => printable(&format!("serial-{serial}")),
        _ => at_place(),
    };
    (id, true)
}

/// Of all others the kernel knows the id from when it found the disk. A virtio disk is asked by whoever
/// reads its serial number, and may not answer (Linux `drivers/block/virtio_blk.c`, `serial_show`).
fn is_asked(name: &str) -> bool {
    name.starts_with("vd")
}

/// The disk with its own id, if it has one. Waits for the disk.
pub fn ask_name(sys_block: &Path, disk: &SysDisk) -> io::Result<SysDisk> {
    let unsupported = Some(rustix::io::Errno::OPNOTSUPP.raw_os_error());
    let serial = match fs::read(sys_block.join(&disk.name).join("serial")) {
        Ok(serial) => printable(&String::from_utf8_lossy(&serial)),
        Err(error) if error.raw_os_error() == unsupported => String::new(),
        Err(error) => return Err(error),
    };
    let id = match serial.as_str() {
        "" => disk.id.clone(),
        serial => format!("virtio-{serial}"),
    };
    Ok(SysDisk {
        id,
        named: true,
        ..disk.clone()
    })
}

/// `0000:00:04.0`: the last PCI address on the way to the disk, with the rest of the way after it. The
/// kernel counts SCSI hosts in the order in which it finds them, so no id has that number.
fn place(folder: &Path, name: &str) -> String {
    let Ok(way) = fs::canonicalize(folder) else {
        return name.to_owned();
    };
    let parts: Vec<_> = way
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    let is_pci = |part: &String| {
        part.len() == 12
            && part
                .bytes()
                .all(|b| b.is_ascii_hexdigit() || b":.".contains(&b))
    };
    match parts.iter().rposition(is_pci) {
        // The kernel's own name, at the end, changes from boot to boot.
        Some(at) => {
            let end = parts.len().saturating_sub(2).max(at + 1);
            let mut way: PathBuf = parts[..at].iter().collect();
            let mut host = None;
            let mut place = Vec::new();
            for part in &parts[at..end] {
                if let Some(number) = host_number(part) {
                    host = Some(number);
                    place.push(format!("host{}", number - first_host(&way, number)));
                } else {
                    place.push(without_host(part, host));
                }
                way.push(part);
            }
            place.join("-")
        }
        None => name.to_owned(),
    }
}

fn host_number(part: &str) -> Option<u32> {
    part.strip_prefix("host")?.parse().ok()
}

/// The lowest number of the hosts of one controller, from which its others are told apart.
fn first_host(controller: &Path, known: u32) -> u32 {
    let children = fs::read_dir(controller).into_iter().flatten().flatten();
    children
        .filter_map(|child| host_number(&child.file_name().to_string_lossy()))
        .fold(known, u32::min)
}

/// Channel, target and unit, as in `target4:0:0` and `4:0:0:0`, without the host's number.
fn without_host(part: &str, host: Option<u32>) -> String {
    let (kind, address) = match part.strip_prefix("target") {
        Some(address) => ("target", address),
        None => ("", part),
    };
    match address.split_once(':') {
        Some((number, rest)) if host.is_some() && number.parse().ok() == host => {
            format!("{kind}{rest}")
        }
        _ => part.to_owned(),
    }
}

/// As udev does in `/dev/disk/by-id`: nothing but what is safe in a file name and a TOML string.
fn printable(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join("_")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "._-:".contains(*c))
        .collect()
}

fn in_use(folder: &Path, name: &str) -> Option<String> {
    let names = |path: &Path| -> Vec<String> {
        fs::read_dir(path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    };
    let partition = names(folder)
        .into_iter()
        .find(|child| child.starts_with(name) && folder.join(child).join("partition").exists());
    if let Some(partition) = partition {
        return Some(format!("partitions ({partition})"));
    }
    let holder = names(&folder.join("holders")).into_iter().next();
    holder.map(|holder| format!("part of {holder}"))
}

/// A file of sysfs, without the space round it.
pub fn attribute(folder: &Path, file: &str) -> Option<String> {
    Some(
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sysfs(disks: &[(&str, &[(&str, &str)])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (disk, attributes) in disks {
            for (file, text) in *attributes {
                let path = root.path().join(disk).join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
        }
        root
    }

    #[test]
    fn tells_disks_apart() {
        let root = sysfs(&[
            ("loop0", &[("size", "8388608")]),
            ("dm-0", &[("size", "8388608")]),
            ("nvme0c0n1", &[("size", "8388608"), ("hidden", "1")]),
            (
                "nvme0n1",
                &[
                    ("size", "8388608"),
                    ("queue/rotational", "0"),
                    ("wwid", "eui.0025388b01234567"),
                    ("removable", "0"),
                ],
            ),
            (
                "sda",
                &[
                    ("size", "8388608"),
                    ("queue/rotational", "1"),
                    ("device/model", "ST4000 VN008  "),
                    ("device/serial", " ZDH1 "),
                    ("sda1/partition", "1"),
                ],
            ),
            ("sdb", &[("size", "8388608"), ("removable", "1")]),
            ("vda", &[("size", "2048"), ("serial", "tiny"), ("ro", "1")]),
            (
                "vdb",
                &[("size", "8388608"), ("serial", "locked"), ("ro", "1")],
            ),
            ("vdc", &[("size", "0"), ("serial", "silent")]),
        ]);
        let disks = scan(root.path()).unwrap();
        let named: Vec<_> = disks.iter().map(|disk| disk.named).collect();
        assert_eq!(named, [true, true, true, false, false, false]);
        assert_eq!(disks[3].id, "path-vda");
        let ask = |disk: SysDisk| match disk.named {
            true => disk,
            false => ask_name(root.path(), &disk).unwrap(),
        };
        let disks: Vec<_> = disks.into_iter().map(ask).collect();
        assert!(disks.iter().all(|disk| disk.named));
        let summary: Vec<_> = disks
            .iter()
            .map(|d| {
                (
                    d.name.as_str(),
                    d.id.as_str(),
                    d.media,
                    d.unfit,
                    d.in_use.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            summary,
            [
                ("nvme0n1", "eui.0025388b01234567", Media::Ssd, None, None),
                (
                    "sda",
                    "ST4000_VN008-ZDH1",
                    Media::Hdd,
                    None,
                    Some("partitions (sda1)")
                ),
                ("sdb", "path-sdb", Media::Ssd, Some(Unfit::Removable), None),
                ("vda", "virtio-tiny", Media::Ssd, Some(Unfit::Small), None),
                (
                    "vdb",
                    "virtio-locked",
                    Media::Ssd,
                    Some(Unfit::ReadOnly),
                    None
                ),
                (
                    "vdc",
                    "virtio-silent",
                    Media::Ssd,
                    Some(Unfit::Sizeless),
                    None
                ),
            ]
        );
        assert_eq!(disks[0].size, Bytes::gib(4));
        assert_eq!(Unfit::Small.to_string(), "smaller than 1GiB");
    }

    /// Disks at `hosts`, each by the number that the kernel gives its SCSI host.
    fn scsi(hosts: &[(u32, &str)]) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let block = root.path().join("block");
        fs::create_dir(&block).unwrap();
        for (index, (host, address)) in hosts.iter().enumerate() {
            let target = address.rsplit_once(':').unwrap().0;
            let name = format!("sd{index}");
            let folder = root.path().join(format!(
                "devices/pci0000:00/0000:00:05.0/host{host}/target{host}:{target}/{host}:{address}/block/{name}"
            ));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("size"), "8388608\n").unwrap();
            std::os::unix::fs::symlink(&folder, block.join(&name)).unwrap();
        }
        let disks = scan(&block).unwrap();
        disks.into_iter().map(|disk| disk.id).collect()
    }

    #[test]
    fn a_place_has_one_id_whichever_number_its_host_gets() {
        let ids = scsi(&[(4, "0:2:1")]);
        assert_eq!(ids, scsi(&[(7, "0:2:1")]));
        assert!(ids[0].starts_with("path-0000:00:05.0-") && ids[0].contains("0:2:1"));
        // Channel, target and unit tell disks apart, as do two hosts of one controller.
        let (four, seven) = ([(4, "0:0:0"), (5, "0:0:0")], [(7, "0:0:0"), (8, "0:0:0")]);
        assert_eq!(scsi(&four), scsi(&seven));
        let mut ids = scsi(&[
            (4, "0:0:0"),
            (4, "0:0:1"),
            (4, "0:1:0"),
            (4, "1:0:0"),
            (5, "0:0:0"),
        ]);
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 5);
    }
}
