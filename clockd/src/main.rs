//! clockd: knows what time it is, and sets the kernel's clock.

use std::path::Path;

use anyhow::Context as _;
use loam_clockd::{config::Config, keeper::Keeper, known::Known};
use loam_node_api::{clock::ClockService as _, path, transport};
use tracing_subscriber::EnvFilter;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    // A list of servers that cannot be read leaves the floor, which the others need.
    let config = Config::read(Path::new(path::TIME)).unwrap_or_else(|error| {
        tracing::error!("no time server is asked: {error:#}");
        Config::default()
    });
    let known = Known::new(path::CLOCK.into(), config.built)?;
    let keeper = Keeper::new(config, known.clone())?;
    let serving = transport::serve(Path::new(path::CLOCKD_SOCKET), known.serve());
    tokio::select! {
        () = keeper.run() => Ok(()),
        result = serving => result.with_context(|| format!("serve {}", path::CLOCKD_SOCKET)),
    }
}
