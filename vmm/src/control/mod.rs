//! The control socket: [`server`] speaks with clients, [`connection`] is one of them.

pub mod connection;
pub mod server;

use loam_node_api::vmm::{ControlRequest, ControlResponse};

/// Who does what clients ask.
pub trait Controlled {
    fn handle(&mut self, request: ControlRequest) -> ControlResponse;
}
