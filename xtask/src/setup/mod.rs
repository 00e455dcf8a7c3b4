//! `cargo xtask setup`: what this machine lacks, why it is needed, and its installation.

mod apt;
mod chrony;
mod docker_registry;
mod lease_servers;
mod nextest;
mod npm;
mod unpacked;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use chrony::CHRONY;
use docker_registry::DOCKER_REGISTRY;
use lease_servers::LEASE_SERVERS;

/// What something is needed for; who runs the tests needs all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    Demo,
    Tests,
}

/// Installs what is missing. Says so in one line when nothing is.
pub fn run(need: Need) -> Result<()> {
    ensure!(
        cfg!(all(target_os = "linux", target_arch = "x86_64")),
        "Loam is built on 64-bit x86 Linux, which is also what its nodes are"
    );
    let packages = apt::missing(need);
    let tools = npm::missing(need)?;
    let mut unpacked = vec![];
    if need == Need::Tests {
        if chrony::find()?.is_none() {
            unpacked.push(CHRONY);
        }
        if docker_registry::find()?.is_none() {
            unpacked.push(DOCKER_REGISTRY);
        }
        if LEASE_SERVERS.find()?.is_none() {
            unpacked.push(LEASE_SERVERS);
        }
    }
    if packages.is_empty() && tools.is_empty() && unpacked.is_empty() {
        println!("setup: everything is here");
        return Ok(());
    }
    for package in &packages {
        println!("setup: Debian package {:16} {}", package.name, package.why);
    }
    for tool in &tools {
        println!("setup: npm package    {:16} {}", tool.to_string(), tool.why);
    }
    for unpacked in &unpacked {
        let names = unpacked.packages.join(", ");
        println!("setup: {names}, unpacked: {}", unpacked.why);
    }
    apt::install(&packages)?;
    for unpacked in &unpacked {
        unpacked.install()?;
    }
    npm::install(&tools)
}

/// [`run`], and what runs the tests.
pub fn for_tests() -> Result<()> {
    run(Need::Tests)?;
    if nextest::find()?.is_none() {
        nextest::install()?;
    }
    Ok(())
}

/// Where `cargo-nextest` is.
pub fn nextest() -> Result<PathBuf> {
    nextest::find()?.context("cargo-nextest is missing: run `cargo xtask setup`")
}

/// Where `chronyd` is.
pub fn chronyd() -> Result<PathBuf> {
    chrony::find()?.context("chronyd is missing: run `cargo xtask setup`")
}

/// Where `docker-registry` is.
pub fn docker_registry() -> Result<PathBuf> {
    docker_registry::find()?.context("docker-registry is missing: run `cargo xtask setup`")
}

/// Where the DHCP servers of others are unpacked.
pub fn lease_servers() -> Result<PathBuf> {
    lease_servers::folder()
}
