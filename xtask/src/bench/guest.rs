//! `cargo xtask bench guest`: a machine from its kernel's start to its command, on the guests' own kernel and
//! on Debian's cloud kernel, which it takes the place of, in turns.
//!
//! Both are started by QEMU alone, with the same guest init, disks and memory ([`crate::qemu::guest`]): what
//! differs is the kernel, how it is unpacked, and the modules that the stock one loads.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    fetch::children_seconds,
    probe::{self, Probed},
    table,
};
use crate::{
    image::{self, GuestFiles, Purpose},
    oci::Entry,
    phase,
    qemu::guest::GuestOptions,
    setup, workspace,
};

/// The median of three seldom is a busy moment's.
const ROUNDS: usize = 3;

/// Far above what a boot takes on a loaded machine in software emulation.
const PATIENCE: Duration = Duration::from_secs(300);

/// One start, or the medians of several.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Boot {
    /// From QEMU's start to the command's first line.
    pub seconds: f64,
    /// Of all of QEMU's threads: what a busy machine changes least.
    pub processor_seconds: f64,
    /// What the machine cannot give to programs.
    pub used_kib: u64,
}

/// Measures, and prints as it goes.
pub fn run() -> Result<()> {
    setup::run(setup::Need::Demo)?;
    image::build_for(&Purpose::StockGuest)?;
    image::build()?;
    let folder = workspace::target().join("bench-guest");
    super::empty(&folder)?;
    let probe = fs::read(probe::build(&folder)?)?;

    let mut kernels = [
        ("Debian's cloud kernel", image::stock_guest()?, Vec::new()),
        ("the guests' kernel", image::guest()?, Vec::new()),
    ];
    for round in 1..=ROUNDS {
        for (name, files, boots) in &mut kernels {
            boots.push(phase::run(&format!("{name}, round {round}"), |_| {
                let place = folder.join(format!("{}-{round}", name.replace(' ', "-")));
                let boot = boot(&place, &probe, files)?;
                Ok::<_, anyhow::Error>((boot, format!("{:.2} s", boot.seconds)))
            })?);
        }
    }
    let rows: Vec<_> = kernels
        .iter()
        .map(|(name, _, boots)| (*name, median(boots)))
        .collect();
    println!("{}", table::kernels(&rows));
    Ok(())
}

fn boot(folder: &Path, probe: &[u8], kernel: &GuestFiles) -> Result<Boot> {
    fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
    let entries = [Entry::file("probe", 0o755, probe)];
    let options = GuestOptions::new(folder.to_owned(), &entries, &["/probe"])?;
    let (started, before) = (Instant::now(), children_seconds()?);
    let guest = options.start_on(kernel)?;
    let line = guest.console().wait_after(0, probe::MARK, PATIENCE)?;
    let seconds = started.elapsed().as_secs_f64();
    guest.console().wait_after(line, "\n", PATIENCE)?;
    let probed = Probed::find(&guest.console().text()).context("the probe said nothing")??;
    // Only when it has ended is it known what it took.
    guest.kill()?;
    Ok(Boot {
        seconds,
        processor_seconds: children_seconds()? - before,
        used_kib: probed.used_kib(),
    })
}

/// Each number's by itself.
fn median(boots: &[Boot]) -> Boot {
    let of = |number: fn(&Boot) -> f64| table::median(boots.iter().map(number));
    Boot {
        seconds: of(|boot| boot.seconds),
        processor_seconds: of(|boot| boot.processor_seconds),
        used_kib: of(|boot| boot.used_kib as f64) as u64,
    }
}
