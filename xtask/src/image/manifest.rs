//! What an image is made of (CycloneDX): every file with its hash and whose it is, every package and crate with its
//! version, licence and hash, and the source package of each of Debian's, which is what a copyleft licence asks for.
//!
//! Whose a file is follows from its bytes: a file of Debian's is one that a locked package has.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use cyclonedx_bom::models::bom::{Bom, SpecVersion, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::hash::{Hash, HashAlgorithm, HashValue, Hashes};
use cyclonedx_bom::models::license::{LicenseChoice, Licenses};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::property::{Properties, Property};
use cyclonedx_bom::prelude::Purl;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::media::layout::{self, Identity};
use super::spec::Spec;
use super::{daemons, initrd, microcode, uki};
use crate::debian::component::Component as DebianComponent;
use crate::debian::control;
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{Lock, Locked, verified};
use crate::workspace;

/// How manifests end: what tools know CycloneDX by.
pub const EXTENSION: &str = "cdx.json";

/// What is kept of a package's debian/copyright for a licence's name, at most.
const LICENSE_NAME: usize = 100;

/// The manifest of the image in `uki`.
pub fn of(spec: &Spec, lock: &Lock, version: &str, uki: &[u8]) -> Result<Vec<u8>> {
    let files = files(uki)?;
    let wanted: BTreeSet<&str> = files.values().map(String::as_str).collect();
    let mut owners = Owners::default();
    for package in &lock.packages {
        let is_made_anew = package.is(&spec.guest.source);
        let is_elsewhere = package.is(&spec.guest.debian.package);
        if !is_made_anew && !is_elsewhere {
            owners.add(package, &wanted)?;
        }
    }
    if let Some(firmware) = &spec.firmware {
        // Made of several files of a package.
        for updates in microcode::updates(&firmware.microcode, lock)? {
            let hash = hex::encode(Sha256::digest(&updates.bytes));
            owners.add_made(hash, updates.package, &wanted);
        }
    }
    // What the image has of these is no file of theirs, or not in its initrd.
    let more = [
        &spec.guest.source,
        &spec.stub.package,
        &spec.bios.grub.package,
        &spec.bios.ipxe.package,
    ];
    for name in more {
        owners.used.insert(lock.get(name)?.name.clone());
    }
    let mut components = Vec::new();
    for package in lock
        .packages
        .iter()
        .filter(|package| owners.used.contains(&package.name))
    {
        components.push(debian(package, lock)?);
    }
    components.extend(crates(&spec.packages())?);
    for (path, hash) in &files {
        components.push(file(path, hash, owners.of(path, hash, spec, lock)?));
    }
    let mut image = Component::new(
        Classification::OperatingSystem,
        "Loam",
        version,
        Some("image".into()),
    );
    image.hashes = Some(sha256(&hex::encode(Sha256::digest(uki))));
    let bom = Bom {
        version: 1,
        serial_number: Some(serial_number(uki)?),
        metadata: Some(Metadata {
            component: Some(image),
            ..Metadata::default()
        }),
        components: Some(Components(components)),
        services: None,
        external_references: None,
        dependencies: None,
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: SpecVersion::V1_5,
    };
    let mut json = Vec::new();
    bom.output_as_json_v1_5(&mut json)
        .map_err(|error| anyhow!("writing the manifest: {error}"))?;
    json.push(b'\n');
    Ok(json)
}

/// Each file of the image, by its path, and the kernel as one, with the hash of its bytes.
fn files(uki: &[u8]) -> Result<BTreeMap<String, String>> {
    let hash = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let linux = &uki[uki::section(uki, uki::LINUX)?];
    let mut files = BTreeMap::new();
    let initrd = &uki[uki::section(uki, uki::INITRD)?];
    initrd::read(initrd, |path, bytes| {
        files.insert(format!("/{path}"), hash(bytes));
    })?;
    files.insert(KERNEL.to_owned(), hash(linux));
    Ok(files)
}

/// What the kernel is called, which is no file.
const KERNEL: &str = "(kernel)";

/// Which package has a file with these bytes.
#[derive(Default)]
struct Owners {
    by_hash: BTreeMap<String, String>,
    used: BTreeSet<String>,
}

impl Owners {
    fn add(&mut self, package: &Locked, wanted: &BTreeSet<&str>) -> Result<()> {
        deb::read(
            &verified(package)?,
            |_| true,
            |path, entry| {
                // An empty one is anybody's.
                if let Entry::File(mut bytes) = entry
                    && !bytes.is_empty()
                {
                    if path.starts_with("boot/vmlinuz-") {
                        // In a UKI it fills whole sectors.
                        bytes.resize(bytes.len().next_multiple_of(layout::SECTOR as usize), 0);
                    }
                    let hash = hex::encode(Sha256::digest(&bytes));
                    if wanted.contains(hash.as_str()) {
                        self.by_hash.insert(hash, package.name.clone());
                        self.used.insert(package.name.clone());
                    }
                }
                Ok(())
            },
        )
    }

    /// What is made of a package's files.
    fn add_made(&mut self, hash: String, package: String, wanted: &BTreeSet<&str>) {
        if wanted.contains(hash.as_str()) {
            self.used.insert(package.clone());
            self.by_hash.insert(hash, package);
        }
    }

    /// As it is called in the manifest.
    fn of(&self, path: &str, hash: &str, spec: &Spec, lock: &Lock) -> Result<String> {
        if let Some(package) = self.by_hash.get(hash) {
            return Ok(deb_ref(package));
        }
        if path == GUEST_KERNEL {
            return Ok(deb_ref(&lock.get(&spec.guest.source)?.name));
        }
        ensure!(path != KERNEL, "the kernel is not the one of its package");
        // Ours, or written by the pipeline.
        Ok("image".to_owned())
    }
}

/// Made of Debian's source.
const GUEST_KERNEL: &str = "/usr/lib/loam/guest/vmlinux";

fn deb_ref(package: &str) -> String {
    format!("deb:{package}")
}

fn file(path: &str, hash: &str, owner: String) -> Component {
    let mut file = Component::new(Classification::File, path, "", None);
    file.version = None;
    file.hashes = Some(sha256(hash));
    file.properties = Some(Properties(vec![Property::new("loam:of", &owner)]));
    file
}

fn debian(package: &Locked, lock: &Lock) -> Result<Component> {
    let deb = verified(package)?;
    let control = deb::control(&deb)?;
    let stanza = control::stanzas(&control).next().unwrap_or_default();
    let source = source(package, stanza.get("Source"));
    let licenses = match copyright(&deb, &package.name)? {
        Copyright::Text(text) => licenses(&text, package),
        Copyright::Of(other) => match lock.packages.iter().find(|known| known.name == other) {
            Some(known) => match copyright(&verified(known)?, &other)? {
                Copyright::Text(text) => licenses(&text, known),
                Copyright::Of(_) => BTreeSet::new(),
            },
            None => [format!("that of {other}, of the source {source}")].into(),
        },
    };
    let mut component = Component::new(
        Classification::Library,
        &package.name,
        &package.version,
        Some(deb_ref(&package.name)),
    );
    let purl = format!(
        "pkg:deb/debian/{}@{}?arch=amd64&distro={}",
        package.name,
        package.version.replace('+', "%2B"),
        lock.suite
    );
    component.purl = Some(
        purl.parse::<Purl>()
            .map_err(|()| anyhow!("{purl} is no package's URL"))?,
    );
    component.hashes = Some(sha256(&package.sha256));
    let named: Vec<LicenseChoice> = licenses
        .iter()
        .map(|name| LicenseChoice::license(name))
        .collect();
    component.licenses = (!named.is_empty()).then_some(Licenses(named));
    let mut properties = vec![Property::new("loam:source", &source)];
    if !package.component.is_main() {
        let component = package.component.folder();
        properties.push(Property::new("loam:component", component));
    }
    if let Some(built_using) = stanza.get("Built-Using") {
        properties.push(Property::new("loam:built-using", built_using));
    }
    component.properties = Some(Properties(properties));
    Ok(component)
}

/// What a package says of its licences.
enum Copyright {
    Text(String),
    /// What another one of the same source says (Debian policy, 12.5).
    Of(String),
}

fn copyright(deb: &Path, name: &str) -> Result<Copyright> {
    let folder = format!("usr/share/doc/{name}");
    let file = format!("{folder}/copyright");
    let mut found = None;
    deb::read(
        deb,
        |path| path == folder || path == file,
        |_, entry| {
            found = match entry {
                Entry::File(bytes) => Some(Copyright::Text(
                    String::from_utf8_lossy(&bytes).into_owned(),
                )),
                Entry::Symlink(target) => {
                    let folder = target.trim_end_matches("/copyright");
                    Some(Copyright::Of(
                        folder.rsplit('/').next().unwrap_or(folder).to_owned(),
                    ))
                }
                Entry::HardLink(_) => None,
            };
            Ok(())
        },
    )?;
    found.with_context(|| format!("{name} says nothing of its licence"))
}

/// The source package and its version (Debian policy, 5.6.1): `glibc 2.41-12`.
fn source(package: &Locked, field: Option<&str>) -> String {
    let field = field.unwrap_or(&package.name);
    match field.split_once(" (") {
        Some((name, version)) => format!("{name} {}", version.trim_end_matches(')')),
        None => format!("{field} {}", package.version),
    }
}

/// The names of all licences in a package's copyright file: as it declares them (DEP 5), else those of Debian's common
/// ones that it refers to. With what is not free these are for the packaging alone.
fn licenses(copyright: &str, package: &Locked) -> BTreeSet<String> {
    let declared: BTreeSet<String> = control::stanzas(copyright)
        .filter_map(|stanza| {
            let license = stanza.get("License")?;
            let name = license.lines().next()?.trim();
            (!name.is_empty()).then(|| name.chars().take(LICENSE_NAME).collect())
        })
        .collect();
    if !declared.is_empty() {
        return declared;
    }
    if package.component == DebianComponent::NonFreeFirmware {
        let file = format!("usr/share/doc/{}/copyright", package.name);
        return [format!("its maker's, in /{file}")].into();
    }
    let referred = copyright.split("/usr/share/common-licenses/").skip(1);
    referred
        .filter_map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && !"-.+".contains(c));
            let name = rest[..end.unwrap_or(rest.len())].trim_end_matches('.');
            (!name.is_empty()).then(|| name.to_owned())
        })
        .collect()
}

/// All crates that are linked into these packages' programs.
fn crates(packages: &[&str]) -> Result<Vec<Component>> {
    let mut cargo = workspace::cargo();
    cargo.args([
        "tree",
        "--locked",
        "--target",
        daemons::TARGET,
        "--edges",
        "normal,no-proc-macro",
    ]);
    cargo.args(["--prefix", "none", "--format", "{p}|{l}"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let told = cargo.output().context("running cargo tree")?;
    ensure!(
        told.status.success(),
        "cargo tree says: {}",
        String::from_utf8_lossy(&told.stderr).trim()
    );
    let checksums = checksums(&workspace::root().join("Cargo.lock"))?;
    let told = String::from_utf8(told.stdout)?;
    Ok(listed(&told)
        .into_iter()
        .map(|(name, version, license)| {
            let mut component = Component::new(
                Classification::Library,
                &name,
                &version,
                Some(format!("crate:{name}@{version}")),
            );
            component.purl = Purl::new("cargo", &name, &version).ok();
            component.licenses =
                (!license.is_empty()).then(|| Licenses(vec![LicenseChoice::expression(&license)]));
            let checksum = checksums.get(&(name, version));
            component.hashes = checksum.map(|sum| sha256(sum));
            component
        })
        .collect())
}

/// Name, version and licence of each line of `cargo tree`.
fn listed(told: &str) -> BTreeSet<(String, String, String)> {
    told.lines()
        .filter_map(|line| {
            let (package, license) = line.split_once('|')?;
            let mut words = package.split_whitespace();
            let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
            // Told of one that was there already.
            let license = license.trim_end_matches("(*)").trim();
            // How it was once written.
            let license = license.replace('/', " OR ");
            Some((name.to_owned(), version.to_owned(), license))
        })
        .collect()
}

fn checksums(lock: &Path) -> Result<BTreeMap<(String, String), String>> {
    #[derive(Deserialize)]
    struct CargoLock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
        checksum: Option<String>,
    }
    let text =
        std::fs::read_to_string(lock).with_context(|| format!("reading {}", lock.display()))?;
    let lock: CargoLock = toml::from_str(&text)?;
    let known = lock.package.into_iter();
    Ok(known
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect())
}

fn sha256(hash: &str) -> Hashes {
    Hashes(vec![Hash {
        alg: HashAlgorithm::SHA_256,
        content: HashValue(hash.to_owned()),
    }])
}

/// Of one image always the same.
fn serial_number(uki: &[u8]) -> Result<UrnUuid> {
    let guid = Identity::of("manifest", uki).guid("serial number");
    // As it is written, its first three fields are the other way round.
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits = hex::encode(order.map(|index| guid[index]));
    let parts = [
        &digits[..8],
        &digits[8..12],
        &digits[12..16],
        &digits[16..20],
        &digits[20..],
    ];
    UrnUuid::new(format!("urn:uuid:{}", parts.join("-"))).map_err(|error| anyhow!("{error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> Locked {
        Locked {
            name: name.into(),
            asked: None,
            version: "2.41-12".into(),
            origin: Default::default(),
            component: Default::default(),
            path: String::new(),
            size: 0,
            sha256: String::new(),
        }
    }

    #[test]
    fn licences_are_those_that_a_package_declares_or_refers_to() {
        let mut package = package("libc6");
        let declared = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
                        Files: *\nCopyright: 2020 A\nLicense: GPL-2+ and MIT\n All of it.\n\n\
                        License: MIT\n Permission\n";
        assert_eq!(
            licenses(declared, &package).into_iter().collect::<Vec<_>>(),
            ["GPL-2+ and MIT", "MIT"]
        );
        let referred = "It is free; see `/usr/share/common-licenses/GPL-2'.\n\
                        The library: /usr/share/common-licenses/LGPL-2.1.";
        assert_eq!(
            licenses(referred, &package).into_iter().collect::<Vec<_>>(),
            ["GPL-2", "LGPL-2.1"]
        );
        assert!(licenses("All rights reserved.", &package).is_empty());
        // Its common licence is the packager's.
        package.component = DebianComponent::NonFreeFirmware;
        assert_eq!(
            licenses(referred, &package).into_iter().collect::<Vec<_>>(),
            ["its maker's, in /usr/share/doc/libc6/copyright"]
        );
        assert_eq!(licenses(declared, &package).len(), 2);
    }

    #[test]
    fn what_is_made_of_a_package_is_of_it_where_the_image_has_it() {
        let mut owners = Owners::default();
        owners.add_made("aa".into(), "microcode".into(), &["aa"].into());
        owners.add_made("bb".into(), "other".into(), &["aa"].into());
        assert_eq!(owners.used, ["microcode".to_owned()].into());
        assert_eq!(owners.by_hash["aa"], "microcode");
    }

    #[test]
    fn a_source_package_has_its_own_name_and_version_or_those_of_the_package() {
        let package = package("libc6");
        assert_eq!(source(&package, Some("glibc")), "glibc 2.41-12");
        assert_eq!(source(&package, Some("linux (6.12.1-1)")), "linux 6.12.1-1");
        assert_eq!(source(&package, None), "libc6 2.41-12");
    }

    #[test]
    fn crates_are_listed_once_each() {
        let told = "loam v0.1.0 (/a b)|Apache-2.0\nring v0.17.14|Apache-2.0 AND ISC\n\
                    ring v0.17.14|Apache-2.0 AND ISC (*)\nold v1.0.0|MIT/Apache-2.0\n\n";
        let expected = [
            ("loam", "0.1.0", "Apache-2.0"),
            ("old", "1.0.0", "MIT OR Apache-2.0"),
            ("ring", "0.17.14", "Apache-2.0 AND ISC"),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(listed(told), expected.into());
    }

    #[test]
    fn a_serial_number_is_a_uuid_of_the_image() {
        let number = serial_number(b"image").unwrap();
        assert_eq!(number, serial_number(b"image").unwrap());
        assert_ne!(number, serial_number(b"other").unwrap());
        // Its version.
        assert_eq!(number.0.as_bytes()["urn:uuid:".len() + 14], b'8');
    }
}
