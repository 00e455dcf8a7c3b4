//! Virtio devices (virtio specification 1.2) as PCI functions.
//!
//! A device has two halves. Its [`function`] answers the CPUs' accesses to registers; its
//! [`worker`] thread owns the [`device`] itself and serves the queues. They meet in the
//! [`notifier`] (interrupts and device status) and in the orders that the function sends.

pub mod agent;
pub mod block;
pub mod common_config;
pub mod console;
pub mod console_control;
pub mod device;
pub mod entropy;
pub mod function;
pub mod net;
pub mod notifier;
pub mod poll;
pub mod queue;
pub mod segments;
pub mod worker;
