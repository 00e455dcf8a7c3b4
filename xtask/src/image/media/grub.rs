//! GRUB, which starts the image on machines without UEFI: out of Debian's packages, put together by its own tool, and
//! told by a script on each medium which sectors of the UKI kernel and initrd are. So neither is there twice.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::layout::{self, SECTOR};
use super::{disk, iso};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{Lock, Locked, verified};
use crate::image::programs;
use crate::image::spec::Spec;
use crate::image::stage::{Key, Stages};
use crate::image::tree::{self, Tree};
use crate::image::uki;

/// What it can do: read the disks of a BIOS, find its script, start Linux, and say why it cannot.
const MODULES: [&str; 10] = [
    "biosdisk",
    "normal",
    "configfile",
    "linux",
    "cpuid",
    "test",
    "echo",
    "sleep",
    "reboot",
    "boot",
];
const OF_DISKS: [&str; 2] = ["part_gpt", "fat"];
const OF_CDS: [&str; 1] = ["iso9660"];

/// Put into GRUB itself: its script is on the medium, below `$prefix`.
const START: &str = "\
source $prefix/boot.cfg
echo 'Loam: this medium is damaged. Write Loam to it anew, or to another one.'
sleep 60
reboot
";

/// In `boot.img`, where the first sector of GRUB's core is (grub, `i386/pc/boot.h`), and the jump that takes the
/// drive for the one that the BIOS names, whatever it names.
const CORE_SECTOR: usize = 0x5c;
const DRIVE_CHECK: usize = 0x66;
/// In the core's first sector, where its second is, and how many follow it.
const REST_SECTOR: usize = 0x1f4;
const REST_COUNT: usize = 0x1fc;

/// All that media need of GRUB.
#[derive(Debug, Clone)]
pub struct Grub {
    /// `boot.img`, a disk's first sector.
    pub boot: Vec<u8>,
    /// Its core for [`disk`].
    pub disk: Vec<u8>,
    /// For [`iso`] on a stick.
    pub stick: Vec<u8>,
    /// For [`iso`] as a CD.
    pub cd: Vec<u8>,
}

impl Grub {
    /// Put together unless that was done before.
    pub fn of(spec: &Spec, lock: &Lock, stages: &Stages) -> Result<Self> {
        let package = lock.get(&spec.bios.grub.package)?;
        let tools = spec.tools()?;
        let libraries = crate::image::program_packages(spec, lock);
        let key = programs::key(&tools, &libraries)
            .with(&package.sha256)
            .with(&spec.bios.grub.folder);
        let folder = tempfile::tempdir()?;
        let made = || {
            let tool = programs::tree(&tools, &libraries)?;
            unpack(folder.path(), package, &spec.bios.grub.folder, &tool)
        };
        let mut unpacked = None;
        let mut core = |name: &str, format: &str, prefix: &str, modules: &[&str]| {
            let key = key.clone().with(format).with(prefix);
            let core = stages.plain(&format!("grub-{name}"), &key, || {
                if unpacked.is_none() {
                    unpacked = Some(made()?);
                }
                core(
                    folder.path(),
                    &spec.bios.mkimage.file,
                    format,
                    prefix,
                    modules,
                )
            })?;
            core.read()
        };
        let [disks, cds] = [&OF_DISKS[..], &OF_CDS].map(|more| [&MODULES, more].concat());
        Ok(Self {
            disk: core("disk", "i386-pc", disk::GRUB_PREFIX, &disks)?,
            stick: core("stick", "i386-pc", iso::GRUB_PREFIX, &cds)?,
            cd: core("cd", "i386-pc-eltorito", iso::GRUB_PREFIX, &cds)?,
            boot: boot_sector(package, &spec.bios.grub.folder, stages)?,
        })
    }

    /// A disk's first sector, which loads a core from this one.
    pub fn boot_sector(&self, core: u64) -> Result<Vec<u8>> {
        let mut sector = self.boot.clone();
        ensure!(
            sector.len() as u64 == SECTOR,
            "GRUB's boot.img is no sector"
        );
        sector[CORE_SECTOR..CORE_SECTOR + 8].copy_from_slice(&core.to_le_bytes());
        // Some BIOSes name no drive that there is. What we boot from is never a floppy disk.
        sector[DRIVE_CHECK..DRIVE_CHECK + 2].fill(NOP);
        Ok(sector)
    }

    /// A core that lies at this sector of its disk.
    pub fn core_at(&self, core: &[u8], sector: u64) -> Result<Vec<u8>> {
        let mut core = core.to_vec();
        let sectors = (core.len() as u64).div_ceil(SECTOR);
        core.resize(usize::try_from(sectors * SECTOR)?, 0);
        core[REST_SECTOR..REST_SECTOR + 8].copy_from_slice(&(sector + 1).to_le_bytes());
        let rest = u16::try_from(sectors - 1).context("GRUB's core is too large")?;
        core[REST_COUNT..REST_COUNT + 2].copy_from_slice(&rest.to_le_bytes());
        Ok(core)
    }
}

const NOP: u8 = 0x90;

fn boot_sector(package: &Locked, folder: &str, stages: &Stages) -> Result<Vec<u8>> {
    let key = Key::of_pipeline().with(&package.sha256).with(folder);
    let boot = stages.plain("grub-boot", &key, || {
        let path = format!("{}/boot.img", folder.trim_start_matches('/'));
        deb::file(&verified(package)?, &path)
    })?;
    boot.read()
}

/// GRUB's own files and the tool's, at their places below `root`.
fn unpack(root: &Path, package: &Locked, folder: &str, tool: &Tree) -> Result<()> {
    let folder = folder.trim_start_matches('/');
    let write = |path: &str, mode: u32, bytes: &[u8]| {
        let file = root.join(path);
        fs::create_dir_all(file.parent().context("a file in a folder")?)?;
        fs::write(&file, bytes)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))
            .with_context(|| format!("writing {}", file.display()))
    };
    for (path, entry) in tool.entries() {
        if let tree::Entry::File { mode, bytes } = entry {
            write(path, *mode, bytes)?;
        }
    }
    deb::read(
        &verified(package)?,
        |path| path.starts_with(folder),
        |path, entry| match entry {
            Entry::File(bytes) => write(&path, tree::DATA, &bytes),
            Entry::Symlink(_) | Entry::HardLink(_) => Ok(()),
        },
    )
}

/// Runs the tool below `root`: by its own loader and libraries, so that this machine's make no difference.
fn core(root: &Path, tool: &str, format: &str, prefix: &str, modules: &[&str]) -> Result<Vec<u8>> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let (start, out) = (root.join("start.cfg"), root.join("core.img"));
    fs::write(&start, START)?;
    let made = Command::new(below(programs::LOADER))
        .arg("--library-path")
        .arg(below(programs::LIBRARIES))
        .arg(below(tool))
        .arg("--directory")
        .arg(below("usr/lib/grub/i386-pc"))
        .args(["--format", format, "--prefix", prefix, "--config"])
        .arg(&start)
        .arg("--output")
        .arg(&out)
        .args(modules)
        .env_clear()
        .output()
        .with_context(|| format!("running {tool} of Debian's package"))?;
    if !made.status.success() {
        let said = String::from_utf8_lossy(&made.stderr);
        bail!(
            "{tool} ended with {}; it said: {}",
            made.status,
            said.trim()
        );
    }
    Ok(fs::read(&out)?)
}

/// At which byte of a disk the core is that its boot code loads, if it has such code.
pub fn core_of(disk: &[u8]) -> Option<u64> {
    let number = |at: usize| Some(u64::from_le_bytes(disk.get(at..at + 8)?.try_into().ok()?));
    let core = number(CORE_SECTOR)?.checked_mul(SECTOR)?;
    let rest = number(usize::try_from(core).ok()?.checked_add(REST_SECTOR)?)?;
    (disk[DRIVE_CHECK..DRIVE_CHECK + 2] == [NOP; 2] && rest.checked_mul(SECTOR)? == core + SECTOR)
        .then_some(core)
}

/// Which bytes a command of GRUB's script reads, counted from where the script's medium begins.
pub fn blocks(script: &str, command: &str) -> Result<Range<u64>> {
    let mut words = script
        .split_whitespace()
        .skip_while(|word| *word != command);
    let blocks = words.nth(1).and_then(|word| {
        let (first, count) = word
            .trim_end_matches(';')
            .strip_prefix("($root)")?
            .split_once('+')?;
        let [first, count] = [first, count].map(|number| number.parse::<u64>().ok());
        let start = first?.checked_mul(SECTOR)?;
        Some(start..start.checked_add(count?.checked_mul(SECTOR)?)?)
    });
    blocks.with_context(|| format!("GRUB's script has no blocks for `{command}`"))
}

/// GRUB's script on a medium whose UKI begins at this byte of what the script is read from (a partition, or the
/// whole disk).
pub fn boot_script(uki: &[u8], start: u64) -> Result<String> {
    let command_line = uki::text(uki, uki::COMMAND_LINE)?.trim_end_matches('\0');
    ensure!(
        command_line
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || " ,.=_-/:".contains(c)),
        "the kernel's command line has characters that mean something to GRUB: {command_line}"
    );
    let blocks = |section: &str| {
        let section = uki::section(uki, section)?;
        let place = start + section.start as u64..start + section.end as u64;
        let (first, count) = layout::sectors(&place)?;
        Ok::<_, anyhow::Error>(format!("($root){first}+{count}"))
    };
    let (linux, initrd) = (blocks(uki::LINUX)?, blocks(uki::INITRD)?);
    Ok(format!(
        "\
if cpuid -l; then
  echo 'Loam starts.'
  if linux {linux} {command_line}; then
    if initrd {initrd}; then
      boot
    fi
  fi
  echo 'Loam cannot be read from this medium. Write it anew, or to another one.'
else
  echo 'Loam needs a 64-bit processor, which this machine does not have.'
fi
echo 'This machine starts anew in a minute.'
sleep 60
reboot
"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_boot_sector_leads_to_its_core_and_the_core_to_its_rest() {
        let grub = testing::grub();
        let boot = grub.boot_sector(2048).unwrap();
        assert_eq!(boot[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(boot[0x66..0x68], [0x90, 0x90]);
        let core = grub.core_at(&grub.disk, 2048).unwrap();
        assert!(core.len().is_multiple_of(512) && core.len() >= grub.disk.len());
        assert_eq!(core[0x1f4..0x1fc], 2049_u64.to_le_bytes());
        let rest = u16::from_le_bytes([core[0x1fc], core[0x1fd]]);
        assert_eq!(usize::from(rest) + 1, core.len() / 512);
    }

    #[test]
    fn a_script_has_nothing_that_grub_would_read_otherwise() {
        let uki = testing::uki_with("console=tty0 x=$(reboot)");
        let error = boot_script(&uki, 0).unwrap_err().to_string();
        assert!(error.contains("$(reboot)"), "{error}");
        let script = boot_script(&testing::uki(), 4096).unwrap();
        assert!(script.contains(&format!(" {}; then", testing::COMMAND_LINE)));
    }
}
