//! `cargo xtask bench`: the figures of `docs/promises.md`, measured in one run.
//!
//! Times are ratios to a rival that is measured beside them: the node's own kernel in the same
//! virtual machine with an empty init ([`bare`]). Both clocks start with the kernel, so that the
//! firmware counts for neither. Seconds tell of this machine and its load; a ratio tells of Loam.

mod bare;
pub mod fetch;
pub mod guest;
mod memory;
mod node_log;
mod probe;
mod promise;
mod table;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use self::{
    node_log::{first, last},
    probe::Probed,
    table::Row,
};
use crate::{
    image, oci, phase,
    qemu::{self, Disk, Node, NodeConfig},
    registry::Registry,
    setup,
    up::{self, grid::LocalGrid, tool::Loam},
    workspace,
};

/// A node is idle once its log has been silent for so long.
const SILENCE: Duration = Duration::from_secs(5);

/// Far above what a loaded machine with two cores needs in software emulation.
const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(300);

/// Measures, and prints as it goes.
pub fn run() -> Result<()> {
    setup::run(setup::Need::Demo)?;
    let image = image::build()?;
    println!("{}", image.sizes.table());
    println!("{}", table::sizes(&image)?);

    let folder = workspace::target().join("bench");
    empty(&folder)?;
    let probe = probe::build(&folder)?;
    let bare = phase::run("bare kernel, empty init", |_| {
        let probed = bare::measure(&folder.join("bare"), &probe)?;
        let remark = format!("{:.2} s from kernel to init", probed.uptime_seconds);
        Ok::<_, anyhow::Error>((probed, remark))
    })?;
    let rival = Duration::from_secs_f64(bare.uptime_seconds);

    let mut bench = Bench::start(&folder, &image.disk)?;
    let key = up::registered(&bench.node, &bench.grid)?;
    let (daemons, used) = phase::run("idle memory", |_| {
        bench.wait_silent()?;
        let measured = (
            memory::daemons(bench.node.debug_port()?)?,
            memory::used_kib(bench.node.debug_port()?)?,
        );
        Ok::<_, anyhow::Error>((measured, String::new()))
    })?;
    println!("{}", table::memory(&daemons, used, bare.used_kib()));
    println!("{}", bench.boot_times(rival)?);
    println!("{}", bench.deployment_times(&key, &probe, rival)?);
    println!("{}", bench.next_boot_times(rival)?);

    let image = fs::metadata(&image.uki)?.len();
    promise::check("the image", image, promise::IMAGE)?;
    let idle: u64 = daemons.iter().map(|daemon| daemon.proportional_kib).sum();
    promise::check("the idle daemons' memory", idle << 10, promise::DAEMONS)
}

/// Makes it empty, whatever an earlier run has left there.
fn empty(folder: &Path) -> Result<()> {
    workspace::remove(folder)?;
    Ok(fs::create_dir_all(folder)?)
}

/// The virtual machine of the node, and of its rival.
fn machine(folder: &Path, image: &Path) -> NodeConfig {
    let mut config = NodeConfig::new(folder, image);
    for name in ["disk0", "disk1"] {
        config = config.disk(Disk::new(name, 8 << 30));
    }
    config
}

/// A node on a grid of its own.
struct Bench {
    config: NodeConfig,
    node: Node,
    grid: LocalGrid,
}

impl Bench {
    fn start(folder: &Path, image: &Path) -> Result<Self> {
        let grid = LocalGrid::start(
            folder,
            &image::daemons::folder(image::daemons::Profile::Work).join("loam"),
        )?;
        let config = machine(&folder.join("node"), image)
            .grid(grid.node_config()?)
            .debug_port();
        let node = config.start()?;
        Ok(Self { config, node, grid })
    }

    /// Waits until nothing happens on the node any more.
    fn wait_silent(&self) -> Result<()> {
        let started = Instant::now();
        let (mut said, mut since) = (self.node.logs().mark(), started);
        while since.elapsed() < SILENCE {
            ensure!(
                started.elapsed() < PATIENCE,
                "the node's log is never silent"
            );
            sleep(POLL);
            let now = self.node.logs().mark();
            if now != said {
                (said, since) = (now, Instant::now());
            }
        }
        Ok(())
    }

    fn moments(&self) -> Result<Vec<node_log::Moment>> {
        let start = node_log::kernel_start(&self.node.debug_port()?.read(node_log::CLOCKS)?)?;
        Ok(node_log::moments(&self.node.logs().text(), start))
    }

    fn boot_times(&self, rival: Duration) -> Result<String> {
        let log = self.moments()?;
        let mut rows = start_rows(&log, rival)?;
        rows.push(Row::new("registered", first(&log, "noded", "registered")?));
        Ok(table::times(
            "since kernel start",
            Duration::ZERO,
            rows,
            rival,
        ))
    }

    /// The next boot, of a node that has its pools and a machine. By a QEMU of its own: one that emulates goes on from a
    /// reset with memory that is slow to write, as there was code in it.
    fn next_boot_times(&mut self, rival: Duration) -> Result<String> {
        self.node.press_power_button()?;
        self.node.wait_off(PATIENCE)?;
        self.node = self.config.start()?;
        self.node.logs().wait_for("\"machine started\"", PATIENCE)?;
        self.wait_silent()?;
        let log = self.moments()?;
        let mut rows = start_rows(&log, rival)?;
        rows.push(Row::new(
            "what the chain says is read",
            first(&log, "noded", "read the chain")?,
        ));
        rows.push(Row::new(
            "the machine is started",
            first(&log, "init", "machine started")?,
        ));
        Ok(table::times(
            "since kernel start, next boot",
            Duration::ZERO,
            rows,
            rival,
        ))
    }

    /// Deploys the demo with the probe in the place of its server.
    fn deployment_times(&mut self, key: &str, probe: &Path, rival: Duration) -> Result<String> {
        let tenant = self.node.forward(up::TENANT_PORT)?;
        self.grid.reach_node(key, tenant)?;
        let registry = Registry::start(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
        let image = oci::hello_image(probe)?;
        registry.add("hello", &image);
        let seen = format!("{}:{}", qemu::HOST, registry.address().port());
        let deployed = up::deploy(
            &self.grid.tenant,
            &self.node,
            &image.reference(&seen, "hello"),
        )?;
        let guest = guest_probed(&self.grid.tenant, deployed.contract)?;
        // The report that the tenant saw is logged once the node knows that it is in a block.
        self.wait_silent()?;

        let log = self.moments()?;
        let accepted = first(&log, "noded", "accepted")?;
        // The guest's clock starts when its kernel does, which is all but at once.
        let started = first(&log, "init", "machine started")?;
        let run_init = guest
            .run_init_microseconds
            .context("the guest's kernel does not tell when it ran init")?;
        let rows = vec![
            Row::new(
                "image is fetched",
                first(&log, "storaged", "image is ready")?,
            ),
            Row::new("volumes are made", last(&log, "storaged", "made a volume")?),
            Row::new("network is made", last(&log, "netd", "made")?),
            Row::new("machine is started", started),
            Row::new(
                "guest init starts",
                started + Duration::from_micros(run_init),
            ),
            Row::new(
                "machine's command starts",
                started + Duration::from_secs_f64(guest.uptime_seconds),
            ),
            Row::new(
                "`running` is on the chain",
                last(&log, "noded", "reported")?,
            ),
        ];
        Ok(table::times("since accepted", accepted, rows, rival))
    }
}

/// What any boot reaches.
fn start_rows(log: &[node_log::Moment], rival: Duration) -> Result<Vec<Row>> {
    Ok(vec![
        Row::new("the rival's init starts", rival),
        Row::new("init starts", first(log, "init", "loam starts")?),
        Row::new(
            "all daemons' modules are loaded",
            last(log, "init", "modules of a group are loaded")?,
        ),
        Row::new(
            "devices have their drivers",
            first(log, "init", "devices have their drivers")?,
        ),
        Row::new("daemons started", last(log, "init", "started")?),
        Row::new("uplink has an address", first(log, "netd", "leased")?),
        Row::new(
            "pools on both disks",
            last(log, "storaged", "pool is ready")?,
        ),
        Row::new("node has its identity", first(log, "noded", "this node")?),
    ])
}

/// What the probe says on the machine's console.
fn guest_probed(tenant: &Loam, contract: u64) -> Result<Probed> {
    let started = Instant::now();
    loop {
        let console = logs(tenant, contract)?;
        if let Some(probed) = Probed::find(&console) {
            return probed;
        }
        if started.elapsed() > PATIENCE {
            bail!("the machine's console does not have the probe's line:\n{console}");
        }
        sleep(POLL);
    }
}

/// `loam logs`, whose answer is the console's bytes and not JSON.
fn logs(tenant: &Loam, contract: u64) -> Result<String> {
    let binary: &PathBuf = &tenant.binary;
    let output = Command::new(binary)
        .arg("--config")
        .arg(&tenant.config)
        .arg("--key")
        .arg(&tenant.key)
        .args(["logs", &contract.to_string(), "web"])
        .output()
        .with_context(|| format!("{} cannot be run", binary.display()))?;
    ensure!(
        output.status.success(),
        "loam logs: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
