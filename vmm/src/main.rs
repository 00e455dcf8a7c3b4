//! `loam-vmm`: runs the VM that descriptor 3 describes, and ends with it.
//!
//! `loam-vmm --probe` runs a guest of a few instructions instead and says whether KVM works.

use std::process::ExitCode;

use anyhow::{Context, bail};
use loam_vmm::{
    config::{self, Config},
    events::{self, End, EventPipe},
    machine, probe,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .init();
    let done = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => run(),
        [flag] if flag == "--probe" => probe(),
        arguments => Err(anyhow::anyhow!(
            "unknown arguments {arguments:?}; give none, or --probe"
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn probe() -> anyhow::Result<()> {
    println!("{}", probe::run()?);
    Ok(())
}

fn run() -> anyhow::Result<()> {
    let config = config::read()?;
    // SAFETY: nothing was opened so far but the configuration's own descriptor, which is closed.
    let mut config = unsafe { Config::new(config) }?;
    let mut events = EventPipe::new(
        config
            .events
            .try_clone()
            .context("cannot duplicate the events' descriptor")?,
    );
    let (notices, board) = events::notices().context("cannot make an event descriptor")?;
    notices.end_on_panic();

    let name = std::mem::take(&mut config.name);
    let end = machine::run(config, &notices, &board, &mut events)
        .unwrap_or_else(|error| End::Failed(error.to_string()));
    events.end(&end);
    tracing::info!(name, ?end, "machine ended");
    match end {
        End::PoweredOff | End::Reset => Ok(()),
        End::Failed(reason) => bail!("machine `{name}` failed: {reason}"),
    }
}
