//! The node's daemons: what each needs, offers and may do.

use loam_deployment::Bytes;
use loam_node_api::path::{CLOCKD_SOCKET, NETD_SOCKET, STORAGED_SOCKET};

use crate::preload::Group;

#[derive(Debug)]
pub struct Service {
    pub name: &'static str,
    pub program: &'static str,
    /// Sockets of other daemons that must be there before its first start.
    pub needs: &'static [&'static str],
    /// Modules that must be loaded by then.
    pub modules: Option<Group>,
    pub socket: Option<&'static str>,
    /// A bit for each capability (linux/capability.h).
    pub capabilities: u64,
    /// Far above what it uses: a leak ends the daemon, not the node.
    pub memory: Bytes,
    /// The node does without it where the image has no such program.
    pub optional: bool,
}

pub static SERVICES: &[Service] = &[
    Service {
        name: "storaged",
        program: "/usr/bin/loam-storaged",
        needs: &[],
        modules: Some(Group::Pools),
        socket: Some(STORAGED_SOCKET),
        capabilities: !(NEVER | NETWORK),
        memory: Bytes::gib(2),
        optional: false,
    },
    Service {
        name: "netd",
        program: "/usr/bin/loam-netd",
        needs: &[],
        modules: Some(Group::Networks),
        socket: Some(NETD_SOCKET),
        capabilities: !NEVER,
        memory: Bytes::mib(512),
        optional: false,
    },
    Service {
        name: "clockd",
        program: "/usr/bin/loam-clockd",
        needs: &[NETD_SOCKET],
        modules: None,
        socket: Some(CLOCKD_SOCKET),
        // Asking time servers needs none.
        capabilities: TIME,
        memory: Bytes::mib(128),
        optional: true,
    },
    Service {
        name: "noded",
        program: "/usr/bin/loam-noded",
        needs: &[STORAGED_SOCKET, NETD_SOCKET],
        modules: Some(Group::Machines),
        socket: None,
        // It speaks to the chain, to tenants and to the daemons' sockets, all of which need none.
        capabilities: 0,
        memory: Bytes::gib(1),
        optional: false,
    },
];

/// Capabilities that no daemon has unless it is there for just that: with one of them it could
/// change the kernel, the node's clock or other processes.
const NEVER: u64 = bits(&[
    16, // SYS_MODULE
    17, // SYS_RAWIO
    19, // SYS_PTRACE
    22, // SYS_BOOT
    25, // SYS_TIME
    32, // MAC_OVERRIDE
    33, // MAC_ADMIN
    34, // SYSLOG
    38, // PERFMON
    39, // BPF
    40, // CHECKPOINT_RESTORE
]);

const TIME: u64 = bits(&[
    25, // SYS_TIME
]);

const NETWORK: u64 = bits(&[
    12, // NET_ADMIN
    13, // NET_RAW
]);

const fn bits(capabilities: &[u32]) -> u64 {
    let mut bits = 0;
    let mut n = 0;
    while n < capabilities.len() {
        bits |= 1 << capabilities[n];
        n += 1;
    }
    bits
}
