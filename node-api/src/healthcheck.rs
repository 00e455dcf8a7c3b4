//! [`Healthcheck`]: how an image wants to be asked whether it does its work.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// As in an image's configuration (Docker's `Healthcheck`), with its defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Healthcheck {
    /// What is run; status 0 means healthy. Never empty.
    pub command: Vec<String>,
    /// From the end of one check, or the start of the machine's command, to the next check.
    pub interval: Duration,
    /// A check that takes longer has failed.
    pub timeout: Duration,
    /// From the start of the machine's command on: until then failures do not count, unless a check
    /// has succeeded.
    pub start_period: Duration,
    /// The interval within that time.
    pub start_interval: Duration,
    /// So many failures in a row, at least 1, make it unhealthy.
    pub retries: u32,
}

impl Healthcheck {
    /// With what Docker takes where an image says nothing but the command (moby, `daemon/health.go`).
    pub fn new(command: Vec<String>) -> Self {
        Self {
            command,
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            start_interval: Duration::from_secs(5),
            retries: 3,
        }
    }
}
