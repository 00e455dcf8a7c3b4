//! Updates of processors, as the kernel takes them before it does anything else: an archive that is not packed, the
//! very first of the initrd (`Documentation/arch/x86/microcode.rst` of the kernel).

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

use super::cpio;
use super::spec::{self, PackageFolder};
use super::stage::{Kept, Key, Packing, Stages};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{Lock, verified};

const AMD: &str = "kernel/x86/microcode/AuthenticAMD.bin";
const INTEL: &str = "kernel/x86/microcode/GenuineIntel.bin";

/// Intel's header (Intel's manual of its architecture, volume 3, 11.11.1), of 32-bit numbers.
const INTEL_HEADER: usize = 48;
const DATA_SIZE: usize = 28;
const TOTAL_SIZE: usize = 32;
/// Where both sizes are 0.
const DEFAULT_SIZE: usize = 2048;

/// How AMD's files begin (`UCODE_MAGIC` of the kernel).
const AMD_MAGIC: [u8; 4] = 0x0041_4d44_u32.to_le_bytes();

/// What the kernel finds for the processors of one maker.
#[derive(Debug)]
pub struct Updates {
    pub path: &'static str,
    pub bytes: Vec<u8>,
    /// Which they are from.
    pub package: String,
}

/// The archive, to be put in front of all others.
pub fn archive(microcode: &spec::Microcode, lock: &Lock, stages: &Stages) -> Result<Kept> {
    let mut key = Key::of_pipeline().with(format!("{microcode:?}"));
    for folder in [&microcode.amd, &microcode.intel] {
        key = key.with(&lock.get(&folder.package)?.sha256);
    }
    stages.packed("microcode", &key, Packing::Stored, || {
        let updates = updates(microcode, lock)?;
        Ok(cpio::early(&updates.map(|of| (of.path, of.bytes))))
    })
}

/// Those of each maker.
pub fn updates(microcode: &spec::Microcode, lock: &Lock) -> Result<[Updates; 2]> {
    let of = |path, folder: &PackageFolder, joined: fn(&Files) -> Result<Vec<u8>>| {
        let package = lock.get(&folder.package)?.name.clone();
        let bytes = joined(&files(folder, lock)?).with_context(|| package.clone())?;
        Ok::<_, anyhow::Error>(Updates {
            path,
            bytes,
            package,
        })
    };
    Ok([
        of(AMD, &microcode.amd, amd)?,
        of(INTEL, &microcode.intel, intel)?,
    ])
}

/// Whether the kernel would find them.
pub fn is_first(initrd: &[u8]) -> bool {
    let name = initrd.get(cpio::HEADER..).unwrap_or_default();
    initrd.starts_with(cpio::MAGIC) && name.starts_with(AMD.as_bytes())
}

/// By name.
type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &PackageFolder, lock: &Lock) -> Result<Files> {
    let PackageFolder { package, folder } = folder;
    let below = format!("{}/", folder.trim_start_matches('/'));
    let mut files = Files::new();
    deb::read(
        &verified(lock.get(package)?)?,
        |path| path.starts_with(&below),
        |path, entry| {
            let Entry::File(bytes) = entry else {
                bail!("/{path} of {package} is a link");
            };
            files.insert(path, bytes);
            Ok(())
        },
    )?;
    ensure!(!files.is_empty(), "{package} has nothing in {folder}");
    Ok(files)
}

/// One behind the other, each once: several of Intel's files hold the same updates, which makes a third of them all.
/// Nothing fills up what is between, or the kernel takes none.
fn intel(files: &Files) -> Result<Vec<u8>> {
    let mut seen = BTreeSet::new();
    let mut joined = Vec::new();
    for (name, bytes) in files {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let size = intel_size(rest).with_context(|| format!("/{name} is no microcode"))?;
            let (update, behind) = rest.split_at(size);
            if seen.insert(update) {
                joined.extend_from_slice(update);
            }
            rest = behind;
        }
    }
    Ok(joined)
}

/// How long the update is which begins here.
fn intel_size(bytes: &[u8]) -> Option<usize> {
    let field = |at: usize| {
        let field = bytes.get(at..at + 4)?;
        Some(u32::from_le_bytes(field.try_into().ok()?) as usize)
    };
    // The only version of the header that there is.
    if field(0)? != 1 {
        return None;
    }
    let size = match field(DATA_SIZE)? {
        0 => DEFAULT_SIZE,
        _ => field(TOTAL_SIZE)?,
    };
    (INTEL_HEADER..=bytes.len()).contains(&size).then_some(size)
}

/// The kernel reads several of AMD's files behind each other.
fn amd(files: &Files) -> Result<Vec<u8>> {
    let wrong = files
        .iter()
        .find(|(_, bytes)| !bytes.starts_with(&AMD_MAGIC));
    if let Some((name, _)) = wrong {
        bail!("/{name} is no microcode");
    }
    Ok(files.values().flatten().copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::initrd;
    use crate::image::tree::{DATA, Tree};

    /// An update of `size` bytes, or of the default size.
    fn update(fill: u8, size: Option<u32>) -> Vec<u8> {
        let mut update = vec![fill; size.map_or(DEFAULT_SIZE, |size| size as usize)];
        update[..INTEL_HEADER].fill(0);
        update[0] = 1;
        if let Some(size) = size {
            update[DATA_SIZE..DATA_SIZE + 4].copy_from_slice(&(size - 48).to_le_bytes());
            update[TOTAL_SIZE..TOTAL_SIZE + 4].copy_from_slice(&size.to_le_bytes());
        }
        update
    }

    fn named(files: &[(&str, Vec<u8>)]) -> Files {
        let files = files.iter().cloned();
        files.map(|(name, bytes)| (name.into(), bytes)).collect()
    }

    #[test]
    fn each_of_intels_updates_is_taken_once() {
        let [a, b, c] = [
            update(1, Some(1024)),
            update(2, None),
            update(3, Some(3072)),
        ];
        let files = named(&[
            ("06-02", [&b[..], &c].concat()),
            ("06-01", [&a[..], &b].concat()),
            ("06-03", a.clone()),
        ]);
        assert!(intel(&files).unwrap() == [a, b, c].concat());
    }

    #[test]
    fn what_is_no_microcode_is_named() {
        let whole = update(1, Some(2048));
        let mut other = whole.clone();
        other[0] = 2;
        let mut short = whole.clone();
        short[TOTAL_SIZE..TOTAL_SIZE + 4].copy_from_slice(&47_u32.to_le_bytes());
        for wrong in [&whole[..2047], &whole[..20], &other, &short, b"text"] {
            let files = named(&[("06-01", whole.clone()), ("06-02", wrong.to_vec())]);
            let error = intel(&files).unwrap_err().to_string();
            assert_eq!(error, "/06-02 is no microcode");
        }
        let files = named(&[("a", b"DMA\0x".to_vec()), ("b", b"DM\0".to_vec())]);
        assert_eq!(amd(&files).unwrap_err().to_string(), "/b is no microcode");
    }

    #[test]
    fn amds_files_follow_one_another() {
        let files = named(&[("b", b"DMA\0two".to_vec()), ("a", b"DMA\0one".to_vec())]);
        assert_eq!(amd(&files).unwrap(), b"DMA\0oneDMA\0two");
    }

    /// As the kernel looks for it (`find_cpio_data` in `lib/earlycpio.c`), in the one archive that is first.
    fn found<'a>(initrd: &'a [u8], path: &str) -> Option<&'a [u8]> {
        let mut at = 0;
        loop {
            let header = initrd.get(at..at + cpio::HEADER)?;
            if &header[..6] != b"070701" {
                return None;
            }
            let field = |index: usize| {
                let digits = str::from_utf8(&header[6 + 8 * index..14 + 8 * index]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let name = at + cpio::HEADER;
            let data = (name + field(11)).next_multiple_of(4);
            if initrd[name..].starts_with(path.as_bytes()) {
                assert_eq!(data % 16, 0);
                return Some(&initrd[data..data + field(6)]);
            }
            at = (data + field(6)).next_multiple_of(4);
        }
    }

    #[test]
    fn the_kernel_finds_it_in_front_of_all_other_archives() {
        let microcode = [(AMD, b"DMA\0one".to_vec()), (INTEL, update(1, None))];
        let mut first = cpio::early(&microcode);
        cpio::align(&mut first);
        let mut tree = Tree::default();
        tree.file("init", DATA, vec![7; 100]);
        let mut packed = zstd::encode_all(&cpio::archive(&tree)[..], 3).unwrap();
        cpio::align(&mut packed);
        let initrd = [&first[..], &packed].concat();
        assert!(is_first(&initrd) && !is_first(&packed) && !is_first(b""));
        for (path, bytes) in &microcode {
            assert_eq!(found(&initrd, path), Some(&bytes[..]));
        }
        assert_eq!(found(&packed, AMD), None);
        // All that comes behind is read as before.
        let mut paths = Vec::new();
        initrd::read(&initrd, |path, _| paths.push(path.to_owned())).unwrap();
        assert_eq!(paths, [AMD, INTEL, "init"]);
    }
}
