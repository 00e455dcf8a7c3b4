//! A kernel that panics restarts its node, which says so afterwards.

use loam_node_api::debug::DebugRequest;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
    wait::LIMIT,
};

#[test]
#[ignore = "slow: two boots, and ten seconds that a kernel waits in between"]
fn a_kernel_that_panicked_is_told_on_the_next_screen() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let node = Node::boot(&grid, NodeOptions::default())?;
    anyhow::ensure!(!node.console()?.contains("last boot"));
    // There is no answer, as nobody is there any more.
    node.qemu()?.debug_port()?.send(&DebugRequest::Panic)?;
    let said = "last boot ended in a crash of the kernel: sysrq triggered crash";
    node.qemu()?.console().wait_for(said, LIMIT)?;
    // It is told once: what was kept is gone.
    node.wait_logged("before the last crash")?;
    anyhow::ensure!(node.list("/sys/fs/pstore")?.is_empty());
    Ok(())
}
