//! Which farm a node joins, and that nothing moves it to another but a stick.

use std::{fs, path::Path};

use anyhow::ensure;
use loam_deployment::{FarmId, NodeKey, Version};
use qemu_tests::{
    folder,
    grid::Grid,
    node::{Node, NodeOptions, Uplink, tested_image},
    wait::wait_for,
};
use xtask::{image::media::disk, qemu::Medium};

use crate::demo::Hello;

/// What noded logs when it has kept a farm.
const KEPT: &str = "a farm has accepted this node and is kept with it";

#[test]
#[ignore = "slow: three boots"]
fn only_a_stick_moves_a_node_to_another_farm() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let ours = grid.farm;
    let theirs = grid.create_farm(&grid.tenant("thief")?, "theirs")?;
    let stick = folder::new("stick")?.join("loam.img");

    // To a new node its stick says more than its kernel's command line, its network and its image.
    write(&stick, Some(ours))?;
    let offered = grid.node_config(Uplink::Ipv4AndIpv6)?;
    let own = format!("farm = {ours}");
    ensure!(offered.contains(&own), "{offered}");
    let options = NodeOptions {
        image: Some(stick.clone()),
        medium: Some(Medium::Stick),
        offered_grid: Some(offered.replace(&own, &format!("farm = {theirs}"))),
        command_line: Some(format!("loam.farm={theirs}")),
        disks: vec![4 << 30],
        ..NodeOptions::default()
    };
    let mut node = Node::boot(&grid, options)?;
    let key = node.record()?.key;
    node.wait_logged(&format!("{ours}, from the stick"))?;
    ensure!(node.record()?.farm == ours, "{:?}", node.record()?);
    node.wait_logged(KEPT)?;
    node.press_power_button_and_wait()?;

    // Without its word, the others' still do not count.
    write(&stick, None)?;
    node.switch_on()?;
    let stays = || ensure_in(&grid, key, ours);
    let kept = format!("{ours}, kept with this node");
    wait_for("the node to stay", || {
        node.qemu()?.check_on()?;
        stays()?;
        Ok(node.logs()?.contains(&kept).then_some(()))
    })?;
    for who in ["the kernel's command line", "the image"] {
        node.wait_logged(&format!(
            "{who} names farm {theirs}; this node stays in farm {ours}"
        ))?;
    }
    // A node that had moved would have written so by the time that a machine runs.
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &Hello::default().toml(&grid))?;
    contract.wait_running(Version(1))?;
    stays()?;
    node.press_power_button_and_wait()?;

    write(&stick, Some(theirs))?;
    node.switch_on()?;
    wait_for("the node to move", || {
        node.qemu()?.check_on()?;
        Ok((farm_of(&grid, key)? == Some(theirs)).then_some(()))
    })?;
    node.wait_logged(KEPT)?;
    node.wait_logged(&format!("{theirs}, kept with this node"))
}

/// The image that is tested, with a farm or none.
fn write(stick: &Path, farm: Option<FarmId>) -> anyhow::Result<()> {
    let mut bytes = fs::read(tested_image()?)?;
    if let Some(farm) = farm {
        disk::name_farm(&mut bytes, farm)?;
    }
    Ok(fs::write(stick, bytes)?)
}

fn ensure_in(grid: &Grid, node: NodeKey, farm: FarmId) -> anyhow::Result<()> {
    let found = farm_of(grid, node)?;
    ensure!(
        found == Some(farm),
        "the node has moved from farm {farm} to {found:?}"
    );
    Ok(())
}

/// As the node's record on the chain has it now.
fn farm_of(grid: &Grid, node: NodeKey) -> anyhow::Result<Option<FarmId>> {
    let mut nodes = grid.latest_nodes()?.into_iter();
    let record = nodes.find(|record| record.key == node);
    Ok(record.map(|record| record.farm))
}
