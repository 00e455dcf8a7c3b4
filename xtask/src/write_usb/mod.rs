//! `cargo xtask write-usb`: a medium onto a stick, so that a tired person loses nothing and knows afterwards that the
//! stick boots.
//!
//! | module | what |
//! |---|---|
//! | [`device`] | which disks are sticks, and what speaks against each; pure |
//! | [`copy`] | writes, reads back and compares |

pub mod copy;
pub mod device;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use loam_deployment::FarmId;

use crate::image::media::{check, disk};
use crate::image::sizes;
use crate::phase;
use device::Device;

/// Writes the medium in `image` to the stick at `path`, after a person has said that it is the one that is meant.
/// The stick names `farm`, if it is given. Without a path, lists the sticks that are plugged in.
pub fn run(
    path: Option<&Path>,
    farm: Option<FarmId>,
    image: impl FnOnce() -> Result<PathBuf>,
) -> Result<()> {
    let Some(path) = path else {
        return list();
    };
    // Of links such as those below /dev/disk.
    let path = path
        .canonicalize()
        .with_context(|| format!("{} is not there", path.display()))?;
    let device = find(&path)?;
    let refuse = |size: u64| match device.refusal(size) {
        Some(why) => Err(anyhow::anyhow!("{} {why}", path.display())),
        None => Ok(()),
    };
    // Before an image is made, which may take its time.
    refuse(0)?;
    let image = image()?;
    let (bytes, farm) = contents(&image, farm)?;
    refuse(bytes.len() as u64)?;
    println!("{}: {}", path.display(), device.described());
    println!("All that is on it is lost.");
    let (what, answer) = device.proof();
    print!("To write {} to it, type {what}: ", image.display());
    io::stdout().flush()?;
    let mut typed = String::new();
    io::stdin().lock().read_line(&mut typed)?;
    ensure!(
        typed.trim().eq_ignore_ascii_case(&answer),
        "that is not it; nothing was written"
    );
    write(&path, &bytes)?;
    let joins = farm.map_or_else(String::new, |farm| format!(" and names farm {farm}"));
    println!(
        "{} boots Loam now{joins}. It can be pulled out.",
        path.display()
    );
    Ok(())
}

fn list() -> Result<()> {
    let sticks: Vec<Device> = all()?.into_iter().filter(Device::is_stick).collect();
    for stick in &sticks {
        println!("{}: {}", stick.path.display(), stick.described());
    }
    match &sticks[..] {
        [] => bail!("no stick is plugged in"),
        [stick, ..] => println!(
            "name the one to write: cargo xtask write-usb {}",
            stick.path.display()
        ),
    }
    Ok(())
}

/// What is to be written, and which farm it names, if all is right with the medium.
fn contents(image: &Path, farm: Option<FarmId>) -> Result<(Vec<u8>, Option<FarmId>)> {
    let checked = check::check(image)?;
    ensure!(
        checked.wrong.is_empty(),
        "{} is damaged: {}; nothing was written",
        image.display(),
        checked.wrong.join("; ")
    );
    ensure!(
        ["a disk", "an ISO"].contains(&checked.what),
        "{} is {}; a stick is made of a .img or an .iso",
        image.display(),
        checked.what
    );
    let mut bytes = fs::read(image).with_context(|| format!("reading {}", image.display()))?;
    let Some(farm) = farm else {
        return Ok((bytes, checked.farm));
    };
    ensure!(
        checked.what == "a disk",
        "{} is {}, which has no room for a farm's number: name the .img",
        image.display(),
        checked.what
    );
    disk::name_farm(&mut bytes, farm).with_context(|| format!("naming farm {farm}"))?;
    Ok((bytes, Some(farm)))
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut stick = open(path)?;
    phase::run("writing", |phase| {
        copy::write(&mut stick, bytes, |percent| {
            phase.note(format!("{percent} %"))
        })
        .with_context(|| format!("writing {}", path.display()))?;
        Ok::<_, anyhow::Error>(((), sizes::mebibytes(bytes.len() as u64)))
    })?;
    // What comes back shall come from the stick, not from this machine's memory.
    blockdev("--flushbufs", path)?;
    let compared = phase::run("reading back", |phase| {
        let tell = |percent| phase.note(format!("{percent} %"));
        copy::compare(&mut stick, bytes, tell)?;
        Ok::<_, anyhow::Error>(((), "the same".to_owned()))
    });
    if let Err(error) = compared {
        // It shall not look like one that can be used.
        let _ = copy::spoil(&mut stick);
        return Err(error.context(format!("{} is broken: use another stick", path.display())));
    }
    blockdev("--rereadpt", path)
}

/// Nobody else may have it open for himself, as whoever has mounted it does.
fn open(path: &Path) -> Result<File> {
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_EXCL)
        .open(path);
    opened.map_err(|error| match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => anyhow::anyhow!(
            "only root may write to {}: sudo {} write-usb {0}",
            path.display(),
            std::env::current_exe().unwrap_or_default().display()
        ),
        Some(libc::EBUSY) => anyhow::anyhow!("{} is in use", path.display()),
        Some(libc::EROFS) => anyhow::anyhow!("{} is write-protected", path.display()),
        _ => anyhow::Error::new(error).context(format!("opening {}", path.display())),
    })
}

fn all() -> Result<Vec<Device>> {
    let listed = Command::new("lsblk")
        .args(["--json", "--bytes", "--output", device::COLUMNS])
        .output()
        .context("running lsblk (package util-linux)")?;
    ensure!(
        listed.status.success(),
        "lsblk says: {}",
        String::from_utf8_lossy(&listed.stderr).trim()
    );
    device::parse(&listed.stdout)
}

fn find(path: &Path) -> Result<Device> {
    let all = all()?;
    device::find(&all, path)
        .cloned()
        .with_context(|| format!("{} is no disk", path.display()))
}

fn blockdev(what: &str, path: &Path) -> Result<()> {
    let done = Command::new("blockdev").arg(what).arg(path).output();
    let done = done.context("running blockdev (package util-linux)")?;
    ensure!(
        done.status.success(),
        "blockdev {what} {}: {}",
        path.display(),
        String::from_utf8_lossy(&done.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media::{iso, testing};

    #[test]
    fn what_is_written_names_the_farm_that_was_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let [img, other] = ["loam.img", "loam.iso"].map(|name| folder.path().join(name));
        let (uki, grub) = (testing::uki(), testing::grub());
        let plain = disk::image(&uki, &grub).unwrap();
        fs::write(&img, &plain).unwrap();
        fs::write(&other, iso::image(&uki, &grub).unwrap()).unwrap();
        let seven = Some(FarmId(7));

        let (bytes, farm) = contents(&img, None).unwrap();
        assert!(bytes == plain && farm.is_none());
        let (bytes, farm) = contents(&img, seven).unwrap();
        assert_eq!((bytes.len(), farm), (plain.len(), seven));
        // As a copy of a stick is.
        fs::write(&img, bytes).unwrap();
        assert_eq!(contents(&img, None).unwrap().1, seven);
        assert_eq!(contents(&img, Some(FarmId(9))).unwrap().1, Some(FarmId(9)));

        assert!(contents(&other, None).is_ok());
        let error = contents(&other, seven).unwrap_err().to_string();
        assert!(error.contains("name the .img"), "{error}");
    }
}
