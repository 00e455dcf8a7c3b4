//! Every limit of a payload.
//!
//! The same checks stand behind the signing tool and the node: a payload that passes is one that
//! any node can be asked to run. What depends on the node itself (free space, ports that its
//! farmer allows) is the node's to say.

mod gateway;
mod machine;
mod network;
mod policy;
mod storage;

use std::collections::BTreeMap;

use crate::{
    Name, limits,
    payload::{Body, Payload, Target, Workload},
    rejection::{FieldError, Problem},
};

type Result<T = (), E = FieldError> = std::result::Result<T, E>;

/// Checks every limit of a payload and of what it holds.
pub fn payload(payload: &Payload) -> Result {
    let Payload {
        target,
        contract,
        version,
        valid_until: _,
        description,
        body: content,
    } = payload;
    ensure("contract", contract.0 >= 1, "must be 1 or more")?;
    ensure("version", version.0 >= 1, "must be 1 or more")?;
    if let (Target::Farm(_), Body::Workload(_)) = (target, content) {
        return Err(invalid(
            "farm",
            "workloads are for one node; name it as `node`",
        ));
    }
    if let Target::Farm(farm) = target {
        ensure("farm", farm.0 >= 1, "must be 1 or more")?;
    }
    self::description(description)?;
    body(content)
}

pub(crate) fn description(text: &str) -> Result {
    at_most(
        "description",
        text.len(),
        limits::DESCRIPTION_BYTES,
        "bytes",
    )?;
    // It is shown in terminals, whose escape sequences can do more than show.
    let plain = text
        .chars()
        .all(|c| !c.is_control() || c == '\n' || c == '\t');
    ensure("description", plain, "must not hold control characters")
}

pub(crate) fn body(body: &Body) -> Result {
    match body {
        Body::Workload(workloads) => self::workloads(workloads),
        Body::Node(policy) => policy::check(policy, "policy"),
    }
}

fn workloads(workloads: &BTreeMap<Name, Workload>) -> Result {
    at_most("workloads", workloads.len(), limits::WORKLOADS, "entries")?;
    for (name, workload) in workloads {
        let path = format!("workloads.{name}");
        match workload {
            Workload::Machine(machine) => machine::check(machine, workloads, &path)?,
            Workload::Volume(volume) => storage::volume(volume, &path)?,
            Workload::Network(network) => network::check(network, &path)?,
            Workload::Gateway(gateway) => gateway::check(gateway, &path)?,
            Workload::PublicIp(ip) => {
                ensure(&path, ip.v4 || ip.v6, "must ask for `v4`, `v6` or both")?;
            }
            Workload::ObjectStore(store) => storage::object_store(store, &path)?,
        }
    }
    machine::shared(workloads)?;
    network::shared(workloads)
}

fn invalid(path: &str, why: impl Into<String>) -> FieldError {
    FieldError {
        path: path.to_owned(),
        problem: Problem::Value(why.into()),
    }
}

fn ensure(path: &str, holds: bool, why: &str) -> Result {
    if holds {
        Ok(())
    } else {
        Err(invalid(path, why))
    }
}

fn at_most(path: &str, size: usize, limit: usize, what: &str) -> Result {
    if size <= limit {
        return Ok(());
    }
    Err(invalid(
        path,
        format!("has {size} {what}; at most {limit} are allowed"),
    ))
}
