//! Where things are on a running node. One place, so that no two daemons disagree.

/// Sockets of the daemons.
pub const RUN: &str = "/run/loam";
pub const INIT_SOCKET: &str = "/run/loam/init.sock";
pub const STORAGED_SOCKET: &str = "/run/loam/storaged.sock";
pub const NETD_SOCKET: &str = "/run/loam/netd.sock";
pub const CLOCKD_SOCKET: &str = "/run/loam/clockd.sock";

/// What is known about the time (see [`crate::clock`]): written by clockd alone, read by all.
pub const CLOCK: &str = "/run/loam/clock.json";

/// Which farm this node is to join, as far as sticks and the kernel's command line say (see
/// [`crate::farm::FarmSearch`]): written by init alone, read by noded.
pub const FARM: &str = "/run/loam/farm.json";

/// One folder a machine, with its control socket (`control.sock`). Made and removed by init.
pub const MACHINES: &str = "/run/loam/machines";

/// Pools are mounted at `/pools/<filesystem uuid>` by storaged.
pub const POOLS: &str = "/pools";

/// Which image this is (os-release(5)).
pub const OS_RELEASE: &str = "/etc/os-release";

/// Which grid this node belongs to: TOML, read by noded (see `docs/architecture.md`).
pub const GRID: &str = "/etc/loam/grid.toml";

/// Whom the node asks for the time: TOML, read by clockd.
pub const TIME: &str = "/etc/loam/time.toml";

/// Of the image: by a registry's name, the hosts that are asked before it.
pub const MIRRORS: &str = "/etc/loam/mirrors.toml";

/// The kernel and the initial file system that OCI machines boot.
pub const GUEST_KERNEL: &str = "/usr/lib/loam/guest/vmlinux";
pub const GUEST_INITRD: &str = "/usr/lib/loam/guest/initrd";

/// Our binaries and the few of Debian's: `/usr/bin/loam-noded`, `/usr/bin/mkfs.btrfs`, ...
pub const BIN: &str = "/usr/bin";

/// TCP port on which a node answers tenants (see [`crate::tenant`]).
pub const TENANT_PORT: u16 = 9650;
