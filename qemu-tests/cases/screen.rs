//! The node's own screen: nobody notices when its process ends, its keys do what they say, and it tells why the boot
//! before ended.

use std::{fs, time::Duration};

use anyhow::{Context as _, ensure};
use loam_node_api::debug::DebugRequest;
use qemu_tests::{
    folder,
    grid::Grid,
    node::{Node, NodeOptions},
    wait::{LIMIT, wait_for},
};
use serde_json::json;
use xtask::qemu::WatchdogAction;

const OTHERS: [&str; 4] = ["storaged", "netd", "clockd", "noded"];

/// The screen is killed that often, and all others go on.
fn kill(node: &Node<'_>, times: usize) -> anyhow::Result<()> {
    let processes = || -> anyhow::Result<Vec<Vec<u8>>> {
        let group = |name| node.read(&format!("/sys/fs/cgroup/daemons/{name}/cgroup.procs"));
        OTHERS.into_iter().map(group).collect()
    };
    let before = processes()?;
    let mut shown = 0;
    for _ in 0..times {
        shown = node.console()?.len();
        node.kill_screen()?;
    }
    ensure!(processes()? == before, "another process has ended");
    // The last one begins with the whole screen.
    wait_for("the screen to be drawn again", || {
        let console = node.console()?;
        let drawn = console.get(shown..).unwrap_or_default();
        Ok(drawn.contains("READY").then_some(()))
    })
}

pub fn case(_: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    kill(node, 3)
}

#[test]
#[ignore = "slow: two boots with a graphics card, and twenty pauses"]
fn the_screen_is_killed_twenty_times_and_its_keys_do_what_they_say() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let node = Node::boot(
        &grid,
        NodeOptions {
            screen: true,
            ..NodeOptions::default()
        },
    )?;
    let shows = |what: &str| {
        let seen = |rows: Vec<String>| rows.iter().any(|row| row.contains(what)).then_some(());
        wait_for(&format!("`{what}` on the screen"), || {
            Ok(seen(node.screen()?))
        })
    };
    let press = |key: &str| -> anyhow::Result<()> {
        let keys = json!({ "keys": [{ "type": "qcode", "data": key }] });
        node.qemu()?.command("send-key", keys)?;
        Ok(())
    };
    shows(" READY ")?;
    photograph(&node, "ready")?;
    kill(&node, 20)?;
    shows("r restart")?;

    press("i")?;
    shows("any key: back")?;
    photograph(&node, "id")?;
    press("esc")?;
    shows(" READY ")?;
    press("l")?;
    shows("noded: ")?;
    photograph(&node, "log")?;
    press("l")?;
    shows(" READY ")?;
    press("p")?;
    shows("Switch this node off?")?;
    photograph(&node, "question")?;
    press("n")?;
    shows("p power off")?;

    let mark = node.log_mark()?;
    press("r")?;
    shows("Restart this node?")?;
    press("y")?;
    node.wait_logged_since(mark, "init", "loam starts")?;
    shows(" READY ")
}

/// What the graphics card shows, for people: a file in the case's folder.
fn photograph(node: &Node<'_>, name: &str) -> anyhow::Result<()> {
    let file = folder::of_case()?.join(format!("{name}.png"));
    let arguments = json!({ "filename": file, "format": "png" });
    node.qemu()?.command("screendump", arguments)?;
    let bytes = fs::read(&file).with_context(|| format!("reading {}", file.display()))?;
    // One that shows nothing is far smaller.
    ensure!(
        bytes.len() > 4000,
        "{} has {} bytes",
        file.display(),
        bytes.len()
    );
    Ok(())
}

#[test]
#[ignore = "slow: two boots, and the minute that a watchdog waits"]
fn a_node_that_stands_still_is_restarted_and_says_so() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let node = Node::boot(
        &grid,
        NodeOptions {
            watchdog: Some(WatchdogAction::Reset),
            ..NodeOptions::default()
        },
    )?;
    node.wait_logged("watchdog armed")?;
    // There is no answer, as nobody is there any more.
    node.qemu()?.debug_port()?.send(&DebugRequest::Freeze)?;
    node.qemu()?
        .wait_event("WATCHDOG", Duration::from_secs(180))?;
    let said = "last boot ended by the watchdog";
    node.qemu()?.console().wait_for(said, LIMIT)?;
    Ok(())
}
