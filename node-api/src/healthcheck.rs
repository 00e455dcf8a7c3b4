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
    /// What Docker takes where an image says nothing (moby, `daemon/health.go`).
    pub const INTERVAL: Duration = Duration::from_secs(30);
    pub const TIMEOUT: Duration = Duration::from_secs(30);
    pub const START_PERIOD: Duration = Duration::ZERO;
    pub const START_INTERVAL: Duration = Duration::from_secs(5);
    pub const RETRIES: u32 = 3;
}
