//! Virtual CPUs: one thread each, which enters the guest and serves what the guest does to ports
//! and device memory.

pub mod cpuid;
pub mod kick;
pub mod setup;
pub mod threads;

pub use threads::{VcpuError, Vcpus};
