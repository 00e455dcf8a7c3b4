//! The cases. Those that break their node boot one of their own on a chain of their own; the others
//! share one (`qemu_tests::shared`).

mod busy_registry;
mod cancel;
mod cli;
mod clock;
mod crash;
mod daemons;
mod demo;
mod failed_update;
mod failing_disk;
mod foreign_disk;
mod forgotten;
mod full_disk;
mod guest;
mod hanging_disk;
mod hello;
mod ipv6_only;
mod late;
mod media;
mod moved_disk;
mod panic;
mod power_cut;
mod private_image;
mod reboot;
mod refused;
mod release;
mod screen;
mod shutdown;
mod silence;
mod software;
mod spoiled;
mod stock_guest;
mod stop_in_boot;
mod suspended;
mod tenants;
mod unfit;
mod update;

qemu_tests::shared_cases! {
    shared {
        // First: it knows the addresses of the node's first networks.
        tenants,
        hello,
        update,
        refused,
        full_disk,
        screen,
        // Last: if it fails, the chain sleeps on.
        silence,
    }

    #[ignore = "slow: systemd and nginx, emulated twice"]
    served {
        software,
    }

    // These take as long as the others together: machines that are tried again with growing pauses,
    // a fetch that is given up, a deployment that ends.
    #[ignore = "slow: what a contract and its machines outlive"]
    outlived {
        // First: it counts what is there, and what another case left is still on its way down.
        cancel,
        busy_registry,
        crash,
        failed_update,
        private_image,
        suspended,
    }
}

/// What is mounted on the node.
const MOUNTS: &str = "/proc/self/mountinfo";

/// Where pools are mounted, by the node's [`MOUNTS`].
fn pools(mounts: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(mounts)
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|target| target.starts_with("/pools/"))
        .map(str::to_owned)
        .collect()
}
