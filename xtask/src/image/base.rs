//! The parts of the root that no package brings: its merged folders, mount points, and `/etc`.

use anyhow::Result;

use super::spec::Spec;
use super::tree::{DATA, Tree};
use super::version;
use crate::workspace;

/// Mount points and folders that init and the daemons expect.
const FOLDERS: [&str; 8] = [
    "dev", "proc", "sys", "run", "tmp", "pools", "var", "etc/loam",
];

/// Links, and where each leads: a merged `/usr`. Debian's programs name their loader
/// /lib64/ld-linux-x86-64.so.2.
pub const LINKS: [(&str, &str); 5] = [
    ("bin", "usr/bin"),
    ("sbin", "usr/bin"),
    ("lib", "usr/lib"),
    ("lib64", "usr/lib64"),
    ("usr/sbin", "usr/bin"),
];

pub fn tree(spec: &Spec, version: &str) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in FOLDERS {
        tree.folder(folder);
    }
    for (link, target) in LINKS {
        tree.folder(target);
        // Relative, so that it leads there below any root.
        let beside = link.rsplit_once('/').map_or("", |(folder, _)| folder);
        let target = target.strip_prefix(beside).unwrap_or(target);
        tree.symlink(link, target.trim_start_matches('/'));
    }
    // The node learns its name servers by DHCP; netd writes them down.
    tree.symlink("etc/resolv.conf", "/run/loam/netd/resolv.conf");
    tree.file("etc/os-release", DATA, os_release(version).into_bytes());
    if let Some(grid) = &spec.grid {
        let text = toml::to_string(grid)?.into_bytes();
        tree.file("etc/loam/grid.toml", DATA, text);
    }
    if let Some(mirrors) = &spec.mirrors {
        let text = toml::to_string(mirrors)?.into_bytes();
        tree.file("etc/loam/mirrors.toml", DATA, text);
    }
    let mut time = spec.time.clone().unwrap_or_default();
    time.insert(
        "built".to_owned(),
        version::built(&workspace::root()).into(),
    );
    let time = toml::to_string(&time)?;
    tree.file("etc/loam/time.toml", DATA, time.into_bytes());
    if spec.allow_grid_override {
        tree.file("etc/loam/allow-grid-override", DATA, Vec::new());
    }
    Ok(tree)
}

/// os-release(5); the UKI carries the same text, which boot menus show.
pub fn os_release(version: &str) -> String {
    let number = env!("CARGO_PKG_VERSION");
    format!(
        "ID=loam\nNAME=Loam\nVERSION_ID={number}\nBUILD_ID={version}\nPRETTY_NAME=\"Loam {version}\"\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_which_grid() {
        let spec = |head: &str| -> Spec {
            toml::from_str(&format!(
                "{head}\nsuite = 't'\ncommand_line = ''\nours = []\ndebian = []\n\
                 stub = {{ package = 's', file = 'f' }}\n\
                 bios.grub = {{ package = 'g', folder = '/g' }}\n\
                 bios.mkimage = {{ package = 'm', file = '/m' }}\n\
                 bios.ipxe = {{ package = 'i', file = '/i' }}\n\
                 kernel = {{ package = 'k', load = {{ networks = [], pools = [], machines = [] }}, modules = [] }}\n\
                 guest = {{ source = 'g', config = 'c', init = 'i', debian = {{ package = 'd', modules = [] }} }}\n"
            ))
            .unwrap()
        };
        let paths = |spec: &Spec| -> Vec<String> {
            tree(spec, "1+g0")
                .unwrap()
                .entries()
                .map(|(path, _)| path.to_owned())
                .collect()
        };
        let times = spec("allow_grid_override = true\ntime = { nts = ['time.example'] }");
        let time = tree(&times, "1+g0").unwrap();
        let time = time
            .entries()
            .find_map(|(path, entry)| (path == "etc/loam/time.toml").then(|| format!("{entry:?}")));
        assert!(time.is_some());
        let demo = paths(&spec("allow_grid_override = true"));
        assert!(demo.contains(&"etc/loam/allow-grid-override".to_owned()));
        let farm = paths(&spec(
            "allow_grid_override = false\n\
             grid = { chain_id = 1, contract = '0x0000000000000000000000000000000000000001', endpoints = [] }\n\
             mirrors = { 'docker.io' = ['mirror.example'] }",
        ));
        assert!(farm.contains(&"etc/loam/mirrors.toml".to_owned()));
        assert!(!demo.contains(&"etc/loam/mirrors.toml".to_owned()));
        assert!(farm.contains(&"etc/loam/grid.toml".to_owned()));
        assert!(!farm.contains(&"etc/loam/allow-grid-override".to_owned()));
    }
}
