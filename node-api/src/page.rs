//! Lists in pages, and how a caller learns that a list has changed.
//!
//! A list that grows with what tenants ask for would one day not fit a frame of
//! [`crate::transport`]. So each is served in the order of its keys, [`MAX_ITEMS`] at most at a time,
//! and a caller goes on behind the last key that it got. What changes between two pages raises the
//! revision, so that the caller looks again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The largest item (an interface with 64 published ports, a machine with its reason to end) takes
/// some 5 KiB as JSON, so a page fits a frame.
pub const MAX_ITEMS: usize = 500;

/// How long a daemon lets a caller wait for a change before it answers all the same, so that a
/// caller that is gone is noticed.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Counts what has changed in a daemon since it started. Two daemons, or two lives of one, share no
/// revisions: each start begins at another number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Whether there are items behind the last of these.
    pub more: bool,
}

impl<T> Page<T> {
    /// The first [`MAX_ITEMS`] of `items`, which come in the order of their keys and begin behind
    /// the key that the caller named.
    pub fn of(items: impl IntoIterator<Item = T>) -> Self {
        let mut rest = items.into_iter();
        let items: Vec<T> = rest.by_ref().take(MAX_ITEMS).collect();
        Self {
            more: rest.next().is_some(),
            items,
        }
    }
}

/// The revision of one daemon, raised by whoever changes what it shows.
#[derive(Clone, Debug)]
pub struct Changes(tokio::sync::watch::Sender<u64>);

impl Changes {
    /// Starts at a number that an earlier life of the daemon has not used: the nanoseconds of the clock. A
    /// life has far fewer changes than that, so that another is told by how far its number is away.
    pub fn new() -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64);
        Self(tokio::sync::watch::Sender::new(now))
    }

    /// Something that a list shows is different from now on.
    pub fn note(&self) {
        self.0.send_modify(|revision| *revision += 1);
    }

    pub fn now(&self) -> Revision {
        Revision(*self.0.borrow())
    }

    /// Returns when the revision is another than `seen`, or [`LONGEST_WAIT`] has passed.
    pub async fn since(&self, seen: Revision) -> Revision {
        let mut changed = self.0.subscribe();
        // The sender is `self`, so an error here is the time that ran out.
        let _ = tokio::time::timeout(
            LONGEST_WAIT,
            changed.wait_for(|revision| *revision != seen.0),
        )
        .await;
        self.now()
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use loam_deployment::{
        ContractId, Name, limits,
        payload::{Protocol, Publish},
        report::{Health, HealthState},
    };

    use super::*;
    use crate::{
        WorkloadId,
        guest::MAX_CHECK_OUTPUT,
        machine::{EarlierEnds, Exit, Machine, MachineHealth, MachineState},
        network::{Interface, InterfaceId, InterfaceSpec, Mac},
        transport::MAX_FRAME,
    };

    #[test]
    fn a_page_says_whether_more_is_behind_it() {
        assert_eq!(
            Page::of(Vec::<u8>::new()),
            Page {
                items: vec![],
                more: false
            }
        );
        let full = Page::of(0..MAX_ITEMS);
        assert_eq!((full.items.len(), full.more), (MAX_ITEMS, false));
        let over = Page::of(0..MAX_ITEMS + 1);
        assert_eq!((over.items.len(), over.more), (MAX_ITEMS, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_heard_at_once_and_silence_ends() {
        let changes = Changes::new();
        let seen = changes.now();
        let waiting = changes.since(seen);
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        changes.note();
        assert_ne!(waiting.await, seen);
        // A caller who is behind hears at once.
        assert_eq!(changes.since(seen).await, changes.now());
        // Nothing happens: answered all the same.
        assert_eq!(changes.since(changes.now()).await, changes.now());
    }

    /// As JSON; what grows with a tenant's wishes, or with what a VMM that was taken over says.
    #[test]
    fn a_page_of_the_largest_items_fits_a_frame() {
        let workload = || WorkloadId::new(ContractId(u64::MAX), name());
        let reason = r#"""#.repeat(2 << 10);
        let machine = Machine {
            id: workload(),
            // Of 16 volumes and the root, each on a pool of its own.
            fingerprint: "f".repeat(2 << 10),
            state: MachineState::Exited(Exit::Failed(reason)),
            age_seconds: u64::MAX,
            health: Some(MachineHealth {
                health: Health {
                    state: HealthState::Unhealthy,
                    since: u64::MAX,
                },
                output: r#""""#.repeat(MAX_CHECK_OUTPUT),
            }),
            resets: u32::MAX,
            ends: Some(EarlierEnds {
                count: u32::MAX,
                last: Exit::Failed(r#"""#.repeat(limits::DETAIL_BYTES)),
            }),
            console_position: u64::MAX,
        };
        let publish = Publish {
            protocol: Protocol::Tcp,
            node_port: u16::MAX,
            machine_port: u16::MAX,
        };
        let interface = Interface {
            id: InterfaceId {
                machine: workload(),
                network: workload(),
            },
            spec: InterfaceSpec {
                mac: Mac([255; 6]),
                addresses: vec!["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(); 4],
                publish: vec![publish; limits::MACHINE_PORTS],
            },
            tap: "t".repeat(15),
            namespace: Some("n".repeat(4096).into()),
            in_force: false,
        };
        let sizes = [
            serde_json::to_vec(&machine).unwrap().len(),
            serde_json::to_vec(&interface).unwrap().len(),
        ];
        for size in sizes {
            assert!((size + 1) * MAX_ITEMS < MAX_FRAME, "{sizes:?}");
        }
    }

    fn name() -> Name {
        "n".repeat(36).parse().unwrap()
    }
}
