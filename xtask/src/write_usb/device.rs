//! [`Device`]: what lsblk says of a disk, and whether it is a stick that may be written to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::image::sizes;

/// What is asked of lsblk.
pub const COLUMNS: &str =
    "NAME,PATH,TYPE,SIZE,RM,RO,HOTPLUG,TRAN,MODEL,SERIAL,FSTYPE,LABEL,MOUNTPOINTS";

/// Nothing larger is taken for a stick: what is, is somebody's backup.
const LARGEST: u64 = 256_000_000_000;

/// Parts of something that is on several disks.
const MEMBERS: [(&str, &str); 4] = [
    ("LVM2_member", "LVM"),
    ("linux_raid_member", "a RAID"),
    ("zfs_member", "ZFS"),
    ("ddf_raid_member", "a RAID"),
];

#[derive(Debug, Clone, Deserialize)]
pub struct Device {
    pub name: String,
    pub path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    /// In bytes.
    size: u64,
    rm: bool,
    ro: bool,
    hotplug: bool,
    tran: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    fstype: Option<String>,
    label: Option<String>,
    mountpoints: Vec<Option<String>>,
    #[serde(default)]
    children: Vec<Device>,
}

/// Of `lsblk --json --bytes`.
pub fn parse(json: &[u8]) -> Result<Vec<Device>> {
    #[derive(Deserialize)]
    struct Listed {
        blockdevices: Vec<Device>,
    }
    let listed: Listed = serde_json::from_slice(json)
        .context("lsblk says something else than expected; util-linux 2.37 is needed")?;
    Ok(listed.blockdevices)
}

/// The disk, or a part of one, at this path.
pub fn find<'a>(all: &'a [Device], path: &Path) -> Option<&'a Device> {
    all.iter().find_map(|device| match device.path == path {
        true => Some(device),
        false => find(&device.children, path),
    })
}

impl Device {
    /// Whether it can be pulled out as it is.
    pub fn is_stick(&self) -> bool {
        self.kind == "disk"
            && self.size > 0
            && (self.rm || self.hotplug || self.tran.as_deref() == Some("usb"))
    }

    /// What speaks against writing an image of this size to it, as the rest of a sentence.
    pub fn refusal(&self, image: u64) -> Option<String> {
        let all = self.all();
        let mounts = || all.iter().flat_map(|device| &device.mountpoints).flatten();
        let holder = || {
            all.iter()
                .find(|device| !["disk", "part"].contains(&device.kind.as_str()))
        };
        let member = || {
            let of = |device: &&Device| {
                MEMBERS
                    .iter()
                    .find(|(kind, _)| device.fstype.as_deref() == Some(kind))
            };
            all.iter().find_map(of)
        };
        if self.kind == "part" {
            Some("is a part of a disk: name the disk".into())
        } else if !self.is_stick() {
            Some("is built into this machine: it is no stick".into())
        } else if let Some(mount) = mounts().next() {
            Some(match mount.as_str() {
                "[SWAP]" => "is in use as swap space".into(),
                mount => format!("is in use: {mount} is on it (`umount {mount}` ends that)"),
            })
        } else if let Some(holder) = holder() {
            Some(format!("is in use by {}", holder.path.display()))
        } else if let Some((_, what)) = member() {
            Some(format!(
                "has a part of {what} on it; if that is to go: wipefs --all {}",
                self.path.display()
            ))
        } else if self.ro {
            Some("is write-protected: many have a switch".into())
        } else if self.size < image {
            let [has, needs] = [self.size, image].map(sizes::mebibytes);
            Some(format!(
                "is too small: it has {has}, and {needs} are needed"
            ))
        } else if self.size > LARGEST {
            Some(format!(
                "has {}, which is too large for a stick",
                gigabytes(self.size)
            ))
        } else {
            None
        }
    }

    /// For a person to know it by.
    pub fn described(&self) -> String {
        let trimmed = |text: &Option<String>| {
            text.as_deref()
                .map(str::trim)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        let model = trimmed(&self.model).unwrap_or_else(|| "a stick".into());
        let serial = trimmed(&self.serial)
            .map_or_else(String::new, |serial| format!(", serial number {serial}"));
        let holds = self.all().into_iter().filter_map(|device| {
            let kind = device.fstype.as_ref()?;
            Some(match trimmed(&device.label) {
                Some(label) => format!("{kind} `{label}`"),
                None => kind.clone(),
            })
        });
        let holds = holds.collect::<Vec<_>>().join(", ");
        let holds = match holds.as_str() {
            "" => "nothing that is known is on it",
            holds => holds,
        };
        format!("{model}, {}{serial}; {holds}", gigabytes(self.size))
    }

    /// What a person types who means this one and has looked: what it is, and the answer.
    pub fn proof(&self) -> (&'static str, String) {
        let serial = self.serial.as_deref().unwrap_or_default().trim();
        let start = serial.char_indices().rev().nth(3).map(|(start, _)| start);
        match start {
            Some(start) => (
                "the last four of its serial number",
                serial[start..].to_owned(),
            ),
            None => ("its name, as above without /dev/", self.name.clone()),
        }
    }

    fn all(&self) -> Vec<&Self> {
        let mut all = vec![self];
        all.extend(self.children.iter().flat_map(Self::all));
        all
    }
}

/// As it is printed on sticks.
fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GB", bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const IMAGE: u64 = 330 << 20;

    /// A stick as lsblk shows it, with changes.
    fn stick(changes: Value) -> Device {
        let mut device = json!({
            "name": "sdb", "path": "/dev/sdb", "type": "disk", "size": 15_376_318_464_u64,
            "rm": true, "ro": false, "hotplug": true, "tran": "usb",
            "model": "Ultra Fit       ", "serial": "4C530001230405116283",
            "fstype": null, "label": null, "mountpoints": [null],
            "children": [{
                "name": "sdb1", "path": "/dev/sdb1", "type": "part", "size": 15_375_269_888_u64,
                "rm": true, "ro": false, "hotplug": true, "tran": null, "model": null, "serial": null,
                "fstype": "vfat", "label": "HOLIDAYS", "mountpoints": [null]
            }]
        });
        for (name, value) in changes.as_object().unwrap() {
            device[name] = value.clone();
        }
        serde_json::from_value(device).unwrap()
    }

    fn with_child(changes: Value) -> Device {
        let mut device = stick(json!({}));
        let mut child = json!({
            "name": "x", "path": "/dev/mapper/x", "type": "part", "size": 1, "rm": true, "ro": false,
            "hotplug": true, "tran": null, "model": null, "serial": null, "fstype": null, "label": null,
            "mountpoints": [null]
        });
        for (name, value) in changes.as_object().unwrap() {
            child[name] = value.clone();
        }
        device.children[0]
            .children
            .push(serde_json::from_value(child).unwrap());
        device
    }

    #[test]
    fn a_stick_is_described_so_that_its_owner_knows_it() {
        let device = stick(json!({}));
        assert_eq!(device.refusal(IMAGE), None);
        assert_eq!(
            device.described(),
            "Ultra Fit, 15.4 GB, serial number 4C530001230405116283; vfat `HOLIDAYS`"
        );
        assert_eq!(
            device.proof(),
            ("the last four of its serial number", "6283".to_owned())
        );
        let plain = stick(json!({ "model": null, "serial": " 12 ", "children": [] }));
        assert_eq!(
            plain.described(),
            "a stick, 15.4 GB, serial number 12; nothing that is known is on it"
        );
        assert_eq!(plain.proof().1, "sdb");
    }

    #[test]
    fn what_speaks_against_a_disk_is_said() {
        let built_in = json!({ "rm": false, "hotplug": false, "tran": "nvme" });
        for (device, words) in [
            (stick(built_in), "built into"),
            (stick(json!({ "type": "part" })), "name the disk"),
            (stick(json!({ "type": "loop" })), "no stick"),
            (stick(json!({ "size": 0 })), "no stick"),
            (
                stick(json!({ "size": IMAGE - 1 })),
                "is too small: it has 330.00 MiB",
            ),
            (
                stick(json!({ "size": 2_000_000_000_000_u64 })),
                "2000.0 GB, which is too large",
            ),
            (stick(json!({ "ro": true })), "write-protected"),
            (
                stick(json!({ "mountpoints": ["/media/me"] })),
                "/media/me is on it",
            ),
            (
                with_child(json!({ "mountpoints": [null, "/mnt"] })),
                "`umount /mnt`",
            ),
            (with_child(json!({ "mountpoints": ["[SWAP]"] })), "swap"),
            (
                with_child(json!({ "type": "crypt" })),
                "in use by /dev/mapper/x",
            ),
            (
                with_child(json!({ "fstype": "LVM2_member" })),
                "a part of LVM on it",
            ),
            (
                stick(json!({ "fstype": "linux_raid_member" })),
                "wipefs --all /dev/sdb",
            ),
        ] {
            let why = device.refusal(IMAGE).unwrap_or_default();
            assert!(why.contains(words), "{words}: {why}");
        }
        // Either of these says that it can be pulled out.
        for says in [
            json!({ "hotplug": false, "tran": null }),
            json!({ "rm": false, "tran": null }),
            json!({ "rm": false, "hotplug": false }),
        ] {
            assert_eq!(stick(says).refusal(IMAGE), None);
        }
    }

    #[test]
    fn parts_are_found_in_their_disks() {
        let listed = serde_json::to_vec(&json!({ "blockdevices": [] })).unwrap();
        assert!(parse(&listed).unwrap().is_empty());
        assert!(parse(b"{}").unwrap_err().to_string().contains("2.37"));
        let all = [stick(json!({}))];
        assert_eq!(find(&all, Path::new("/dev/sdb1")).unwrap().name, "sdb1");
        assert!(find(&all, Path::new("/dev/sdc")).is_none());
    }
}
