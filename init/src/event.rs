//! [`Event`]: everything that the main loop reacts to, beside signals and time.

use loam_node_api::{WorkloadId, machine::Shutdown};

use crate::{api::Call, machine::lifecycle::Input, uevent::Uevent};

#[derive(Debug)]
pub enum Event {
    Call(Call),
    /// Process number `launch` of a machine said something.
    Machine {
        id: WorkloadId,
        launch: u32,
        input: Input,
    },
    Device(Uevent),
    /// The power button, or a signal that asks for it.
    Power(Shutdown),
}
