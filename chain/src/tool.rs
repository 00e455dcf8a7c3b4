//! Where this machine keeps `anvil` and `solc`; `cargo xtask setup` puts them there.
//!
//! Both come from the npm registry and are installed with `npm install --prefix <folder>
//! <package>@<version>` into a folder of the tool cache (`$LOAM_CACHE`, else
//! `$XDG_CACHE_HOME/loam`, else `~/.cache/loam`):
//!
//! | tool | package | folder | what is looked for in it |
//! |---|---|---|---|
//! | `anvil` | [`ANVIL_PACKAGE`] | `tools/anvil-<version>` | `node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil` |
//! | `solc` | [`SOLC_PACKAGE`] | `tools/solc-<version>` | `node_modules/solc` |
//!
//! `solc` is pure JavaScript and needs `node` (Debian's package `nodejs`).

use std::{
    env,
    path::{Path, PathBuf},
};

pub const ANVIL_VERSION: &str = "1.7.1";
pub const ANVIL_PACKAGE: &str = "@foundry-rs/anvil-linux-amd64";
pub const SOLC_VERSION: &str = "0.8.37";
pub const SOLC_PACKAGE: &str = "solc";

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolError {
    #[error("{tool} {version} is not at {}; run `cargo xtask setup`", path.display())]
    Missing {
        tool: &'static str,
        version: &'static str,
        path: PathBuf,
    },
    #[error("neither LOAM_CACHE, XDG_CACHE_HOME nor HOME is set; set LOAM_CACHE to a folder")]
    NoCache,
}

/// The folder of everything that is downloaded or built once.
pub fn cache() -> Result<PathBuf, ToolError> {
    let folder = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("LOAM_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("loam")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/loam")))
        .ok_or(ToolError::NoCache)
}

/// Where `npm install --prefix` puts `anvil`.
pub fn anvil_prefix() -> Result<PathBuf, ToolError> {
    Ok(cache()?.join(format!("tools/anvil-{ANVIL_VERSION}")))
}

/// Where `npm install --prefix` puts `solc`.
pub fn solc_prefix() -> Result<PathBuf, ToolError> {
    Ok(cache()?.join(format!("tools/solc-{SOLC_VERSION}")))
}

/// The `anvil` binary.
pub fn anvil() -> Result<PathBuf, ToolError> {
    let binary = Path::new("node_modules")
        .join(ANVIL_PACKAGE)
        .join("bin/anvil");
    present("anvil", ANVIL_VERSION, anvil_prefix()?.join(binary))
}

/// The `solc` package, for `contracts/compile.js`.
pub fn solc() -> Result<PathBuf, ToolError> {
    let package = Path::new("node_modules").join(SOLC_PACKAGE);
    present("solc", SOLC_VERSION, solc_prefix()?.join(package))
}

fn present(tool: &'static str, version: &'static str, path: PathBuf) -> Result<PathBuf, ToolError> {
    if path.exists() {
        return Ok(path);
    }
    Err(ToolError::Missing {
        tool,
        version,
        path,
    })
}
