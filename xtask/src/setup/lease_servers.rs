//! The DHCP servers and the router daemon of others that netd's uplink is tried against. Each starts with
//! the machine where it is installed, and a second DHCP server on somebody's network would be noticed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::unpacked::Unpacked;
use crate::program::run;

pub const LEASE_SERVERS: Unpacked = Unpacked {
    folder: "lease-servers",
    packages: &[
        "isc-dhcp-server",
        "kea-common",
        "kea-dhcp4-server",
        "kea-dhcp6-server",
        "radvd",
    ],
    why: "are DHCP servers and router in netd's tests",
    check: run_here,
};

/// Where they are unpacked.
pub fn folder() -> Result<PathBuf> {
    LEASE_SERVERS
        .find()?
        .context("DHCP servers for netd's tests are missing: run `cargo xtask setup`")
}

fn run_here(folder: &Path) -> Result<()> {
    // kea's libraries are beside it.
    let libraries = folder.join("usr/lib/x86_64-linux-gnu");
    // Told its version, radvd ends with an error.
    let example = folder.join("usr/share/doc/radvd/examples/simple-radvd.conf");
    let radvd_reads = format!("--config={}", example.display());
    let words: [(&str, &[&str]); 4] = [
        ("dhcpd", &["--version"]),
        ("kea-dhcp4", &["-v"]),
        ("kea-dhcp6", &["-v"]),
        ("radvd", &["--configtest", &radvd_reads]),
    ];
    for (program, arguments) in words {
        run(Command::new(folder.join("usr/sbin").join(program))
            .args(arguments)
            .env("LD_LIBRARY_PATH", &libraries))?;
    }
    Ok(())
}
