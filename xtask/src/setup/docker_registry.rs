//! Debian's docker-registry, which loam-oci is tried against. Installed it would serve the machine's network.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::unpacked::Unpacked;
use crate::program::run;

pub const DOCKER_REGISTRY: Unpacked = Unpacked {
    folder: "docker-registry",
    packages: &["docker-registry"],
    why: "is the registry that images are fetched from in loam-oci's tests",
    check: |folder| run(Command::new(program(folder)).arg("--version")).map(drop),
};

pub fn find() -> Result<Option<PathBuf>> {
    Ok(DOCKER_REGISTRY.find()?.map(|folder| program(&folder)))
}

fn program(folder: &Path) -> PathBuf {
    folder.join("usr/bin/docker-registry")
}
