//! What the demo shows when it stands.

use tabled::{builder::Builder, settings::Style};

use super::{Deployed, tool::Loam};
use crate::workspace;

pub fn print(deployed: &Deployed, url: &str, tenant: &Loam, image: &str) {
    let mut table = Builder::default();
    let mut row = |name: &str, value: String| table.push_record([name.to_owned(), value]);
    row("node", deployed.node.clone());
    for workload in &deployed.workloads {
        let addresses = workload.addresses.join(" ");
        row(
            &workload.workload,
            format!("{} {addresses}", workload.state),
        );
    }
    row("URL", url.to_owned());
    println!("\n{}", table.build().with(Style::rounded()));
    let contract = deployed.contract;
    println!("\nWorth trying next, in another terminal, in this folder:\n");
    for line in tenant.exports(&workspace::root()).lines() {
        println!("  {line}");
    }
    println!("  export HELLO_IMAGE={image} TOKEN=another");
    println!("  curl {url}");
    println!("  loam status");
    println!("  loam logs {contract} web");
    println!("  loam update {contract} examples/hello.toml");
    println!(
        "\nThe node is reached by that URL alone: no other port that a machine publishes is forwarded."
    );
    println!("More of `loam` is in docs/tenant.md.");
}
