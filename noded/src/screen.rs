//! What noded has to say on the node's own screen.

use std::collections::BTreeMap;

use loam_deployment::{
    Bytes, NodeKey,
    report::{Report, State},
};
use loam_node_api::{
    network::Uplink,
    status::{ChainState, DiskCount, Excerpt, NodeStatus, WorkloadCount, bounded},
    storage::{Disk, DiskState, REMOVABLE},
};

use crate::{desired::Desired, farm::Choice, report::verdict_word};

#[derive(Debug, Default)]
pub struct Screen {
    pub node: Option<NodeKey>,
    pub farm: Choice,
    pub uplink: Uplink,
    pub chain: ChainState,
    /// Hosts that answer for the chain, as the grid names them.
    pub endpoints: Vec<String>,
    pub disks: Vec<Disk>,
    pub reports: Vec<Report>,
    /// What the reports are about.
    pub desired: Desired,
    /// What keeps noded from working, if anything does, beside a farm that nobody names.
    pub trouble: Option<String>,
}

impl Screen {
    pub fn status(&self) -> NodeStatus {
        NodeStatus {
            node: self.node,
            farm: self.farm.farm,
            addresses: self.uplink.addresses.iter().map(|net| net.addr()).collect(),
            chain: match self.chain.clone() {
                ChainState::Silent { reason } => ChainState::Silent {
                    reason: bounded(reason),
                },
                told => told,
            },
            trouble: self.trouble().map(bounded),
            disks: count(&self.disks),
            workloads: self.workloads(),
            notices: self.notices(),
        }
    }

    fn trouble(&self) -> Option<String> {
        let nameless = || self.farm.trouble().map(str::to_owned);
        self.trouble.clone().or_else(nameless)
    }

    fn notices(&self) -> Excerpt<String> {
        let mut notices: Vec<String> = self.farm.notices.clone();
        if let Some(missing) = self.uplink.missing {
            notices.push(missing.to_string());
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
                // Most nodes boot from one.
                DiskState::Unfit(why) if why == REMOVABLE => {}
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
    /// By kind, in the order of their names.
    fn workloads(&self) -> Vec<WorkloadCount> {
        let mut counts: BTreeMap<&str, WorkloadCount> = BTreeMap::new();
        for report in &self.reports {
            for (name, workload) in &report.workloads {
                let kind = self.desired.kind(report.contract, name);
                let count = counts.entry(kind).or_insert_with(|| WorkloadCount {
                    kind: kind.to_owned(),
                    ..WorkloadCount::default()
                });
                *match workload.state {
                    State::Pending | State::Fetching | State::Starting => &mut count.coming,
                    State::Running => &mut count.running,
                    State::Stopped => &mut count.stopped,
                    State::Failed => &mut count.failed,
                } += 1;
            }
        }
        counts.into_values().collect()
    }

    fn has_ipv6_alone(&self) -> bool {
        let addresses = &self.uplink.addresses;
        !addresses.is_empty() && addresses.iter().all(|net| net.addr().is_ipv6())
    }
}

fn count(disks: &[Disk]) -> DiskCount {
    let mut count = DiskCount::default();
    for disk in disks {
        match &disk.state {
            DiskState::Pool(_) => {
                count.used += 1;
                count.size = Bytes(count.size.get().saturating_add(disk.size.get()));
            }
            DiskState::Foreign(_) => count.left_alone += 1,
            DiskState::Failed(_) => count.failed += 1,
            DiskState::Unfit(_) => count.unfit += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests;
