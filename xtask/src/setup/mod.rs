//! `cargo xtask setup`: what this machine lacks, why it is needed, and its installation.

mod apt;
mod nextest;
mod npm;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// Installs what is missing. Says so in one line when nothing is.
pub fn run() -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "Loam is built on 64-bit x86 Linux, which is also what its nodes are"
    );
    let packages = apt::missing();
    let tools = npm::missing()?;
    if packages.is_empty() && tools.is_empty() {
        println!("setup: everything is here");
        return Ok(());
    }
    for package in &packages {
        println!("setup: Debian package {:16} {}", package.name, package.why);
    }
    for tool in &tools {
        println!("setup: npm package    {:16} {}", tool.to_string(), tool.why);
    }
    apt::install(&packages)?;
    npm::install(&tools)
}

/// [`run`], and what only the tests need.
pub fn for_tests() -> Result<()> {
    run()?;
    if nextest::find()?.is_none() {
        nextest::install()?;
    }
    Ok(())
}

/// Where `cargo-nextest` is.
pub fn nextest() -> Result<PathBuf> {
    nextest::find()?.context("cargo-nextest is missing: run `cargo xtask setup`")
}
