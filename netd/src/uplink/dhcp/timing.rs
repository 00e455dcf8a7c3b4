//! When a client asks, and how long what it was given lasts.

use std::time::Duration;

use crate::uplink::moment::Dice;

/// RFC 2131 4.1 begins with 4 s. Half of it: a switch that just saw the cable often loses the first
/// frames, and who boots waits for it.
const FIRST_RETRY: Duration = Duration::from_secs(2);
/// RFC 2131 4.1: doubled each time, up to this.
pub const LAST_RETRY: Duration = Duration::from_secs(64);
/// RFC 2131 4.1: more or less by up to a second, so that nodes which started together part.
const JITTER: Duration = Duration::from_secs(1);

/// How long to wait for an answer: longer each time, as long as none comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    waits: u32,
}

impl Backoff {
    pub fn next(&mut self, dice: Dice) -> Duration {
        let doubled = FIRST_RETRY * (1 << self.waits.min(5));
        self.waits = self.waits.saturating_add(1);
        doubled.min(LAST_RETRY) + jitter(dice) - JITTER
    }
}

/// From 0 to 2 s, to be centred around 1 s.
fn jitter(dice: Dice) -> Duration {
    Duration::from_millis(u64::from(dice.fraction()) % 2001)
}

/// When the server does not say (RFC 2131 demands that it does).
const UNSAID_LEASE: u32 = 120;
/// A shorter lease is held this long all the same, as by other clients (dhcpcd: 20 s, udhcpc: 122 s):
/// at a message a second it could not be renewed in time, and the address was probed.
pub const SHORTEST_LEASE: u32 = 10;
/// RFC 2131 3.3.
pub const FOR_EVER: u32 = u32::MAX;
/// A server that wants its leases renewed all the time gets a request a minute.
const SHORTEST_T1: Duration = Duration::from_secs(60);

/// How long a lease lasts from the request for it on: `t1 < t2 < lease`. One without end is one of
/// 136 years.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    t1: Duration,
    t2: Duration,
    lease: Duration,
}

impl Times {
    /// From options 51, 58 and 59, in seconds. Marks that make no sense are those of RFC 2131 4.4.5:
    /// a half, and seven eighths.
    pub fn new(lease: Option<u32>, t1: Option<u32>, t2: Option<u32>) -> Self {
        let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
        let lease = seconds(lease.unwrap_or(UNSAID_LEASE).max(SHORTEST_LEASE));
        let t2 = t2
            .map(seconds)
            .filter(|t2| *t2 > lease / 2 && *t2 < lease)
            .unwrap_or(lease / 8 * 7);
        let t1 = t1
            .map(|t1| seconds(t1).max(SHORTEST_T1.min(lease / 2)))
            .filter(|t1| *t1 < t2)
            .unwrap_or(lease / 2);
        Self { t1, t2, lease }
    }

    /// When the server is asked to renew.
    pub fn t1(&self) -> Duration {
        self.t1
    }

    /// When any server is asked.
    pub fn t2(&self) -> Duration {
        self.t2
    }

    pub fn lease(&self) -> Duration {
        self.lease
    }

    pub fn is_endless(&self) -> bool {
        self.lease.as_secs() == u64::from(FOR_EVER)
    }

    /// Between two requests for more time: half of what is `left` (RFC 2131 4.4.5), at least a
    /// sixtieth of the lease, which is the RFC's minute for a lease of an hour.
    pub fn pause(&self, left: Duration) -> Duration {
        let least = (self.lease / 60).clamp(Duration::from_secs(1), Duration::from_secs(60));
        (left / 2).max(least)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    const MIDDLE: Dice = Dice(1000 << 32);

    #[test]
    fn waits_double_up_to_a_minute() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.next(MIDDLE).as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 64, 64]);
        let mut backoff = Backoff { waits: u32::MAX };
        assert_eq!(backoff.next(Dice(0)).as_secs(), 63);
        assert_eq!(backoff.next(Dice(2000 << 32)).as_secs(), 65);
    }

    fn times(lease: u32, t1: Option<u32>, t2: Option<u32>) -> [u64; 3] {
        let times = Times::new(Some(lease), t1, t2);
        [times.t1, times.t2, times.lease].map(|span| span.as_secs())
    }

    #[test]
    fn marks_are_the_servers_where_they_make_sense() {
        assert_eq!(times(3600, Some(600), Some(3000)), [600, 3000, 3600]);
        assert_eq!(times(3600, None, None), [1800, 3150, 3600]);
        assert_eq!(times(3600, Some(0), Some(0)), [60, 3150, 3600]);
        assert_eq!(times(3600, Some(3000), Some(2000)), [1800, 2000, 3600]);
        assert_eq!(times(3600, Some(4000), Some(4000)), [1800, 3150, 3600]);
        assert_eq!(times(0, Some(1), Some(1)), [5, 8, 10], "and no shorter");
        assert_eq!(Times::new(None, None, None).lease().as_secs(), 120);
        assert!(Times::new(Some(FOR_EVER), None, None).is_endless());
    }

    proptest! {
        #[test]
        fn marks_are_in_order_whatever_a_server_says(
            lease in option::of(any::<u32>()),
            t1 in option::of(any::<u32>()),
            t2 in option::of(any::<u32>()),
        ) {
            let times = Times::new(lease, t1, t2);
            prop_assert!(times.t1 < times.t2 && times.t2 < times.lease);
            prop_assert!(times.t1 >= Duration::from_secs(5));
            prop_assert!(times.pause(Duration::ZERO) >= Duration::from_secs(1));
        }
    }
}
