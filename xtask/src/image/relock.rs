//! `--update-lock`: the newest packages of the suite, and only those that the image takes a file
//! from.

use anyhow::{Result, ensure};

use super::programs::Pool;
use super::{inputs, spec::Spec};
use crate::debian::archive::{Archive, Origin};
use crate::debian::component::Component;
use crate::debian::index::Index;
use crate::debian::lock::{self, Lock, Locked};
use crate::debian::{resolve, version};
use crate::phase;

/// Writes `image/packages.lock` anew, and says what changed. `downgrade`: packages may become older.
pub fn update(downgrade: bool) -> Result<()> {
    let (spec_file, lock_file) = inputs();
    let before = match lock_file.exists() {
        true => Lock::read(&lock_file)?,
        false => Lock::default(),
    };
    let after = choose(&Spec::read(&spec_file)?, &before)?;
    for line in changes(&before, &after) {
        println!("{line}");
    }
    let older = older(&before, &after);
    ensure!(
        older.is_empty() || downgrade,
        "{} would be older than in {}, and have holes again that are mended there; if it is meant: --allow-older",
        older.join(", "),
        lock_file.display()
    );
    after.write(&lock_file)
}

/// Warns, where an image is made for others' eyes, of locked packages that the suite or its updates for security have
/// newer ones of. Whoever cannot ask is told that.
pub fn warn_of_older() -> Result<()> {
    let (spec_file, lock_file) = inputs();
    let (spec, lock) = (Spec::read(&spec_file)?, Lock::read(&lock_file)?);
    phase::run("newer packages", |phase| {
        let behind = match index(&spec, &lock) {
            Ok(index) => behind(&index, &lock),
            Err(error) => {
                let remark = format!("nobody can say: {error:#}");
                return Ok::<_, anyhow::Error>(((), remark));
            }
        };
        for line in &behind {
            phase.say(&format!("warning: {line}"));
        }
        let remark = match behind.len() {
            0 => "image/packages.lock has the newest".to_owned(),
            count => format!("{count}; `cargo xtask image --update-lock` chooses anew"),
        };
        Ok(((), remark))
    })
}

/// A line for each locked package of which there is a newer one.
fn behind(index: &Index, lock: &Lock) -> Vec<String> {
    let newer = lock.packages.iter().filter_map(|locked| {
        let newest = match (&locked.asked, locked.component) {
            (Some(asked), _) => resolve::kernel(index, asked),
            (None, Component::Main) => resolve::alone(index, &locked.name),
            (None, Component::NonFreeFirmware) => resolve::firmware(index, &locked.name),
        };
        let newest = newest.ok()?;
        let is_newer = version::compare(&newest.version, &locked.version).is_gt();
        let why = match newest.origin {
            Origin::Security => "the archive for security has",
            Origin::Main => "there is",
        };
        is_newer.then(|| {
            format!(
                "{} {} is locked, and {why} {} {}",
                locked.name, locked.version, newest.name, newest.version
            )
        })
    });
    newer.collect()
}

fn index(spec: &Spec, before: &Lock) -> Result<Index> {
    let mut components = vec![Component::Main];
    components.extend(spec.firmware.as_ref().map(|_| Component::NonFreeFirmware));
    let archive = Archive::of_this_machine()?;
    Index::fetch(&archive, &spec.suite, &components, &before.released)
}

/// The suite's newest packages. No index is taken that is older than what the lock before was chosen from.
pub(super) fn choose(spec: &Spec, before: &Lock) -> Result<Lock> {
    let index = phase::run("package index", |_| {
        let index = index(spec, before)?;
        let suites: Vec<&str> = index.released.keys().map(String::as_str).collect();
        let remark = format!("{}, signed by Debian", suites.join(", "));
        Ok::<_, anyhow::Error>((index, remark))
    })?;
    let mut packages = vec![
        resolve::kernel(&index, &spec.kernel.package)?,
        resolve::kernel(&index, &spec.guest.source)?,
        resolve::kernel(&index, &spec.guest.debian.package)?,
        resolve::alone(&index, &spec.stub.package)?,
        resolve::alone(&index, &spec.bios.grub.package)?,
        resolve::alone(&index, &spec.bios.ipxe.package)?,
    ];
    packages.append(&mut phase::run("programs and libraries", |_| {
        let used = programs(&index, spec)?;
        let remark = format!("{} packages", used.len());
        Ok::<_, anyhow::Error>((used, remark))
    })?);
    for name in spec.firmware.iter().flat_map(|of| of.all_packages()) {
        packages.push(resolve::firmware(&index, name)?);
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Lock {
        suite: spec.suite.clone(),
        released: index.released,
        packages,
    })
}

/// Of all that the programs' packages depend on, those that have a library they load.
fn programs(index: &Index, spec: &Spec) -> Result<Vec<Locked>> {
    let mut wanted = spec.debian.clone();
    wanted.extend(spec.tools()?);
    let names: Vec<&str> = wanted
        .iter()
        .map(|debian| debian.package.as_str())
        .collect();
    let all = resolve::closure(index, &names)?;
    let packages: Vec<&Locked> = all.values().collect();
    lock::fetch(Archive::of_this_machine, &packages)?;
    let files = packages
        .iter()
        .map(|package| Ok((package.name.clone(), lock::verified(package)?)))
        .collect::<Result<Vec<_>>>()?;
    let (_, used) = Pool::read(&files)?.closure(&wanted)?;
    Ok(all
        .into_values()
        .filter(|package| used.contains(&package.name))
        .collect())
}

/// Packages whose version would fall.
fn older(before: &Lock, after: &Lock) -> Vec<String> {
    let falls = |package: &&Locked| {
        let same = |old: &&Locked| match &package.asked {
            // Each kernel is a package of its own name.
            Some(asked) => old.is(asked),
            None => old.name == package.name,
        };
        let old = before.packages.iter().find(same);
        old.is_some_and(|old| version::compare(&package.version, &old.version).is_lt())
    };
    let fallen = after.packages.iter().filter(falls);
    fallen
        .map(|package| format!("{} {}", package.name, package.version))
        .collect()
}

pub(super) fn changes(before: &Lock, after: &Lock) -> Vec<String> {
    let mut lines = Vec::new();
    let version = |lock: &Lock, name: &str| {
        lock.packages
            .iter()
            .find(|package| package.name == name)
            .map(|p| p.version.clone())
    };
    for package in &after.packages {
        match version(before, &package.name) {
            None => lines.push(format!("+ {} {}", package.name, package.version)),
            Some(old) if old != package.version => {
                lines.push(format!("  {} {old} -> {}", package.name, package.version));
            }
            Some(_) => {}
        }
    }
    for package in &before.packages {
        if version(after, &package.name).is_none() {
            lines.push(format!("- {} {}", package.name, package.version));
        }
    }
    if lines.is_empty() {
        lines.push("every package is the newest already".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(name: &str, version: &str) -> Locked {
        Locked {
            name: name.into(),
            asked: None,
            version: version.into(),
            origin: Origin::Main,
            component: Component::Main,
            path: String::new(),
            size: 0,
            sha256: String::new(),
        }
    }

    #[test]
    fn tells_what_changed() {
        let lock = |packages: &[(&str, &str)]| Lock {
            packages: packages
                .iter()
                .map(|(name, version)| locked(name, version))
                .collect(),
            ..Lock::default()
        };
        let (before, after) = (
            lock(&[("a", "1"), ("b", "1")]),
            lock(&[("a", "2"), ("c", "1")]),
        );
        assert_eq!(changes(&before, &after), ["  a 1 -> 2", "+ c 1", "- b 1"]);
        assert_eq!(changes(&after, &after).len(), 1);
    }

    #[test]
    fn tells_of_what_there_are_newer_ones() {
        let text = |name: &str, version: &str, more: &str| {
            format!(
                "Package: {name}\nVersion: {version}\nFilename: f\nSize: 1\nSHA256: 00\n{more}\n"
            )
        };
        let mut index = Index::default();
        let meta = text(
            "linux-image-amd64",
            "6.12.107-1",
            "Depends: linux-image-6.12.107\n",
        );
        let main = meta + &text("linux-image-6.12.107", "6.12.107-1", "") + &text("a", "1", "");
        index.add(Origin::Main, Component::Main, &main).unwrap();
        let meta = text(
            "linux-image-amd64",
            "6.12.118-1",
            "Depends: linux-image-6.12.118\n",
        );
        let security = meta + &text("linux-image-6.12.118", "6.12.118-1", "");
        index
            .add(Origin::Security, Component::Main, &security)
            .unwrap();
        let non_free = text("blob", "2", "");
        let component = Component::NonFreeFirmware;
        index.add(Origin::Main, component, &non_free).unwrap();
        let kernel = |name: &str, version: &str| Locked {
            asked: Some("linux-image-amd64".into()),
            ..locked(name, version)
        };
        let lock = |packages: Vec<Locked>| Lock {
            packages,
            ..Lock::default()
        };
        let old = lock(vec![
            locked("a", "0.9"),
            locked("gone", "1"),
            Locked {
                component: Component::NonFreeFirmware,
                ..locked("blob", "1")
            },
            kernel("linux-image-6.12.107", "6.12.107-1"),
        ]);
        assert_eq!(
            behind(&index, &old),
            [
                "a 0.9 is locked, and there is a 1",
                "blob 1 is locked, and there is blob 2",
                "linux-image-6.12.107 6.12.107-1 is locked, and the archive for security has \
                 linux-image-6.12.118 6.12.118-1"
            ]
        );
        let new = lock(vec![
            locked("a", "1"),
            kernel("linux-image-6.12.118", "6.12.118-1"),
        ]);
        assert_eq!(behind(&index, &new), [""; 0]);
    }

    #[test]
    fn tells_what_would_be_older() {
        let kernel = |name: &str, version: &str| Locked {
            asked: Some("linux-image-amd64".into()),
            ..locked(name, version)
        };
        let lock = |packages: Vec<Locked>| Lock {
            packages,
            ..Lock::default()
        };
        let before = lock(vec![
            locked("a", "1.9"),
            locked("b", "2"),
            kernel("linux-image-6.12.118", "6.12.118-1"),
        ]);
        let newer = lock(vec![
            locked("a", "1.10"),
            locked("c", "1"),
            kernel("linux-image-6.12.120", "6.12.120-1"),
        ]);
        assert_eq!(older(&before, &newer), [""; 0]);
        let fallen = lock(vec![
            locked("a", "1.8"),
            kernel("linux-image-6.12.107", "6.12.107-1"),
        ]);
        assert_eq!(
            older(&before, &fallen),
            ["a 1.8", "linux-image-6.12.107 6.12.107-1"]
        );
    }
}
