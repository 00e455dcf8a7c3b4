//! A function's 256 bytes of configuration space (PCI Local Bus specification 3.0, chapter 6):
//! bytes, and for each the bits that the guest may change.

pub const LEN: usize = 256;

const VENDOR: usize = 0x00;
const DEVICE: usize = 0x02;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CLASS: usize = 0x09;
const BAR0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const SUBSYSTEM: usize = 0x2e;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pub vendor: u16,
    pub device: u16,
    pub revision: u8,
    /// Base class, sub-class, programming interface, from the top.
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem: u16,
}

#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    next_capability: usize,
    /// Where the pointer to the next capability goes.
    last_pointer: usize,
}

impl ConfigSpace {
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
            next_capability: FIRST_CAPABILITY,
            last_pointer: CAPABILITIES,
        };
        space.put(VENDOR, &identity.vendor.to_le_bytes());
        space.put(DEVICE, &identity.device.to_le_bytes());
        space.put(REVISION, &[identity.revision]);
        space.put(CLASS, &identity.class.to_le_bytes()[..3]);
        space.put(SUBSYSTEM_VENDOR, &identity.subsystem_vendor.to_le_bytes());
        space.put(SUBSYSTEM, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_BUS_MASTER | COMMAND_NO_INTX;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// BAR 0 as 32-bit memory of `size` bytes, a power of two from 16 up, at `address`.
    pub fn set_memory_bar(&mut self, address: u32, size: u32) {
        debug_assert!(size.is_power_of_two() && size >= 16 && address.is_multiple_of(size));
        self.put(BAR0, &address.to_le_bytes());
        self.allow(BAR0, &(!(size - 1)).to_le_bytes());
    }

    /// Appends a capability: its id, and what follows id and next pointer, with the bits of that
    /// which the guest may change. Returns its offset.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.next_capability;
        self.put(self.last_pointer, &[at as u8]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, writable);
        self.last_pointer = at + 1;
        self.next_capability = (at + 2 + body.len()).next_multiple_of(4);
        self.bytes[STATUS] |= STATUS_CAPABILITIES as u8;
        at
    }

    /// Where BAR 0 answers; none while memory decoding is off.
    pub fn decoded_bar(&self) -> Option<u64> {
        let command = u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]]);
        (command & COMMAND_MEMORY != 0).then(|| u64::from(self.u32_at(BAR0) & !0xf))
    }

    pub fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }

    /// Guest's access; what lies behind the end reads as it was and is not written.
    pub fn read(&self, at: usize, data: &mut [u8]) {
        for (target, byte) in data.iter_mut().zip(self.bytes.iter().skip(at)) {
            *target = *byte;
        }
    }

    pub fn write(&mut self, at: usize, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable).skip(at);
        for ((byte, writable), new) in places.zip(data) {
            *byte = *byte & !writable | new & writable;
        }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        self.writable[at..at + bits.len()].copy_from_slice(bits);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(Identity {
            vendor: 0x1af4,
            device: 0x1042,
            class: 0x01_80_00,
            ..Identity::default()
        });
        space.set_memory_bar(0xe000_0000, 0x8000);
        space.add_capability(0x09, &[1, 2, 3, 4, 5], &[]);
        space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        space
    }

    #[test]
    fn sizing_a_bar_shows_its_size() {
        let mut space = space();
        space.write(BAR0, &[0xff; 4]);
        assert_eq!(space.u32_at(BAR0), 0xffff_8000);
        space.write(BAR0, &0xe001_2345_u32.to_le_bytes());
        assert_eq!(space.decoded_bar(), None);
        space.write(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        assert_eq!(space.decoded_bar(), Some(0xe001_0000));
    }

    #[test]
    fn capabilities_are_a_list() {
        let space = space();
        let mut ids = Vec::new();
        let mut at = usize::from(space.bytes[CAPABILITIES]);
        while at != 0 {
            assert_eq!(at % 4, 0);
            ids.push(space.bytes[at]);
            at = usize::from(space.bytes[at + 1]);
        }
        assert_eq!(ids, [0x09, 0x11]);
        assert_ne!(space.u16_at(STATUS) & STATUS_CAPABILITIES, 0);
    }

    proptest! {
        #[test]
        fn no_write_changes_what_is_read_only(at in 0..300_usize, data: [u8; 4], len in 0..=4_usize) {
            let before = space();
            let mut after = space();
            after.write(at, &data[..len]);
            for index in 0..LEN {
                let fixed = !before.writable[index];
                prop_assert_eq!(before.bytes[index] & fixed, after.bytes[index] & fixed);
            }
            after.read(at, &mut [0; 4]);
        }
    }
}
