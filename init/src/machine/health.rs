//! [`Health`]: what a guest says of its command's health, as far as it is kept. Pure.

use std::time::Instant;

use loam_deployment::report::HealthState;
use loam_node_api::guest::MAX_CHECK_OUTPUT;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    pub state: HealthState,
    pub since: Instant,
    /// Why its last check failed; bounded, without control characters.
    pub output: String,
}

impl Health {
    /// Of a command that was started now.
    pub fn starting(now: Instant) -> Self {
        Self {
            state: HealthState::Starting,
            since: now,
            output: String::new(),
        }
    }

    pub fn checked(&mut self, now: Instant, healthy: bool, output: &str) {
        let state = match healthy {
            true => HealthState::Healthy,
            false => HealthState::Unhealthy,
        };
        // Words alone are no news.
        if self.state != state {
            *self = Self {
                state,
                since: now,
                output: match healthy {
                    true => String::new(),
                    false => plain_text(output, MAX_CHECK_OUTPUT),
                },
            };
        }
    }
}

/// The beginning of a text from outside, without what moves a cursor.
pub fn plain_text(text: &str, most: usize) -> String {
    let end = text.floor_char_boundary(most);
    text[..end].replace(|char: char| char.is_control(), " ")
}
