//! The two ports by which PCs are reset: the keyboard controller's pulse and the chipset's register.

use crate::events::{End, Notice, Notices};

pub const KEYBOARD_DATA: u16 = 0x60;
pub const KEYBOARD_COMMAND: u16 = 0x64;
pub const CHIPSET: u16 = 0xcf9;
/// What ACPI tells the guest to write to [`CHIPSET`]: "reset CPU", "hard".
pub const CHIPSET_RESET: u8 = 0x06;

const KEYBOARD_PULSE_RESET: u8 = 0xfe;
const CHIPSET_RESET_CPU: u8 = 1 << 2;

#[derive(Debug)]
pub struct ResetPorts {
    notices: Notices,
}

impl ResetPorts {
    pub fn new(notices: Notices) -> Self {
        Self { notices }
    }

    pub fn keyboard(&self, command: u8) {
        if command == KEYBOARD_PULSE_RESET {
            self.notices.send(Notice::End(End::Reset));
        }
    }

    pub fn chipset(&self, value: u8) {
        if value & CHIPSET_RESET_CPU != 0 {
            self.notices.send(Notice::End(End::Reset));
        }
    }
}
