//! `loam cancel`: the end of a contract.

use std::io::{BufRead, IsTerminal, Write};

use anyhow::bail;
use serde::Serialize;

use crate::{args::Cancel, config::Config, output::Output, session::Session};

#[derive(Serialize)]
struct Cancelled {
    contract: u64,
    block: u64,
}

pub async fn run(cancel: Cancel, config: &Config, output: Output) -> anyhow::Result<()> {
    let session = Session::open(config)?;
    let contract = session.living_contract(cancel.contract).await?;
    if !cancel.yes {
        confirm(&format!(
            "Contract {} ends: its machines stop and its volumes are deleted. Go on?",
            contract.id
        ))?;
    }
    let included = session.writer.cancel_contract(contract.id).await?;
    let cancelled = Cancelled {
        contract: contract.id.0,
        block: included.block.number,
    };
    output.record(&cancelled, |cancelled| {
        vec![
            ("cancelled", format!("contract {}", cancelled.contract)),
            ("in block", cancelled.block.to_string()),
        ]
    })
}

fn confirm(question: &str) -> anyhow::Result<()> {
    let input = std::io::stdin();
    if !input.is_terminal() {
        bail!("this deletes data and nobody is here to confirm it; say --yes");
    }
    eprint!("{question} [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    input.lock().read_line(&mut answer)?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was changed");
    }
    Ok(())
}
