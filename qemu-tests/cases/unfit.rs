//! A machine that cannot become a node says so on its screen, and what to do.

use qemu_tests::{folder, node::tested_image, wait::LIMIT};
use xtask::{
    image,
    qemu::{NodeConfig, accel::Choice},
};

#[test]
#[ignore = "slow: a boot of its own"]
fn a_machine_that_cannot_be_a_node_says_why_and_what_to_do() -> anyhow::Result<()> {
    let node = NodeConfig::new(folder::new("node")?, tested_image()?)
        .accel(Choice::of_environment()?.decide(&image::linux()))
        .memory_mib(1024)
        // The last one counts. Without the level QEMU leaves out with SVM what says how long addresses are, which no
        // processor does: the kernel then reads none of its own (`copy_from_kernel_nofault_allowed`).
        .arguments(["-cpu", "max,-cx16,svm=off,vmx=off,xlevel=0x8000000a"])
        .start()?;
    let console = node.console();
    console.wait_for("this image was made for no grid", LIMIT)?;
    console.wait_for("this processor has no virtualisation", LIMIT)?;
    // What is known all the same is shown.
    console.wait_for("address   10.0.2.15", LIMIT)?;
    console.wait_for("daemons   all run", LIMIT)?;
    anyhow::ensure!(!node.logs().text().contains("daemon ended"));
    Ok(())
}
