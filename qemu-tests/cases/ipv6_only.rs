//! A home without IPv4: the node gets onto its network, joins the grid, fetches an image and runs a
//! machine, all by IPv6. (netd's own tests try what its routers say; here all daemons have nothing else.)

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream},
    thread,
};

use anyhow::{Context, ensure};
use loam_deployment::Version;
use qemu_tests::{
    grid::Grid,
    node::{Node, NodeOptions, Uplink},
    wait::wait_for,
};
use xtask::{qemu, registry::Registry};

use crate::demo::Hello;

/// The node's own address has it in front: QEMU's user network announces no other prefix.
const PREFIX: &str = "fec0::";
/// What it would have got by IPv4.
const BY_IPV4: &str = "10.0.2.15";

#[test]
#[ignore = "slow: a node and a chain of their own"]
fn a_node_without_ipv4_runs_a_machine() -> anyhow::Result<()> {
    let grid = Grid::start()?;
    let registry = Registry::start(Ipv6Addr::LOCALHOST.into())?;
    registry.add("hello", &grid.hello);
    let chain_port = lead_to(grid.chain_port())?;
    let node = Node::boot(
        &grid,
        NodeOptions {
            uplink: Uplink::Ipv6 { chain_port },
            ..NodeOptions::default()
        },
    )?;

    let host = format!("{}:{}", qemu::HOST_BY_IPV6, registry.address().port());
    let hello = Hello::default().toml(&grid).replace(
        &grid.hello_reference(),
        &grid.hello.reference(&host, "hello"),
    );
    let alice = grid.tenant("alice")?;
    let contract = alice.deploy(&node, &hello)?;
    contract.wait_running(Version(1))?;
    ensure!(registry.gets(grid.hello.digest()) > 0);

    wait_for("its address on the screen", || {
        Ok(node.console()?.contains(PREFIX).then_some(()))
    })?;
    ensure!(!node.console()?.contains(BY_IPV4), "it has IPv4");
    Ok(())
}

/// A port of `::1` whose connections lead to this port of 127.0.0.1, until the case's process ends.
fn lead_to(port: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
        .context("this machine has no IPv6, not even `::1`")?;
    let here = listener.local_addr()?.port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            // One that is refused is closed, which the node sees.
            let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(|far| join(near, far));
        }
    });
    Ok(here)
}

/// Copies both ways until both have ended.
fn join(near: TcpStream, far: TcpStream) -> io::Result<()> {
    let pairs = [(near.try_clone()?, far.try_clone()?), (far, near)];
    for (mut from, mut to) in pairs {
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
    Ok(())
}
