//! `cargo xtask image --check`: is a medium what this pipeline makes, whole and undamaged?
//!
//! A medium's identifiers follow from the UKI on it ([`Identity`]), so a changed byte of it is found without
//! anything to compare with. A UKI alone, and a folder for the network, are compared with the checksums beside them.

use std::fs::{self, File};
use std::io::{Cursor, Read as _, Seek as _, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use gptman::{GPT, GPTHeader, GPTPartitionEntry};
use loam_deployment::FarmId;
use loam_node_api::{farm::STATE_TYPE, system};

use super::layout::{BIOS_BOOT, ESP, Identity, SECTOR};
use super::{disk, fat, grub, iso, network, sums};
use crate::image::{initrd, uki};

/// Whatever a file says of its size, a medium of ours has no more.
const MOST: u64 = 1 << 30;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// As a person calls it.
    pub what: &'static str,
    /// Of the image on it, if it can be read.
    pub version: Option<String>,
    /// Of a disk, the farm that it names.
    pub farm: Option<FarmId>,
    /// A line each.
    pub wrong: Vec<String>,
}

impl Checked {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            version: None,
            farm: None,
            wrong: Vec::new(),
        }
    }

    /// Notes what is wrong, if anything is.
    fn note<T>(&mut self, result: Result<T>) -> Option<T> {
        let noted = result.map_err(|error| self.wrong.push(format!("{error:#}")));
        noted.ok()
    }
}

/// Looks at a file, a folder for the network, or a device.
pub fn check(path: &Path) -> Result<Checked> {
    let mut checked = if path.is_dir() {
        check_network(path)?
    } else {
        check_bytes(&read(path)?)
            .with_context(|| format!("{} is no medium of Loam's", path.display()))?
    };
    let summed = sums::compare(path);
    checked.note(summed.with_context(|| format!("{} has changed", path.display())));
    Ok(checked)
}

/// All of a medium; of a device, which is larger, what belongs to it.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let mut head = Vec::new();
    let reading = || format!("reading {}", path.display());
    (&mut file)
        .take(MOST.min(1 << 16))
        .read_to_end(&mut head)
        .with_context(reading)?;
    let size = iso::size(&head)
        .or_else(|| disk::size(&head))
        .unwrap_or(MOST);
    file.seek(SeekFrom::Start(0)).with_context(reading)?;
    let mut bytes = Vec::new();
    file.take(size.min(MOST))
        .read_to_end(&mut bytes)
        .with_context(reading)?;
    Ok(bytes)
}

fn check_bytes(bytes: &[u8]) -> Result<Checked> {
    if bytes.starts_with(b"MZ") {
        let mut checked = Checked::new("a unified kernel image");
        check_uki(&mut checked, bytes);
        Ok(checked)
    } else if iso::size(bytes).is_some() {
        Ok(check_iso(bytes))
    } else if disk::size(bytes).is_some() {
        Ok(check_disk(bytes))
    } else {
        bail!("it is neither a unified kernel image, nor an ISO, nor a disk with a GPT")
    }
}

fn check_uki(checked: &mut Checked, image: &[u8]) {
    let version = uki::text(image, uki::OS_RELEASE).and_then(|text| {
        let version = system::image_in(text);
        ensure!(!version.is_empty(), "it has no version");
        Ok(version)
    });
    checked.version = checked.note(version);
    checked.note(uki::text(image, uki::COMMAND_LINE));
    let linux = uki::section(image, uki::LINUX).and_then(|section| {
        // Documentation/arch/x86/boot.rst
        ensure!(
            image[section].get(0x202..0x206) == Some(b"HdrS"),
            "its kernel is none"
        );
        Ok(())
    });
    checked.note(linux);
    let archives =
        uki::section(image, uki::INITRD).and_then(|section| initrd::check(&image[section]));
    checked.note(archives.context("its initrd cannot be unpacked"));
}

fn check_disk(bytes: &[u8]) -> Checked {
    let mut checked = Checked::new("a disk");
    let Some(table) = checked.note(table(bytes)) else {
        return checked;
    };
    let mut slot = None;
    for (index, (name, kind, size)) in disk::PARTITIONS.into_iter().enumerate() {
        let entry = &table[index as u32 + 1];
        let there = bytes_of(entry);
        let right = entry.partition_name.as_str() == name
            && entry.partition_type_guid == kind
            && there.end.saturating_sub(there.start) == size;
        if !right {
            checked.wrong.push(format!(
                "partition {} is not `{name}`, as it should be",
                index + 1
            ));
            continue;
        }
        if kind == ESP {
            slot = Some(there);
        } else if kind == BIOS_BOOT {
            checked.note(starts_grub(bytes, there.start));
        } else if kind == STATE_TYPE {
            checked.farm = checked.note(disk::named_farm(bytes, &table)).flatten();
        }
    }
    if let Some(slot) = slot
        && let Some((volume, image)) = check_slot(&mut checked, bytes, &slot, &table, disk::KIND)
    {
        let script = fat::read(volume, fat::SCRIPT);
        check_grub(&mut checked, script.as_deref(), volume, &image);
    }
    checked
}

fn check_iso(bytes: &[u8]) -> Checked {
    let mut checked = Checked::new("an ISO");
    let Some(table) = checked.note(table(bytes)) else {
        return checked;
    };
    let volume = bytes_of(&table[1]);
    checked.note(iso::check(bytes, volume.start));
    if let Some((_, image)) = check_slot(&mut checked, bytes, &volume, &table, iso::KIND) {
        check_grub(
            &mut checked,
            iso::script(bytes).as_ref().copied(),
            bytes,
            &image,
        );
    }
    checked
}

fn bytes_of(partition: &GPTPartitionEntry) -> Range<u64> {
    let end = partition.ending_lba.saturating_add(1);
    partition.starting_lba.saturating_mul(SECTOR)..end.saturating_mul(SECTOR)
}

/// The table at the medium's beginning, if the one at its end says the same.
fn table(bytes: &[u8]) -> Result<GPT> {
    let header = |at: Option<u64>| {
        let at = at.and_then(|at| usize::try_from(at).ok());
        let sector = at.and_then(|at| bytes.get(at..at.checked_add(SECTOR as usize)?));
        let header = sector.context("it is cut off")?;
        Ok::<_, anyhow::Error>(GPTHeader::read_from(&mut Cursor::new(header))?)
    };
    let first = header(Some(SECTOR)).context("the partition table at its beginning is damaged")?;
    header(first.backup_lba.checked_mul(SECTOR))
        .and_then(|last| {
            let same = last.partition_entry_array_crc32 == first.partition_entry_array_crc32;
            ensure!(same, "it is another one");
            Ok(())
        })
        .context("the partition table at its end is damaged")?;
    GPT::read_from(&mut Cursor::new(bytes), SECTOR).context("the partition table is damaged")
}

/// The volume that firmware reads, and the image on it, if both can be read.
fn check_slot<'a>(
    checked: &mut Checked,
    medium: &'a [u8],
    slot: &Range<u64>,
    table: &GPT,
    kind: &str,
) -> Option<(&'a [u8], Vec<u8>)> {
    let place = usize::try_from(slot.start)
        .ok()
        .zip(usize::try_from(slot.end).ok());
    let volume = place.and_then(|(start, end)| medium.get(start..end));
    let volume = checked.note(volume.context("the medium is cut off"))?;
    let image = fat::read(volume, fat::UKI).context("the volume that firmware reads");
    let image = checked.note(image)?;
    check_uki(checked, &image);
    if table.header.disk_guid != Identity::of(kind, &image).guid("disk") {
        let changed = "the image on it is not the one that it was made of: some of it has changed";
        checked.wrong.push(changed.to_owned());
    }
    Some((volume, image))
}

/// Whether what GRUB's script has it read, counted from the beginning of `root`, is the image's kernel and initrd.
fn check_grub(
    checked: &mut Checked,
    script: Result<&[u8], &anyhow::Error>,
    root: &[u8],
    image: &[u8],
) {
    let reads = script
        .map_err(|error| anyhow::anyhow!("{error:#}"))
        .and_then(|script| leads_to(script, root, image));
    checked.note(reads.context("machines without UEFI would not start"));
}

/// Whether the blocks that GRUB's script names are the image's kernel and initrd.
fn leads_to(script: &[u8], root: &[u8], image: &[u8]) -> Result<()> {
    let script = str::from_utf8(script).context("GRUB's script is no text")?;
    for (command, section) in [("linux", uki::LINUX), ("initrd", uki::INITRD)] {
        let blocks = grub::blocks(script, command)?;
        let (start, end) = (usize::try_from(blocks.start)?, usize::try_from(blocks.end)?);
        let read = root
            .get(start..end)
            .with_context(|| format!("`{command}` leads nowhere"))?;
        let section = &image[uki::section(image, section)?];
        ensure!(
            read.starts_with(section),
            "`{command}` leads to something else"
        );
    }
    Ok(())
}

/// Whether boot code leads to the core in this partition.
fn starts_grub(bytes: &[u8], start: u64) -> Result<()> {
    grub::core_of(bytes)
        .filter(|core| *core == start)
        .map(|_| ())
        .context(
            "machines without UEFI would not start: no boot code in the first sector leads to GRUB",
        )
}

fn check_network(folder: &Path) -> Result<Checked> {
    let mut checked = Checked::new("a folder to boot over a network from");
    let file = |name: &str| -> Result<Vec<u8>> {
        let file: PathBuf = folder.join(name);
        fs::read(&file).with_context(|| format!("reading {}", file.display()))
    };
    let Some(image) = checked.note(file(network::UKI)) else {
        return Ok(checked);
    };
    check_uki(&mut checked, &image);
    for (name, section) in [(network::LINUX, uki::LINUX), (network::INITRD, uki::INITRD)] {
        let same = file(name).and_then(|bytes| {
            ensure!(
                bytes == image[uki::section(&image, section)?],
                "{name} is not the one of the image"
            );
            Ok(())
        });
        checked.note(same);
    }
    let script = file(network::SCRIPT).and_then(|script| {
        ensure!(
            script == network::script(&image)?.as_bytes(),
            "{} is another one",
            network::SCRIPT
        );
        Ok(())
    });
    checked.note(script);
    checked.note(file(network::IPXE));
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn wrong(bytes: &[u8]) -> Vec<String> {
        check_bytes(bytes).unwrap().wrong
    }

    #[track_caller]
    fn assert_says(bytes: &[u8], words: &str) {
        let wrong = wrong(bytes);
        assert!(
            wrong.iter().any(|line| line.contains(words)),
            "{words}: {wrong:?}"
        );
    }

    #[test]
    fn what_was_made_is_right() {
        let (uki, grub) = (testing::uki(), testing::grub());
        let media = [
            uki.clone(),
            disk::image(&uki, &grub).unwrap(),
            iso::image(&uki, &grub).unwrap(),
        ];
        for medium in media {
            let checked = check_bytes(&medium).unwrap();
            assert_eq!(checked.wrong, Vec::<String>::new(), "{}", checked.what);
            assert_eq!(checked.version.as_deref(), Some("0.1.0+g1234567"));
            assert_eq!(checked.farm, None);
        }
    }

    #[test]
    fn a_stick_says_which_farm_it_names() {
        let mut stick = disk::image(&testing::uki(), &testing::grub()).unwrap();
        disk::name_farm(&mut stick, FarmId(7)).unwrap();
        let checked = check_bytes(&stick).unwrap();
        assert_eq!(checked.wrong, Vec::<String>::new());
        assert_eq!(checked.farm, Some(FarmId(7)));
        let at = stick.windows(8).rposition(|bytes| bytes == b"LOAMFARM");
        stick[at.unwrap() + 12] ^= 1;
        assert_says(&stick, "which farm it names cannot be read: it is damaged");
    }

    #[test]
    fn each_damage_is_said() {
        let (uki, grub) = (testing::uki(), testing::grub());
        for make in [disk::image, iso::image] {
            let whole = make(&uki, &grub).unwrap();
            let damaged = |at: usize| {
                let mut medium = whole.clone();
                medium[at] ^= 1;
                medium
            };
            assert_says(
                &damaged(512 + 60),
                "the partition table at its beginning is damaged",
            );
            let last = whole.len() - SECTOR as usize;
            assert_says(&damaged(last), "the partition table at its end is damaged");
            assert_says(
                &damaged(0x5c),
                "no boot code in the first sector leads to GRUB",
            );
            // In the middle of the kernel, which nobody counts.
            let kernel = &uki[uki::section(&uki, uki::LINUX).unwrap()];
            let kernel = whole
                .windows(4096)
                .position(|bytes| bytes == &kernel[200_000..204_096])
                .unwrap();
            assert_says(&damaged(kernel), "some of it has changed");
            for cut in [1 << 20, whole.len() / 2, whole.len() - 1] {
                assert_says(&whole[..cut], "damaged");
            }
        }
    }

    #[test]
    fn a_uki_without_its_parts_is_said_to_lack_them() {
        let uki = testing::uki();
        assert_says(&uki[..uki.len() - 600_000], ".linux is cut off");
        let mut damaged = uki.clone();
        let initrd = uki::section(&uki, uki::INITRD).unwrap();
        damaged[initrd.start] ^= 1;
        assert_says(&damaged, "its initrd cannot be unpacked");
    }

    #[test]
    fn something_else_is_no_medium() {
        for other in [&b"\x1f\x8b\x08"[..], &[0; 1 << 16], b""] {
            assert!(
                check_bytes(other)
                    .unwrap_err()
                    .to_string()
                    .contains("neither")
            );
        }
    }
}
