//! Page tables that map the first 4 GiB onto themselves in pages of 2 MiB: the 64-bit boot protocol
//! wants kernel, zero page and command line mapped so.

use vm_memory::{Bytes, GuestAddress};

use crate::{boot::BootError, memory::GuestMemory};

const LEVEL_4: u64 = 0x9000;
const LEVEL_3: u64 = 0xa000;
const LEVEL_2: u64 = 0xb000;
const DIRECTORIES: u64 = 4;
const ENTRIES: u64 = 512;

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;

/// Returns what goes into CR3.
pub fn write(memory: &GuestMemory) -> Result<GuestAddress, BootError> {
    memory.write_obj(LEVEL_3 | PRESENT | WRITABLE, GuestAddress(LEVEL_4))?;
    for directory in 0..DIRECTORIES {
        let table = LEVEL_2 + directory * 4096;
        memory.write_obj(
            table | PRESENT | WRITABLE,
            GuestAddress(LEVEL_3 + directory * 8),
        )?;
        for entry in 0..ENTRIES {
            let page = (directory * ENTRIES + entry) << 21;
            memory.write_obj(
                page | PRESENT | WRITABLE | LARGE,
                GuestAddress(table + entry * 8),
            )?;
        }
    }
    Ok(GuestAddress(LEVEL_4))
}
