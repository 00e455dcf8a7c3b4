//! What the modules of the image load into their cards: the files that they ask for (`firmware=` in their `.modinfo`), as
//! far as a package of `[firmware]` has them, as it has them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::kernel;
use super::module::{Catalog, canonical};
use super::programs::followed;
use super::spec::{self, Spec};
use super::stage::{Kept, Key, Packing, Stages};
use super::tree::{DATA, Tree};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{Lock, Locked, verified};

/// Where packages have it, and where the kernel looks, whose `/lib` leads there.
const FOLDER: &str = "usr/lib/firmware/";

/// A file that a module asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Asked {
    /// Below [`FOLDER`].
    file: String,
    module: String,
    /// Which has it.
    package: Option<String>,
}

/// What goes into the image.
#[derive(Debug)]
pub struct Added {
    /// Of each package an archive, and one of the terms of all.
    pub archives: Vec<(String, Kept)>,
    /// What no package has, and which module asks for it.
    pub missing: Vec<String>,
}

/// The archives, each packed by itself.
pub fn archives(
    spec: &Spec,
    firmware: &spec::Firmware,
    lock: &Lock,
    packing: Packing,
    stages: &Stages,
) -> Result<Added> {
    let asked = asked(spec, firmware, lock, stages)?;
    let mut archives = Vec::new();
    for name in &firmware.packages {
        let package = lock.get(name)?;
        let of_this = |asked: &&Asked| asked.package.as_ref() == Some(name);
        let files: Vec<&str> = asked
            .iter()
            .filter(of_this)
            .map(|a| a.file.as_str())
            .collect();
        ensure!(
            !files.is_empty(),
            "no module of the image asks for anything of {name}, which is in [firmware]"
        );
        let key = files
            .iter()
            .fold(Key::of_pipeline().with(&package.sha256), Key::with);
        let kept = stages.archive(name, &key, packing, || {
            let contents = Contents::read(package)?;
            let mut tree = Tree::default();
            for file in &files {
                ensure!(contents.place(file, &mut tree), "{name} has no {file}");
            }
            Ok(tree)
        })?;
        archives.push((name.clone(), kept));
    }
    let terms = terms(firmware, lock, packing, stages)?;
    archives.push(("terms of microcode and firmware".to_owned(), terms));
    let missing = asked.iter().filter(|asked| asked.package.is_none());
    let missing = missing.map(|asked| format!("{} ({})", asked.file, asked.module));
    Ok(Added {
        archives,
        missing: missing.collect(),
    })
}

/// All that is asked for, as a stage's result: to read every module takes seconds.
fn asked(
    spec: &Spec,
    firmware: &spec::Firmware,
    lock: &Lock,
    stages: &Stages,
) -> Result<Vec<Asked>> {
    let linux = lock.get(&spec.kernel.package)?;
    let mut key = Key::of_pipeline()
        .with(&linux.sha256)
        .with(format!("{:?} {firmware:?}", spec.kernel));
    let mut packages = Vec::new();
    for name in &firmware.packages {
        let package = lock.get(name)?;
        key = key.with(&package.sha256);
        packages.push(package);
    }
    let kept = stages.plain("firmware.json", &key, || {
        let catalog = kernel::catalog(&verified(linux)?, kernel::release(linux)?)?;
        let mut asked = asked_by(&loaded(&catalog, &spec.kernel)?, &firmware.left_out)?;
        for package in packages {
            let contents = Contents::read(package)?;
            for asked in asked.iter_mut().filter(|asked| asked.package.is_none()) {
                if contents.place(&asked.file, &mut Tree::default()) {
                    asked.package = Some(package.name.clone());
                }
            }
        }
        let needy: Vec<String> = firmware.modules.iter().map(canonical).collect();
        let lacking = |asked: &&Asked| asked.package.is_none() && needy.contains(&asked.module);
        if let Some(Asked { file, module, .. }) = asked.iter().find(lacking) {
            bail!("{module} does nothing without {file}, which no package of [firmware] has");
        }
        Ok(serde_json::to_vec(&asked)?)
    })?;
    Ok(serde_json::from_slice(&kept.read()?)?)
}

/// The modules of the image, and what each asks for.
fn loaded<'a>(catalog: &'a Catalog, kernel: &spec::Kernel) -> Result<Vec<(String, &'a [String])>> {
    let order = catalog.in_load_order(&kernel.wanted())?.into_iter();
    order
        .map(|name| {
            let module = catalog.get(&name);
            let module = module.context("an ordered module is in the catalog")?;
            Ok((name, &module.firmware[..]))
        })
        .collect()
}

/// All but what is left out, sorted. `left_out` names modules and files.
fn asked_by(
    modules: &[(String, &[String])],
    left_out: &BTreeMap<String, String>,
) -> Result<Vec<Asked>> {
    let mut asked = BTreeMap::new();
    let mut unused: BTreeSet<&str> = left_out.keys().map(String::as_str).collect();
    for (module, files) in modules {
        for file in *files {
            let names = [module, file].map(|name| left_out.get_key_value(name));
            if names.iter().all(Option::is_none) {
                asked.entry(file).or_insert(module);
            }
            for (name, _) in names.into_iter().flatten() {
                unused.remove(name.as_str());
            }
        }
    }
    if let Some(name) = unused.first() {
        bail!(
            "[firmware.left_out] names {name}, which is neither a module of the image that asks for firmware nor a file that one asks for"
        );
    }
    let asked = asked.into_iter().map(|(file, module)| Asked {
        file: file.clone(),
        module: module.clone(),
        package: None,
    });
    Ok(asked.collect())
}

/// The files of a package that modules may ask for.
struct Contents(BTreeMap<String, Entry>);

impl Contents {
    fn read(package: &Locked) -> Result<Self> {
        let mut files = BTreeMap::new();
        deb::read(
            &verified(package)?,
            |path| path.starts_with(FOLDER),
            |path, entry| {
                files.insert(path, entry);
                Ok(())
            },
        )?;
        Ok(Self(files))
    }

    /// Puts the file into the tree, with the links that lead to it; `false` if it is not here.
    fn place(&self, file: &str, tree: &mut Tree) -> bool {
        /// No name leads over more.
        const LINKS: usize = 8;
        let mut links: Vec<(String, &String)> = Vec::new();
        let mut path = format!("{FOLDER}{file}");
        while links.len() < LINKS {
            let entry = match self.0.get(&path) {
                Some(Entry::HardLink(same)) => self.0.get(same),
                other => other,
            };
            match entry {
                Some(Entry::File(bytes)) => {
                    tree.file(&path, DATA, bytes.clone());
                    for (link, target) in links {
                        tree.symlink(&link, target);
                    }
                    return true;
                }
                Some(Entry::Symlink(target)) => {
                    let next = followed(&path, target);
                    links.push((std::mem::replace(&mut path, next), target));
                }
                Some(Entry::HardLink(_)) | None => return false,
            }
        }
        false
    }
}

/// The makers' terms ask that whoever passes the files on passes these on, too.
fn terms(
    firmware: &spec::Firmware,
    lock: &Lock,
    packing: Packing,
    stages: &Stages,
) -> Result<Kept> {
    let mut key = Key::of_pipeline();
    for name in firmware.all_packages() {
        key = key.with(&lock.get(name)?.sha256);
    }
    stages.archive("firmware-terms", &key, packing, || {
        let mut texts = Vec::new();
        for name in firmware.all_packages() {
            let path = copyright(name);
            texts.push((name, deb::file(&verified(lock.get(name)?)?, &path)?));
        }
        Ok(each_once(texts))
    })
}

fn copyright(package: &str) -> String {
    format!("usr/share/doc/{package}/copyright")
}

/// Packages that are made of one source say the same: the first has it, and the others a link.
fn each_once(texts: Vec<(&str, Vec<u8>)>) -> Tree {
    let mut tree = Tree::default();
    for (at, (name, text)) in texts.iter().enumerate() {
        match texts[..at].iter().find(|(_, other)| other == text) {
            Some((first, _)) => {
                tree.symlink(&copyright(name), &format!("../{first}/copyright"));
            }
            None => tree.file(&copyright(name), DATA, text.clone()),
        }
    }
    tree
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::tree;

    fn left_out(names: &[&str]) -> BTreeMap<String, String> {
        let names = names.iter();
        names.map(|&name| (name.into(), "why".into())).collect()
    }

    #[test]
    fn what_modules_ask_for_goes_in_but_what_is_left_out() {
        let files =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let (nic, card, none) = (files(&["n/2", "n/1"]), files(&["c/1", "n/1", "c/2"]), []);
        let modules = [
            ("nic".to_owned(), &nic[..]),
            ("card".to_owned(), &card[..]),
            ("quiet".to_owned(), &none[..]),
        ];
        let asked = |out: &[&str]| -> Result<Vec<(String, String)>> {
            let asked = asked_by(&modules, &left_out(out))?;
            assert!(asked.iter().all(|asked| asked.package.is_none()));
            Ok(asked.into_iter().map(|a| (a.file, a.module)).collect())
        };
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = |&(a, b): &(&str, &str)| (a.to_owned(), b.to_owned());
            pairs.iter().map(owned).collect()
        };
        // Of two that ask for one file the first is told.
        let all = [
            ("c/1", "card"),
            ("c/2", "card"),
            ("n/1", "nic"),
            ("n/2", "nic"),
        ];
        assert_eq!(asked(&[]).unwrap(), pairs(&all));
        assert_eq!(asked(&["card", "n/2"]).unwrap(), pairs(&all[2..3]));
        for unknown in ["quiet", "n/3", "other"] {
            let error = asked(&["nic", unknown]).unwrap_err().to_string();
            assert!(error.contains(&format!("names {unknown},")), "{error}");
        }
    }

    fn contents() -> Contents {
        let file = |bytes: &[u8]| Entry::File(bytes.to_vec());
        let link = |target: &str| Entry::Symlink(target.into());
        let entries = [
            ("a/x-1.bin", file(b"x")),
            ("a/x.bin", link("x-1.bin")),
            ("b/x", link("../a/./x.bin")),
            ("b/same", Entry::HardLink(format!("{FOLDER}a/x-1.bin"))),
            ("absolute", link("/usr/lib/firmware/a/x-1.bin")),
            ("nowhere", link("gone")),
            ("above", link("../../../../../a")),
            ("round", link("round")),
        ];
        let entries = entries.map(|(path, entry)| (format!("{FOLDER}{path}"), entry));
        Contents(entries.into())
    }

    fn placed(file: &str) -> Option<Vec<(String, tree::Entry)>> {
        let mut tree = Tree::default();
        let is_there = contents().place(file, &mut tree);
        let entries = tree.entries().filter_map(|(path, entry)| {
            let path = path.strip_prefix(FOLDER)?.to_owned();
            (*entry != tree::Entry::Folder).then(|| (path, entry.clone()))
        });
        let entries: Vec<_> = entries.collect();
        assert_eq!(entries.is_empty(), !is_there);
        is_there.then_some(entries)
    }

    #[test]
    fn a_file_comes_with_the_links_that_lead_to_it() {
        let file = |path: &str| {
            let bytes = b"x".to_vec();
            (path.to_owned(), tree::Entry::File { mode: DATA, bytes })
        };
        let link =
            |path: &str, target: &str| (path.to_owned(), tree::Entry::Symlink(target.to_owned()));
        let x = file("a/x-1.bin");
        assert_eq!(placed("a/x-1.bin").unwrap(), std::slice::from_ref(&x));
        let a_link = link("a/x.bin", "x-1.bin");
        assert_eq!(placed("a/x.bin").unwrap(), [x.clone(), a_link.clone()]);
        assert_eq!(
            placed("b/x").unwrap(),
            [x.clone(), a_link, link("b/x", "../a/./x.bin")]
        );
        assert_eq!(placed("b/same").unwrap(), [file("b/same")]);
        assert_eq!(
            placed("absolute").unwrap(),
            [x, link("absolute", "/usr/lib/firmware/a/x-1.bin")]
        );
        for none in ["a", "a/x", "nowhere", "above", "round"] {
            assert_eq!(placed(none), None, "{none}");
        }
    }

    #[test]
    fn terms_that_are_the_same_are_there_once() {
        let text = |text: &str| text.as_bytes().to_vec();
        let tree = each_once(vec![("a", text("1")), ("b", text("2")), ("c", text("1"))]);
        let entries: Vec<_> = tree
            .entries()
            .filter(|(path, _)| path.ends_with("copyright"))
            .collect();
        let file = |bytes: &[u8]| tree::Entry::File {
            mode: DATA,
            bytes: bytes.to_vec(),
        };
        assert_eq!(
            entries,
            [
                ("usr/share/doc/a/copyright", &file(b"1")),
                ("usr/share/doc/b/copyright", &file(b"2")),
                (
                    "usr/share/doc/c/copyright",
                    &tree::Entry::Symlink("../a/copyright".into())
                ),
            ]
        );
    }
}
