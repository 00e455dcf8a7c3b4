//! [`Event`]: everything that the main loop reacts to, beside signals and time.

use loam_node_api::{WorkloadId, machine::Shutdown, screen::Request};

use crate::{api::Call, machine::launcher::News, screen::network_test, uevent::Uevent};

#[derive(Debug)]
pub enum Event {
    Call(Call),
    /// Something became of process number `launch` of a machine.
    Machine {
        id: WorkloadId,
        launch: u32,
        news: News,
    },
    Device(Uevent),
    /// A power button of this name is no longer heard.
    ButtonGone(String),
    /// The power button, or a signal that asks for it.
    Power(Shutdown),
    /// Somebody at the node's own keyboard.
    Screen(Request),
    /// Something came from a test of the network.
    NetworkTest(network_test::News),
}
