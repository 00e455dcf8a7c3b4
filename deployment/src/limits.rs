//! Every number that bounds a deployment, with the reason for it.

use crate::Bytes;

/// Largest code of a contract on an EVM chain (EIP-170), where a deployment's bytes are kept, less
/// the `STOP` in front that keeps them from being run.
pub const DEPLOYMENT_BYTES: usize = 24 * 1024 - 1;
/// A node reports on its own gas: small enough to be cheap, large enough for a line per workload.
pub const REPORT_BYTES: usize = 8 * 1024;
/// A TOML file that a person writes: room for comments around what fits [`DEPLOYMENT_BYTES`].
pub const WRITTEN_BYTES: usize = 256 * 1024;
/// Bounds what one deployment makes a node plan.
pub const WORKLOADS: usize = 64;
/// Signers of one deployment; each costs the verifier one verification per key of the twin.
pub const SIGNATURES: usize = 16;
/// Keys of a twin that a verifier tries; the chain records no more.
pub const TWIN_KEYS: usize = 16;
pub const DESCRIPTION_BYTES: usize = 256;

/// What KVM's default of 288 leaves room for, and more than the machines farmers have.
pub const CPUS: u32 = 64;
/// Less does not boot a distribution's kernel with its initramfs.
pub const MEMORY_MIN: Bytes = Bytes::mib(64);
pub const MEMORY_MAX: Bytes = Bytes(Bytes::TIB);
/// Size of a huge page on x86-64: guest memory is mapped in these.
pub const MEMORY_UNIT: Bytes = Bytes::mib(2);

/// The smallest on which ext4 with a journal is made.
pub const DISK_MIN: Bytes = Bytes::mib(16);
/// The smallest that `mkfs.btrfs` accepts with its default profile is a little under this.
pub const BTRFS_MIN: Bytes = Bytes::mib(128);
pub const ROOT_MAX: Bytes = Bytes(Bytes::TIB);
/// ext4 with 4 KiB blocks reaches 16 TiB without its 64-bit feature.
pub const VOLUME_MAX: Bytes = Bytes(16 * Bytes::TIB);
pub const DISK_UNIT: Bytes = Bytes::mib(1);

/// Items of `command`, and bytes of each: far below Linux's own `ARG_MAX`, as they share
/// [`DEPLOYMENT_BYTES`] anyway.
pub const COMMAND_ITEMS: usize = 64;
pub const COMMAND_ITEM_BYTES: usize = 4096;
/// Variables of `env` and `sealed_env` each.
pub const ENV_ITEMS: usize = 128;
pub const ENV_NAME_BYTES: usize = 128;
pub const ENV_VALUE_BYTES: usize = 8192;
/// Of an account at a registry. Its password may be as long as a variable: tokens in use have some
/// thousand bytes (Amazon's, Google's keys in JSON).
pub const LOGIN_USER_BYTES: usize = 256;
pub const SSH_KEYS: usize = 16;
/// An RSA key of 16384 bits with a comment is about this long.
pub const SSH_KEY_BYTES: usize = 3072;
/// virtio-blk devices that fit on one PCI bus beside the rest.
pub const MACHINE_VOLUMES: usize = 16;
pub const MOUNT_PATH_BYTES: usize = 255;
/// Interfaces of a machine.
pub const MACHINE_NETWORKS: usize = 8;
/// Published ports of a machine; each is a rule of the node's firewall.
pub const MACHINE_PORTS: usize = 64;
pub const MACHINE_DEVICES: usize = 8;

/// Peers of a network; each is a WireGuard peer in the node's kernel.
pub const PEERS: usize = 64;
pub const PEER_SUBNETS: usize = 16;
/// A /29 has 5 addresses for machines; smaller subnets have no use.
pub const SUBNET4_PREFIX_MAX: u8 = 29;
pub const SUBNET4_PREFIX_MIN: u8 = 8;
/// From a site's /48 (RFC 4193) down to a subnet that still numbers every machine.
pub const SUBNET6_PREFIX_MIN: u8 = 48;
pub const SUBNET6_PREFIX_MAX: u8 = 112;

pub const BACKENDS: usize = 16;
pub const BACKEND_BYTES: usize = 512;
/// RFC 1035 section 2.3.4, without the root's dot.
pub const DOMAIN_BYTES: usize = 253;

pub const WIPE_DISKS: usize = 64;
pub const DISK_ID_BYTES: usize = 128;
pub const PUBLIC_SUBNETS: usize = 64;

/// Bytes of a workload's `detail` in a report.
pub const DETAIL_BYTES: usize = 256;
/// Bytes of a rejection's code in a report: a few words.
pub const CODE_BYTES: usize = 32;
/// Of the name of a node's image in a report.
pub const IMAGE_VERSION_BYTES: usize = 128;
/// Bytes of the reason for a rejection in a report.
pub const REASON_BYTES: usize = 1024;
pub const REPORT_ADDRESSES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_and_its_stop_are_the_largest_code_there_is() {
        // EIP-170.
        assert_eq!(DEPLOYMENT_BYTES + 1, 0x6000);
    }
}
