//! What distributions and container engines set in the kernel, whose own defaults are older.

use std::{fs, path::Path};

const SETTINGS: [(&str, &str); 5] = [
    // Low ports and ping without being root, as in containers: the whole network belongs to the
    // machine, so there is nobody to protect from it.
    ("net/ipv4/ip_unprivileged_port_start", "0"),
    ("net/ipv4/ping_group_range", "0 2147483647"),
    // As systemd sets them on nearly every host, so that containers have them too.
    ("fs/protected_hardlinks", "1"),
    ("fs/protected_symlinks", "1"),
    // The kernel's 65,530 is too few for databases and search engines, which refuse to start.
    ("vm/max_map_count", "1048576"),
];

/// `sysctls` is `/proc/sys`.
pub fn apply(sysctls: &Path) {
    for (name, value) in SETTINGS {
        // Convenience only; a kernel without the setting is no reason to fail.
        let _ = fs::write(sysctls.join(name), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_them_all_and_they_are_set() {
        let sysctls = tempfile::tempdir().unwrap();
        for (name, _) in SETTINGS {
            assert!(Path::new("/proc/sys").join(name).exists(), "{name}");
            let file = sysctls.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
        apply(sysctls.path());
        for (name, value) in SETTINGS {
            let found = fs::read_to_string(sysctls.path().join(name)).unwrap();
            assert_eq!(found, value);
        }
    }
}
