//! Out of a kernel package: the kernel itself, and the chosen modules as kmod's text files
//! describe them.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::module::{Catalog, canonical};
use super::spec;
use super::tree::{DATA, Tree};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::Locked;

/// The kernel's release, such as `6.12.107+deb13-amd64`: what its package is named after.
pub fn release(package: &Locked) -> Result<&str> {
    package.name.strip_prefix("linux-image-").with_context(|| {
        format!(
            "{} is no kernel: its name does not start with linux-image-",
            package.name
        )
    })
}

/// The bzImage.
pub fn image(deb: &Path, release: &str) -> Result<Vec<u8>> {
    deb::file(deb, &format!("boot/vmlinuz-{release}"))
}

/// Every module of the package.
pub fn catalog(deb: &Path, release: &str) -> Result<Catalog> {
    let folder = format!("usr/lib/modules/{release}/");
    let mut catalog = Catalog::default();
    let mut builtin_known = false;
    let mut modules = Vec::new();
    deb::read(
        deb,
        |file| file.starts_with(&folder),
        |path, entry| {
            let Entry::File(bytes) = entry else {
                return Ok(());
            };
            let path = path.strip_prefix(&folder).unwrap_or(&path);
            if path == "modules.builtin.modinfo" {
                catalog.add_builtin(&bytes);
                builtin_known = true;
            } else if path.ends_with(".ko.xz") {
                modules.push((path.to_owned(), bytes));
            }
            Ok(())
        },
    )?;
    ensure!(
        builtin_known,
        "no modules.builtin.modinfo in {}",
        deb.display()
    );
    catalog.add(modules)?;
    Ok(catalog)
}

/// The node's modules under `/usr/lib/modules/<release>`, with `modules.dep` and `modules.alias`,
/// and `/etc/loam/modules`: the names that init loads at boot, each behind that of its group.
pub fn node_modules(catalog: &Catalog, release: &str, kernel: &spec::Kernel) -> Result<Tree> {
    let mut tree = Tree::default();
    let folder = format!("usr/lib/modules/{release}");
    let mut dependencies = String::new();
    let mut aliases = String::new();
    for name in catalog.in_load_order(&kernel.wanted())? {
        let module = catalog
            .get(&name)
            .context("an ordered module is in the catalog")?;
        // As Debian has it: it is smaller in the node's memory, and its hash is known to everybody.
        let xz = module.xz.clone();
        tree.file(&format!("{folder}/{}", module.path), DATA, xz);

        // As depmod writes it: everything the module needs, to be loaded from the last to the
        // first.
        let mut order = catalog.in_load_order(std::slice::from_ref(&name))?;
        order.pop();
        write!(dependencies, "{}:", module.path)?;
        for need in order.iter().rev() {
            let need = catalog
                .get(need)
                .context("an ordered module is in the catalog")?;
            write!(dependencies, " {}", need.path)?;
        }
        dependencies.push('\n');
        for alias in &module.aliases {
            writeln!(aliases, "alias {alias} {name}")?;
        }
    }
    let mut load = String::new();
    for (group, names) in kernel.load.groups() {
        for name in names.iter().filter(|name| !catalog.is_builtin(name)) {
            writeln!(load, "{group} {}", canonical(name))?;
        }
    }
    tree.file(
        &format!("{folder}/modules.dep"),
        DATA,
        dependencies.into_bytes(),
    );
    tree.file(
        &format!("{folder}/modules.alias"),
        DATA,
        aliases.into_bytes(),
    );
    tree.file("etc/loam/modules", DATA, load.into_bytes());
    Ok(tree)
}

/// The modules of a stock kernel in a guest, and `/loam/modules`: their absolute paths in the order to load them, so that
/// its init needs to know nothing of dependencies.
pub fn guest_modules(catalog: &Catalog, release: &str, guest: &spec::DebianGuest) -> Result<Tree> {
    let mut tree = Tree::default();
    let always = std::iter::once(("loam/modules".to_owned(), &guest.modules));
    let some = guest
        .filesystems
        .iter()
        .map(|(filesystem, names)| (format!("loam/modules.{filesystem}"), names));
    for (file, names) in always.chain(some) {
        let mut list = String::new();
        for name in catalog.in_load_order(names)? {
            let module = catalog
                .get(&name)
                .context("an ordered module is in the catalog")?;
            let (path, elf) = module.plain()?;
            let path = format!("usr/lib/modules/{release}/{path}");
            writeln!(list, "/{path}")?;
            tree.file(&path, DATA, elf);
        }
        tree.file(&file, DATA, list.into_bytes());
    }
    Ok(tree)
}
