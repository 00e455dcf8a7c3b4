//! [`Health`]: what the check of a machine's image says of the machine.

use coset::cbor::Value;
use serde::{Deserialize, Serialize};

use crate::{
    cbor::{Decode, Encode, Fields, Map, Named},
    rejection::FieldError,
};

/// Told of a machine that runs, if its image has a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub state: HealthState,
    /// Since when, in seconds since 1970 by the node's clock.
    pub since: u64,
}

/// As Docker has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// No check has succeeded yet, nor have as many failed as it takes.
    Starting,
    Healthy,
    /// As many checks as the image says have failed in a row.
    Unhealthy,
}

impl HealthState {
    /// As it is written in reports: `starting`, `healthy`, `unhealthy`.
    pub fn as_str(self) -> &'static str {
        self.name()
    }
}

impl Named for HealthState {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Starting, "starting"),
        (Self::Healthy, "healthy"),
        (Self::Unhealthy, "unhealthy"),
    ];
}

impl Encode for Health {
    fn encode(&self) -> Value {
        Map::default()
            .with("state", &self.state)
            .with("since", &self.since)
            .finish()
    }
}

impl Decode for Health {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let health = Self {
            state: fields.required("state")?,
            since: fields.required("since")?,
        };
        fields.finish()?;
        Ok(health)
    }
}
