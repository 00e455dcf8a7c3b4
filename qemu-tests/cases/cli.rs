//! The real command line, as a tenant's.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::{Context, ensure};
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{folder, grid::Grid, node::Node};

/// `loam` with a configuration, keys and a twin of its own.
pub struct Cli {
    program: PathBuf,
    /// In a folder of its own among the case's.
    config: PathBuf,
    image: String,
}

impl Cli {
    /// With a new key, registered on the grid's chain.
    pub fn register(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<Self> {
        let program = std::env::var_os("LOAM_CLI")
            .context("LOAM_CLI does not name `loam`; run `cargo xtask test`")?;
        // Keys come to lie beside it.
        let config = folder::new("cli")?.join("config.toml");
        let tenant_port = node.forward(TENANT_PORT)?;
        let text = toml::to_string(&grid.config())?;
        let key = node.record()?.key;
        fs::write(
            &config,
            format!("{text}\n[nodes]\n{key} = \"{tenant_port}\"\n"),
        )?;
        let cli = Self {
            program: program.into(),
            config,
            image: grid.hello_reference(),
        };
        cli.run(&["key", "new"])?;
        cli.run(&["key", "register"])?;
        Ok(cli)
    }

    /// What it prints; an error if it fails.
    pub fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        Ok(self.run_told(arguments)?.0)
    }

    /// The same, with what it tells meanwhile.
    pub fn run_told(&self, arguments: &[&str]) -> anyhow::Result<(String, String)> {
        let Output {
            status,
            stdout,
            stderr,
        } = Command::new(&self.program)
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .env("HELLO_IMAGE", &self.image)
            .env("TOKEN", "hunter2")
            .output()?;
        let stderr = String::from_utf8_lossy(&stderr);
        ensure!(status.success(), "loam {}: {stderr}", arguments.join(" "));
        Ok((String::from_utf8(stdout)?, stderr.into_owned()))
    }
}
