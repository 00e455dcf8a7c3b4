//! What the demo shows when it stands.

use tabled::{builder::Builder, settings::Style};

use super::{Deployed, tool::Loam};
use crate::workspace;

pub fn print(deployed: &Deployed, url: &str, tenant: &Loam) {
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
    let loam = tenant.typed(&workspace::root());
    let contract = deployed.contract;
    println!("\nWorth trying next:\n");
    println!("  curl {url}");
    println!("  {loam} logs {contract} web");
    println!("  {loam} status");
}
