//! The parts of the root that no package brings: its merged folders, mount points, and `/etc`.

use anyhow::Result;

use super::spec::Spec;
use super::tree::{DATA, Tree};

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
    if let Some(grid) = &spec.grid {
        tree.file(
            "etc/loam/grid.toml",
            DATA,
            toml::to_string(grid)?.into_bytes(),
        );
    }
    if spec.allow_grid_override {
        tree.file("etc/loam/allow-grid-override", DATA, Vec::new());
    }
    Ok(tree)
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
                 guest = {{ package = 'g', init = 'i', modules = [] }}\n"
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
        let demo = paths(&spec("allow_grid_override = true"));
        assert!(demo.contains(&"etc/loam/allow-grid-override".to_owned()));
        let farm = paths(&spec(
            "allow_grid_override = false\ngrid = { chain_id = 1 }",
        ));
        assert!(farm.contains(&"etc/loam/grid.toml".to_owned()));
        assert!(!farm.contains(&"etc/loam/allow-grid-override".to_owned()));
    }
}
