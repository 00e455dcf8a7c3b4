//! `cargo-nextest`, which runs the tests: the machine's own, or one that cargo builds into the cache.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::cache;

const PROGRAM: &str = "cargo-nextest";

/// What is built where the machine has none. What is needed at least is in `.config/nextest.toml`,
/// and nextest itself checks it.
const VERSION: &str = "0.9.143";

/// Where it is.
pub fn find() -> Result<Option<PathBuf>> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own = prefix()?.join("bin");
    Ok(env::split_paths(&path)
        .chain([own])
        .map(|folder| folder.join(PROGRAM))
        .find(|file| file.is_file()))
}

/// Builds it, which takes minutes, and is kept for other clones.
pub fn install() -> Result<()> {
    println!("setup: {PROGRAM} {VERSION}, which runs the tests, is built once; this takes minutes");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(cargo);
    // Not in our workspace, whose settings and target folder are not meant for it.
    cargo
        .current_dir(Path::new("/"))
        .args(["install", PROGRAM, "--locked", "--version", VERSION])
        .arg("--root")
        .arg(std::path::absolute(prefix()?)?);
    let status = cargo.status().context("running cargo install")?;
    ensure!(
        status.success(),
        "cargo install {PROGRAM} ended with {status}"
    );
    Ok(())
}

fn prefix() -> Result<PathBuf> {
    Ok(cache::tools()?.join(format!("nextest-{VERSION}")))
}
