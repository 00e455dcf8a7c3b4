//! The first CPU's registers at entry: 64-bit mode, flat segments, paging on, interrupts off.

use kvm_bindings::{kvm_fpu, kvm_regs, kvm_segment, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    boot::{BootError, Entry},
    memory::GuestMemory,
};

const GDT: GuestAddress = GuestAddress(0x500);
const STACK: u64 = 0x8ff0;

/// Selectors that the boot protocol names: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Bit 1 of RFLAGS is always set.
const RFLAGS: u64 = 1 << 1;

/// 64-bit code; flat data; a busy 64-bit task segment, which VMX insists on.
fn segments() -> [kvm_segment; 3] {
    let flat = kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        present: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    [
        kvm_segment {
            selector: CODE_SELECTOR,
            type_: 0b1011,
            l: 1,
            ..flat
        },
        kvm_segment {
            selector: DATA_SELECTOR,
            type_: 0b0011,
            db: 1,
            ..flat
        },
        kvm_segment {
            selector: TASK_SELECTOR,
            type_: 0b1011,
            s: 0,
            ..flat
        },
    ]
}

/// A segment as its descriptor (Intel SDM volume 3, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = if segment.g == 1 {
        u64::from(segment.limit >> 12)
    } else {
        u64::from(segment.limit)
    };
    let access = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    (limit & 0xffff)
        | (segment.base & 0xff_ffff) << 16
        | access << 40
        | (limit & 0xf_0000) << 32
        | (segment.base & 0xff00_0000) << 32
}

/// Writes the descriptor table that [`system`] points to.
pub fn write_descriptor_table(memory: &GuestMemory) -> Result<(), BootError> {
    for segment in segments() {
        memory.write_obj(
            descriptor(&segment),
            GuestAddress(GDT.0 + u64::from(segment.selector)),
        )?;
    }
    Ok(())
}

/// The system registers, changed from what KVM gave the CPU at its creation.
pub fn system(mut registers: kvm_sregs, entry: &Entry) -> kvm_sregs {
    let [code, data, task] = segments();
    registers.cs = code;
    for segment in [
        &mut registers.ds,
        &mut registers.es,
        &mut registers.fs,
        &mut registers.gs,
        &mut registers.ss,
    ] {
        *segment = data;
    }
    registers.tr = task;
    registers.gdt.base = GDT.0;
    registers.gdt.limit = TASK_SELECTOR + 7;
    registers.idt.base = 0;
    registers.idt.limit = 0;
    registers.cr3 = entry.page_tables.0;
    registers.cr4 |= CR4_PAE;
    registers.cr0 |= CR0_PE | CR0_ET | CR0_PG;
    registers.efer |= EFER_LME | EFER_LMA;
    registers
}

pub fn general(entry: &Entry) -> kvm_regs {
    kvm_regs {
        rip: entry.instruction.0,
        rsi: entry.zero_page.0,
        rsp: STACK,
        rbp: STACK,
        rflags: RFLAGS,
        ..Default::default()
    }
}

/// As after FNINIT.
pub fn floating_point() -> kvm_fpu {
    kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_of_linux() {
        let [code, data, task] = segments();
        assert_eq!(descriptor(&code), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&data), 0x00cf_9300_0000_ffff);
        assert_eq!(descriptor(&task), 0x008f_8b00_0000_ffff);
    }
}
