//! Kernel modules: what each says of itself, and which others it brings along.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::num::NonZero;
use std::thread;

use anyhow::{Context, Result, bail};
use liblzma::read::XzDecoder;
use object::{Object as _, ObjectSection as _};

use super::joined_thread;

/// All modules of one kernel package.
#[derive(Debug, Default)]
pub struct Catalog {
    /// By name, with `_` for `-` as the kernel has it.
    modules: BTreeMap<String, Module>,
    /// Names and aliases of what is compiled into the kernel.
    builtin: BTreeSet<String>,
}

#[derive(Debug, Clone)]
pub struct Module {
    /// As Debian has it, below the folder of the kernel's release: `kernel/fs/btrfs/btrfs.ko.xz`.
    pub path: String,
    pub aliases: Vec<String>,
    depends: Vec<String>,
    /// Files that it asks for, below `/lib/firmware`.
    pub firmware: Vec<String>,
    /// Names or aliases that should be there first, if they exist.
    soft: Vec<String>,
    /// The file's bytes as Debian has them.
    pub xz: Vec<u8>,
}

impl Catalog {
    /// Paths as in the package, below the release's folder and ending in `.ko.xz`, with their
    /// bytes. Decompressing a few thousand of them is what takes time, so each processor has a part.
    pub fn add(&mut self, files: Vec<(String, Vec<u8>)>) -> Result<()> {
        let parts = thread::available_parallelism().map_or(1, NonZero::get);
        let length = files.len().div_ceil(parts).max(1);
        let mut files = files.into_iter();
        let parts: Vec<Vec<_>> = (0..parts)
            .map(|_| files.by_ref().take(length).collect())
            .collect();
        let read = thread::scope(|scope| {
            let threads: Vec<_> = parts
                .into_iter()
                .map(|part| {
                    let read = |(path, xz): (String, _)| Module::read(&path, xz);
                    scope.spawn(move || part.into_iter().map(read).collect::<Result<Vec<_>>>())
                })
                .collect();
            threads
                .into_iter()
                .map(joined_thread)
                .collect::<Result<Vec<_>>>()
        })?;
        self.modules.extend(read.into_iter().flatten());
        Ok(())
    }

    /// `modules.builtin.modinfo`: NUL-separated `name.field=value`.
    pub fn add_builtin(&mut self, info: &[u8]) {
        for entry in info.split(|byte| *byte == 0) {
            let entry = String::from_utf8_lossy(entry);
            let Some((name, field)) = entry.split_once('.') else {
                continue;
            };
            self.builtin.insert(canonical(name));
            if let Some(alias) = field.strip_prefix("alias=") {
                self.builtin.insert(alias.to_owned());
            }
        }
    }

    pub fn get(&self, name: &str) -> Option<&Module> {
        self.modules.get(&canonical(name))
    }

    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&canonical(name))
    }

    /// The modules named, with all that they need, each after what it needs. Those compiled into
    /// the kernel are left out; an unknown name is an error.
    pub fn in_load_order(&self, names: &[String]) -> Result<Vec<String>> {
        let mut order = Vec::new();
        let mut visited = BTreeSet::new();
        for name in names {
            let name = canonical(name);
            if self.is_builtin(&name) && !self.modules.contains_key(&name) {
                continue;
            }
            self.visit(&name, &mut visited, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(module) = self.modules.get(name) else {
            bail!("the kernel has no module `{name}`{}", self.similar(name));
        };
        for need in self.needs(module) {
            self.visit(&need, seen, order)?;
        }
        order.push(name.to_owned());
        Ok(())
    }

    /// The node has no modprobe that the kernel could call, so what a module would ask for while
    /// it starts (`softdep pre`) counts like a hard dependency.
    fn needs(&self, module: &Module) -> Vec<String> {
        let mut needs: Vec<String> = module
            .depends
            .iter()
            .filter(|name| !self.is_builtin(name))
            .cloned()
            .collect();
        for wish in &module.soft {
            if self.is_builtin(wish) || self.builtin.contains(wish) {
                continue;
            }
            needs.extend(self.provider(wish));
        }
        needs
    }

    /// The module with this name or alias. Of several, one that runs on any processor: the others
    /// refuse to start where their instructions lack, and are found by hardware anyway.
    fn provider(&self, wish: &str) -> Option<String> {
        if self.modules.contains_key(&canonical(wish)) {
            return Some(canonical(wish));
        }
        let any_processor =
            |module: &Module| !module.aliases.iter().any(|alias| alias.starts_with("cpu:"));
        self.modules
            .iter()
            .find(|(_, module)| {
                any_processor(module) && module.aliases.iter().any(|alias| alias == wish)
            })
            .map(|(name, _)| name.clone())
    }

    fn similar(&self, name: &str) -> String {
        let close: Vec<&str> = self
            .modules
            .keys()
            .filter(|other| other.contains(name) || name.contains(other.as_str()))
            .map(String::as_str)
            .take(5)
            .collect();
        if close.is_empty() {
            String::new()
        } else {
            format!("; it has {}", close.join(", "))
        }
    }
}

impl Module {
    /// Its name, and what it says of itself.
    fn read(path: &str, xz: Vec<u8>) -> Result<(String, Self)> {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file
            .strip_suffix(".ko.xz")
            .with_context(|| format!("{path} is no .ko.xz"))?;
        let name = canonical(name);
        let elf = decompress(&xz).with_context(|| format!("decompressing {path}"))?;
        let info = modinfo(&elf).with_context(|| format!("reading {path}"))?;
        let values = |field: &str| -> Vec<&str> {
            info.iter()
                .filter(|(name, _)| name == field)
                .map(|(_, value)| value.as_str())
                .collect()
        };
        let depends = values("depends")
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|name| !name.is_empty())
            .map(canonical)
            .collect();
        let soft = values("softdep")
            .iter()
            .flat_map(|line| before(line))
            .collect();
        let aliases = values("alias")
            .iter()
            .map(|alias| (*alias).to_owned())
            .collect();
        let firmware = values("firmware");
        let firmware = firmware.iter().map(|file| (*file).to_owned()).collect();
        let module = Self {
            path: path.to_owned(),
            aliases,
            depends,
            firmware,
            soft,
            xz,
        };
        Ok((name, module))
    }

    /// For a kernel that does not decompress modules itself: where it goes, and the module.
    pub fn plain(&self) -> Result<(&str, Vec<u8>)> {
        let path = self.path.strip_suffix(".xz").unwrap_or(&self.path);
        Ok((path, decompress(&self.xz)?))
    }
}

/// The kernel takes `-` and `_` in a module's name for the same.
pub fn canonical(name: impl AsRef<str>) -> String {
    name.as_ref().replace('-', "_")
}

fn decompress(xz: &[u8]) -> Result<Vec<u8>> {
    let mut elf = Vec::new();
    XzDecoder::new_multi_decoder(xz).read_to_end(&mut elf)?;
    Ok(elf)
}

/// The section `.modinfo`: NUL-separated `field=value`.
fn modinfo(elf: &[u8]) -> Result<Vec<(String, String)>> {
    let file = object::File::parse(elf)?;
    let section = file
        .section_by_name(".modinfo")
        .context("no .modinfo section")?;
    Ok(section
        .data()?
        .split(|byte| *byte == 0)
        .filter_map(|entry| {
            let entry = String::from_utf8_lossy(entry);
            let (field, value) = entry.split_once('=')?;
            Some((field.to_owned(), value.to_owned()))
        })
        .collect())
}

/// The names after `pre:` in `pre: a b post: c`.
fn before(softdep: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut pre = false;
    for word in softdep.split_whitespace() {
        match word {
            "pre:" => pre = true,
            "post:" => pre = false,
            name if pre => names.push(name.to_owned()),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn catalog() -> Catalog {
        let module = |depends: &[&str], soft: &[&str], aliases: &[&str]| Module {
            path: String::new(),
            aliases: aliases.iter().map(|&name| name.into()).collect(),
            depends: depends.iter().map(|&name| name.into()).collect(),
            firmware: Vec::new(),
            soft: soft.iter().map(|&name| name.into()).collect(),
            xz: Vec::new(),
        };
        let mut catalog = Catalog::default();
        for (name, module) in [
            (
                "btrfs",
                module(
                    &["xor", "libcrc32c"],
                    &["crypto-crc32c", "sha256", "gone"],
                    &["fs-btrfs"],
                ),
            ),
            ("libcrc32c", module(&[], &["crc32c"], &[])),
            (
                "crc32c_intel",
                module(&[], &[], &["crc32c", "crypto-crc32c", "cpu:type:x86"]),
            ),
            (
                "crc32c_zeneric",
                module(&[], &[], &["crc32c", "crypto-crc32c"]),
            ),
            ("xor", module(&[], &[], &[])),
        ] {
            catalog.modules.insert(name.to_owned(), module);
        }
        catalog.add_builtin(b"sha256_generic.alias=sha256\0virtio_pci.file=drivers/x\0");
        catalog
    }

    #[test]
    fn orders_after_hard_and_soft_dependencies() {
        let order = catalog()
            .in_load_order(&["btrfs".into(), "virtio-pci".into()])
            .unwrap();
        assert_eq!(order, ["xor", "crc32c_zeneric", "libcrc32c", "btrfs"]);
    }

    #[test]
    fn names_an_unknown_module_and_its_neighbours() {
        let error = catalog()
            .in_load_order(&["crc32c".into()])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`crc32c`") && error.contains("crc32c_intel"),
            "{error}"
        );
    }

    #[test]
    fn reads_soft_dependencies() {
        assert_eq!(before("pre: a b post: c"), ["a", "b"]);
        assert!(before("post: c").is_empty());
    }
}
