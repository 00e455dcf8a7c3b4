//! The kernel modules of the guest, as lists in its initramfs: one absolute path a line, in load
//! order.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use loam_init::module::load_file;
use loam_node_api::guest::GuestMount;

/// What every machine needs.
const ALWAYS: &str = "/loam/modules";

/// Loads what every machine needs, and what the filesystems of this one's volumes need.
///
/// The latter are in lists of their own (`/loam/modules.btrfs`), since few machines need them and
/// they are large. A filesystem without a list is built into the kernel.
pub fn load_all(mounts: &[GuestMount]) -> Result<()> {
    load_list(Path::new(ALWAYS)).with_context(|| format!("loading the modules of {ALWAYS}"))?;
    let filesystems: BTreeSet<_> = mounts.iter().flat_map(|mount| &mount.filesystem).collect();
    for filesystem in filesystems {
        let list = format!("{ALWAYS}.{filesystem}");
        // A filesystem's name comes from outside, and must not lead elsewhere.
        if filesystem.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            load_list(Path::new(&list))
                .with_context(|| format!("loading the modules of {list}"))?;
        }
    }
    Ok(())
}

fn load_list(list: &Path) -> Result<()> {
    let text = match fs::read_to_string(list) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("reading the list"),
    };
    for module in paths(&text) {
        load_file(&module, "").with_context(|| format!("loading {}", module.display()))?;
    }
    Ok(())
}

fn paths(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_one_path_a_line() {
        let found: Vec<_> = paths("/a.ko\n\n  /b c.ko \n").collect();
        assert_eq!(found, [Path::new("/a.ko"), Path::new("/b c.ko")]);
    }

    #[test]
    fn a_list_may_be_absent_but_not_a_module() {
        load_list(Path::new("/nonexistent/list")).unwrap();
        let list = tempfile::NamedTempFile::new().unwrap();
        fs::write(list.path(), "/nonexistent/x.ko\n").unwrap();
        let error = load_list(list.path()).unwrap_err();
        assert!(
            format!("{error:#}").starts_with("loading /nonexistent/x.ko: "),
            "{error:#}"
        );
    }
}
