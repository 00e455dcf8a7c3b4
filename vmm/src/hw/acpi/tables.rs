//! The tables: RSDP, XSDT, FADT, FACS, DSDT, MADT, one after the other below 1 MiB.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Name, Package, Path,
        ResourceTemplate, Scope,
    },
    facs::FACS,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace as Space, GAS},
    madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic},
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress};

use crate::{
    hw::{acpi::power, pci, reset, uart},
    memory::{
        ACPI_START, GuestMemory, HIGH_MEMORY_START, HOLE_START, IO_APIC, LOCAL_APIC, MemoryError,
        PCI_WINDOW_END,
    },
    platform::{ACPI_LINE, SERIAL_LINE},
};

const OEM: [u8; 6] = *b"LOAM  ";
const OEM_TABLE: [u8; 8] = *b"LOAMVMM ";
const OEM_REVISION: u32 = 1;
/// FACS must lie at a multiple of 64; the others don't mind.
const ALIGNMENT: u64 = 64;

/// FADT's `IAPC_BOOT_ARCH`: no VGA, no CMOS clock, no keyboard controller; but there are ISA devices.
const LEGACY_DEVICES: u16 = 1 << 0;
const NO_VGA: u16 = 1 << 2;
const NO_CMOS_CLOCK: u16 = 1 << 5;

/// Writes the tables into guest memory; returns where the root pointer is.
pub fn write(memory: &GuestMemory, cpus: u32) -> Result<GuestAddress, MemoryError> {
    let (bytes, rsdp) = build(cpus);
    debug_assert!(ACPI_START + bytes.len() as u64 <= HIGH_MEMORY_START);
    memory.write_slice(&bytes, GuestAddress(ACPI_START))?;
    Ok(rsdp)
}

/// The bytes from [`ACPI_START`] on, and the root pointer's address.
fn build(cpus: u32) -> (Vec<u8>, GuestAddress) {
    let mut area = Area::default();
    // The root pointer is found by scanning: it goes first, and is filled in last.
    let rsdp = area.put(&Rsdp::new(OEM, 0));
    let facs = area.put(&FACS::new());
    let dsdt = area.put_bytes(dsdt().as_slice());
    let fadt = area.put(&fadt(facs, dsdt));
    let madt = area.put(&madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.put(&xsdt);

    let mut root = Vec::new();
    Rsdp::new(OEM, xsdt).to_aml_bytes(&mut root);
    area.0[..root.len()].copy_from_slice(&root);
    (area.0, GuestAddress(rsdp))
}

#[derive(Default)]
struct Area(Vec<u8>);

impl Area {
    fn put(&mut self, table: &dyn Aml) -> u64 {
        let mut bytes = Vec::new();
        table.to_aml_bytes(&mut bytes);
        self.put_bytes(&bytes)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> u64 {
        self.0
            .resize(self.0.len().next_multiple_of(ALIGNMENT as usize), 0);
        let address = ACPI_START + self.0.len() as u64;
        self.0.extend_from_slice(bytes);
        address
    }
}

fn port(address: u16, bits: u8, access: AccessSize) -> GAS {
    GAS::new(Space::SystemIo, bits, 0, access, u64::from(address))
}

fn fadt(facs: u64, dsdt: u64) -> impl Aml {
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .firmware_ctrl_32(facs as u32)
        .dsdt_32(dsdt as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::ResetRegSup)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.sci_int = (ACPI_LINE.0 as u16).into();
    fadt.pm1a_evt_blk = u32::from(power::EVENT_PORT).into();
    fadt.pm1_evt_len = power::EVENT_LEN;
    fadt.x_pm1a_evt_blk = port(power::EVENT_PORT, 32, AccessSize::WordAccess);
    fadt.pm1a_cnt_blk = u32::from(power::CONTROL_PORT).into();
    fadt.pm1_cnt_len = power::CONTROL_LEN;
    fadt.x_pm1a_cnt_blk = port(power::CONTROL_PORT, 16, AccessSize::WordAccess);
    // No deep idle states: latencies beyond the limits say so.
    fadt.p_lvl2_lat = 0xfff.into();
    fadt.p_lvl3_lat = 0xfff.into();
    fadt.iapc_boot_arch = (LEGACY_DEVICES | NO_VGA | NO_CMOS_CLOCK).into();
    fadt.reset_reg = port(reset::CHIPSET, 8, AccessSize::ByteAccess);
    fadt.reset_value = reset::CHIPSET_RESET;
    fadt.finalize()
}

fn madt(cpus: u32) -> impl Aml {
    let mut madt = MADT::new(
        OEM,
        OEM_TABLE,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for cpu in 0..cpus as u8 {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, IO_APIC, 0));
    madt.add_structure(SourceOverride::acpi());
    madt
}

/// MADT's interrupt source override: says that ACPI's interrupt is level-triggered, active high.
#[derive(Clone, Copy, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct SourceOverride([u8; 10]);

impl SourceOverride {
    fn acpi() -> Self {
        const LEVEL_ACTIVE_HIGH: u8 = 0b1101;
        let line = ACPI_LINE.0 as u8;
        Self([2, 10, 0, line, line, 0, 0, 0, LEVEL_ACTIVE_HIGH, 0])
    }
}

impl Aml for SourceOverride {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// The PCI host bridge with its windows, COM1, and the value that switches the machine off.
fn dsdt() -> Sdt {
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM, OEM_TABLE, OEM_REVISION);

    let pci_id = EISAName::new("PNP0A03");
    let (hid, uid, bus) = (
        Name::new("_HID".into(), &pci_id),
        Name::new("_UID".into(), &0_u8),
        Name::new("_BBN".into(), &0_u8),
    );
    let (buses, config, ports_below, ports_above, window) = (
        AddressSpace::new_bus_number(0_u16, 0_u16),
        IO::new(pci::root::FIRST_PORT, pci::root::FIRST_PORT, 1, 8),
        AddressSpace::new_io(0_u16, pci::root::FIRST_PORT - 1, None),
        AddressSpace::new_io(pci::root::LAST_PORT + 1, 0xffff_u16, None),
        AddressSpace::new_memory(
            AddressSpaceCacheable::NotCacheable,
            true,
            HOLE_START as u32,
            PCI_WINDOW_END as u32,
            None,
        ),
    );
    let resources =
        ResourceTemplate::new(vec![&buses, &config, &ports_below, &ports_above, &window]);
    let resources = Name::new("_CRS".into(), &resources);
    let bridge = Device::new("PCI0".into(), vec![&hid, &uid, &bus, &resources]);

    let com_id = EISAName::new("PNP0501");
    let (com_hid, com_uid, com_line) = (
        Name::new("_HID".into(), &com_id),
        Name::new("_UID".into(), &1_u8),
        Interrupt::new(true, true, false, false, SERIAL_LINE.0),
    );
    let com_ports = IO::new(uart::FIRST_PORT, uart::FIRST_PORT, 1, 8);
    let com_resources = ResourceTemplate::new(vec![&com_ports, &com_line]);
    let com_resources = Name::new("_CRS".into(), &com_resources);
    let com = Device::new("COM1".into(), vec![&com_hid, &com_uid, &com_resources]);

    let system_bus = Scope::new("_SB_".into(), vec![&bridge, &com]);
    let off = Package::new(vec![
        &power::SLEEP_TYPE_OFF,
        &power::SLEEP_TYPE_OFF,
        &0_u8,
        &0_u8,
    ]);
    let off = Name::new(Path::new("_S5_"), &off);

    let mut aml = Vec::new();
    system_bus.to_aml_bytes(&mut aml);
    off.to_aml_bytes(&mut aml);
    dsdt.append_slice(&aml);
    dsdt
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u32_at(bytes: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
    }

    fn u64_at(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// The table at a guest address, by its own length.
    fn table(area: &[u8], address: u64) -> &[u8] {
        let bytes = &area[(address - ACPI_START) as usize..];
        &bytes[..u32_at(bytes, 4) as usize]
    }

    #[test]
    fn every_table_is_reachable_and_sums_to_zero() {
        let (area, rsdp) = build(64);
        assert!(area.len() as u64 <= HIGH_MEMORY_START - ACPI_START);
        assert_eq!(rsdp.0 % 16, 0, "found by scanning in steps of 16");
        assert_eq!(&area[..8], b"RSD PTR ");
        assert_eq!((sum(&area[..20]), sum(&area[..36])), (0, 0));

        let xsdt = table(&area, u64_at(&area, 24));
        assert_eq!((&xsdt[..4], sum(xsdt)), (&b"XSDT"[..], 0));
        let fadt = table(&area, u64_at(xsdt, 36));
        assert_eq!((&fadt[..4], sum(fadt)), (&b"FACP"[..], 0));
        let madt = table(&area, u64_at(xsdt, 44));
        assert_eq!((&madt[..4], sum(madt)), (&b"APIC"[..], 0));
        let dsdt = table(&area, u64::from(u32_at(fadt, 40)));
        assert_eq!((&dsdt[..4], sum(dsdt)), (&b"DSDT"[..], 0));
        let facs = u64::from(u32_at(fadt, 36));
        assert_eq!((&table(&area, facs)[..4], facs % 64), (&b"FACS"[..], 0));
    }

    #[test]
    fn madt_names_each_cpu() {
        let (area, _) = build(5);
        let xsdt = table(&area, u64_at(&area, 24));
        let mut entries = &table(&area, u64_at(xsdt, 44))[44..];
        let mut apic_ids = Vec::new();
        while let [kind, len, ..] = *entries {
            if kind == 0 {
                apic_ids.push(entries[3]);
            }
            entries = &entries[usize::from(len)..];
        }
        assert_eq!(apic_ids, [0, 1, 2, 3, 4]);
    }
}
