//! `cargo xtask bench image`: an image from a registry to ready on a pool, as storaged fetches it, beside what
//! else unpacks images, in one run.
//!
//! | module | what |
//! |---|---|
//! | [`sample_image`] | the image |
//! | [`ground`] | a new pool for each |
//! | [`contender`] | who is measured, and how each is run |
//! | [`usage`] | what it took: time, processor, memory |
//!
//! Each is measured three times, in an order that turns round, for this machine may be busy with other things;
//! the medians count. Seconds tell of the machine and its load, ratios of Loam.

mod contender;
mod ground;
mod sample_image;
mod usage;

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    process::Command,
};

use anyhow::{Context, Result, ensure};

pub use self::usage::{Usage, children_seconds};
use self::{
    contender::{Contender, Source},
    ground::Ground,
};
use super::{promise, table};
use crate::{
    image::{self, daemons, spec::Spec},
    oci, phase,
    registry::Registry,
    workspace,
};

const ROUNDS: usize = 3;
const REPOSITORY: &str = "bench";

/// storaged's part that fetches images; static as the daemons are.
const PROGRAM: &str = "fetch_image";

/// Makes what is needed, and measures in a mount namespace of its own: what is mounted there is gone when it
/// ends, however that comes.
pub fn run() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "this bench mounts a pool: run it as root"
    );
    sample_image::layout()?;
    phase::run("storaged, in release", |_| {
        Ok::<_, anyhow::Error>((build()?, String::new()))
    })?;
    let own = env::current_exe().context("finding this program")?;
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--"])
        .arg(own)
        .args(["bench", "image", "--inside"])
        .status()
        .context("running unshare")?;
    ensure!(status.success(), "the bench ended with {status}");
    Ok(())
}

/// The second half of [`run`].
pub fn run_inside() -> Result<()> {
    let layout = sample_image::layout()?;
    let sample = oci::Layout::open(&layout)?.image()?;
    let registry = Registry::start(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    registry.add(REPOSITORY, &sample);
    let blobs = layout.join("blobs/sha256");
    let source = Source {
        reference: sample.reference(&registry.address().to_string(), REPOSITORY),
        layers: sample
            .layers()
            .iter()
            .map(|layer| blobs.join(hex::encode(layer.0)))
            .collect(),
    };
    let ground = Ground::make(&workspace::target().join("bench-image"))?;

    let mut contenders = Vec::new();
    for contender in Contender::ALL {
        match contender.lacks() {
            None => contenders.push((contender, Vec::new())),
            Some(program) => println!("skipped: {contender}, for {program} is not installed"),
        }
    }
    for round in 0..ROUNDS {
        let mut turn: Vec<_> = contenders.iter_mut().collect();
        if round % 2 == 1 {
            turn.reverse();
        }
        for (contender, usages) in turn {
            ground.renew()?;
            let name = format!("{contender}, round {}", round + 1);
            usages.push(phase::run(&name, |_| {
                let usage = contender.measure(&source, &ground)?;
                let remark = format!("{:.2} s", usage.seconds);
                Ok::<_, anyhow::Error>((usage, remark))
            })?);
        }
    }
    let packed: u64 = source
        .layers
        .iter()
        .map(|layer| Ok(fs::metadata(layer)?.len()))
        .sum::<Result<u64>>()?;
    println!(
        "{} layers, {} MB packed; medians of {ROUNDS}",
        source.layers.len(),
        packed / 1_000_000
    );
    let rows: Vec<(String, Usage)> = contenders
        .iter()
        .map(|(contender, usages)| (contender.to_string(), usage::median(usages)))
        .collect();
    println!("{}", table::unpackers(&rows));
    let own = contenders
        .iter()
        .filter(|(contender, _)| *contender == Contender::Storaged)
        .flat_map(|(_, usages)| usages)
        .map(|usage| usage.own_peak_kib)
        .max();
    let own = own.context("storaged was not measured")?;
    promise::check(
        "storaged while it fetches an image",
        own << 10,
        promise::FETCHING,
    )
}

/// With the daemons' own packages and flags, and so with what they were built on.
fn build() -> Result<()> {
    let spec = Spec::read(&image::inputs().0)?;
    let status = daemons::command(&spec.packages(), daemons::Profile::Work)
        .args(["--features", "loam-storaged/bench", "--bin", PROGRAM])
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "cargo ended with {status}");
    Ok(())
}

fn program() -> PathBuf {
    daemons::folder(daemons::Profile::Work).join(PROGRAM)
}
