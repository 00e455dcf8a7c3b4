//! `loam status`: what nodes say about the user's contracts.

use std::net::Ipv4Addr;

use loam_chain::{ContractRecord, ContractState, GridReader};
use loam_deployment::{
    ContractId,
    payload::Protocol,
    report::{Report, Verdict},
};
use serde::Serialize;

use crate::{authority::authority, config::Config, output::Output, session::Session};

/// A workload of a contract as its node reported it.
#[derive(Debug, Serialize)]
pub struct Line {
    pub contract: u64,
    pub version: u64,
    pub node: String,
    pub workload: String,
    pub state: String,
    /// What a machine's check says: `starting`, `healthy`, `unhealthy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// Since when, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_since: Option<u64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Where the published ports are reached, `tcp://address:port`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// How often it was started again after it had ended by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<u32>,
}

impl Line {
    fn state_and_health(&self) -> String {
        match &self.health {
            Some(health) => format!("{}, {health}", self.state),
            None => self.state.clone(),
        }
    }
}

pub async fn run(
    contract: Option<ContractId>,
    config: &Config,
    output: Output,
) -> anyhow::Result<()> {
    let session = Session::open(config)?;
    let contracts = match contract {
        Some(id) => vec![session.contract(id).await?],
        None => {
            let twin = session.twin().await?;
            session
                .reader
                .contracts_of_twin(twin, session.latest().await?)
                .await?
        }
    };
    let mut lines = Vec::new();
    for contract in &contracts {
        lines.extend(contract_lines(&session, contract).await?);
    }
    print(&lines, output)
}

pub fn print(lines: &[Line], output: Output) -> anyhow::Result<()> {
    output.table(
        lines,
        &[
            "contract",
            "version",
            "workload",
            "state",
            "addresses",
            "published",
            "detail",
        ],
        |line| {
            vec![
                line.contract.to_string(),
                line.version.to_string(),
                line.workload.clone(),
                line.state_and_health(),
                line.addresses.join(" "),
                line.published.join(" "),
                line.detail.clone(),
            ]
        },
        "you have no contracts; `loam deploy` makes one",
    )
}

pub async fn contract_lines(
    session: &Session,
    contract: &ContractRecord,
) -> anyhow::Result<Vec<Line>> {
    let plain = |state: &str, detail: String| Line {
        contract: contract.id.0,
        version: contract.version().0,
        node: contract.node.to_string(),
        workload: String::new(),
        state: state.into(),
        health: None,
        health_since: None,
        detail,
        addresses: vec![],
        published: vec![],
        exit_status: None,
        restarts: None,
    };
    if contract.state == ContractState::Cancelled {
        return Ok(vec![plain("cancelled", String::new())]);
    }
    let Some(report) = session.report(contract).await? else {
        return Ok(vec![plain(
            "waiting",
            "the node has not reported yet".into(),
        )]);
    };
    let host = host(session, contract).await?;
    let mut lines = Vec::new();
    if let Verdict::Rejected { reason, .. } = &report.verdict {
        lines.push(plain("rejected", reason.clone()));
    } else if report.version < contract.version() {
        lines.push(plain(
            "waiting",
            "the node has not seen this version yet".into(),
        ));
    }
    if contract.state == ContractState::Suspended {
        lines.push(plain("suspended", "the farmer stopped it".into()));
    }
    lines.extend(workload_lines(contract, &report, host.as_deref()));
    if lines.is_empty() {
        lines.push(plain("running", "nothing is asked for".into()));
    }
    Ok(lines)
}

fn workload_lines<'a>(
    contract: &'a ContractRecord,
    report: &'a Report,
    host: Option<&'a str>,
) -> impl Iterator<Item = Line> + 'a {
    report.workloads.iter().map(move |(name, workload)| Line {
        contract: contract.id.0,
        version: report.version.0,
        node: contract.node.to_string(),
        workload: name.to_string(),
        state: workload.state.as_str().into(),
        health: workload.health.map(|health| health.state.as_str().into()),
        health_since: workload.health.map(|health| health.since),
        detail: workload.detail.clone(),
        addresses: workload.addresses.iter().map(ToString::to_string).collect(),
        published: workload
            .ports
            .iter()
            .map(|publish| {
                let protocol = match publish.protocol {
                    Protocol::Tcp => "tcp",
                    Protocol::Udp => "udp",
                };
                let authority = authority(host.unwrap_or(NO_HOST), publish.node_port);
                format!("{protocol}://{authority}")
            })
            .collect(),
        exit_status: workload.exit_status,
        restarts: Some(workload.restarts).filter(|count| *count > 0),
    })
}

/// What stands for the host where the node has no IPv4 address.
const NO_HOST: &str = "NO-IPV4";

/// At which address the ports of the contract's node are.
async fn host(session: &Session, contract: &ContractRecord) -> anyhow::Result<Option<String>> {
    let node = session
        .reader
        .node(contract.node, session.latest().await?)
        .await?;
    Ok(node.and_then(|node| publishing(&node.addresses)))
}

/// Of a node's addresses: ports are published by IPv4.
fn publishing(addresses: &str) -> Option<String> {
    let is_v4 = |word: &&str| word.parse::<Ipv4Addr>().is_ok();
    addresses.split_whitespace().find(is_v4).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_at_the_first_ipv4_address() {
        let both = "2001:db8::1 192.0.2.5 10.0.2.15";
        assert_eq!(publishing(both).as_deref(), Some("192.0.2.5"));
        assert_eq!(publishing("2001:db8::1"), None);
        assert_eq!(publishing(""), None);
    }

    #[test]
    fn the_health_stands_beside_the_state_where_there_is_one() {
        let line = |health: Option<&str>| Line {
            contract: 1,
            version: 1,
            node: String::new(),
            workload: "web".into(),
            state: "running".into(),
            health: health.map(str::to_owned),
            health_since: health.map(|_| 5),
            detail: String::new(),
            addresses: vec![],
            published: vec![],
            exit_status: None,
            restarts: None,
        };
        assert_eq!(line(None).state_and_health(), "running");
        let line = line(Some("unhealthy"));
        assert_eq!(line.state_and_health(), "running, unhealthy");
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!(
            (&json["health"], &json["health_since"]),
            (&"unhealthy".into(), &5.into())
        );
    }
}
