//! Two tenants on one node: neither reaches the other's network, nor lies about its address.

use std::net::TcpStream;

use anyhow::ensure;
use loam_deployment::Version;
use loam_node_api::path::TENANT_PORT;
use qemu_tests::{grid::Grid, http, node::Node, wait::wait_for};

use crate::demo::{Hello, count, wait_start};

pub fn case(grid: &Grid, node: &mut Node<'_>) -> anyhow::Result<()> {
    let (alice, bob) = (grid.tenant("alice")?, grid.tenant("bob")?);
    // A second machine of Alice's, to hear what the first one sends.
    let first = Hello::default().toml(grid);
    let image = grid.hello_reference();
    let toml = format!(
        r#"{first}
            [machine.ear]
            image = "{image}"
            cpus = 1
            memory = "160MiB"
            root = "64MiB"
            networks = ["private=10.20.0.3"]
            publish = ["tcp:8082:80", "udp:8082:80"]
        "#
    );
    let hers = alice.deploy(node, &toml)?;
    let theirs = Hello {
        port: 8081,
        subnet: "10.30.0",
        ..Hello::default()
    };
    let his = bob.deploy(node, &theirs.toml(grid))?;
    hers.wait_running(Version(1))?;
    his.wait_running(Version(1))?;
    let (web, ear, other) = (
        node.forward(8080)?,
        node.forward(8082)?,
        node.forward(8081)?,
    );
    for machine in [web, ear, other] {
        wait_start(machine)?;
    }
    ensure!(count(web)? == 1 && count(other)? == 1);

    // Alice's own machine is reached, so a failure below means what it says.
    let connect = |from, to: &str| http::get_text(from, &format!("/connect?to={to}"));
    let own = connect(web, "10.20.0.3:80")?;
    ensure!(own.starts_with("ok"), "{own}");
    // So is Bob's published port, by the node's address: machines of both come that far.
    let published = connect(web, "10.0.2.15:8081")?;
    ensure!(published.starts_with("ok"), "{published}");
    // And the node's own port answers whoever may reach it.
    TcpStream::connect(node.forward(TENANT_PORT)?)?;
    // Theirs are the node's first networks (`shared_cases!` runs this case first), whose links have the
    // first numbers. Somebody listens at each of these, so it is the rules that keep them apart: the machines
    // themselves, the node by its address and by its ends of both networks' links, and the
    // networks' ends of these links, where the published ports are translated. By IPv6 nothing leads out of
    // a network here, so that nothing would be shown: netd's own tests have a router of IPv6.
    for (from, closed) in [
        (web, "10.30.0.2:80"),
        (web, "10.0.2.15:9650"),
        (web, "198.18.0.2:9650"),
        (web, "198.18.0.4:9650"),
        (web, "198.18.0.5:8081"),
        (other, "10.20.0.2:80"),
        (other, "10.20.0.3:80"),
        (other, "10.0.2.15:9650"),
        (other, "198.18.0.2:9650"),
        (other, "198.18.0.4:9650"),
        (other, "198.18.0.3:8080"),
        (other, "198.18.0.3:8082"),
    ] {
        let answer = connect(from, closed)?;
        ensure!(
            answer.starts_with("failed"),
            "{closed} was reached: {answer}"
        );
    }

    let send = |from, source: &str, to: &str, port: u16| {
        let answer = http::post(from, &format!("/spoof?src={source}&dst={to}&port={port}"))?;
        ensure!(answer.starts_with("ok"), "not even sent: {answer}");
        Ok(())
    };
    let heard = || http::get_text(ear, "/datagrams");
    // What must not arrive: another tenant's by both inner ways, and a forged address.
    send(other, "10.30.0.2", "10.20.0.3", 80)?;
    send(other, "10.30.0.2", "198.18.0.3", 8082)?;
    send(web, "10.20.0.9", "10.20.0.3", 80)?;
    // Sent after them, on the same paths: once these are here, the others will not come. What comes by
    // a published port from the node has the address of the node's end of the link.
    send(other, "10.30.0.2", "10.0.2.15", 8082)?;
    send(web, "10.20.0.2", "10.20.0.3", 80)?;
    wait_for("honest datagrams", || {
        Ok((heard()?.lines().count() >= 2).then_some(()))
    })?;
    ensure!(
        heard()? == "10.20.0.2 1\n198.18.0.2 1\n",
        "a forged address or another tenant's datagram passed: {}",
        heard()?
    );
    hers.cancel()?;
    his.cancel()
}
