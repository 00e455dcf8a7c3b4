//! [`ModuleIndex`]: what depmod wrote about a kernel's modules.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use super::glob;

/// The modules of one kernel release: files, dependencies, and the names that devices and the
/// kernel itself ask for.
///
/// Module names are held with `_`; the kernel and its files use `-` and `_` for the same name.
#[derive(Clone, Debug, Default)]
pub struct ModuleIndex {
    modules: HashMap<String, Module>,
    /// By what stands before the first `:` of the pattern (the bus), so that a device is compared
    /// with the patterns of its own bus only. Patterns without a bus are under the empty name.
    aliases: HashMap<String, Vec<Alias>>,
}

#[derive(Clone, Debug)]
struct Module {
    file: PathBuf,
    needs: Vec<String>,
}

#[derive(Clone, Debug)]
struct Alias {
    pattern: String,
    module: String,
}

impl ModuleIndex {
    /// Reads `modules.dep` and `modules.alias` in `folder` (`/usr/lib/modules/<release>`).
    pub fn read(folder: &Path) -> io::Result<Self> {
        let text = |name: &str| std::fs::read_to_string(folder.join(name));
        Ok(Self::parse(
            folder,
            &text("modules.dep")?,
            &text("modules.alias")?,
        ))
    }

    /// Both texts as depmod(8) writes them. Lines that say nothing we know are passed over.
    pub fn parse(folder: &Path, dependencies: &str, aliases: &str) -> Self {
        let mut index = Self::default();
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else {
                continue;
            };
            let module = Module {
                file: folder.join(file),
                needs: needs.split_whitespace().map(name_of_file).collect(),
            };
            index.modules.insert(name_of_file(file), module);
        }
        for line in aliases.lines() {
            let mut words = line.split_whitespace();
            if let (Some("alias"), Some(pattern), Some(module)) =
                (words.next(), words.next(), words.next())
            {
                let alias = Alias {
                    pattern: pattern.to_owned(),
                    module: normal(module),
                };
                index
                    .aliases
                    .entry(bus(pattern).to_owned())
                    .or_default()
                    .push(alias);
            }
        }
        index
    }

    /// The modules that `asked` stands for: itself if it is a module's name, else those with a
    /// matching alias. `asked` is a device's modalias or what the kernel requests (`fs-btrfs`).
    pub fn resolve(&self, asked: &str) -> Vec<String> {
        let name = normal(asked);
        if self.modules.contains_key(&name) {
            return vec![name];
        }
        let mut found = Vec::new();
        // An asked name with a bus can match patterns without one (`*`), not the other way round.
        let buses = if bus(asked).is_empty() {
            vec![""]
        } else {
            vec![bus(asked), ""]
        };
        for alias in buses
            .into_iter()
            .filter_map(|bus| self.aliases.get(bus))
            .flatten()
        {
            if !found.contains(&alias.module) && glob::matches(&alias.pattern, asked) {
                found.push(alias.module.clone());
            }
        }
        found
    }

    /// The files to load for a module, what it needs first and itself last; none if there is no
    /// such module.
    pub fn load_order(&self, name: &str) -> Option<Vec<(String, PathBuf)>> {
        let mut order = Vec::new();
        let mut seen = Vec::new();
        self.visit(&normal(name), &mut seen, &mut order)?;
        Some(order)
    }

    pub fn len(&self) -> usize {
        self.modules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }

    fn visit(
        &self,
        name: &str,
        seen: &mut Vec<String>,
        order: &mut Vec<(String, PathBuf)>,
    ) -> Option<()> {
        if seen.iter().any(|s| s == name) {
            return Some(());
        }
        seen.push(name.to_owned());
        let module = self.modules.get(name)?;
        for need in &module.needs {
            // A dependency that the image lacks makes the load fail with the symbol's name, which
            // says more than "no such module" would.
            let _ = self.visit(need, seen, order);
        }
        order.push((name.to_owned(), module.file.clone()));
        Some(())
    }
}

/// `kernel/arch/x86/kvm/kvm-amd.ko` (or `.ko.xz`) is `kvm_amd`.
fn name_of_file(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    normal(base.split(".ko").next().unwrap_or(base))
}

fn normal(name: &str) -> String {
    name.replace('-', "_")
}

fn bus(pattern: &str) -> &str {
    match pattern.split_once(':') {
        Some((bus, _)) if !bus.contains(['*', '?', '[']) => bus,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "\
kernel/virt/lib/irqbypass.ko:
kernel/arch/x86/kvm/kvm.ko: kernel/virt/lib/irqbypass.ko
kernel/arch/x86/kvm/kvm-amd.ko: kernel/arch/x86/kvm/kvm.ko kernel/drivers/crypto/ccp/ccp.ko kernel/virt/lib/irqbypass.ko
kernel/drivers/net/virtio_net.ko: kernel/net/core/failover.ko
kernel/net/core/failover.ko:
kernel/fs/btrfs/btrfs.ko: kernel/lib/raid6_pq.ko
a.ko: b.ko
b.ko: a.ko
";
    const ALIAS: &str = "\
# Aliases extracted from modules themselves.
alias virtio:d00000001v* virtio_net
alias cpu:type:x86,ven*fam*mod*:feature:*00C2* kvm_amd
alias cpu:type:x86,ven*fam*mod*:feature:*0085* kvm_intel
alias fs-btrfs btrfs
alias devname:btrfs-control btrfs
alias char-major-10-234 btrfs
alias crypto-aes-* aes_generic
alias crypto-aes-*generic aes_generic
broken
";

    fn index() -> ModuleIndex {
        ModuleIndex::parse(Path::new("/m"), DEP, ALIAS)
    }

    fn order(name: &str) -> Vec<String> {
        index()
            .load_order(name)
            .into_iter()
            .flatten()
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn dependencies_come_first_and_once() {
        assert_eq!(order("kvm_amd"), ["irqbypass", "kvm", "kvm_amd"]);
        assert_eq!(order("kvm-amd"), order("kvm_amd"));
        assert_eq!(order("irqbypass"), ["irqbypass"]);
        assert_eq!(index().load_order("nothing"), None);
    }

    #[test]
    fn a_circle_ends() {
        assert_eq!(order("a"), ["b", "a"]);
    }

    #[test]
    fn files_are_below_the_folder() {
        let files = index().load_order("virtio_net").unwrap();
        assert_eq!(files[1].1, Path::new("/m/kernel/drivers/net/virtio_net.ko"));
    }

    #[test]
    fn devices_and_the_kernel_find_their_modules() {
        let found = |asked: &str| index().resolve(asked);
        assert_eq!(found("virtio:d00000001v00001AF4"), ["virtio_net"]);
        assert_eq!(
            found("cpu:type:x86,ven0002fam0019mod0001:feature:,0000,00C2"),
            ["kvm_amd"]
        );
        assert_eq!(found("fs-btrfs"), ["btrfs"]);
        assert_eq!(found("kvm-amd"), ["kvm_amd"]);
        assert_eq!(found("crypto-aes-generic"), ["aes_generic"]);
        assert!(found("pci:v00001AF4").is_empty());
    }
}
