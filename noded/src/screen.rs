//! What the node's own screen says about chain and workloads.

use loam_deployment::{FarmId, NodeKey, report::Report};
use loam_node_api::{
    WorkloadId,
    network::Uplink,
    status::{ChainState, Excerpt, NodeStatus, WorkloadLine, bounded},
    storage::{Disk, DiskState},
};

use crate::{desired::Desired, report::verdict_word};

#[derive(Debug, Default)]
pub struct Screen {
    pub node: Option<NodeKey>,
    pub farm: Option<FarmId>,
    pub uplink: Uplink,
    pub chain: ChainState,
    /// Hosts that answer for the chain, as the grid names them.
    pub endpoints: Vec<String>,
    pub disks: Vec<Disk>,
    pub reports: Vec<Report>,
    /// What the reports are about.
    pub desired: Desired,
    /// What keeps noded from working, if anything does.
    pub trouble: Option<String>,
}

impl Screen {
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.node,
            farm: self.farm.map(|farm| farm.0),
            addresses: self.uplink.addresses.iter().map(|net| net.addr()).collect(),
            chain: match self.chain.clone() {
                ChainState::Silent { reason } => ChainState::Silent {
                    reason: bounded(reason),
                },
                told => told,
            },
            workloads: self
                .reports
                .iter()
                .flat_map(|r| lines(r, &self.desired))
                .collect(),
            notices: self.notices(),
        }
    }

    fn notices(&self) -> Excerpt<String> {
        let mut notices: Vec<String> = self.trouble.iter().cloned().collect();
        if let Some(missing) = self.uplink.missing {
            notices.push(missing.to_string());
        } else if self.uplink.addresses.is_empty() {
            notices.push("no address yet: is a network cable plugged in?".into());
        }
        if self.has_ipv6_alone() && matches!(self.chain, ChainState::Silent { .. }) {
            notices.push(format!(
                "this network gives IPv6 addresses only: an endpoint of the chain must have one too, \
                 and none of these answers: {}",
                self.endpoints.join(", ")
            ));
        }
        for disk in &self.disks {
            let device = disk.device.display();
            match &disk.state {
                DiskState::Pool(_) => {}
                DiskState::Foreign(what) => {
                    notices.push(format!("{device} is left alone: it holds {what}"));
                }
                DiskState::Failed(why) => notices.push(format!("{device} failed: {why}")),
                DiskState::Unfit(why) => notices.push(format!("{device} is not used: {why}")),
            }
        }
        let rejected = self
            .reports
            .iter()
            .filter(|report| report.workloads.is_empty());
        for report in rejected {
            notices.push(format!(
                "contract {} version {} {}",
                report.contract,
                report.version,
                verdict_word(&report.verdict)
            ));
        }
        notices.into_iter().map(bounded).collect()
    }
}

impl Screen {
    fn has_ipv6_alone(&self) -> bool {
        let addresses = &self.uplink.addresses;
        !addresses.is_empty() && addresses.iter().all(|net| net.addr().is_ipv6())
    }
}

/// Each workload with what is said of it.
fn lines<'a>(report: &'a Report, desired: &'a Desired) -> impl Iterator<Item = WorkloadLine> + 'a {
    report.workloads.iter().map(|(name, workload)| {
        let mut state = workload.state.as_str().to_owned();
        if let Some(health) = workload.health {
            state = format!("{state}, {}", health.state.as_str());
        }
        if !workload.detail.is_empty() {
            state = format!("{state}: {}", workload.detail);
        }
        WorkloadLine {
            id: WorkloadId::new(report.contract, name.clone()),
            kind: desired.kind(report.contract, name).into(),
            state: bounded(state),
        }
    })
}

#[cfg(test)]
mod tests;
