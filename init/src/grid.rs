//! Which grid an image made for tests joins: QEMU's `fw_cfg` may say.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::{Context, ensure};
use loam_node_api::path::GRID;

use crate::coldplug::Coldplug;

/// Only an image that was made so has it. A signed release has not: there the grid is fixed.
const ALLOWED: &str = "/etc/loam/allow-grid-override";
const OVERRIDE: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/loam/grid.toml/raw";
const MAX_SIZE: u64 = 64 << 10;

/// Whether this is an image for developers.
pub fn may_be_overridden() -> bool {
    Path::new(ALLOWED).exists()
}

/// Takes the grid that QEMU hands in, if this image allows it and there is one. To be called while
/// the root can still be written.
pub fn take_override(modules: Option<&mut Coldplug>) -> anyhow::Result<()> {
    if !may_be_overridden() {
        return Ok(());
    }
    if let Some(modules) = modules {
        modules.load_named("qemu_fw_cfg");
    }
    let file = match File::open(OVERRIDE) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            tracing::info!("QEMU names no grid; using the image's own");
            return Ok(());
        }
        file => file.context("opening the grid that QEMU names")?,
    };
    let mut text = String::new();
    let read = file.take(MAX_SIZE + 1).read_to_string(&mut text);
    let read = read.context("reading the grid that QEMU names")?;
    ensure!(
        read as u64 <= MAX_SIZE,
        "the grid that QEMU names is above {MAX_SIZE} bytes"
    );
    fs::write(GRID, text).with_context(|| format!("writing {GRID}"))?;
    tracing::info!("joining the grid that QEMU names");
    Ok(())
}
