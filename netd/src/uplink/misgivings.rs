//! What the DHCP clients of both protocols remember against servers and addresses.

use std::{collections::VecDeque, time::Duration};

/// RFC 2131 3.1.5: after a conflict. The RFCs of DHCPv6 leave it open.
const CONFLICT_PAUSE: Duration = Duration::from_secs(10);
/// RFC 5227 1.1: `MAX_CONFLICTS` and `RATE_LIMIT_INTERVAL`.
const MANY_CONFLICTS: u8 = 10;
const MANY_CONFLICTS_PAUSE: Duration = Duration::from_secs(60);

/// More servers than there are in any network.
const DISTRUSTED: usize = 8;

/// Addresses in a row that another host has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conflicts(pub u8);

impl Conflicts {
    pub fn add(&mut self) {
        self.0 = self.0.saturating_add(1);
    }

    /// How long to wait before another address is asked for.
    pub fn pause(self) -> Duration {
        if self.0 < MANY_CONFLICTS {
            CONFLICT_PAUSE
        } else {
            MANY_CONFLICTS_PAUSE
        }
    }
}

/// Servers that came to nothing since the last lease. Who makes up more only makes us forget the first.
#[derive(Clone, Debug)]
pub struct Distrusted<T>(VecDeque<T>);

impl<T> Default for Distrusted<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T: PartialEq> Distrusted<T> {
    pub fn add(&mut self, server: T) {
        if !self.0.contains(&server) {
            self.0.truncate(DISTRUSTED - 1);
            self.0.push_front(server);
        }
    }

    pub fn contains(&self, server: &T) -> bool {
        self.0.contains(server)
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_servers_the_first_is_forgotten_and_all_once_it_is_time() {
        let mut distrusted = Distrusted::default();
        for server in 0..DISTRUSTED {
            distrusted.add(server);
        }
        // Whom we know already takes nobody's place.
        distrusted.add(1);
        assert!((0..DISTRUSTED).all(|server| distrusted.contains(&server)));
        distrusted.add(DISTRUSTED);
        assert!(!distrusted.contains(&0));
        assert!((1..=DISTRUSTED).all(|server| distrusted.contains(&server)));
        distrusted.clear();
        assert!((0..=DISTRUSTED).all(|server| !distrusted.contains(&server)));
    }
}
