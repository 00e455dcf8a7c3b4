//! A disk that holds somebody's data is never written.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
};

use anyhow::ensure;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions},
};

#[test]
fn a_disk_with_a_partition_table_is_never_written() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("foreign");
    let size = 2 << 30;
    let disk = File::create(&path)?;
    disk.set_len(size)?;
    // An MBR with one Linux partition from sector 2048 on, and nothing else.
    let mut sector = [0; 512];
    sector[446..462].copy_from_slice(&[
        0x00, 0x20, 0x21, 0x00, 0x83, 0xff, 0xff, 0xff, 0x00, 0x08, 0x00, 0x00, 0x00, 0x00, 0x10,
        0x00,
    ]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_all_at(&sector, 0)?;

    let grid = Grid::start()?;
    let options = NodeOptions {
        disks: vec![2 << 30],
        full_disks: vec![path],
        ..NodeOptions::default()
    };
    let mut node = Node::boot(&grid, options)?;
    // Registered means that the empty disk is a pool already; the other one is told of.
    ensure!(
        node.list("/pools")?.len() == 1,
        "{:?}",
        node.list("/pools")?
    );
    qemu_tests::wait::wait_for("the notice on the screen", || {
        Ok(node.console()?.contains("left alone").then_some(()))
    })?;
    node.cut_power();

    let after = File::open(node.disk("full0"))?;
    ensure!(after.metadata()?.len() == size);
    let mut bytes = vec![0; 1 << 20];
    for offset in (0..size).step_by(bytes.len()) {
        after.read_exact_at(&mut bytes, offset)?;
        let rest = if offset == 0 {
            ensure!(bytes[..512] == sector, "its partition table was changed");
            &bytes[512..]
        } else {
            &bytes[..]
        };
        ensure!(
            rest.iter().all(|byte| *byte == 0),
            "it was written around {offset}"
        );
    }
    fs::remove_dir_all(folder)?;
    Ok(())
}
