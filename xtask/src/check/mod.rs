//! `cargo xtask test`: everything that must hold before a change lands.

mod cases;
mod nextest;
mod record;
mod temporary;
#[cfg(test)]
mod threats;

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use self::nextest::{Name, Outcome, Run};
use crate::{image, lock, setup, workspace};

/// How long `--all` may take, whatever it has to do.
const LIMIT: Duration = Duration::from_secs(100 * 60);

/// So many of the slowest tests are shown in the end.
const SLOWEST: usize = 10;

/// What to test.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// One step alone.
    pub only: Option<String>,
    /// The cases with this in their names alone.
    pub case: Option<String>,
    /// The slow tests too.
    pub all: bool,
    /// Nothing: the cases' names are printed.
    pub list: bool,
}

/// A step, which `cargo xtask test --only KEY` runs alone.
struct Step {
    key: &'static str,
    name: &'static str,
    run: fn(&Plan) -> Result<Outcome>,
}

/// What steps need to know.
struct Plan {
    all: bool,
    deadline: Instant,
}

const STEPS: [Step; 5] = [
    Step {
        key: "format",
        name: "format",
        run: |_| cargo(&["fmt", "--all", "--check"]),
    },
    Step {
        key: "lints",
        name: "lints",
        run: |_| {
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
        run: |_| {
            let filter = format!("all() - {}", cases::CASES);
            let arguments = ["--status-level=slow", "--filterset", &filter];
            let temporary = temporary::folder();
            temporary::begin(&temporary)?;
            let run = Run {
                arguments: arguments.map(str::to_owned).to_vec(),
                environment: vec![("TMPDIR", temporary.clone())],
                ..Run::default()
            };
            let outcome = run.run(|_| {})?;
            temporary::end(&temporary)?;
            Ok(outcome)
        },
    },
    Step {
        key: "image",
        name: "image",
        run: |_| {
            let (image, _) = image::build_all()?;
            println!("{}", image.sizes.table());
            image::pack_again(&image)?;
            if std::env::var_os("CI").is_some() {
                image::relock::warn_of_older()?;
            }
            Ok(Outcome::default())
        },
    },
    Step {
        key: "qemu",
        name: "tests in QEMU",
        run: |plan| {
            if plan.all {
                cases::run_all(plan.deadline)
            } else {
                cases::run()
            }
        },
    },
];

/// The names of the steps, in the order they run.
pub const KEYS: [&str; 5] = ["format", "lints", "unit", "image", "qemu"];

/// Runs every step in turn, or what is wanted of them, and stops at the first that fails.
pub fn run(wanted: &Wanted) -> Result<()> {
    let plan = Plan {
        all: wanted.all,
        deadline: Instant::now() + LIMIT,
    };
    setup::for_tests()?;
    if wanted.list {
        return cases::print_list();
    }
    let _alone = lock::exclusive(&workspace::target().join("tests.lock"), || {
        eprintln!("another `cargo xtask test` is at work in this clone: waiting for its end");
    })?;
    if let Some(name) = &wanted.case {
        let outcome = cases::run_named(name)?;
        print_slowest(outcome.passed.clone());
        return outcome.check();
    }
    let mut times = Vec::new();
    let mut tests = Vec::new();
    for step in STEPS
        .iter()
        .filter(|step| wanted.only.as_deref().is_none_or(|only| only == step.key))
    {
        eprintln!("── {}", step.name);
        let started = Instant::now();
        let result = (step.run)(&plan).and_then(|outcome| {
            tests.extend(outcome.passed.clone());
            outcome.check()
        });
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
    print_slowest(tests);
    for (name, took) in times {
        println!("✓ {name:14} {:>8}", seconds(took));
    }
    Ok(())
}

fn print_slowest(mut tests: Vec<(Name, f64)>) {
    tests.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    tests.truncate(SLOWEST);
    if tests.len() > 1 {
        println!("the slowest tests:");
        for (name, seconds) in tests {
            println!("{seconds:>8.1} s  {name}");
        }
    }
}

fn cargo(arguments: &[&str]) -> Result<Outcome> {
    succeed(workspace::cargo().args(arguments))?;
    Ok(Outcome::default())
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
