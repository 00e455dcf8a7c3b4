//! MSI-X (PCI Local Bus specification 3.0, 6.8.2): a table of messages that the guest fills in, each
//! raised by writing to an event that KVM listens on.

use std::{
    io,
    sync::{Arc, Mutex},
};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{
    lock::Lock,
    platform::{Gsi, GsiAllocator, Message, Platform},
};

pub const CAPABILITY: u8 = 0x11;
pub const ENTRY_LEN: usize = 16;
/// As many as fit the page that a function gives to its table.
pub const MOST_VECTORS: usize = 4096 / ENTRY_LEN;
/// "No vector" in virtio's registers.
pub const NO_VECTOR: u16 = 0xffff;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK_ALL: u16 = 1 << 14;
const ENTRY_CONTROL: usize = 12;
const ENTRY_MASKED: u8 = 1 << 0;

#[derive(Debug)]
pub struct Msix {
    platform: Arc<dyn Platform>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    enabled: bool,
    all_masked: bool,
    vectors: Vec<Vector>,
}

#[derive(Debug)]
struct Vector {
    gsi: Gsi,
    event: EventFd,
    entry: [u8; ENTRY_LEN],
    pending: bool,
    /// Whether KVM knows the entry's message.
    routed: bool,
}

impl Vector {
    fn masked(&self) -> bool {
        self.entry[ENTRY_CONTROL] & ENTRY_MASKED != 0
    }

    fn message(&self) -> Message {
        let word = |at: usize| {
            u32::from_le_bytes([
                self.entry[at],
                self.entry[at + 1],
                self.entry[at + 2],
                self.entry[at + 3],
            ])
        };
        Message {
            address: u64::from(word(0)) | u64::from(word(4)) << 32,
            data: word(8),
        }
    }

    fn raise(&self) {
        // Fails only when the counter is full, and then an interrupt is on its way anyway.
        let _ = self.event.write(1);
    }
}

impl Msix {
    pub fn new(
        platform: Arc<dyn Platform>,
        gsis: &mut GsiAllocator,
        vectors: usize,
    ) -> io::Result<Self> {
        debug_assert!(vectors <= MOST_VECTORS);
        let vectors = (0..vectors)
            .map(|_| {
                let vector = Vector {
                    gsi: gsis.allocate(),
                    event: EventFd::new(EFD_NONBLOCK)?,
                    entry: masked_entry(),
                    pending: false,
                    routed: false,
                };
                platform.connect_interrupt(vector.gsi, &vector.event)?;
                Ok(vector)
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            platform,
            state: Mutex::new(State {
                enabled: false,
                all_masked: false,
                vectors,
            }),
        })
    }

    pub fn vectors(&self) -> usize {
        self.state.locked().vectors.len()
    }

    /// Follows the capability's message control register.
    pub fn set_control(&self, control: u16) {
        let mut state = self.state.locked();
        state.enabled = control & CONTROL_ENABLE != 0;
        state.all_masked = control & CONTROL_MASK_ALL != 0;
        for index in 0..state.vectors.len() {
            self.update(&mut state, index);
        }
    }

    /// Raises a vector, or remembers it while it is masked. Nobody listens while MSI-X is off.
    pub fn raise(&self, vector: u16) {
        let mut state = self.state.locked();
        let deaf = !state.enabled;
        let all_masked = state.all_masked;
        let Some(vector) = state.vectors.get_mut(usize::from(vector)) else {
            return;
        };
        if deaf {
            return;
        }
        if all_masked || vector.masked() {
            vector.pending = true;
        } else {
            vector.raise();
        }
    }

    pub fn read_table(&self, at: usize, data: &mut [u8]) {
        let state = self.state.locked();
        for (index, target) in (at..).zip(data) {
            *target = state
                .vectors
                .get(index / ENTRY_LEN)
                .map_or(0, |vector| vector.entry[index % ENTRY_LEN]);
        }
    }

    pub fn write_table(&self, at: usize, data: &[u8]) {
        let mut state = self.state.locked();
        for (index, byte) in (at..).zip(data) {
            if let Some(vector) = state.vectors.get_mut(index / ENTRY_LEN) {
                vector.entry[index % ENTRY_LEN] = *byte;
                vector.routed = false;
            }
        }
        let touched = at / ENTRY_LEN..(at + data.len()).div_ceil(ENTRY_LEN);
        for index in touched {
            self.update(&mut state, index);
        }
    }

    pub fn read_pending(&self, at: usize, data: &mut [u8]) {
        let state = self.state.locked();
        for (byte, target) in (at..).zip(data) {
            *target = (0..8)
                .filter(|bit| {
                    state
                        .vectors
                        .get(byte * 8 + bit)
                        .is_some_and(|vector| vector.pending)
                })
                .fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    /// Tells KVM a message that became visible, and raises what waited for that.
    fn update(&self, state: &mut State, index: usize) {
        let open = state.enabled && !state.all_masked;
        let Some(vector) = state.vectors.get_mut(index) else {
            return;
        };
        if !open || vector.masked() {
            return;
        }
        if !vector.routed {
            // A message that KVM refuses is the guest's mistake: the vector stays silent.
            let accepted = self.platform.route(vector.gsi, Some(vector.message()));
            vector.routed = accepted.is_ok();
        }
        if std::mem::take(&mut vector.pending) {
            vector.raise();
        }
    }
}

fn masked_entry() -> [u8; ENTRY_LEN] {
    let mut entry = [0; ENTRY_LEN];
    entry[ENTRY_CONTROL] = ENTRY_MASKED;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::recorded::Recorded;

    fn msix() -> (Arc<Recorded>, Msix) {
        let platform = Arc::new(Recorded::default());
        let msix = Msix::new(Arc::clone(&platform) as _, &mut GsiAllocator::default(), 2).unwrap();
        (platform, msix)
    }

    fn raised(msix: &Msix, vector: usize) -> bool {
        msix.state.locked().vectors[vector].event.read().is_ok()
    }

    #[test]
    fn a_masked_vector_waits() {
        let (platform, msix) = msix();
        msix.set_control(CONTROL_ENABLE);
        msix.write_table(ENTRY_LEN, &0xfee0_1000_u32.to_le_bytes());
        msix.write_table(ENTRY_LEN + 8, &0x31_u32.to_le_bytes());
        msix.raise(1);
        assert!(!raised(&msix, 1));
        let mut pending = [0];
        msix.read_pending(0, &mut pending);
        assert_eq!(pending, [0b10]);

        msix.write_table(ENTRY_LEN + ENTRY_CONTROL, &[0; 4]);
        assert!(raised(&msix, 1));
        let message = Message {
            address: 0xfee0_1000,
            data: 0x31,
        };
        assert_eq!(platform.routes.locked()[&Gsi(25)], message);
        msix.raise(1);
        assert!(raised(&msix, 1));
    }

    #[test]
    fn masking_the_function_masks_all() {
        let (_platform, msix) = msix();
        msix.write_table(ENTRY_CONTROL, &[0; 4]);
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK_ALL);
        msix.raise(0);
        assert!(!raised(&msix, 0));
        msix.set_control(CONTROL_ENABLE);
        assert!(raised(&msix, 0));
    }

    #[test]
    fn nonsense_is_ignored() {
        let (_platform, msix) = msix();
        msix.set_control(CONTROL_ENABLE);
        msix.raise(2);
        msix.raise(NO_VECTOR);
        msix.write_table(4095, &[0xff; 8]);
        let mut beyond = [0xff; 8];
        msix.read_table(31, &mut beyond);
        assert_eq!(beyond[1..], [0; 7]);
        msix.read_pending(4095, &mut beyond);
        assert_eq!(beyond, [0; 8]);
    }
}
