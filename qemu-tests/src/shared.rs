//! Cases that share one node, since none of them breaks it: a boot costs more than most of them.
//!
//! Each is a function `case(&Grid, &mut Node)` in a module of its own, with tenants, ports and subnets
//! of its own, and cancels what it deployed, so that the next has the memory.
//! [`shared_cases!`](crate::shared_cases) makes one test of each group, and of each case one more that
//! `cargo xtask test --case NAME` runs on a node of its own.

use std::{fs, io::Write, time::Instant};

use anyhow::ensure;

use crate::{
    folder,
    grid::Grid,
    node::{Node, NodeOptions},
};

/// A case that does not break its node.
pub type Case = fn(&Grid, &mut Node<'_>) -> anyhow::Result<()>;

/// Boots a node and runs all on it, one after the other. One that fails does not keep the others
/// from running, unless it took the node along.
pub fn run(cases: &[(&str, Case)]) -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let booting = Instant::now();
    let mut node = Node::boot(&grid, NodeOptions::default())?;
    note("boot", booting)?;
    let mut failed = Vec::new();
    for (name, case) in cases {
        println!("── {name}");
        let started = Instant::now();
        if let Err(error) = case(&grid, &mut node) {
            println!("{name} failed: {error:?}");
            failed.push(*name);
            node.qemu()?.check_on()?;
        }
        note(name, started)?;
    }
    ensure!(
        failed.is_empty(),
        "of those that share a node failed: {}",
        failed.join(", ")
    );
    Ok(())
}

/// `cargo xtask test` shows the slowest.
fn note(part: &str, started: Instant) -> anyhow::Result<()> {
    let seconds = started.elapsed().as_secs_f64();
    println!("── {part}: {seconds:.1} s");
    let mut parts = fs::File::options()
        .create(true)
        .append(true)
        .open(folder::of_case()?.join("parts"))?;
    writeln!(parts, "{seconds:.1} {part}")?;
    Ok(())
}

/// `shared_cases! { shared { update, cancel } }` for the modules `crate::update` and `crate::cancel` of
/// the crate that calls it, each with a function `case`. Attributes before a group's name are its
/// test's.
#[macro_export]
#[allow(clippy::crate_in_macro_def)]
macro_rules! shared_cases {
    ($($(#[$attribute:meta])* $group:ident { $($case:ident),+ $(,)? })+) => {
        $(
            #[test]
            $(#[$attribute])*
            fn $group() -> ::anyhow::Result<()> {
                $crate::shared::run(&[$((stringify!($case), crate::$case::case)),+])
            }
        )+

        /// Each on a node of its own, when it is asked for by name.
        mod alone {
            $($(
                #[test]
                #[ignore = "runs with others on one node"]
                fn $case() -> ::anyhow::Result<()> {
                    $crate::shared::run(&[(stringify!($case), crate::$case::case)])
                }
            )+)+
        }
    };
}
