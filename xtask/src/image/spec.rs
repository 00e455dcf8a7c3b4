//! `image/image.toml`, as its comments describe it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use loam_chain::GridConfig;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use super::{NonFree, base};
use crate::debian::lock::Lock;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// Debian's suite that packages are chosen from when the lock is renewed.
    pub suite: String,
    /// The kernel's command line.
    pub command_line: String,
    pub allow_grid_override: bool,
    /// Becomes `/etc/loam/grid.toml`.
    pub grid: Option<GridConfig>,
    /// Becomes `/etc/loam/time.toml`: which servers are asked for the time.
    pub time: Option<toml::Table>,
    /// Becomes `/etc/loam/mirrors.toml`: who is asked for images before their registries.
    pub mirrors: Option<toml::Table>,
    pub stub: PackageFile,
    pub bios: Bios,
    pub kernel: Kernel,
    /// What goes in with `--firmware` alone.
    pub firmware: Option<Firmware>,
    pub guest: Guest,
    pub ours: Vec<Ours>,
    pub debian: Vec<Debian>,
}

/// One file of a package, by its absolute path: as the EFI program that starts the kernel out of the UKI.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageFile {
    pub package: String,
    pub file: String,
}

/// All files of a package below a folder, by its absolute path.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackageFolder {
    pub package: String,
    pub folder: String,
}

/// What starts the image on machines without UEFI.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bios {
    /// GRUB's images and modules.
    pub grub: PackageFolder,
    /// The program that puts them together.
    pub mkimage: PackageFile,
    /// iPXE, for machines whose firmware boots over the network by PXE.
    pub ipxe: PackageFile,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub package: String,
    /// Modules that init loads at boot.
    pub load: Load,
    /// Modules that are loaded when their hardware is found.
    pub modules: Vec<String>,
}

impl Kernel {
    /// All modules of the image, but for those that they need.
    pub fn wanted(&self) -> Vec<String> {
        self.load.all().chain(&self.modules).cloned().collect()
    }
}

/// Modules that are loaded at boot, in order, by what needs them (init's `preload`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    pub networks: Vec<String>,
    pub pools: Vec<String>,
    pub machines: Vec<String>,
}

impl Load {
    /// The name of each group, and its modules.
    pub fn groups(&self) -> [(&'static str, &[String]); 3] {
        [
            ("networks", &self.networks),
            ("pools", &self.pools),
            ("machines", &self.machines),
        ]
    }

    pub fn all(&self) -> impl Iterator<Item = &String> {
        self.groups().into_iter().flat_map(|(_, names)| names)
    }
}

/// What processors and cards load: files without source, under their makers' terms.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Firmware {
    pub microcode: Microcode,
    /// Modules that do nothing without their files.
    pub modules: Vec<String>,
    /// Whose files go in where a module of the image asks for them.
    pub packages: Vec<String>,
    /// Modules, and files, that are asked for in vain, each with the reason.
    pub left_out: BTreeMap<String, String>,
}

/// Where updates of processors are, all files of a folder.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Microcode {
    pub intel: PackageFolder,
    pub amd: PackageFolder,
}

impl Firmware {
    /// All packages that anything is taken from.
    pub fn all_packages(&self) -> impl Iterator<Item = &str> {
        let Microcode { intel, amd } = &self.microcode;
        let microcode = [&intel.package, &amd.package];
        microcode
            .into_iter()
            .chain(&self.packages)
            .map(String::as_str)
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// Debian's package of the kernel's source.
    pub source: String,
    /// What is built in: a configuration's lines, in a file beside `image.toml`.
    pub config: String,
    /// A binary of the package `loam-init`.
    pub init: String,
    pub debian: DebianGuest,
}

/// A stock kernel that machines boot in a test and a benchmark.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DebianGuest {
    pub package: String,
    /// Loaded in every machine.
    pub modules: Vec<String>,
    /// Loaded where a volume has this file system; one that is built in needs no entry.
    #[serde(default)]
    pub filesystems: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ours {
    pub package: String,
    pub binary: String,
    pub path: Place,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    pub package: String,
    /// Where in the image, and which file of the package.
    pub files: BTreeMap<Place, String>,
}

/// Where in the image a file goes: an absolute path in its plainest form, which no link of the image leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(String);

impl Place {
    pub fn new(path: &str) -> Result<Self> {
        let relative = path
            .strip_prefix('/')
            .with_context(|| format!("`{path}` is no absolute path in the image"))?;
        ensure!(
            relative
                .split('/')
                .all(|part| !["", ".", ".."].contains(&part)),
            "`{path}` is no path of a file: it has an empty part, `.` or `..`"
        );
        for (link, target) in base::LINKS {
            if let Some(rest) = relative.strip_prefix(link)
                && rest.starts_with('/')
            {
                // The kernel unpacks it by name, so a folder would take the link's place.
                bail!("/{link} is a link: `{path}` is written as `/{target}{rest}`");
            }
            ensure!(relative != link, "`{path}` is a link of the image");
        }
        Ok(Self(path.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let path = String::deserialize(deserializer)?;
        Self::new(&path).map_err(de::Error::custom)
    }
}

impl Spec {
    pub fn read(file: &Path) -> Result<Self> {
        let text =
            fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        Self::parse(&text).with_context(|| format!("{}", file.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let spec: Self = toml::from_str(text)?;
        Lines::of(text)?.check(&spec)?;
        Ok(spec)
    }

    /// Takes what `--firmware` adds, or leaves it out as if neither this file nor the lock had ever named it.
    pub fn choose(&mut self, lock: &mut Lock, non_free: NonFree) -> Result<()> {
        match non_free {
            NonFree::With => {
                let firmware = self.firmware.as_ref();
                let firmware = firmware.context("image.toml has no [firmware]")?;
                self.kernel.modules.extend_from_slice(&firmware.modules);
                for package in firmware.all_packages() {
                    lock.get(package)?;
                }
            }
            NonFree::Without => {
                if let Some(firmware) = self.firmware.take() {
                    let named = |name: &str| firmware.all_packages().any(|other| other == name);
                    lock.packages.retain(|package| !named(&package.name));
                }
            }
        }
        Ok(())
    }

    /// Debian's programs that are run here, with the libraries that they name.
    pub fn tools(&self) -> Result<[Debian; 1]> {
        let PackageFile { package, file } = &self.bios.mkimage;
        Ok([Debian {
            package: package.clone(),
            files: [(Place::new(file)?, file.clone())].into(),
        }])
    }

    /// Those of this workspace that the image's programs are from.
    pub fn packages(&self) -> Vec<&str> {
        let mut packages: Vec<&str> = self.ours.iter().map(|ours| ours.package.as_str()).collect();
        packages.sort_unstable();
        packages.dedup();
        packages
    }
}

/// Where in the text of an `image.toml` something stands that may be wrong together with something else.
#[derive(Deserialize)]
struct Lines {
    /// Of each line but the first, its start.
    #[serde(skip)]
    breaks: Vec<usize>,
    allow_grid_override: Spanned<bool>,
    ours: Vec<OursLine>,
    debian: Vec<DebianLine>,
}

#[derive(Deserialize)]
struct OursLine {
    path: Spanned<String>,
}

#[derive(Deserialize)]
struct DebianLine {
    files: BTreeMap<Spanned<String>, String>,
}

impl Lines {
    fn of(text: &str) -> Result<Self> {
        let lines: Self = toml::from_str(text)?;
        let breaks = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Ok(Self { breaks, ..lines })
    }

    /// Counted from 1.
    fn number<T>(&self, of: &Spanned<T>) -> usize {
        1 + self
            .breaks
            .partition_point(|start| *start <= of.span().start)
    }

    fn check(&self, spec: &Spec) -> Result<()> {
        ensure!(
            spec.grid.is_some() || spec.allow_grid_override,
            "line {}: without a [grid], and without `allow_grid_override`, a node could never join one",
            self.number(&self.allow_grid_override)
        );
        let mut taken = BTreeMap::new();
        let ours = self.ours.iter().map(|ours| &ours.path);
        let debian = self.debian.iter().flat_map(|debian| debian.files.keys());
        for place in ours.chain(debian) {
            let line = self.number(place);
            let place = place.get_ref().as_str();
            if let Some(first) = taken.insert(place, line) {
                bail!("line {line}: line {first} puts something at `{place}`, too");
            }
        }
        for (place, line) in &taken {
            let below = |other: &str| {
                let rest = other.strip_prefix(place);
                rest.is_some_and(|rest| rest.starts_with('/'))
            };
            if let Some((other, file)) = taken.iter().find(|(other, _)| below(other)) {
                bail!("line {file}: `{other}` is below `{place}`, which is a file by line {line}");
            }
        }
        ensure!(
            taken.contains_key("/init"),
            "none of `ours` goes to /init, which the kernel starts"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::lock::Locked;

    const IMAGE: &str = include_str!("../../../image/image.toml");

    #[test]
    fn reads_the_image_of_this_repository() {
        let spec = Spec::parse(IMAGE).unwrap();
        assert!(spec.kernel.load.pools.contains(&"btrfs".to_owned()));
    }

    #[test]
    fn without_firmware_nothing_of_it_is_left() {
        let package = |name: &str| -> Locked {
            toml::from_str(&format!(
                "name = '{name}'\nversion = '1'\npath = 'p'\nsize = 1\nsha256 = '00'"
            ))
            .unwrap()
        };
        let lock = |names: &[&str]| Lock {
            packages: names.iter().map(|name| package(name)).collect(),
            ..Lock::default()
        };
        // The same file from before there was such a table.
        let table = IMAGE.find("# What `--firmware` adds").unwrap();
        let end = table + IMAGE[table..].find("# What OCI machines boot").unwrap();
        let before = Spec::parse(&format!("{}{}", &IMAGE[..table], &IMAGE[end..])).unwrap();
        let spec = Spec::parse(IMAGE).unwrap();
        let firmware = spec.firmware.clone().unwrap();
        let mut names: Vec<&str> = firmware.all_packages().collect();
        names.push("e2fsprogs");
        let whole = lock(&names);

        let (mut without, mut left) = (spec.clone(), whole.clone());
        without.choose(&mut left, NonFree::Without).unwrap();
        assert_eq!(format!("{without:?}"), format!("{before:?}"));
        assert_eq!(left, lock(&["e2fsprogs"]));
        // Nor is anything asked of a file that has no such table.
        let error = before.clone().choose(&mut left, NonFree::With);
        assert!(error.unwrap_err().to_string().contains("[firmware]"));

        let (mut with, mut all) = (spec.clone(), whole.clone());
        with.choose(&mut all, NonFree::With).unwrap();
        assert_eq!(all, whole);
        let modules = [&spec.kernel.modules[..], &firmware.modules].concat();
        assert_eq!(with.kernel.modules, modules);
        let error = spec.clone().choose(&mut left, NonFree::With).unwrap_err();
        assert!(error.to_string().contains("--update-lock"), "{error}");
    }

    #[test]
    fn refuses_unknown_fields_and_relative_places() {
        let unknown = format!("colour = 'red'\n{IMAGE}");
        assert!(Spec::parse(&unknown).is_err());
    }

    /// The image of this repository with another line in the place of one of its own, and what is said of it.
    #[track_caller]
    fn refused(line: &str, instead: &str, words: &[&str]) {
        assert!(IMAGE.contains(line), "{line}");
        let error = Spec::parse(&IMAGE.replacen(line, instead, 1)).unwrap_err();
        let error = format!("{error:#}");
        let at = IMAGE[..IMAGE.find(line).unwrap()].lines().count() + 1;
        assert!(error.contains(&format!("line {at}")), "{at}: {error}");
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn refuses_places_that_are_no_files_of_the_image() {
        let vmm = "path = \"/usr/bin/loam-vmm\"";
        let no_path = |place: &str, words: &[&str]| {
            refused(vmm, &format!("path = \"{place}\""), words);
        };
        no_path("usr/bin/loam-vmm", &["no absolute path"]);
        for odd in ["/", "/usr/bin/", "//usr/x", "/usr/../x", "/./x"] {
            no_path(odd, &[odd, "no path of a file"]);
        }
        no_path("/lib64/x", &["is a link", "/usr/lib64/x"]);
        no_path("/usr/sbin/x", &["is a link", "/usr/bin/x"]);
        no_path("/bin", &["is a link"]);
        no_path("/init", &["puts something at `/init`, too"]);
        no_path("/init/x", &["is below `/init`"]);
    }

    #[test]
    fn refuses_a_grid_that_no_node_could_join() {
        refused(
            "allow_grid_override = true",
            "allow_grid_override = false",
            &["could never join"],
        );
        let contract = "0x0000000000000000000000000000000000000001";
        let grid = |contract: &str, endpoints: &str| {
            format!(
                "grid = {{ chain_id = 1, contract = '{contract}', {endpoints} = ['http://a.example'] }}\n{IMAGE}"
            )
        };
        assert!(
            Spec::parse(&grid(contract, "endpoints"))
                .unwrap()
                .grid
                .is_some()
        );
        for wrong in [
            grid(contract, "endpoint"),
            grid(&contract[..40], "endpoints"),
        ] {
            let error = Spec::parse(&wrong).unwrap_err().to_string();
            assert!(error.contains("line 1,"), "{error}");
        }
    }
}
