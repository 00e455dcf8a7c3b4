//! Reading an initrd as the kernel does (`init/initramfs.c`): archives behind each other, each as it is or packed.

use anyhow::{Context, Result, bail, ensure};

/// Magic number of zstd's frames (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
/// Of the newer portable format of cpio, without and with checksums.
const CPIO: [&[u8]; 2] = [b"070701", b"070702"];
const HEADER: usize = 110;
const TRAILER: &[u8] = b"TRAILER!!!";

/// Unpacks all, and says where something cannot be.
pub fn check(initrd: &[u8]) -> Result<()> {
    read(initrd, |_, _| ())
}

/// Calls `take` with the path and the bytes of each file.
pub fn read(initrd: &[u8], mut take: impl FnMut(&str, &[u8])) -> Result<()> {
    let mut rest = initrd;
    let mut archives = 0;
    loop {
        rest = behind_zeroes(rest);
        if rest.is_empty() {
            break;
        }
        let at = initrd.len() - rest.len();
        let place = || format!("at byte {at}");
        rest = if rest.starts_with(&ZSTD) {
            unpack(rest, &mut take).with_context(place)?
        } else {
            behind_archive(rest, &mut take).with_context(place)?
        };
        archives += 1;
    }
    ensure!(archives > 0, "it is empty");
    Ok(())
}

/// Reads the archives in the frame; gives what is behind it.
fn unpack<'a>(packed: &'a [u8], take: &mut impl FnMut(&str, &[u8])) -> Result<&'a [u8]> {
    let mut rest = packed;
    let mut archives = Vec::new();
    let mut decoder = zstd::Decoder::with_buffer(&mut rest)?.single_frame();
    std::io::copy(&mut decoder, &mut archives).context("it cannot be unpacked")?;
    drop(decoder);
    let mut left = behind_zeroes(&archives);
    while !left.is_empty() {
        left = behind_zeroes(behind_archive(left, take)?);
    }
    Ok(rest)
}

fn behind_zeroes(bytes: &[u8]) -> &[u8] {
    let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeroes..]
}

/// What is behind the archive that begins here.
fn behind_archive<'a>(
    mut archive: &'a [u8],
    take: &mut impl FnMut(&str, &[u8]),
) -> Result<&'a [u8]> {
    /// Of the format's fields of eight digits each: what kind of file it is, its size, and that of its name.
    const MODE: usize = 1;
    const SIZE: usize = 6;
    const NAME: usize = 11;
    const KIND: usize = 0o170_000;
    const FILE: usize = 0o100_000;
    let whole = archive.len();
    loop {
        let header = archive.get(..HEADER).context("an archive is cut off")?;
        if !CPIO.iter().any(|magic| header.starts_with(magic)) {
            bail!("there is neither an archive nor a packed one");
        }
        let field = |index: usize| {
            let digits = str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).unwrap_or_default();
            usize::from_str_radix(digits, 16).context("an archive's header is damaged")
        };
        let name = archive.get(HEADER..HEADER + field(NAME)?);
        let name = name.context("an archive is cut off")?;
        let start = (HEADER + name.len()).next_multiple_of(4);
        let end = start + field(SIZE)?.min(whole);
        let data = archive.get(start..end);
        if name.starts_with(TRAILER) {
            // Behind the last entry nothing need be aligned.
            return Ok(&archive[start.min(archive.len())..]);
        }
        let data = data.context("an archive is cut off")?;
        if field(MODE)? & KIND == FILE {
            // Where data is to be aligned there are several zeroes.
            let name = name.split(|byte| *byte == 0).next().unwrap_or(name);
            take(
                str::from_utf8(name).context("a name that is no text")?,
                data,
            );
        }
        archive = archive
            .get(end.next_multiple_of(4)..)
            .context("an archive is cut off")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cpio;
    use crate::image::tree::{DATA, Tree};

    fn archive() -> Vec<u8> {
        let mut tree = Tree::default();
        tree.file("etc/a", DATA, vec![7; 1001]);
        tree.symlink("b", "etc/a");
        let mut archive = cpio::archive(&tree);
        cpio::align(&mut archive);
        archive
    }

    fn said(initrd: &[u8]) -> String {
        format!("{:#}", check(initrd).unwrap_err())
    }

    #[test]
    fn archives_of_either_kind_follow_one_another() {
        let plain = archive();
        let mut packed = zstd::encode_all(&[archive(), archive()].concat()[..], 3).unwrap();
        cpio::align(&mut packed);
        for initrd in [
            [&plain[..], &packed, &plain].concat(),
            [&packed[..], &plain, &[0; 2048], &packed, &[0; 7]].concat(),
        ] {
            let mut files = Vec::new();
            read(&initrd, |path, bytes| {
                files.push((path.to_owned(), bytes.len()))
            })
            .unwrap();
            assert!(
                files.len() >= 3 && files.iter().all(|file| *file == ("etc/a".to_owned(), 1001))
            );
            let zeroes = initrd.iter().rev().take_while(|byte| **byte == 0).count();
            assert!(check(&initrd[..initrd.len() - zeroes - 20]).is_err());
            let at = format!("at byte {}", initrd.len());
            assert!(said(&[&initrd[..], b"garbage"].concat()).starts_with(&at));
        }
        assert_eq!(said(&[0; 10]), "it is empty");
    }

    #[test]
    fn a_header_that_claims_too_much_is_one_that_is_cut_off() {
        for field in [6, 11] {
            let mut damaged = archive();
            damaged[6 + 8 * field..14 + 8 * field].copy_from_slice(b"ffffffff");
            assert!(said(&damaged).contains("cut off"));
            damaged[6 + 8 * field] = b'x';
            assert!(said(&damaged).contains("header is damaged"));
        }
    }
}
