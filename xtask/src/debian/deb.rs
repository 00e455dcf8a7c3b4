//! Reading a `.deb`: an `ar` archive whose `data.tar` member holds the package's files.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use liblzma::read::XzDecoder;

/// What an entry of a package is. Devices and the like never occur in what we take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    File(Vec<u8>),
    /// The target, as written.
    Symlink(String),
    /// Another path of the same package, without a leading slash.
    HardLink(String),
}

/// Calls `take` with each file of the package whose path (no leading slash, `/lib` and the like
/// moved below `usr`) passes `wanted`.
pub fn read(
    deb: &Path,
    wanted: impl Fn(&str) -> bool,
    mut take: impl FnMut(String, Entry) -> Result<()>,
) -> Result<()> {
    let unpacking = || format!("unpacking {}", deb.display());
    member(deb, "data", |tar| {
        read_tar(tar, wanted, &mut take).with_context(unpacking)
    })
}

/// What the package says of itself: its control file.
pub fn control(deb: &Path) -> Result<String> {
    let mut control = None;
    member(deb, "control", |tar| {
        read_tar(tar, |path| path == "control", &mut |_, entry| {
            if let Entry::File(bytes) = entry {
                control = Some(String::from_utf8_lossy(&bytes).into_owned());
            }
            Ok(())
        })
    })?;
    control.with_context(|| format!("{}: no control file in it", deb.display()))
}

/// Hands the unpacked `NAME.tar` of the package to `read`.
fn member(
    deb: &Path,
    name: &str,
    read: impl FnOnce(Box<dyn Read + '_>) -> Result<()>,
) -> Result<()> {
    let file = File::open(deb).with_context(|| format!("opening {}", deb.display()))?;
    let mut members = ar::Archive::new(BufReader::new(file));
    while let Some(member) = members.next_entry() {
        let member = member.with_context(|| format!("{} is no package", deb.display()))?;
        let found = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let Some(packing) = found
            .trim_end_matches('/')
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(".tar"))
        else {
            continue;
        };
        let tar: Box<dyn Read + '_> = match packing {
            ".xz" => Box::new(XzDecoder::new_multi_decoder(member)),
            ".zst" => Box::new(zstd::Decoder::new(member)?),
            "" => Box::new(member),
            other => bail!("{}: cannot decompress {name}.tar{other}", deb.display()),
        };
        return read(tar);
    }
    bail!("{}: no {name}.tar in it", deb.display())
}

/// The file of the package at `path`, which has no leading slash.
pub fn file(deb: &Path, path: &str) -> Result<Vec<u8>> {
    let mut found = None;
    read(
        deb,
        |file| file == path,
        |_, entry| {
            if let Entry::File(bytes) = entry {
                found = Some(bytes);
            }
            Ok(())
        },
    )?;
    found.with_context(|| format!("no /{path} in {}", deb.display()))
}

fn read_tar(
    data: impl Read,
    wanted: impl Fn(&str) -> bool,
    take: &mut impl FnMut(String, Entry) -> Result<()>,
) -> Result<()> {
    let mut tar = tar::Archive::new(data);
    for entry in tar.entries()? {
        let mut entry = entry?;
        let path = merged(&plain(&entry.path()?)?);
        if !wanted(&path) {
            continue;
        }
        let kind = entry.header().entry_type();
        if kind.is_file() {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            take(path, Entry::File(bytes))?;
        } else if kind.is_symlink() {
            let target = entry
                .link_name()?
                .context("a symbolic link without a target")?;
            take(path, Entry::Symlink(utf8(&target)?))?;
        } else if kind.is_hard_link() {
            let target = entry.link_name()?.context("a hard link without a target")?;
            take(path, Entry::HardLink(merged(&plain(&target)?)))?;
        }
    }
    Ok(())
}

/// `./usr/bin/x` as `usr/bin/x`; a path that climbs out is refused.
fn plain(path: &Path) -> Result<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir | Component::RootDir => {}
            Component::Normal(name) => parts.push(utf8(Path::new(name))?),
            Component::ParentDir | Component::Prefix(_) => {
                bail!("a path that leaves the package: {}", path.display())
            }
        }
    }
    Ok(parts.join("/"))
}

/// Debian's root is merged into `/usr`, but packages may still name the old places.
fn merged(path: &str) -> String {
    match path.split_once('/') {
        Some(("bin" | "sbin" | "lib" | "lib64", _)) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

fn utf8(path: &Path) -> Result<String> {
    Ok(path
        .to_str()
        .with_context(|| format!("a name that is not UTF-8: {}", path.display()))?
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(paths: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let mut tar = tar::Builder::new(Vec::new());
        for (path, bytes) in paths {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, path, *bytes).unwrap();
        }
        let data = tar.into_inner().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut ar = ar::Builder::new(file.reopen().unwrap());
        for (name, bytes) in [
            ("debian-binary", &b"2.0\n"[..]),
            ("control.tar", &data),
            ("data.tar", &data),
        ] {
            ar.append(&ar::Header::new(name.into(), bytes.len() as u64), bytes)
                .unwrap();
        }
        file
    }

    #[test]
    fn gives_the_wanted_files_at_their_merged_places() {
        let deb = package(&[("./sbin/tool", b"t"), ("./usr/share/doc/x", b"x")]);
        let mut found = Vec::new();
        read(
            deb.path(),
            |path| !path.starts_with("usr/share"),
            |path, entry| {
                found.push((path, entry));
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(
            found,
            [("usr/sbin/tool".to_owned(), Entry::File(b"t".to_vec()))]
        );
    }

    #[test]
    fn gives_what_a_package_says_of_itself() {
        let deb = package(&[("./control", b"Package: x\n"), ("./md5sums", b"")]);
        assert_eq!(control(deb.path()).unwrap(), "Package: x\n");
        let error = control(package(&[]).path()).unwrap_err().to_string();
        assert!(error.ends_with("no control file in it"), "{error}");
    }

    #[test]
    fn refuses_a_path_that_leaves_the_package() {
        assert!(plain(Path::new("./usr/../../etc/passwd")).is_err());
    }

    #[test]
    fn says_when_it_is_no_package() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"<html>not here</html>").unwrap();
        assert!(read(file.path(), |_| true, |_, _| Ok(())).is_err());
    }
}
