//! [`WorkloadId`]: how the daemons of a node name a workload among themselves.

use std::{fmt, str::FromStr};

use loam_deployment::{ContractId, Name};
use serde::{Deserialize, Serialize};

/// A workload on this node: the contract that stands for it, and its name in the deployment.
///
/// Written `12.web`. Safe as a file name and as an interface alias; unique on the grid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId {
    pub contract: ContractId,
    pub name: Name,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a workload's id; expected contract.name, as in 12.web")]
pub struct WorkloadIdError(String);

impl WorkloadId {
    pub fn new(contract: ContractId, name: Name) -> Self {
        Self { contract, name }
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.contract, self.name)
    }
}

impl FromStr for WorkloadId {
    type Err = WorkloadIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || WorkloadIdError(text.to_owned());
        let (contract, name) = text.split_once('.').ok_or_else(error)?;
        Ok(Self {
            contract: contract.parse().map_err(|_| error())?,
            name: name.parse().map_err(|_| error())?,
        })
    }
}

impl TryFrom<String> for WorkloadId {
    type Error = WorkloadIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WorkloadId> for String {
    fn from(id: WorkloadId) -> Self {
        id.to_string()
    }
}
