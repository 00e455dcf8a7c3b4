//! All that a released image is made of, as one archive: the repository's state, the crates, Debian's packages with the
//! source of the machines' kernel, and the grid. Whoever has it makes the image anew when the archive of packages has
//! moved on. (The compiler is the one that `rust-toolchain.toml` names.)

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha256};

use super::{NonFree, RELEASE, chosen, folder, version};
use crate::debian::lock::{Locked, verified};
use crate::{phase, program, workspace};

/// What a reader finds first.
const README: &str = "\
All that an image of Loam was made of.

    cd source
    LOAM_CACHE=$PWD/../cache cargo xtask image --release --grid ../grid.toml{firmware}

needs a Debian machine, the Rust toolchain that source/rust-toolchain.toml names, and no network but for that.
";

/// What it says of firmware.
const NOT_FREE: &str = "
What processors and cards load has no source: Debian's packages of it are in cache/debs as the others are, each with its
makers' terms.
";

/// Writes the archive, and gives it with its hash.
pub fn write(grid: &Path, non_free: NonFree) -> Result<(PathBuf, String)> {
    let (spec, lock) = chosen(non_free)?;
    ensure!(
        !version::is_changed(&workspace::root())?,
        "the repository has changes that are in no commit: what the image is made of could not be said"
    );
    let all = folder().join("sources");
    workspace::remove(&all)?;
    let source = all.join("source");
    fs::create_dir_all(&source).with_context(|| format!("making {}", source.display()))?;
    phase::run("the repository", |_| {
        repository(&workspace::root(), &source).map(|()| ((), String::new()))
    })?;
    phase::run("crates", |_| crates(&source).map(|()| ((), String::new())))?;
    let debs = all.join("cache/debs");
    fs::create_dir_all(&debs)?;
    let needed = |package: &&Locked| !package.is(&spec.guest.debian.package);
    phase::run("packages", |_| {
        for package in lock.packages.iter().filter(needed) {
            let deb = verified(package)?;
            let name = deb.file_name().context("a package's file")?;
            fs::copy(&deb, debs.join(name)).with_context(|| format!("copying {}", package.name))?;
        }
        Ok::<_, anyhow::Error>(((), String::new()))
    })?;
    fs::copy(grid, all.join("grid.toml")).with_context(|| format!("copying {}", grid.display()))?;
    fs::write(all.join("README"), readme(non_free))?;
    let name = non_free.mark(RELEASE, '-');
    let archive = folder().join(format!("{name}.sources.tar.zst"));
    let hash = phase::run("sources", |_| {
        let bytes = pack(&all, &archive)?;
        Ok::<_, anyhow::Error>((bytes, String::new()))
    })?;
    workspace::remove(&all)?;
    Ok((archive, hash))
}

fn readme(non_free: NonFree) -> String {
    match non_free {
        NonFree::Without => README.replace("{firmware}", ""),
        NonFree::With => README.replace("{firmware}", " --firmware") + NOT_FREE,
    }
}

/// The commit's files.
fn repository(from: &Path, to: &Path) -> Result<()> {
    let tar = tempfile::NamedTempFile::new()?;
    let mut git = version::git(from);
    git.args(["archive", "--format=tar", "--output"])
        .arg(tar.path());
    program::run(git.arg("HEAD"))?;
    tar::Archive::new(File::open(tar.path())?)
        .unpack(to)
        .with_context(|| format!("unpacking the repository to {}", to.display()))?;
    let statement = version::statement(from).context("git does not say which commit this is")?;
    Ok(fs::write(to.join(version::STATED), statement)?)
}

/// All crates of `Cargo.lock`, where cargo is told to look for them.
fn crates(source: &Path) -> Result<()> {
    let mut cargo = Command::new(workspace::cargo().get_program());
    // On standard output it says what a configuration must have.
    cargo.args(["vendor", "--locked", "--versioned-dirs", "vendor"]);
    let config = program::run(cargo.current_dir(source))?;
    ensure!(
        config.contains("vendored-sources"),
        "cargo does not say how crates are found that lie beside the sources"
    );
    let file = source.join(".cargo/config.toml");
    let before = fs::read_to_string(&file).unwrap_or_default();
    fs::write(&file, format!("{before}\n{config}"))
        .with_context(|| format!("writing {}", file.display()))
}

/// The same files give the same bytes: sorted, of no owner and no time. Gives the archive's hash.
fn pack(from: &Path, to: &Path) -> Result<String> {
    let mut files = workspace::files(from)?;
    files.sort();
    let writing = || format!("writing {}", to.display());
    let packed = Hashed {
        file: File::create(to).with_context(writing)?,
        hash: Sha256::new(),
    };
    let mut tar = tar::Builder::new(zstd::Encoder::new(packed, 9)?);
    for file in files {
        // Of links nothing is packed.
        let data = fs::symlink_metadata(&file)?;
        if !data.is_file() {
            continue;
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len());
        let executable = std::os::unix::fs::PermissionsExt::mode(&data.permissions()) & 0o100 != 0;
        header.set_mode(if executable { 0o755 } else { 0o644 });
        header.set_mtime(0);
        let name = Path::new("loam-sources").join(file.strip_prefix(from)?);
        let bytes = File::open(&file).with_context(|| format!("reading {}", file.display()))?;
        tar.append_data(&mut header, name, bytes)
            .with_context(writing)?;
    }
    let mut packed = tar
        .into_inner()
        .and_then(zstd::Encoder::finish)
        .with_context(writing)?;
    packed
        .file
        .flush()
        .and_then(|()| packed.file.sync_all())
        .with_context(writing)?;
    Ok(hex::encode(packed.hash.finalize()))
}

/// A file that is hashed as it is written.
struct Hashed {
    file: File,
    hash: Sha256,
}

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_reader_is_told_how_this_very_image_is_made() {
        let plain = readme(NonFree::Without);
        assert!(plain.contains(" --grid ../grid.toml\n") && !plain.contains("firmware"));
        let firmware = readme(NonFree::With);
        assert!(firmware.contains(" --grid ../grid.toml --firmware\n"));
        assert!(firmware.ends_with(NOT_FREE));
    }

    #[test]
    fn the_same_files_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str, order: [&str; 2]| {
            let root = folder.path().join(name);
            fs::create_dir_all(root.join("b")).unwrap();
            for file in order {
                fs::write(root.join(file), file).unwrap();
            }
            let mode = fs::Permissions::from_mode(if name == "one" { 0o700 } else { 0o755 });
            fs::set_permissions(root.join("b/run"), mode).unwrap();
            let archive = folder.path().join(format!("{name}.tar.zst"));
            let hash = pack(&root, &archive).unwrap();
            let bytes = fs::read(archive).unwrap();
            assert_eq!(hash, hex::encode(Sha256::digest(&bytes)));
            bytes
        };
        let (one, two) = (make("one", ["a", "b/run"]), make("two", ["b/run", "a"]));
        assert!(one == two);
        let mut tar = tar::Archive::new(zstd::Decoder::new(&one[..]).unwrap());
        let found: Vec<_> = tar
            .entries()
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (
                    entry.path().unwrap().display().to_string(),
                    entry.header().mode().unwrap(),
                )
            })
            .collect();
        let expected = [("loam-sources/a", 0o644), ("loam-sources/b/run", 0o755)];
        assert_eq!(found, expected.map(|(path, mode)| (path.to_owned(), mode)));
    }
}
