//! What is fetched once and kept between builds and clones: Debian packages and host tools.

use std::path::PathBuf;

use anyhow::Result;

/// `$LOAM_CACHE`, else `$XDG_CACHE_HOME/loam`, else `~/.cache/loam`: where `loam-chain` looks too.
pub fn root() -> Result<PathBuf> {
    Ok(loam_chain::tool::cache()?)
}

/// Debian packages, each named after the SHA-256 of its bytes.
pub fn debs() -> Result<PathBuf> {
    Ok(root()?.join("debs"))
}

/// Host tools, one folder each, such as `anvil-1.7.1`.
pub fn tools() -> Result<PathBuf> {
    Ok(root()?.join("tools"))
}
