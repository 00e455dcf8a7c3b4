//! ACPI's fixed power hardware (specification chapter 4.8): the PM1a event block with the power
//! button, and the PM1a control block by which the guest switches the machine off.

use std::sync::{Arc, Mutex};

use crate::{
    events::{End, Notice, Notices},
    lock::Lock,
    platform::{ACPI_LINE, Platform},
};

pub const FIRST_PORT: u16 = 0x600;
pub const LAST_PORT: u16 = 0x605;
/// Status and enable, two bytes each.
pub const EVENT_PORT: u16 = 0x600;
pub const EVENT_LEN: u8 = 4;
pub const CONTROL_PORT: u16 = 0x604;
pub const CONTROL_LEN: u8 = 2;

/// The sleep type that means "off"; the tables' `_S5` says the same.
pub const SLEEP_TYPE_OFF: u8 = 5;

const POWER_BUTTON: u16 = 1 << 8;
/// "SCI is used": always on, there is no other mode.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u16 = 10;
const SLEEP_TYPE_MASK: u16 = 0b111 << SLEEP_TYPE_SHIFT;
const SLEEP_ENABLE: u16 = 1 << 13;

#[derive(Debug)]
pub struct Power {
    platform: Arc<dyn Platform>,
    notices: Notices,
    registers: Mutex<Registers>,
}

#[derive(Debug, Default)]
struct Registers {
    status: u16,
    enable: u16,
    control: u16,
}

impl Power {
    pub fn new(platform: Arc<dyn Platform>, notices: Notices) -> Self {
        Self {
            platform,
            notices,
            registers: Mutex::default(),
        }
    }

    pub fn press_button(&self) {
        let mut registers = self.registers.locked();
        registers.status |= POWER_BUTTON;
        self.update_line(&registers);
    }

    pub fn read(&self, port: u16, data: &mut [u8]) {
        let registers = self.registers.locked();
        let words = [
            registers.status,
            registers.enable,
            registers.control | SCI_ENABLED,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let at = usize::from(port - FIRST_PORT);
        for (target, byte) in data.iter_mut().zip(&bytes[at..]) {
            *target = *byte;
        }
    }

    pub fn write(&self, port: u16, data: &[u8]) {
        let mut registers = self.registers.locked();
        for (port, byte) in (port..=LAST_PORT).zip(data) {
            let at = port - FIRST_PORT;
            let shift = at % 2 * 8;
            let value = u16::from(*byte) << shift;
            let kept = !(0xff << shift);
            match at / 2 {
                // Status bits are cleared by writing ones to them.
                0 => registers.status &= !value,
                1 => registers.enable = registers.enable & kept | value,
                _ => registers.control = registers.control & kept | value,
            }
        }
        self.update_line(&registers);
        let sleep = registers.control & SLEEP_ENABLE != 0;
        // The bit reads as zero.
        registers.control &= !SLEEP_ENABLE;
        let sleep_type = (registers.control & SLEEP_TYPE_MASK) >> SLEEP_TYPE_SHIFT;
        if sleep && sleep_type == u16::from(SLEEP_TYPE_OFF) {
            self.notices.send(Notice::End(End::PoweredOff));
        }
    }

    fn update_line(&self, registers: &Registers) {
        let high = registers.status & registers.enable != 0;
        if let Err(error) = self.platform.set_line(ACPI_LINE, high) {
            tracing::error!(%error, "cannot set the ACPI interrupt's line");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{events, platform::recorded::Recorded};

    fn power() -> (Arc<Recorded>, events::NoticeBoard, Power) {
        let platform = Arc::new(Recorded::default());
        let (notices, board) = events::notices().unwrap();
        let power = Power::new(Arc::clone(&platform) as _, notices);
        (platform, board, power)
    }

    #[test]
    fn the_button_raises_the_line_until_acknowledged() {
        let (platform, _board, power) = power();
        let line = || platform.lines.locked()[&ACPI_LINE];
        power.press_button();
        assert!(!line(), "not enabled yet");
        power.write(EVENT_PORT + 2, &POWER_BUTTON.to_le_bytes());
        assert!(line());
        let mut status = [0; 2];
        power.read(EVENT_PORT, &mut status);
        assert_eq!(u16::from_le_bytes(status), POWER_BUTTON);
        power.write(EVENT_PORT, &POWER_BUTTON.to_le_bytes());
        assert!(!line());
    }

    #[test]
    fn only_the_off_type_switches_off() {
        let (_platform, board, power) = power();
        let sleep = |kind: u8| SLEEP_ENABLE | u16::from(kind) << SLEEP_TYPE_SHIFT;
        power.write(CONTROL_PORT, &sleep(1).to_le_bytes());
        power.write(CONTROL_PORT, &(sleep(5) & !SLEEP_ENABLE).to_le_bytes());
        assert_eq!(board.next(), None);
        power.write(CONTROL_PORT, &sleep(5).to_le_bytes());
        assert_eq!(board.next(), Some(Notice::End(End::PoweredOff)));
    }

    #[test]
    fn accesses_over_the_end_are_cut() {
        let (_platform, _board, power) = power();
        let mut long = [0xff; 8];
        power.read(LAST_PORT, &mut long);
        power.write(LAST_PORT, &[0; 8]);
        assert_eq!(long[1..], [0xff; 7]);
    }
}
