//! Which grid an image made for tests joins, and whom it asks for the time: QEMU's `fw_cfg` may say.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::{Context, ensure};
use loam_node_api::path::{GRID, TIME};

use loam_init::module::Loader;

use crate::coldplug::load_named;

/// Only an image that was made so has it. A signed release has not: there the grid is fixed.
const ALLOWED: &str = "/etc/loam/allow-grid-override";
/// What QEMU may hand in, and in whose place.
const OVERRIDES: [(&str, &str); 2] = [("grid.toml", GRID), ("time.toml", TIME)];
const HANDED_IN: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/loam";
const MAX_SIZE: u64 = 64 << 10;

/// Whether this is an image for developers.
pub fn may_be_overridden() -> bool {
    Path::new(ALLOWED).exists()
}

/// Takes what QEMU hands in, if this image allows it and there is something. To be called while the
/// root can still be written.
pub fn take_overrides(modules: Option<&Loader>) -> anyhow::Result<()> {
    if !may_be_overridden() {
        return Ok(());
    }
    if let Some(modules) = modules {
        load_named(modules, "qemu_fw_cfg");
    }
    for (name, place) in OVERRIDES {
        let handed_in = Path::new(HANDED_IN).join(name).join("raw");
        take(&handed_in, Path::new(place)).with_context(|| format!("the {name} of QEMU"))?;
    }
    Ok(())
}

fn take(handed_in: &Path, place: &Path) -> anyhow::Result<()> {
    let file = match File::open(handed_in) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        file => file.context("opening it")?,
    };
    let mut text = String::new();
    let read = file
        .take(MAX_SIZE + 1)
        .read_to_string(&mut text)
        .context("reading it")?;
    ensure!(read as u64 <= MAX_SIZE, "it is above {MAX_SIZE} bytes");
    fs::write(place, text).with_context(|| format!("writing {}", place.display()))?;
    tracing::info!(place = %place.display(), "taken from QEMU");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_in_replaces_the_image_s_own() {
        let folder = tempfile::tempdir().unwrap();
        let [raw, place] = ["raw", "grid.toml"].map(|name| folder.path().join(name));
        fs::write(&place, "own").unwrap();
        take(&raw, &place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "own");
        fs::write(&raw, "other").unwrap();
        take(&raw, &place).unwrap();
        assert_eq!(fs::read_to_string(&place).unwrap(), "other");
        fs::write(&raw, vec![b' '; MAX_SIZE as usize + 1]).unwrap();
        take(&raw, &place).unwrap_err();
        assert_eq!(fs::read_to_string(&place).unwrap(), "other");
    }
}
