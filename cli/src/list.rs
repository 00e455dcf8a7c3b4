//! `loam list`: the user's contracts.

use loam_chain::{ContractState, GridReader};
use loam_deployment::report::{State, Verdict};
use serde::Serialize;

use crate::{config::Config, output::Output, session::Session};

#[derive(Serialize)]
struct Contract {
    contract: u64,
    node: String,
    version: u64,
    state: String,
    created_block: u64,
}

pub async fn run(config: &Config, output: Output) -> anyhow::Result<()> {
    let session = Session::open(config)?;
    let twin = session.twin().await?;
    let mut contracts = Vec::new();
    for record in session
        .reader
        .contracts_of_twin(twin, session.latest().await?)
        .await?
    {
        let report = session.report(&record).await?;
        let state = match (record.state, report) {
            (ContractState::Cancelled, _) => "cancelled".to_owned(),
            (ContractState::Suspended, _) => "suspended".to_owned(),
            (ContractState::Created, None) => "waiting".to_owned(),
            (ContractState::Created, Some(report)) => match report.verdict {
                Verdict::Rejected { .. } => "rejected".to_owned(),
                Verdict::Accepted => worst(report.workloads.values().map(|w| w.state)),
            },
        };
        contracts.push(Contract {
            contract: record.id.0,
            node: record.node.to_string(),
            version: record.version().0,
            state,
            created_block: record.created,
        });
    }
    output.table(
        &contracts,
        &["contract", "node", "version", "state", "since block"],
        |contract| {
            vec![
                contract.contract.to_string(),
                contract.node.clone(),
                contract.version.to_string(),
                contract.state.clone(),
                contract.created_block.to_string(),
            ]
        },
        "you have no contracts; `loam deploy` makes one",
    )
}

/// One word for many workloads: the one that its owner should know of first.
fn worst(states: impl Iterator<Item = State>) -> String {
    let rank = |state: &State| match state {
        State::Failed => 5,
        State::Pending => 4,
        State::Fetching => 3,
        State::Starting => 2,
        State::Stopped => 1,
        State::Running => 0,
    };
    states
        .max_by_key(rank)
        .unwrap_or(State::Running)
        .as_str()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_workload_is_what_is_told() {
        assert_eq!(
            worst([State::Running, State::Failed, State::Pending].into_iter()),
            "failed"
        );
        assert_eq!(
            worst([State::Running, State::Starting].into_iter()),
            "starting"
        );
        assert_eq!(worst([].into_iter()), "running");
    }
}
