//! From the packages that `image.toml` names to everything their programs may need.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use super::index::{Index, Offer};
use super::lock::Locked;

/// The package itself or, for a metapackage such as `linux-image-amd64` or `linux-source`, the one it
/// stands for: the first such that it depends on. Nothing else of its dependencies.
pub fn kernel(index: &Index, name: &str) -> Result<Locked> {
    let meta = find(index, name)?;
    let stands_for = |need: &&String| {
        let kinds = ["linux-image-", "linux-source-"];
        kinds.iter().any(|kind| need.starts_with(kind))
    };
    let concrete = meta
        .needs
        .iter()
        .flatten()
        .find(stands_for)
        .map(|need| find(index, need))
        .transpose()?;
    let mut locked = concrete.unwrap_or(meta).locked.clone();
    locked.asked = (locked.name != name).then(|| name.to_owned());
    Ok(locked)
}

/// One package alone.
pub fn alone(index: &Index, name: &str) -> Result<Locked> {
    Ok(find(index, name)?.locked.clone())
}

/// One package alone, of `non-free-firmware`.
pub fn firmware(index: &Index, name: &str) -> Result<Locked> {
    let offer = index.firmware(name);
    let offer = offer.with_context(|| format!("the suite's non-free-firmware has no {name}"))?;
    Ok(offer.locked.clone())
}

/// The packages and all that they depend on, by name.
pub fn closure(index: &Index, names: &[&str]) -> Result<BTreeMap<String, Locked>> {
    let mut chosen = BTreeMap::new();
    let mut queue: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    while let Some(name) = queue.pop() {
        let offer = find(index, &name)?;
        if chosen
            .insert(offer.locked.name.clone(), offer.locked.clone())
            .is_some()
        {
            continue;
        }
        for alternatives in &offer.needs {
            let first = alternatives.iter().find_map(|name| index.find(name));
            let need = first.with_context(|| {
                format!(
                    "{name} needs {}, which the suite does not have",
                    alternatives.join(" or ")
                )
            })?;
            queue.push(need.locked.name.clone());
        }
    }
    ensure!(
        chosen.len() < 200,
        "{} packages for a handful of programs: that cannot be meant",
        chosen.len()
    );
    Ok(chosen)
}

fn find<'a>(index: &'a Index, name: &str) -> Result<&'a Offer> {
    index
        .find(name)
        .with_context(|| format!("the suite has no package {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::archive::Origin;
    use crate::debian::component::Component;

    fn index() -> Index {
        let package = |name: &str, depends: &str| {
            format!(
                "Package: {name}\nVersion: 1\nFilename: pool/{name}.deb\nSize: 1\nSHA256: 00\nDepends: {depends}\n\n"
            )
        };
        let text = package("linux-image-amd64", "linux-image-6.12-amd64 (= 1)")
            + &package(
                "linux-image-6.12-amd64",
                "kmod, initramfs-tools | linux-initramfs-tool",
            )
            + &package("linux-source", "linux-source-6.12 (= 1)")
            + &package("linux-source-6.12", "binutils, xz-utils")
            + &package("tool", "libc6 (>= 2), gone | libz")
            + &package("libz", "libc6")
            + &package("libc6", "");
        let mut index = Index::default();
        index.add(Origin::Main, Component::Main, &text).unwrap();
        index
    }

    #[test]
    fn a_metapackage_stands_for_its_kernel_without_its_dependencies() {
        let locked = kernel(&index(), "linux-image-amd64").unwrap();
        assert_eq!(locked.name, "linux-image-6.12-amd64");
        assert_eq!(locked.asked.as_deref(), Some("linux-image-amd64"));
        assert_eq!(
            kernel(&index(), "linux-image-6.12-amd64").unwrap().asked,
            None
        );
        let source = kernel(&index(), "linux-source").unwrap();
        assert_eq!(source.name, "linux-source-6.12");
    }

    #[test]
    fn closes_over_dependencies() {
        let chosen = closure(&index(), &["tool"]).unwrap();
        assert_eq!(chosen.keys().collect::<Vec<_>>(), ["libc6", "libz", "tool"]);
        assert!(closure(&index(), &["linux-image-6.12-amd64"]).is_err());
    }
}
