//! `--update-lock`: the newest packages of the suite, and only those that the image takes a file
//! from.

use anyhow::Result;

use super::programs::Pool;
use super::{inputs, spec::Spec};
use crate::debian::archive::Archive;
use crate::debian::index::Index;
use crate::debian::lock::{self, Lock, Locked};
use crate::debian::resolve;
use crate::phase;

/// Writes `image/packages.lock` anew, and says what changed.
pub fn update() -> Result<()> {
    let (spec_file, lock_file) = inputs();
    let after = choose(&Spec::read(&spec_file)?)?;
    let before = Lock::read(&lock_file).unwrap_or_default();
    for line in changes(&before, &after) {
        println!("{line}");
    }
    after.write(&lock_file)
}

/// The suite's newest packages.
pub(super) fn choose(spec: &Spec) -> Result<Lock> {
    let index = phase::run("package index", |_| {
        let index = Index::fetch(&Archive::of_this_machine()?, &spec.suite)?;
        Ok::<_, anyhow::Error>((index, format!("{}, signed by Debian", spec.suite)))
    })?;
    let mut packages = vec![
        resolve::kernel(&index, &spec.kernel.package)?,
        resolve::kernel(&index, &spec.guest.source)?,
        resolve::kernel(&index, &spec.guest.debian.package)?,
        resolve::alone(&index, &spec.stub.package)?,
    ];
    packages.append(&mut phase::run("programs and libraries", |_| {
        let used = programs(&index, spec)?;
        let remark = format!("{} packages", used.len());
        Ok::<_, anyhow::Error>((used, remark))
    })?);
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Lock {
        suite: spec.suite.clone(),
        packages,
    })
}

/// Of all that the programs' packages depend on, those that have a library they load.
fn programs(index: &Index, spec: &Spec) -> Result<Vec<Locked>> {
    let names: Vec<&str> = spec
        .debian
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
    let (_, used) = Pool::read(&files)?.closure(&spec.debian)?;
    Ok(all
        .into_values()
        .filter(|package| used.contains(&package.name))
        .collect())
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

    #[test]
    fn tells_what_changed() {
        let lock = |packages: &[(&str, &str)]| Lock {
            suite: "trixie".into(),
            packages: packages
                .iter()
                .map(|(name, version)| Locked {
                    name: (*name).into(),
                    asked: None,
                    version: (*version).into(),
                    path: String::new(),
                    size: 0,
                    sha256: String::new(),
                })
                .collect(),
        };
        let (before, after) = (
            lock(&[("a", "1"), ("b", "1")]),
            lock(&[("a", "2"), ("c", "1")]),
        );
        assert_eq!(changes(&before, &after), ["  a 1 -> 2", "+ c 1", "- b 1"]);
        assert_eq!(changes(&after, &after).len(), 1);
    }
}
