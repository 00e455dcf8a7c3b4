//! Fetches one image to a pool as storaged does, and says how long that took: for `cargo xtask bench image`.
//!
//! `fetch_image REFERENCE POOL`, where POOL is where an empty btrfs is mounted. Registries may be on
//! loopback. Its one line is JSON: `seconds` from the wish to the image that is ready, `peak_kib`, the most
//! memory that the process had by then, and `path`.

use std::{env, fs, path::PathBuf, sync::Arc, time::Instant};

use anyhow::{Context as _, bail};
use loam_deployment::payload::{Media, OciReference};
use loam_node_api::{clock::Clock, page::Changes, storage::ImageState, tls};
use loam_oci::{
    address::{Outside, Reach},
    mirror::Mirrors,
    platform::Level,
};
use loam_storaged::{
    image::store::Images,
    pool::{self, Pool},
};
use uuid::Uuid;

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let (Some(reference), Some(root), None) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        bail!("usage: fetch_image REFERENCE POOL");
    };
    let reference: OciReference = reference.parse().context("read the image's reference")?;
    tracing_subscriber::fmt()
        .with_env_filter("warn")
        .with_writer(std::io::stderr)
        .init();
    // As storaged's own.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(fetch(reference, root.into()))
}

async fn fetch(reference: OciReference, root: PathBuf) -> anyhow::Result<()> {
    let uuid = Uuid::new_v4();
    pool::furnish(&root, uuid).with_context(|| format!("make {} a pool", root.display()))?;
    let pool = Pool::open(root, uuid, Media::Ssd).context("open the pool")?;
    let pools = vec![Arc::new(pool)];
    let outside = Outside {
        reach: Reach::Anywhere,
        tls: tls::client_config(tls::public_roots(), Arc::new(Clock::default))?,
    };
    let changes = Changes::new();
    let images = Images::new(
        Arc::new(move || pools.clone()),
        outside,
        Mirrors::default(),
        Level::V1,
        changes.clone(),
    );
    let began = Instant::now();
    let path = loop {
        let seen = changes.now();
        match images.ensure(reference.clone().into()).state {
            ImageState::Ready { path } => break path,
            ImageState::Fetching { .. } => {
                changes.since(seen).await;
            }
            other => bail!("the image is not ready: {other:?}"),
        }
    };
    let seconds = began.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").context("read its own status")?;
    let peak_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .and_then(|value| value.trim().parse().ok())
        .context("the kernel does not tell its peak memory")?;
    println!(
        "{}",
        serde_json::json!({ "seconds": seconds, "peak_kib": peak_kib, "path": path })
    );
    Ok(())
}
