//! The few programs of Debian's that the image has, with the libraries that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{DT_NEEDED, DT_STRSZ, DT_STRTAB, FileHeader64, PT_INTERP};
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _};

use super::spec;
use super::stage::Key;
use super::tree::{EXECUTABLE, Tree};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{self, Locked};

/// Where Debian's amd64 libraries are; none of our programs uses another place.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Their loader.
pub const LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";

/// What [`tree`] is made from.
pub fn key(programs: &[spec::Debian], packages: &[&Locked]) -> Key {
    let key = Key::of_pipeline().with(format!("{programs:?}"));
    packages
        .iter()
        .fold(key, |key, package| key.with(&package.sha256))
}

/// The programs at their places in the image, with all that they need of `packages`.
pub fn tree(programs: &[spec::Debian], packages: &[&Locked]) -> Result<Tree> {
    let files = packages
        .iter()
        .map(|package| Ok((package.name.clone(), lock::verified(package)?)))
        .collect::<Result<Vec<_>>>()?;
    Ok(Pool::read(&files)?.closure(programs)?.0)
}

/// The files of several packages, and which package each is from.
#[derive(Debug, Default)]
pub struct Pool {
    files: BTreeMap<String, (String, Entry)>,
}

impl Pool {
    /// Reads the programs and libraries of `packages` (a name and its `.deb`).
    pub fn read(packages: &[(String, PathBuf)]) -> Result<Self> {
        let mut pool = Self::default();
        for (name, deb) in packages {
            let wanted = |path: &str| {
                ["usr/bin/", "usr/sbin/", "usr/lib64/", LIBRARIES]
                    .iter()
                    .any(|folder| path.starts_with(folder))
            };
            deb::read(deb, wanted, |path, entry| {
                pool.files.insert(path, (name.clone(), entry));
                Ok(())
            })?;
        }
        Ok(pool)
    }

    /// The programs at their places in the image, their libraries and their loader; and the names
    /// of the packages that any of it came from.
    pub fn closure(&self, programs: &[spec::Debian]) -> Result<(Tree, BTreeSet<String>)> {
        let mut tree = Tree::default();
        let mut used = BTreeSet::new();
        let mut queue = Vec::new();
        for program in programs {
            for (place, file) in &program.files {
                let (package, bytes) = self.resolve(file.trim_start_matches('/'))?;
                used.insert(package.to_owned());
                queue.extend(needs(bytes).with_context(|| format!("reading {file}"))?);
                tree.file(place.as_str(), EXECUTABLE, bytes.to_vec());
            }
        }
        let mut placed = BTreeSet::new();
        while let Some(path) = queue.pop() {
            if !placed.insert(path.clone()) {
                continue;
            }
            // A soname is a link to a file that carries the version; the image has one file only.
            let (package, bytes) = self.resolve(&path)?;
            used.insert(package.to_owned());
            queue.extend(needs(bytes).with_context(|| format!("reading {path}"))?);
            tree.file(&path, EXECUTABLE, bytes.to_vec());
        }
        Ok((tree, used))
    }

    /// The bytes behind `path`, through links.
    fn resolve(&self, path: &str) -> Result<(&str, &[u8])> {
        let mut path = path.to_owned();
        for _ in 0..8 {
            let (package, entry) = self
                .files
                .get(&path)
                .with_context(|| format!("no locked package has /{path}"))?;
            match entry {
                Entry::File(bytes) => return Ok((package, bytes)),
                Entry::HardLink(other) => path = other.clone(),
                Entry::Symlink(target) => path = followed(&path, target),
            }
        }
        bail!("too many links at /{path}")
    }
}

/// Where a symbolic link at `path` leads, without a leading slash.
pub fn followed(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = if target.starts_with('/') {
        Vec::new()
    } else {
        path.split('/').collect()
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    let path = parts.join("/");
    if path.starts_with("lib") {
        format!("usr/{path}")
    } else {
        path
    }
}

/// What the program or library asks the loader for, and its loader: paths without a leading slash.
fn needs(elf: &[u8]) -> Result<Vec<String>> {
    let linkage = Linkage::of(elf)?;
    let mut needs: Vec<String> = linkage
        .libraries
        .iter()
        .map(|library| match library.as_str() {
            // The loader is also a library that others name.
            "ld-linux-x86-64.so.2" => LOADER.to_owned(),
            library => format!("{LIBRARIES}/{library}"),
        })
        .collect();
    if let Some(interpreter) = linkage.interpreter {
        needs.push(followed("", &interpreter));
    }
    Ok(needs)
}

/// How an ELF file is linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linkage {
    pub interpreter: Option<String>,
    pub libraries: Vec<String>,
}

impl Linkage {
    pub fn of(elf: &[u8]) -> Result<Self> {
        let header = FileHeader64::<Endianness>::parse(elf)?;
        let endian = header.endian()?;
        let mut linkage = Self {
            interpreter: None,
            libraries: Vec::new(),
        };
        let segments = header.program_headers(endian, elf)?;
        for segment in segments {
            if segment.p_type(endian) == PT_INTERP {
                let bytes = segment
                    .data(endian, elf)
                    .ok()
                    .context("a cut interpreter")?;
                let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
                linkage.interpreter = Some(String::from_utf8(text.to_vec())?);
            }
            let Some(dynamic) = segment.dynamic(endian, elf)? else {
                continue;
            };
            let value = |tag: i64| {
                dynamic
                    .iter()
                    .find(|entry| entry.tag(endian) == tag)
                    .map(|entry| entry.d_val(endian))
            };
            let (Some(table), Some(size)) = (value(DT_STRTAB), value(DT_STRSZ)) else {
                continue;
            };
            let strings = segments
                .iter()
                .find_map(|segment| segment.data_range(endian, elf, table, size).ok().flatten())
                .context("the string table is in no segment")?;
            for entry in dynamic
                .iter()
                .filter(|entry| entry.tag(endian) == DT_NEEDED)
            {
                let start = usize::try_from(entry.d_val(endian))?;
                let text = strings
                    .get(start..)
                    .context("a name outside the string table")?;
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                linkage.libraries.push(String::from_utf8(text.to_vec())?);
            }
        }
        Ok(linkage)
    }

    /// Nothing outside the file is needed to run it.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && self.libraries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::spec::Place;

    #[test]
    fn reads_how_this_test_is_linked() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let linkage = Linkage::of(&elf).unwrap();
        assert!(!linkage.is_static());
        assert!(
            linkage.libraries.iter().any(|name| name == "libc.so.6"),
            "{linkage:?}"
        );
    }

    #[test]
    fn follows_links() {
        assert_eq!(
            followed("usr/lib64/ld.so", "../lib/x/ld.so"),
            "usr/lib/x/ld.so"
        );
        assert_eq!(followed("usr/bin/a", "b"), "usr/bin/b");
        assert_eq!(followed("", "/lib64/ld.so"), "usr/lib64/ld.so");
    }

    #[test]
    fn says_which_library_is_missing() {
        let elf = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let mut pool = Pool::default();
        pool.files
            .insert("usr/bin/x".into(), ("p".into(), Entry::File(elf)));
        let program = spec::Debian {
            package: "p".into(),
            files: [(Place::new("/usr/bin/x").unwrap(), "/usr/bin/x".to_owned())].into(),
        };
        let error = pool.closure(&[program]).unwrap_err().to_string();
        assert!(error.contains("no locked package has /usr/lib"), "{error}");
    }
}
