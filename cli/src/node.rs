//! `loam node`: the grid's nodes.

use loam_chain::{GridReader, NodeState};
use loam_deployment::Bytes;
use serde::Serialize;

use crate::{args::NodeCommand, config::Config, output::Output, session::reader};

#[derive(Serialize)]
struct Node {
    node: String,
    farm: u64,
    up: bool,
    cpus: u64,
    memory: u64,
    ssd: u64,
    hdd: u64,
    addresses: String,
    last_report_block: u64,
}

pub async fn run(command: NodeCommand, config: &Config, output: Output) -> anyhow::Result<()> {
    let NodeCommand::List = command;
    let reader = reader(&config.grid()?)?;
    let nodes = reader.nodes(reader.latest().await?).await?;
    let nodes: Vec<_> = nodes
        .into_iter()
        .map(|node| Node {
            node: node.key.to_string(),
            farm: node.farm.0,
            up: node.state == NodeState::Up,
            cpus: node.capacity.cpus,
            memory: node.capacity.memory.get(),
            ssd: node.capacity.ssd.get(),
            hdd: node.capacity.hdd.get(),
            addresses: node.addresses,
            last_report_block: node.last_report,
        })
        .collect();
    output.table(
        &nodes,
        &[
            "node",
            "farm",
            "state",
            "cpus",
            "memory",
            "ssd",
            "hdd",
            "addresses",
        ],
        |node| {
            vec![
                node.node.clone(),
                node.farm.to_string(),
                if node.up { "up" } else { "down" }.into(),
                node.cpus.to_string(),
                rounded(Bytes(node.memory)),
                rounded(Bytes(node.ssd)),
                rounded(Bytes(node.hdd)),
                node.addresses.clone(),
            ]
        },
        "the grid has no node yet",
    )
}

/// For reading, not for computing: one decimal of the largest fitting unit.
pub fn rounded(bytes: Bytes) -> String {
    let units = [
        ("TiB", Bytes::TIB),
        ("GiB", Bytes::GIB),
        ("MiB", Bytes::MIB),
        ("KiB", Bytes::KIB),
    ];
    match units.into_iter().find(|(_, size)| bytes.get() >= *size) {
        Some((unit, size)) => {
            let tenths = u128::from(bytes.get()) * 10 / u128::from(size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{} B", bytes.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_down_to_a_decimal() {
        assert_eq!(rounded(Bytes(0)), "0 B");
        assert_eq!(rounded(Bytes::mib(1536)), "1.5 GiB");
        assert_eq!(rounded(Bytes(u64::MAX)), "16777215.9 TiB");
    }
}
