//! [`MemoryBudget`]: how much of the node's memory machines may have together.

use loam_deployment::Bytes;

/// For the daemons' own growth beyond what they and the root hold when the node has started.
const DAEMONS: Bytes = Bytes::mib(256);

/// For the kernel's modules, which are loaded meanwhile.
const MODULES: Bytes = Bytes::mib(32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryBudget(Bytes);

impl MemoryBudget {
    /// `available` is what the kernel could still give before any daemon was started or module loaded.
    pub fn new(available: Bytes) -> Self {
        let kept = DAEMONS.get() + MODULES.get();
        Self(Bytes(available.get().saturating_sub(kept)))
    }

    pub fn total(self) -> Bytes {
        self.0
    }

    /// Whether a machine of `wanted` fits beside those that run, and `kept` of those that ended.
    pub fn admit(
        self,
        running: impl Iterator<Item = Bytes>,
        kept: Bytes,
        wanted: Bytes,
    ) -> Result<(), String> {
        let add = |sum: u64, memory| sum.saturating_add(cost(memory).get());
        let used = running.fold(kept.get(), add);
        let free = self.0.get().saturating_sub(used);
        let cost = cost(wanted);
        if cost.get() <= free {
            return Ok(());
        }
        Err(format!(
            "{wanted} of memory (with the VMM's own {} MiB) do not fit: this node has {} MiB for \
             machines, of which {} MiB are free",
            mib(cost.get() - wanted.get()),
            mib(self.0.get()),
            mib(free)
        ))
    }
}

/// What a machine takes at most, and its cgroup's limit: the guest's memory, a share of it for the
/// kernel's page tables of the guest, and the VMM itself with its buffers, its console's ring (which it
/// is charged for, as the first to touch it) and cached file pages.
pub fn cost(memory: Bytes) -> Bytes {
    const VMM: u64 = 48 * Bytes::MIB;
    const PAGE_TABLES: u64 = 64;
    Bytes(
        memory
            .get()
            .saturating_add(memory.get() / PAGE_TABLES)
            .saturating_add(VMM),
    )
}

fn mib(bytes: u64) -> u64 {
    bytes / Bytes::MIB
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Bytes = Bytes(0);

    #[test]
    fn what_ended_machines_leave_is_counted() {
        let budget = MemoryBudget::new(Bytes::gib(1));
        let wanted = Bytes::mib(512);
        assert!(budget.admit([].into_iter(), Bytes::mib(64), wanted).is_ok());
        assert!(
            budget
                .admit([].into_iter(), Bytes::mib(400), wanted)
                .is_err()
        );
    }

    #[test]
    fn never_more_than_there_is() {
        let budget = MemoryBudget::new(Bytes::gib(2));
        let gib = Bytes::gib(1);
        assert_eq!(budget.total(), Bytes::mib(1760));
        assert_eq!(budget.admit([].into_iter(), NONE, gib), Ok(()));
        let error = budget.admit([gib].into_iter(), NONE, gib).unwrap_err();
        assert_eq!(
            error,
            "1GiB of memory (with the VMM's own 64 MiB) do not fit: this node has 1760 MiB for \
             machines, of which 672 MiB are free"
        );
        assert!(
            budget
                .admit([gib].into_iter(), NONE, Bytes::mib(512))
                .is_ok()
        );
    }

    #[test]
    fn a_node_smaller_than_its_reserve_takes_none() {
        let budget = MemoryBudget::new(Bytes::mib(100));
        assert!(budget.admit([].into_iter(), NONE, Bytes::mib(64)).is_err());
    }

    #[test]
    fn absurd_sizes_do_not_wrap() {
        let budget = MemoryBudget::new(Bytes::gib(2));
        assert!(
            budget
                .admit([Bytes(u64::MAX)].into_iter(), NONE, Bytes(u64::MAX))
                .is_err()
        );
    }
}
