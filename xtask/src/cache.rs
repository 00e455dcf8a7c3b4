//! What is fetched once and kept between builds and clones: Debian packages and host tools.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// `$LOAM_CACHE`, else `$XDG_CACHE_HOME/loam`, else `~/.cache/loam`.
pub fn root() -> Result<PathBuf> {
    if let Some(explicit) = non_empty("LOAM_CACHE") {
        return Ok(explicit);
    }
    if let Some(xdg) = non_empty("XDG_CACHE_HOME") {
        return Ok(xdg.join("loam"));
    }
    let home = non_empty("HOME")
        .context("neither LOAM_CACHE, XDG_CACHE_HOME nor HOME is set, so there is no place for downloads; set LOAM_CACHE to a folder")?;
    Ok(home.join(".cache/loam"))
}

/// Debian packages, each named after the SHA-256 of its bytes.
pub fn debs() -> Result<PathBuf> {
    Ok(root()?.join("debs"))
}

/// Host tools, one folder each, such as `anvil-1.7.1`.
pub fn tools() -> Result<PathBuf> {
    Ok(root()?.join("tools"))
}

fn non_empty(variable: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}
