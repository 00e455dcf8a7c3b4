//! The power button, as the kernel's input devices show it.

use std::{fs, io, os::fd::BorrowedFd, path::Path};

use loam_node_api::machine::Shutdown;
use rustix::fs::{Mode, OFlags};
use tokio::{io::Interest, sync::mpsc};

use crate::{device::AsyncDevice, event::Event};

/// linux/input-event-codes.h.
const EV_KEY: u16 = 1;
const KEY_POWER: u16 = 116;

/// `struct input_event` on 64 bits: two times 8 bytes of time, type, code, value.
const EVENT_SIZE: usize = 24;

const INPUTS: &str = "/sys/class/input";

/// Devices that are listened to already, by their names (`event0`).
#[derive(Debug, Default)]
pub struct Buttons(Vec<String>);

impl Buttons {
    /// Listens to every power button that is not yet listened to.
    pub fn listen(&mut self, sender: &mpsc::Sender<Event>) {
        let entries = fs::read_dir(INPUTS).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            if !name.starts_with("event") || self.0.contains(&name) || !is_power_button(&name) {
                continue;
            }
            match open(&name) {
                Ok(device) => {
                    tracing::info!(device = name, "listening to the power button");
                    tokio::task::spawn_local(wait(device, sender.clone()));
                    self.0.push(name);
                }
                Err(error) => tracing::warn!(device = name, %error, "power button is not heard"),
            }
        }
    }
}

fn is_power_button(name: &str) -> bool {
    let keys = Path::new(INPUTS).join(name).join("device/capabilities/key");
    fs::read_to_string(keys).is_ok_and(|keys| has_key(&keys, KEY_POWER))
}

/// `capabilities/key`: words of 64 bits in hexadecimal, the highest first.
fn has_key(keys: &str, key: u16) -> bool {
    let word = keys.split_whitespace().rev().nth(usize::from(key / 64));
    let word = word.and_then(|word| u64::from_str_radix(word, 16).ok());
    word.is_some_and(|word| word & (1 << (key % 64)) != 0)
}

fn open(name: &str) -> io::Result<AsyncDevice> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let device = rustix::fs::open(format!("/dev/input/{name}"), flags, Mode::empty())?;
    AsyncDevice::new(device, Interest::READABLE)
}

/// Until the device has gone.
async fn wait(device: AsyncDevice, sender: mpsc::Sender<Event>) {
    let mut buffer = [0; 16 * EVENT_SIZE];
    loop {
        let read = |fd: BorrowedFd| Ok(rustix::io::read(fd, &mut buffer)?);
        let Ok(length @ 1..) = device.when_ready(Interest::READABLE, read).await else {
            return;
        };
        if buffer[..length].chunks_exact(EVENT_SIZE).any(is_press) {
            tracing::info!("power button pressed");
            let _ = sender.send(Event::Power(Shutdown::PowerOff)).await;
        }
    }
}

fn is_press(event: &[u8]) -> bool {
    let number = |at: usize| u16::from_ne_bytes([event[at], event[at + 1]]);
    (number(16), number(18)) == (EV_KEY, KEY_POWER) && event[20..24] == 1i32.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_buttons_are_told_from_keyboards() {
        assert!(has_key("10000000000000 0", KEY_POWER));
        assert!(has_key(
            "402000000 3803078f800d001 feffffdfffefffff fffffffffffffffe",
            30
        ));
        assert!(!has_key("0", KEY_POWER));
        assert!(!has_key("", KEY_POWER));
        assert!(!has_key("fffffffffffffffe", KEY_POWER));
    }

    #[test]
    fn only_the_press_counts() {
        let event = |kind: u16, code: u16, value: i32| {
            let mut bytes = vec![0; 16];
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(code.to_ne_bytes());
            bytes.extend(value.to_ne_bytes());
            bytes
        };
        assert!(is_press(&event(1, 116, 1)));
        assert!(!is_press(&event(1, 116, 0)));
        assert!(!is_press(&event(1, 30, 1)));
        assert!(!is_press(&event(0, 0, 0)));
    }
}
