//! Makes an image's file of layers, as storaged does, for tests in which machines boot without a node.
//!
//! `pack_image TARGET LAYER...`, the lowest layer first.

use std::{env, path::PathBuf};

use anyhow::{Context as _, bail};
use loam_storaged::image::pack::pack;

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let Some(target) = arguments.next() else {
        bail!("usage: pack_image TARGET LAYER...");
    };
    let layers: Vec<PathBuf> = arguments.collect();
    pack(&layers, &target).with_context(|| format!("make {}", target.display()))
}
