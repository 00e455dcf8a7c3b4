//! A FAT volume that holds the UKI where every firmware looks for it, and for GRUB where in the volume kernel and
//! initrd lie.

use std::io::{Cursor, Write};
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use fatfs::{FatType, FormatVolumeOptions, FsOptions};

use super::layout::{MEBIBYTE, SECTOR};

/// Where every firmware looks.
pub const UKI: &str = "EFI/BOOT/BOOTX64.EFI";
/// GRUB's script.
pub const SCRIPT: &str = "loam/boot.cfg";

/// FAT tables and folders.
const SPARE: u64 = 4 * MEBIBYTE;
/// FAT32 begins at 65525 clusters; a smaller volume would be another FAT.
const LEAST: u64 = 40 * MEBIBYTE;

/// The least volume in which a UKI of this size has room.
pub fn least(uki: usize) -> u64 {
    (uki as u64 + SPARE).max(LEAST).next_multiple_of(MEBIBYTE)
}

/// Formats `volume`, which is all zeroes, and writes the UKI and the file that `boot` makes of where the UKI lies in
/// the volume.
pub fn format(
    volume: &mut [u8],
    serial: u32,
    uki: &[u8],
    boot: impl FnOnce(Range<u64>) -> Result<String>,
) -> Result<()> {
    ensure!(
        volume.len() as u64 >= least(uki.len()),
        "the image has {} bytes, and a volume of {} has no room for it",
        uki.len(),
        volume.len()
    );
    let options = FormatVolumeOptions::new()
        // FAT16 and FAT32 are both allowed on removable media; 32 is what every firmware reads.
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(SECTOR as u32)
        .volume_id(serial)
        .volume_label(*b"LOAM       ");
    fatfs::format_volume(Cursor::new(&mut *volume), options)?;
    write(volume, UKI, uki)?;
    let boot = boot(found(volume, uki)?)?;
    write(volume, SCRIPT, boot.as_bytes())
}

fn write(volume: &mut [u8], path: &str, bytes: &[u8]) -> Result<()> {
    let volume = fatfs::FileSystem::new(Cursor::new(volume), FsOptions::new())?;
    let mut folder = volume.root_dir();
    let (folders, name) = path.rsplit_once('/').context("a file in a folder")?;
    for part in folders.split('/') {
        folder = folder.create_dir(part)?;
    }
    let mut file = folder.create_file(name)?;
    file.write_all(bytes)?;
    file.flush()?;
    Ok(())
}

/// Where the file's clusters are: one behind the other, as nothing was ever removed from the volume.
fn found(volume: &[u8], file: &[u8]) -> Result<Range<u64>> {
    let sector = SECTOR as usize;
    let start = (0..volume.len())
        .step_by(sector)
        .find(|start| volume[*start..].starts_with(file))
        .context("the image is in pieces in its volume")?;
    Ok(start as u64..(start + file.len()) as u64)
}

/// The whole file at `path`.
pub fn read(volume: &[u8], path: &str) -> Result<Vec<u8>> {
    use std::io::Read as _;
    // It is only read, but the crate wants to write.
    struct ReadOnly<'a>(Cursor<&'a [u8]>);
    impl std::io::Read for ReadOnly<'_> {
        fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
            self.0.read(into)
        }
    }
    impl std::io::Seek for ReadOnly<'_> {
        fn seek(&mut self, to: std::io::SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    impl Write for ReadOnly<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let volume = fatfs::FileSystem::new(ReadOnly(Cursor::new(volume)), FsOptions::new())
        .context("there is no FAT volume")?;
    let mut bytes = Vec::new();
    volume
        .root_dir()
        .open_file(path)
        .with_context(|| format!("it has no {path}"))?
        .read_to_end(&mut bytes)
        .with_context(|| format!("reading {path}"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_the_uki_where_firmware_looks_and_says_where_it_lies() {
        let uki: Vec<u8> = (0..40_000_001_u32).map(|n| (n / 7) as u8).collect();
        let mut volume = vec![0; least(uki.len()) as usize];
        let mut place = 0..0;
        format(&mut volume, 7, &uki, |found| {
            place = found.clone();
            Ok(format!("{found:?}"))
        })
        .unwrap();
        assert!(volume[place.start as usize..place.end as usize] == uki);
        assert!(read(&volume, "EFI/BOOT/BOOTX64.EFI").unwrap() == uki);
        let boot = read(&volume, "loam/boot.cfg").unwrap();
        assert_eq!(String::from_utf8(boot).unwrap(), format!("{place:?}"));
        assert!(
            read(&volume, "loam/other")
                .unwrap_err()
                .to_string()
                .contains("loam/other")
        );
        let mut small = vec![0; volume.len() - MEBIBYTE as usize];
        assert!(format(&mut small, 7, &uki, |_| Ok(String::new())).is_err());
    }
}
