//! storaged: finds disks, keeps volumes, images and the node's own secrets on them.

use std::{fs, path::Path, sync::Arc, thread};

use anyhow::Context as _;
use loam_node_api::{clock::Clock, page::Changes, path, tls, transport};
use loam_oci::{
    address::{Outside, Reach},
    mirror::Mirrors,
    platform::Level,
};
use loam_storaged::{
    image::store::Images,
    inventory::{Inventory, Places},
    machine,
    service::Storaged,
};
use tracing_subscriber::EnvFilter;

fn main() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();

    let machine = machine::this(Path::new(machine::SYS_DMI), Path::new(machine::SYS_NET));
    if machine.is_none() {
        tracing::warn!(
            "nothing tells this machine from others of its kind; disks of two nodes in it are told apart by which was used last"
        );
    }
    let inventory = Arc::new(Inventory::new(Places::default(), machine, Changes::new()));
    let watched = inventory.clone();
    thread::Builder::new()
        .name("disks".to_owned())
        .spawn(move || watched.watch())
        .context("start the thread that looks for disks")?;

    // A certificate is judged by what is known about the time, which may be little.
    let outside = Outside {
        reach: Reach::Network,
        tls: tls::client_config(
            tls::public_roots(),
            Arc::new(|| Clock::read(path::CLOCK.as_ref())),
        )?,
    };
    // Guests see what KVM supports (`vmm/src/vcpu/cpuid.rs`), which is what the kernel itself makes use of and
    // shows here, and not all that the processor might offer.
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_else(|error| {
        tracing::warn!(%error, "/proc/cpuinfo cannot be read; images run that any processor runs");
        String::new()
    });
    let mirrors = mirrors(Path::new(path::MIRRORS))?;
    let seen = inventory.clone();
    let images = Images::new(
        Arc::new(move || seen.pools()),
        outside,
        mirrors,
        Level::of_cpuinfo(&cpuinfo),
        inventory.changes().clone(),
    );
    let service = Storaged::new(inventory, images);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(transport::serve(
            Path::new(path::STORAGED_SOCKET),
            loam_node_api::storage::Storage::serve(service),
        ))
        .with_context(|| format!("serve {}", path::STORAGED_SOCKET))
}

/// Those of the image; none if it says nothing of any.
fn mirrors(file: &Path) -> anyhow::Result<Mirrors> {
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Mirrors::default()),
        text => text.with_context(|| format!("read {}", file.display()))?,
    };
    toml::from_str(&text).with_context(|| format!("in {}", file.display()))
}
