//! Where this workspace is, and where its builds go.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The root of the workspace that this xtask was compiled from.
pub fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Cargo's target folder: `$CARGO_TARGET_DIR`, else `target/` of the workspace.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// The cargo that runs us, on this workspace, free of what the outer cargo put in our environment
/// for this package alone.
pub fn cargo() -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut cargo = Command::new(program);
    cargo.current_dir(root()).env("CARGO_TARGET_DIR", target());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        // Build scripts of dependencies watch some of these, and would rebuild for nothing.
        if name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(name);
        }
    }
    cargo
}
