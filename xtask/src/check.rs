//! `cargo xtask test`: everything that must hold before a change lands.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{image, setup, workspace};

/// A step, which `cargo xtask test --only KEY` runs alone.
struct Step {
    key: &'static str,
    name: &'static str,
    run: fn() -> Result<()>,
}

const STEPS: [Step; 5] = [
    Step {
        key: "format",
        name: "format",
        run: || cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        key: "lints",
        name: "lints",
        run: || {
            cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ])
        },
    },
    Step {
        key: "unit",
        name: "unit tests",
        run: || cargo(&["test", "--workspace", "--exclude", "qemu-tests", "--locked"]),
    },
    Step {
        key: "image",
        name: "image",
        run: || {
            let image = image::build()?;
            println!("{}", image::sizes::table(&image.parts));
            Ok(())
        },
    },
    Step {
        key: "qemu",
        name: "tests in QEMU",
        run: qemu_tests,
    },
];

/// The names of the steps, in the order they run.
pub const KEYS: [&str; 5] = ["format", "lints", "unit", "image", "qemu"];

/// Runs every step in turn, or only the one called `only`, and stops at the first that fails.
pub fn run(only: Option<&str>) -> Result<()> {
    setup::run()?;
    let mut times = Vec::new();
    for step in STEPS
        .iter()
        .filter(|step| only.is_none_or(|only| only == step.key))
    {
        eprintln!("── {}", step.name);
        let started = Instant::now();
        let result = (step.run)();
        let took = started.elapsed();
        times.push((step.name, took));
        if let Err(error) = result {
            bail!(
                "{} failed after {}: {error:#}\nalone: cargo xtask test --only {}",
                step.name,
                seconds(took),
                step.key
            );
        }
    }
    for (name, took) in times {
        println!("✓ {name:14} {:>8}", seconds(took));
    }
    Ok(())
}

/// Builds what has changed of the image, and runs the tests that boot it.
fn qemu_tests() -> Result<()> {
    let image = image::build()?;
    let programs = image::daemons::folder();
    let mut tests = workspace::cargo();
    // Two nodes at once are what two cores carry in emulation.
    tests
        .args([
            "test",
            "-p",
            "qemu-tests",
            "--locked",
            "--",
            "--test-threads",
            "2",
        ])
        .env("LOAM_IMAGE", &image.disk)
        .env("LOAM_HELLO", programs.join("hello"))
        .env("LOAM_CLI", programs.join("loam"));
    succeed(&mut tests)
}

fn cargo(arguments: &[&str]) -> Result<()> {
    succeed(workspace::cargo().args(arguments))
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().context("running cargo")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_can_be_asked_for() {
        assert_eq!(STEPS.map(|step| step.key), KEYS);
    }
}
