//! Power: the button, the watchdog, and the last steps before the node is off.

pub mod button;
pub mod end;
mod vigil;
pub mod watchdog;
