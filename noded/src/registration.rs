//! When the node's record on the chain is to be written anew: each time is paid for.

use std::time::{Duration, Instant};

use loam_chain::{NodeRecord, writer::NodeRegistration};
use loam_node_api::network::Uplink;

use crate::reach;

/// After a failure.
pub const RETRY: Duration = Duration::from_secs(10);
/// Something of the record is wrong: a disk came or went, or no address leads here any more. It may
/// be a thing of moments.
const SETTLE: Duration = Duration::from_secs(30);
/// Some of the addresses are others now, and one that is registered still leads here.
const SETTLE_ADDRESSES: Duration = Duration::from_secs(60 * 60);
/// Between two registrations for addresses alone.
const ADDRESSES: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Debug, Default)]
pub struct Schedule {
    /// What the record shall say, and since when it shall.
    wanted: Option<(NodeRegistration, Instant)>,
    written: Option<Instant>,
    tried: Option<Instant>,
}

/// How much the record on the chain differs from what is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    Absent,
    Wrong,
    SomeAddresses,
}

impl Schedule {
    /// When to write; none if the record is right, or while the node has no address.
    pub fn due(
        &mut self,
        wanted: &NodeRegistration,
        record: Option<&NodeRecord>,
        uplink: &Uplink,
        now: Instant,
    ) -> Option<Instant> {
        let since = match &self.wanted {
            Some((before, since)) if before == wanted => *since,
            _ => now,
        };
        self.wanted = Some((wanted.clone(), since));
        if wanted.addresses.is_empty() {
            return None;
        }
        let due = match difference(wanted, record, uplink)? {
            Difference::Absent => now,
            Difference::Wrong => since + SETTLE,
            Difference::SomeAddresses => {
                let rested = self.written.map_or(now, |written| written + ADDRESSES);
                rested.max(since + SETTLE_ADDRESSES)
            }
        };
        Some(self.tried.map_or(due, |tried| due.max(tried + RETRY)))
    }

    pub fn tried(&mut self, now: Instant) {
        self.tried = Some(now);
    }

    pub fn written(&mut self, now: Instant) {
        self.written = Some(now);
    }
}

fn difference(
    wanted: &NodeRegistration,
    record: Option<&NodeRecord>,
    uplink: &Uplink,
) -> Option<Difference> {
    let Some(record) = record else {
        return Some(Difference::Absent);
    };
    let right = record.farm == wanted.farm
        && record.hpke_key == wanted.hpke_key
        && record.capacity == wanted.capacity
        && reach::leads_here(uplink, &record.addresses);
    match right {
        false => Some(Difference::Wrong),
        true if record.addresses != wanted.addresses => Some(Difference::SomeAddresses),
        true => None,
    }
}

#[cfg(test)]
mod tests {
    use loam_chain::{Address, Capacity, NodeState};
    use loam_deployment::{Bytes, FarmId, NodeKey};

    use super::*;

    fn uplink(addresses: &[&str]) -> Uplink {
        let net = |address: &&str| format!("{address}/24").parse().unwrap();
        Uplink {
            addresses: addresses.iter().map(net).collect(),
            ..Uplink::default()
        }
    }

    /// The chain as one registration after the other leaves it.
    #[derive(Default)]
    struct Chain {
        record: Option<NodeRecord>,
        paid: u32,
        schedule: Schedule,
    }

    fn wanted(uplink: &Uplink, known: &str, capacity: Capacity) -> NodeRegistration {
        NodeRegistration {
            key: NodeKey([1; 32]),
            farm: FarmId(1),
            hpke_key: [2; 32],
            capacity,
            addresses: reach::addresses(uplink, known),
            binding: [3; 64],
        }
    }

    fn record(wanted: NodeRegistration) -> NodeRecord {
        NodeRecord {
            key: wanted.key,
            farm: wanted.farm,
            account: Address::ZERO,
            hpke_key: wanted.hpke_key,
            capacity: wanted.capacity,
            addresses: wanted.addresses,
            binding: wanted.binding,
            state: NodeState::Up,
            registered: 1,
            last_report: 1,
        }
    }

    impl Chain {
        /// A look at this moment.
        fn look(&mut self, uplink: &Uplink, capacity: Capacity, now: Instant) {
            let known = self.record.as_ref().map_or("", |record| &record.addresses);
            let wanted = wanted(uplink, known, capacity);
            let due = self
                .schedule
                .due(&wanted, self.record.as_ref(), uplink, now);
            if due.is_some_and(|due| due <= now) {
                self.schedule.tried(now);
                self.schedule.written(now);
                self.paid += 1;
                self.record = Some(record(wanted));
            }
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_new_node_is_registered_as_soon_as_it_has_an_address() {
        let mut chain = Chain::default();
        let now = Instant::now();
        chain.look(&uplink(&[]), Capacity::default(), now);
        assert_eq!(chain.paid, 0);
        chain.look(&uplink(&["10.0.0.1"]), Capacity::default(), now);
        assert_eq!(chain.paid, 1);
        chain.look(&uplink(&["10.0.0.1"]), Capacity::default(), now + MINUTE);
        assert_eq!(chain.paid, 1);
    }

    #[test]
    fn each_difference_waits_as_long_as_it_may_be_a_thing_of_moments() {
        let now = Instant::now();
        let after = |due: Option<Instant>| due.map(|due| (due - now).as_secs());
        let one = uplink(&["10.0.0.1"]);
        let two = uplink(&["10.0.0.1", "192.0.2.1"]);
        let is = |uplink| wanted(uplink, "", Capacity::default());
        let grown = wanted(
            &one,
            "",
            Capacity {
                ssd: Bytes::gib(1),
                ..Capacity::default()
            },
        );
        let there = record(is(&one));
        let mut schedule = Schedule::default();
        assert_eq!(after(schedule.due(&is(&one), None, &one, now)), Some(0));
        assert_eq!(schedule.due(&is(&one), Some(&there), &one, now), None);
        let due = schedule.due(&grown, Some(&there), &one, now);
        assert_eq!(after(due), Some(30));
        let due = schedule.due(&is(&two), Some(&there), &two, now);
        assert_eq!(after(due), Some(3600));
        schedule.written(now);
        let due = schedule.due(&is(&two), Some(&there), &two, now);
        assert_eq!(after(due), Some(24 * 3600));
        // It failed.
        schedule.tried(now);
        assert_eq!(after(schedule.due(&is(&one), None, &one, now)), Some(10));
    }

    #[test]
    fn addresses_that_come_and_go_cost_one_registration_a_day() {
        let mut chain = Chain::default();
        let start = Instant::now();
        for minute in 0..10 * 24 * 60 {
            // One that stays, one that is another every two hours.
            let passing = format!("192.0.2.{}", minute / 120);
            let now = uplink(&["10.0.0.1", &passing]);
            chain.look(&now, Capacity::default(), start + minute * MINUTE);
        }
        assert!((2..=11).contains(&chain.paid), "{}", chain.paid);
    }

    #[test]
    fn a_node_that_moved_or_grew_says_so_when_it_has_settled() {
        let mut chain = Chain::default();
        let start = Instant::now();
        chain.look(&uplink(&["10.0.0.1"]), Capacity::default(), start);
        let moved = uplink(&["10.9.9.9"]);
        chain.look(&moved, Capacity::default(), start + MINUTE);
        assert_eq!(chain.paid, 1);
        chain.look(&moved, Capacity::default(), start + 2 * MINUTE);
        assert_eq!(chain.paid, 2);
        let grown = Capacity {
            ssd: Bytes::gib(1),
            ..Capacity::default()
        };
        // A disk that comes and goes by the second.
        let mut now = start + 3 * MINUTE;
        for second in 0..600 {
            let capacity = if second % 2 == 0 {
                grown
            } else {
                Capacity::default()
            };
            now += Duration::from_secs(1);
            chain.look(&moved, capacity, now);
        }
        assert_eq!(chain.paid, 2);
        chain.look(&moved, grown, now + MINUTE);
        chain.look(&moved, grown, now + 2 * MINUTE);
        assert_eq!(chain.paid, 3);
    }
}
