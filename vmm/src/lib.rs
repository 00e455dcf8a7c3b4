//! Loam's virtual machine monitor: one process, one VM, descriptors only.
//!
//! Guests are hostile: every address, length and index that a guest writes is checked where it
//! enters, every size it controls has a limit, and a device whose queues make no sense stops and
//! asks for a reset. No byte of a guest makes this process panic.
//!
//! | room | what lives there |
//! |---|---|
//! | [`config`] | the launcher's configuration, parsed once into owned descriptors |
//! | [`machine`] | puts the parts together and runs them to their end |
//! | [`memory`] | where guest memory lies |
//! | [`platform`] | what devices ask of KVM: interrupts and doorbells |
//! | [`boot`] | kernel, initramfs, zero page, the first CPU's registers |
//! | [`vcpu`] | one thread per virtual CPU |
//! | [`hw`] | devices, sorted as hardware is |
//! | [`backend`] | what devices stand on: files, taps, the console ring |
//! | [`control`] | the control socket |
//! | [`events`] | what the launcher is told |
//! | [`pace`] | how often a guest may have something done |
//! | [`seccomp`] | a filter per kind of thread |
//! | [`probe`] | does KVM work here? |

pub mod backend;
pub mod boot;
pub mod config;
pub mod control;
pub mod events;
pub mod hw;
pub mod lifecycle;
pub mod lock;
pub mod machine;
pub mod memory;
pub mod pace;
pub mod platform;
pub mod probe;
pub mod seccomp;
pub mod vcpu;
