//! The parts of the root that no package brings: its merged folders, mount points, and `/etc`.

use std::process::Command;

use anyhow::Result;

use super::spec::Spec;
use super::tree::{DATA, Tree};
use crate::workspace;

/// Mount points and folders that init and the daemons expect.
const FOLDERS: [&str; 8] = [
    "dev", "proc", "sys", "run", "tmp", "pools", "var", "etc/loam",
];

pub fn tree(spec: &Spec) -> Result<Tree> {
    let mut tree = Tree::default();
    for folder in FOLDERS {
        tree.folder(folder);
    }
    // Debian's programs name their loader /lib64/ld-linux-x86-64.so.2.
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.symlink(name, &format!("usr/{name}"));
    }
    for folder in ["usr/bin", "usr/lib", "usr/lib64"] {
        tree.folder(folder);
    }
    tree.symlink("usr/sbin", "bin");
    // The node learns its name servers by DHCP; netd writes them down.
    tree.symlink("etc/resolv.conf", "/run/loam/netd/resolv.conf");
    tree.file("etc/os-release", DATA, os_release().into_bytes());
    for (name, table) in [("grid", &spec.grid), ("mirrors", &spec.mirrors)] {
        if let Some(table) = table {
            let text = toml::to_string(table)?.into_bytes();
            tree.file(&format!("etc/loam/{name}.toml"), DATA, text);
        }
    }
    let mut time = spec.time.clone().unwrap_or_default();
    time.insert("built".to_owned(), built().into());
    let time = toml::to_string(&time)?;
    tree.file("etc/loam/time.toml", DATA, time.into_bytes());
    if spec.allow_grid_override {
        tree.file("etc/loam/allow-grid-override", DATA, Vec::new());
    }
    Ok(tree)
}

/// The day on which what is built was committed, in seconds since 1970: a moment that has passed
/// before any node runs it, and the same for everybody who builds it. 0 outside a repository.
pub fn built() -> i64 {
    const DAY: i64 = 24 * 3600;
    let git = Command::new("git")
        .args(["log", "-1", "--format=%ct"])
        .current_dir(workspace::root())
        .output();
    git.ok()
        .and_then(|output| String::from_utf8(output.stdout).ok())
        .and_then(|text| text.trim().parse().ok())
        .map_or(0, |committed: i64| committed - committed % DAY)
}

/// os-release(5); the UKI carries the same text, which boot menus show.
pub fn os_release() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!("ID=loam\nNAME=Loam\nVERSION_ID={version}\nPRETTY_NAME=\"Loam {version}\"\n")
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
                 kernel = {{ package = 'k', load = [], modules = [] }}\n\
                 guest = {{ source = 'g', config = 'c', init = 'i', debian = {{ package = 'd', modules = [] }} }}\n"
            ))
            .unwrap()
        };
        let paths = |spec: &Spec| -> Vec<String> {
            tree(spec)
                .unwrap()
                .entries()
                .map(|(path, _)| path.to_owned())
                .collect()
        };
        let times = spec("allow_grid_override = true\ntime = { nts = ['time.example'] }");
        let time = tree(&times).unwrap();
        let time = time
            .entries()
            .find_map(|(path, entry)| (path == "etc/loam/time.toml").then(|| format!("{entry:?}")));
        assert!(time.is_some());
        let demo = paths(&spec("allow_grid_override = true"));
        assert!(demo.contains(&"etc/loam/allow-grid-override".to_owned()));
        let farm = paths(&spec(
            "allow_grid_override = false\ngrid = { chain_id = 1 }\n\
             mirrors = { 'docker.io' = ['mirror.example'] }",
        ));
        assert!(farm.contains(&"etc/loam/mirrors.toml".to_owned()));
        assert!(!demo.contains(&"etc/loam/mirrors.toml".to_owned()));
        assert!(farm.contains(&"etc/loam/grid.toml".to_owned()));
        assert!(!farm.contains(&"etc/loam/allow-grid-override".to_owned()));
    }
}
