//! The demo's server as cases use it: its deployment, and what it answers.

use std::net::SocketAddr;

use anyhow::{Context, anyhow, ensure};
use loam_deployment::NodeKey;
use qemu_tests::{grid::Grid, http, node::Node, wait::wait_for};

/// The demo's server on a volume, published on a port of the node.
pub struct Hello {
    pub port: u16,
    pub subnet: &'static str,
    /// Shown by the server, to tell versions apart.
    pub greeting: &'static str,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            port: 8080,
            subnet: "10.20.0",
            greeting: "one",
        }
    }
}

impl Hello {
    pub fn toml(&self, grid: &Grid) -> String {
        let Self {
            port,
            subnet,
            greeting,
        } = self;
        let image = grid.hello_reference();
        format!(
            r#"
            kind = "workload"

            [volume.data]
            size = "64MiB"
            encrypted = false

            [network.private]
            ipv4 = "{subnet}.0/24"
            nat = true

            [machine.web]
            image = "{image}"
            cpus = 1
            memory = "160MiB"
            root = "64MiB"
            env = {{ GREETING = "{greeting}" }}
            volumes = {{ data = "/data" }}
            networks = ["private"]
            publish = ["tcp:{port}:80"]
            "#
        )
    }
}

/// What tells one start of the server from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub number: String,
    pub processors: u32,
    /// The number of the start before, if that was asked to end and what it wrote then was saved.
    pub farewell: Option<String>,
}

/// The start that answers at `address`; an error if none does.
pub fn start(address: SocketAddr) -> anyhow::Result<Start> {
    let text = http::get_text(address, "/start")?;
    let value = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.with_context(|| format!("no `{name}` in {text}"))
    };
    let farewell = value("farewell of the one before: ")?;
    Ok(Start {
        number: value("start: ")?.to_owned(),
        processors: value("processors: ")?.parse()?,
        farewell: (farewell != "none").then(|| farewell.to_owned()),
    })
}

/// Waits for the server: a machine that runs has started its command, and no more.
pub fn wait_start(address: SocketAddr) -> anyhow::Result<Start> {
    wait_for("the demo's server to answer", || Ok(start(address).ok()))
}

/// Waits until another start answers than the one given.
pub fn wait_start_after(address: SocketAddr, before: &Start) -> anyhow::Result<Start> {
    wait_for("another start of the demo's server to answer", || {
        Ok(start(address)
            .ok()
            .filter(|start| start.number != before.number))
    })
}

/// The demo's counter, raised by asking for it.
pub fn count(address: SocketAddr) -> anyhow::Result<u64> {
    let page = http::get_text(address, "/")?;
    let counter = page.lines().find_map(|line| line.strip_prefix("counter: "));
    counter
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| anyhow!("{page}"))
}

/// Adds a record to those that were acknowledged, of which there are so many; gives how many there are
/// now. All that is acknowledged is on the volume.
pub fn record(address: SocketAddr, acknowledged: u64) -> anyhow::Result<u64> {
    let number = http::post(address, "/record")?;
    let next = acknowledged + 1;
    ensure!(
        number.trim() == next.to_string(),
        "after record {acknowledged} came {number}"
    );
    Ok(next)
}

/// How many records are on the volume, whole and in order.
pub fn records(address: SocketAddr) -> anyhow::Result<u64> {
    let count = http::get_text(address, "/records")?;
    count.trim().parse().with_context(|| count.clone())
}

/// Waits for the default server, which has all that was acknowledged, on the node that it was on; gives
/// what is acknowledged now.
pub fn check_back(node: &mut Node<'_>, key: NodeKey, acknowledged: u64) -> anyhow::Result<u64> {
    let web = node.forward(Hello::default().port)?;
    wait_start(web)?;
    let after = count(web)?;
    ensure!(
        after == acknowledged + 1,
        "{acknowledged} was acknowledged, then came {after}"
    );
    node.wait_logged(&key.to_string())?;
    Ok(after)
}
