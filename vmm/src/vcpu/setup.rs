//! A CPU's state before it is first entered.

use kvm_bindings::{Msrs, kvm_lapic_state, kvm_msr_entry};
use kvm_ioctls::VcpuFd;

use crate::{
    boot::{Entry, registers},
    vcpu::VcpuError,
};

/// Offsets of the local interrupt entries in the local APIC's register page.
const LVT_LINT0: usize = 0x350;
const LVT_LINT1: usize = 0x360;
const DELIVER_NMI: u32 = 0x400;
const DELIVER_EXTERNAL: u32 = 0x700;
const DELIVERY_MODE: u32 = 0x700;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1 << 0;
const MSR_MTRR_DEFAULT_TYPE: u32 = 0x2ff;
/// MTRRs on, everything write-back: what firmware would have left.
const MTRR_WRITE_BACK: u64 = 1 << 11 | 6;

/// Interrupt pins as firmware wires them: the PIC to the first, NMI to the second.
pub fn wire_interrupt_pins(vcpu: &VcpuFd) -> Result<(), VcpuError> {
    let mut apic = vcpu.get_lapic().map_err(VcpuError::setup("local APIC"))?;
    set_delivery(&mut apic, LVT_LINT0, DELIVER_EXTERNAL);
    set_delivery(&mut apic, LVT_LINT1, DELIVER_NMI);
    vcpu.set_lapic(&apic)
        .map_err(VcpuError::setup("local APIC"))
}

fn set_delivery(apic: &mut kvm_lapic_state, register: usize, mode: u32) {
    let bytes = &mut apic.regs[register..register + 4];
    let mut value = 0;
    for byte in bytes.iter().rev() {
        value = value << 8 | u32::from(*byte as u8);
    }
    value = (value & !DELIVERY_MODE) | mode;
    for (byte, new) in bytes.iter_mut().zip(value.to_le_bytes()) {
        *byte = new as _;
    }
}

pub fn set_model_specific(vcpu: &VcpuFd) -> Result<(), VcpuError> {
    // One at a time: KVM stops at the first that this CPU lacks, and none is essential.
    for (index, data) in [
        (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING),
        (MSR_MTRR_DEFAULT_TYPE, MTRR_WRITE_BACK),
    ] {
        let entry = kvm_msr_entry {
            index,
            data,
            ..Default::default()
        };
        if let Ok(msrs) = Msrs::from_entries(&[entry]) {
            vcpu.set_msrs(&msrs).map_err(VcpuError::setup("MSRs"))?;
        }
    }
    Ok(())
}

/// Only the first CPU: the others wait for its start-up interrupt.
pub fn set_entry(vcpu: &VcpuFd, entry: &Entry) -> Result<(), VcpuError> {
    let created = vcpu
        .get_sregs()
        .map_err(VcpuError::setup("system registers"))?;
    vcpu.set_sregs(&registers::system(created, entry))
        .map_err(VcpuError::setup("system registers"))?;
    vcpu.set_regs(&registers::general(entry))
        .map_err(VcpuError::setup("registers"))?;
    vcpu.set_fpu(&registers::floating_point())
        .map_err(VcpuError::setup("floating point registers"))
}
