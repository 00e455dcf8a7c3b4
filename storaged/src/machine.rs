//! Which machine this is, as far as its firmware tells: so that a node's own disks are known from
//! disks that were carried in from another node.

use std::{fs, path::Path};

use sha2::{Digest, Sha256};

use crate::disk::attribute;

/// Where the kernel shows what the firmware says (Linux `Documentation/ABI/testing/sysfs-firmware-dmi-tables`).
pub const SYS_DMI: &str = "/sys/class/dmi/id";
/// Where the kernel shows network interfaces.
pub const SYS_NET: &str = "/sys/class/net";

/// Names a machine. Nothing but the same name is ever concluded from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine(pub [u8; 16]);

/// What board makers leave in the fields that they forgot to fill in, in lower case.
const UNFILLED: [&str; 14] = [
    "to be filled by o.e.m.",
    "to be filled by oem",
    "default string",
    "system serial number",
    "base board serial number",
    "not specified",
    "not applicable",
    "not available",
    "none",
    "unknown",
    "o.e.m.",
    "oem",
    "03000200-0400-0500-0006-000700080009",
    "12345678-1234-5678-90ab-cddeefaabbcc",
];

/// `None` when the firmware says nothing that tells this machine from another of its kind. Then the
/// lowest address burnt into a network card stands in for it.
pub fn this(dmi: &Path, net: &Path) -> Option<Machine> {
    let said: Vec<String> = ["product_uuid", "board_serial", "product_serial"]
        .into_iter()
        .filter_map(|file| Some(format!("{file}={}", telling(&attribute(dmi, file)?)?)))
        .collect();
    let said = if said.is_empty() {
        vec![format!("mac={}", lowest_mac(net)?)]
    } else {
        said
    };
    let mut name = [0; 16];
    name.copy_from_slice(&Sha256::digest(said.join("\n"))[..16]);
    Some(Machine(name))
}

fn telling(text: &str) -> Option<String> {
    let text = text.to_lowercase();
    let letters: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    // "00000000-0000-...", "ffffffff-...", "........", "0".
    let varied = letters.iter().any(|c| *c != letters[0]);
    // "0123456789", "123456789".
    let counted = "01234567890123456789".contains(&letters.iter().collect::<String>());
    (varied && !counted && !UNFILLED.contains(&text.as_str())).then_some(text)
}

fn lowest_mac(net: &Path) -> Option<String> {
    fs::read_dir(net)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        // Interfaces of hardware, with an address of their own (Linux `NET_ADDR_PERM`).
        .filter(|folder| folder.join("device").exists())
        .filter(|folder| attribute(folder, "addr_assign_type").as_deref() == Some("0"))
        .filter_map(|folder| telling(&attribute(&folder, "address")?))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the firmware says, and the addresses of two network cards.
    fn machine(dmi: &[(&str, &str)], macs: &[&str]) -> Option<Machine> {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("{text}\n")).unwrap();
        };
        for (file, text) in dmi {
            put(&format!("dmi/{file}"), text);
        }
        for (index, mac) in macs.iter().enumerate() {
            put(&format!("net/eth{index}/address"), mac);
            put(&format!("net/eth{index}/addr_assign_type"), "0");
            put(&format!("net/eth{index}/device/vendor"), "0x8086");
        }
        // A bridge is no hardware, and a random address no name.
        put("net/br0/address", "02:00:00:00:00:01");
        put("net/br0/addr_assign_type", "0");
        put("net/vf0/address", "02:00:00:00:00:02");
        put("net/vf0/addr_assign_type", "1");
        put("net/vf0/device/vendor", "0x8086");
        this(&root.path().join("dmi"), &root.path().join("net"))
    }

    const UUID: (&str, &str) = ("product_uuid", "4c4c4544-0042-3510-8051-b4c04f4d3732");

    #[test]
    fn the_same_machine_has_the_same_name_and_another_another() {
        let here = machine(&[UUID], &["52:54:00:00:00:07"]);
        assert!(here.is_some());
        assert_eq!(here, machine(&[UUID], &["52:54:00:00:00:08"]));
        assert_ne!(here, machine(&[UUID, ("board_serial", "MB-77")], &[]));
        assert_ne!(here, machine(&[("board_serial", "MB-77")], &[]));
    }

    #[test]
    fn what_no_maker_filled_in_is_no_name() {
        for bogus in [
            "To be filled by O.E.M.",
            "Default string",
            "00000000-0000-0000-0000-000000000000",
            "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
            "03000200-0400-0500-0006-000700080009",
            "0123456789",
            "123456789",
            "..........",
            "0",
            "",
        ] {
            let dmi = [("product_uuid", bogus), ("board_serial", bogus)];
            assert_eq!(machine(&dmi, &[]), None, "{bogus:?}");
            assert_eq!(
                machine(&[UUID, ("board_serial", bogus)], &[]),
                machine(&[UUID], &[])
            );
            // The cards speak for it, in whatever order they come.
            let one = machine(&dmi, &["52:54:00:00:00:07", "52:54:00:00:00:09"]);
            let two = machine(&dmi, &["52:54:00:00:00:09", "52:54:00:00:00:07"]);
            assert!(one.is_some() && one == two);
            assert_ne!(one, machine(&dmi, &["52:54:00:00:00:09"]));
        }
    }
}
