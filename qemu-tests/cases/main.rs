//! The cases. Those that break their node boot one of their own on a chain of their own; the others
//! share one (`qemu_tests::shared`).

mod cancel;
mod cli;
mod clock;
mod daemons;
mod demo;
mod foreign_disk;
mod full_disk;
mod hello;
mod reboot;
mod refused;
mod shutdown;
mod silence;
mod tenants;
mod update;

qemu_tests::shared_cases! {
    hello,
    update,
    refused,
    cancel,
    full_disk,
}
