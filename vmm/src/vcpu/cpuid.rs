//! What CPUID says to the guest: what KVM supports on this machine, with the topology of the VM
//! (one package, one thread per core) in place of the host's.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};

/// Vendors as leaf 0 spells them, in EBX, EDX, ECX; Hygon's CPUs are AMD's.
const AMD: [u32; 3] = [
    u32::from_le_bytes(*b"Auth"),
    u32::from_le_bytes(*b"enti"),
    u32::from_le_bytes(*b"cAMD"),
];
const HYGON: [u32; 3] = [
    u32::from_le_bytes(*b"Hygo"),
    u32::from_le_bytes(*b"nGen"),
    u32::from_le_bytes(*b"uine"),
];

const HYPERVISOR: u32 = 1 << 31;
const TSC_DEADLINE: u32 = 1 << 24;
const X2APIC: u32 = 1 << 21;
const HTT: u32 = 1 << 28;
/// AMD's "core multi-processing legacy mode".
const CMP_LEGACY: u32 = 1 << 1;
const CLFLUSH_LINES: u32 = 8;

/// Level types of the extended topology leaves.
const LEVEL_THREAD: u32 = 1;
const LEVEL_CORE: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    pub cpus: u32,
    pub cpu: u32,
    /// KVM offers the local APIC's TSC deadline timer.
    pub tsc_deadline: bool,
}

impl Topology {
    /// Bits of an APIC id that tell cores apart.
    fn core_bits(self) -> u32 {
        self.cpus.next_power_of_two().trailing_zeros()
    }
}

/// The table for one CPU.
pub fn table(supported: &CpuId, topology: Topology) -> Result<CpuId, vmm_sys_util::fam::Error> {
    let vendor = supported
        .as_slice()
        .iter()
        .find(|entry| entry.function == 0)
        .map(|entry| [entry.ebx, entry.edx, entry.ecx]);
    let amd = vendor == Some(AMD) || vendor == Some(HYGON);
    let mut entries: Vec<_> = supported
        .as_slice()
        .iter()
        // Replaced whole below: the host has as many sub-leaves as it has levels.
        .filter(|entry| !matches!(entry.function, 0xb | 0x1f))
        .copied()
        .collect();
    for entry in &mut entries {
        adapt(entry, topology, amd);
    }
    entries.extend(extended_topology(topology));
    CpuId::from_entries(&entries)
}

fn adapt(entry: &mut kvm_cpuid_entry2, topology: Topology, amd: bool) {
    let Topology { cpus, cpu, .. } = topology;
    match entry.function {
        // The highest basic leaf: 0xb is always offered. 0x1f stays empty, which sends readers to 0xb.
        0x0 => entry.eax = entry.eax.max(0xb),
        0x1 => {
            entry.ebx = cpu << 24 | (cpus.next_power_of_two() & 0xff) << 16 | CLFLUSH_LINES << 8;
            entry.ecx |= HYPERVISOR | X2APIC;
            if topology.tsc_deadline {
                entry.ecx |= TSC_DEADLINE;
            }
            entry.edx = (entry.edx & !HTT) | if cpus > 1 { HTT } else { 0 };
        }
        // Intel's caches: the first two levels are a core's own, the third is the package's.
        0x4 if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            let cores = (1 << topology.core_bits()) - 1;
            entry.eax = (entry.eax & 0x3fff) | sharing << 14 | (cores & 0x3f) << 26;
        }
        0x8000_0001 if amd => {
            entry.ecx = (entry.ecx & !CMP_LEGACY) | if cpus > 1 { CMP_LEGACY } else { 0 };
        }
        0x8000_0008 if amd => {
            entry.ecx = (entry.ecx & !0xf0ff) | topology.core_bits() << 12 | (cpus - 1);
        }
        // AMD's caches, likewise.
        0x8000_001d if entry.eax & 0x1f != 0 => {
            let level = entry.eax >> 5 & 0x7;
            let sharing = if level >= 3 { cpus - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | sharing << 14;
        }
        // AMD's extended APIC id; core id with one thread per core; one node.
        0x8000_001e if amd => {
            entry.eax = cpu;
            entry.ebx = cpu & 0xff;
            entry.ecx = 0;
        }
        _ => {}
    }
}

/// Leaf 0xb: thread level (no bits, one thread), core level, end.
fn extended_topology(topology: Topology) -> [kvm_cpuid_entry2; 3] {
    let level = |index, kind: u32, shift, count| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: topology.cpu,
        ..Default::default()
    };
    [
        level(0, LEVEL_THREAD, 0, 1),
        level(1, LEVEL_CORE, topology.core_bits(), topology.cpus),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported(vendor: [u32; 3]) -> CpuId {
        let leaf = |function, eax, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            eax,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        CpuId::from_entries(&[
            leaf(0, 0x20, vendor[0], vendor[2], vendor[1]),
            leaf(1, 0, 0xff00_0000, 0, HTT),
            leaf(4, 0xfc00_4121, 0, 0, 0),
            leaf(4, 0xfc1f_c163, 0, 0, 0),
            leaf(0xb, 1, 2, 0x100, 77),
            leaf(0x1f, 1, 2, 0x100, 77),
            leaf(0x8000_0008, 0x3028, 0, 0x703f, 0),
            leaf(0x8000_001e, 77, 0x1ff, 3, 0),
        ])
        .unwrap()
    }

    fn leaf(table: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *table
            .as_slice()
            .iter()
            .filter(|entry| entry.function == function)
            .nth(index as usize)
            .unwrap()
    }

    #[test]
    fn ids_and_counts_are_those_of_the_vm() {
        let topology = Topology {
            cpus: 3,
            cpu: 2,
            tsc_deadline: true,
        };
        let table = table(&supported(AMD), topology).unwrap();
        let basic = leaf(&table, 1, 0);
        assert_eq!(basic.ebx >> 24, 2);
        assert_eq!(basic.ebx >> 16 & 0xff, 4);
        assert_eq!(basic.ecx, HYPERVISOR | X2APIC | TSC_DEADLINE);
        assert_eq!(basic.edx & HTT, HTT);
        assert_eq!(leaf(&table, 0xb, 1).eax, 2);
        assert_eq!(leaf(&table, 0xb, 1).ebx, 3);
        assert!((0..3).all(|level| leaf(&table, 0xb, level).edx == 2));
        assert_eq!(leaf(&table, 0x8000_0008, 0).ecx, 2 << 12 | 2);
        assert_eq!(leaf(&table, 0x8000_001e, 0).eax, 2);
        assert!(!table.as_slice().iter().any(|entry| entry.function == 0x1f));
    }

    #[test]
    fn a_single_cpu_has_no_siblings() {
        let topology = Topology {
            cpus: 1,
            cpu: 0,
            tsc_deadline: false,
        };
        let table = table(&supported([0; 3]), topology).unwrap();
        let basic = leaf(&table, 1, 0);
        assert_eq!((basic.edx & HTT, basic.ecx & TSC_DEADLINE), (0, 0));
        assert_eq!(leaf(&table, 0xb, 1).eax, 0);
        assert_eq!(leaf(&table, 4, 0).eax >> 14, 0);
        assert_eq!(leaf(&table, 4, 1).eax >> 14, 0);
    }
}
