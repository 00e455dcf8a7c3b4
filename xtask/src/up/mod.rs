//! `cargo xtask up`: the whole path on this machine. A chain, a farm, a node booted from the image,
//! and a machine on the node that answers `curl`.

mod background;
mod claim;
pub(crate) mod grid;
mod table;
pub(crate) mod tool;

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

pub use self::background::{down, hold};
use self::{claim::Claim, grid::LocalGrid, tool::Loam};
use crate::{
    image, interrupt, oci,
    phase::{self, Phase},
    qemu::{self, Disk, Node, NodeConfig, accel::Choice},
    registry::Registry,
    setup, workspace,
};

/// What the demo's machine publishes, and the node's port for tenants.
const WEB_PORT: u16 = 8080;
pub(crate) const TENANT_PORT: u16 = 9650;

/// Far above what a loaded machine with two cores needs in software emulation.
const PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(300);

/// Lines of a console shown when a phase fails.
const LAST_LINES: usize = 30;

/// The demo's secret; the machine shows it, so that one can see that it arrived.
const TOKEN: &str = "a secret that only the node could open";

/// Everything of the demo: `target/up`.
pub fn folder() -> PathBuf {
    workspace::target().join("up")
}

/// Brings the demo up, and keeps it until Ctrl-C (or `cargo xtask down`).
pub fn run(keep: bool) -> Result<()> {
    if keep {
        return background::up_in_background();
    }
    let demo = bring_up()?;
    println!("\nCtrl-C ends everything.");
    interrupt::wait();
    drop(demo);
    println!("everything has ended");
    Ok(())
}

/// What must stay for the demo to go on.
struct Demo {
    _node: Node,
    _registry: Registry,
    _grid: LocalGrid,
    // Given up last.
    _claim: Claim,
}

/// What `loam deploy --json` answers.
#[derive(Debug, Deserialize)]
pub(crate) struct Deployed {
    pub(crate) contract: u64,
    node: String,
    workloads: Vec<Workload>,
}

#[derive(Debug, Deserialize)]
struct Workload {
    workload: String,
    state: String,
    #[serde(default)]
    addresses: Vec<String>,
}

fn bring_up() -> Result<Demo> {
    let claim = Claim::take()?;
    setup::run(setup::Need::Demo)?;
    let image = image::build()?;
    let tools = image::daemons::folder(image::daemons::Profile::Work);
    workspace::remove(&folder())?;
    fs::create_dir_all(folder())?;
    let mut grid = phase::run("chain, contract, farm", |_| {
        let grid = LocalGrid::start(&folder(), &tools.join("loam"))?;
        let remark = format!("{} farm {}", grid.chain.endpoint(), grid.farm);
        Ok::<_, anyhow::Error>((grid, remark))
    })?;
    let node = start_node(&image.disk, &grid)?;
    let registered = registered(&node, &grid);
    let key = explain(registered, &node)?;
    let web = node.forward(WEB_PORT)?;
    let tenant = node.forward(TENANT_PORT)?;
    grid.reach_node(&key, tenant)?;
    let registry = Registry::start(IpAddr::V4(Ipv4Addr::LOCALHOST))?;
    let hello = oci::hello_image(&tools.join("hello"))?;
    registry.add("hello", &hello);
    let registry_seen = format!("{}:{}", qemu::HOST, registry.address().port());
    let image = hello.reference(&registry_seen, "hello");
    let deployed = deploy(&grid.tenant, &node, &image);
    let deployed = explain(deployed, &node)?;
    let url = format!("http://127.0.0.1:{web}/");
    let answered = phase::run("first answer", |_| {
        let answer = wait_for_answer(web, &node)?;
        Ok::<_, anyhow::Error>(((), answer))
    });
    explain(answered, &node)?;
    table::print(&deployed, &url, &grid.tenant, &image);
    Ok(Demo {
        _node: node,
        _registry: registry,
        _grid: grid,
        _claim: claim,
    })
}

fn start_node(disk: &Path, grid: &LocalGrid) -> Result<Node> {
    let accel = Choice::of_environment()?.decide(&image::linux());
    let mut config = NodeConfig::new(folder().join("node"), disk)
        .accel(accel)
        .grid(grid.node_config()?);
    for name in ["disk0", "disk1"] {
        config = config.disk(Disk::new(name, 8 << 30));
    }
    config.start()
}

/// Waits until the node is on the chain; gives its key.
pub(crate) fn registered(node: &Node, grid: &LocalGrid) -> Result<String> {
    #[derive(Deserialize)]
    struct Listed {
        node: String,
    }
    phase::run("node boots and registers", |phase| {
        let started = Instant::now();
        loop {
            let nodes: Vec<Listed> = grid.tenant.ask(&["node", "list"])?;
            if let Some(listed) = nodes.into_iter().next() {
                let remark = format!("{}…", &listed.node[..16]);
                return Ok((listed.node, remark));
            }
            if let Some(line) = last_message(&node.logs().tail(1)) {
                phase.note(line);
            }
            node.check_on()?;
            if started.elapsed() > PATIENCE {
                bail!(
                    "the node did not register within {} seconds",
                    PATIENCE.as_secs()
                );
            }
            sleep(POLL);
        }
    })
}

/// The message of a JSON log line.
fn last_message(line: &str) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(line.trim()).ok()?;
    value.get("message")?.as_str().map(str::to_owned)
}

pub(crate) fn deploy(tenant: &Loam, node: &Node, image: &str) -> Result<Deployed> {
    phase::run("hello.toml runs", |phase: &Phase| {
        let file = workspace::root().join("examples/hello.toml");
        let file = file.to_str().context("the workspace's path is not UTF-8")?;
        let timeout = PATIENCE.as_secs().to_string();
        let deployed: Deployed = tenant.ask_with(
            &["deploy", file, "--timeout", &timeout],
            &[("HELLO_IMAGE", image), ("TOKEN", TOKEN)],
            |line| phase.note(line),
            || node.check_on(),
        )?;
        let remark = format!("contract {}", deployed.contract);
        Ok((deployed, remark))
    })
}

/// The first line of the demo's answer.
fn wait_for_answer(port: u16, node: &Node) -> Result<String> {
    let started = Instant::now();
    loop {
        match answer(port) {
            Ok(answer) => return Ok(answer),
            Err(error) if started.elapsed() > PATIENCE => {
                return Err(error).context("the machine runs and its published port is silent");
            }
            Err(_) => {
                node.check_on()?;
                sleep(POLL);
            }
        }
    }
}

fn answer(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").context("no HTTP answer")?;
    if !head.contains(" 200 ") {
        bail!("{}", head.lines().next().unwrap_or_default());
    }
    Ok(body.lines().next().unwrap_or_default().to_owned())
}

/// Shows the end of the node's console and log when something failed.
fn explain<T>(result: Result<T>, node: &Node) -> Result<T> {
    if result.is_err() {
        eprintln!(
            "\n── the end of the node's log ({}/node/logs.jsonl)",
            folder().display()
        );
        eprintln!("{}", node.logs().tail(LAST_LINES));
        eprintln!(
            "── the node's screen ({}/node/console.log)",
            folder().display()
        );
        eprintln!("{}\n", node.console().tail(LAST_LINES));
    }
    result
}
