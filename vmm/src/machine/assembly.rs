//! Puts a machine together, up to CPUs that wait to be entered.

use std::{
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    sync::Arc,
};

use kvm_bindings::{KVM_PIT_SPEAKER_DUMMY, kvm_pit_config, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::{
    boot::{self, BootError, Entry, descriptor::Descriptor},
    config::Config,
    control::server::Server,
    events::{NoticeBoard, Notices},
    hw::acpi,
    machine::{
        MachineError,
        devices::{self, Backends, Devices},
        kvm_refuses, system,
    },
    memory::{self, GuestMemory, KVM_IDENTITY_MAP, KVM_TSS, MemoryError},
    platform::{self, Platform},
    seccomp::{self, Filters},
    vcpu::{
        VcpuError,
        cpuid::{self, Topology},
        setup,
    },
};

/// A machine whose CPUs were never entered. Its devices' workers run, idle.
#[derive(Debug)]
pub struct Assembled {
    pub devices: Devices,
    pub vcpus: Vec<VcpuFd>,
    pub server: Server,
    pub filters: Option<Filters>,
}

const REQUIRED: &[(Cap, &str)] = &[
    (Cap::Irqchip, "interrupt controllers"),
    (Cap::Pit2, "the interval timer"),
    (Cap::UserMemory, "user memory"),
    (Cap::SetTssAddr, "the task segment"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::Irqfd, "interrupts by events"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::Ioeventfd, "doorbells by events"),
    (Cap::ImmediateExit, "immediate exits"),
];

pub fn assemble(
    config: Config,
    notices: &Notices,
    board: &NoticeBoard,
) -> Result<Assembled, MachineError> {
    seccomp::give_up_new_privileges()?;
    let filters = config.seccomp.then(Filters::build).transpose()?;

    let kvm = open(config.kvm)?;
    let vm = Arc::new(make_vm(&kvm)?);
    let memory = memory::map(config.memory)?;
    give_memory(&vm, &memory)?;

    let rsdp = acpi::tables::write(&memory, config.cpus)?;
    let entry = boot::load(
        &memory,
        descriptor(&config.kernel, "the kernel")?,
        &config
            .initrds
            .iter()
            .map(|fd| descriptor(fd, "an initrd"))
            .collect::<Result<Vec<_>, _>>()?,
        &config.command_line,
        rsdp,
    )?;
    let vcpus = make_vcpus(&kvm, &vm, config.cpus, &entry)?;

    let platform: Arc<dyn Platform> =
        Arc::new(platform::Kvm::new(vm).map_err(system("interrupt routes"))?);
    let backends = Backends {
        console: config.console,
        disks: config.disks,
        interfaces: config.interfaces,
    };
    let filter = filters.as_ref().map(|filters| &filters.device);
    let devices = devices::make(backends, &memory, &platform, notices, filter)?;
    let listener = UnixListener::from(config.control);
    let server = Server::new(listener, board.wake().as_raw_fd())
        .map_err(system("cannot listen on the control socket"))?;
    Ok(Assembled {
        devices,
        vcpus,
        server,
        filters,
    })
}

fn descriptor<'a>(fd: &'a OwnedFd, what: &'static str) -> Result<Descriptor<'a>, BootError> {
    Descriptor::new(fd.as_fd()).map_err(|error| BootError::Read { what, error })
}

fn open(fd: OwnedFd) -> Result<Kvm, MachineError> {
    // SAFETY: the descriptor is owned, and given away here; whether it is KVM's is checked below.
    let kvm = unsafe { Kvm::from_raw_fd(fd.into_raw_fd()) };
    match kvm.get_api_version() {
        12 => {}
        version => return Err(MachineError::KvmVersion(version)),
    }
    for (capability, name) in REQUIRED {
        if !kvm.check_extension(*capability) {
            return Err(MachineError::KvmLacks(name));
        }
    }
    Ok(kvm)
}

fn make_vm(kvm: &Kvm) -> Result<VmFd, MachineError> {
    let vm = kvm.create_vm().map_err(kvm_refuses("a VM"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP)
        .map_err(kvm_refuses("the identity map"))?;
    vm.set_tss_address(KVM_TSS)
        .map_err(kvm_refuses("the task segment"))?;
    vm.create_irq_chip()
        .map_err(kvm_refuses("interrupt controllers"))?;
    // Port 0x61 too, which kernels without kvmclock calibrate their clocks with.
    vm.create_pit2(kvm_pit_config {
        flags: KVM_PIT_SPEAKER_DUMMY,
        ..Default::default()
    })
    .map_err(kvm_refuses("the interval timer"))?;
    Ok(vm)
}

fn give_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), MachineError> {
    for (slot, region) in memory.iter().enumerate() {
        let host = region
            .get_host_address(MemoryRegionAddress(0))
            .map_err(MemoryError::from)?;
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
            flags: 0,
        };
        // SAFETY: the mapping stays until the process ends: the PCI functions keep `memory`, and
        // CPUs are halted before these go.
        unsafe { vm.set_user_memory_region(region) }.map_err(kvm_refuses("memory"))?;
    }
    Ok(())
}

fn make_vcpus(kvm: &Kvm, vm: &VmFd, cpus: u32, entry: &Entry) -> Result<Vec<VcpuFd>, MachineError> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(kvm_refuses("CPUID"))?;
    let tsc_deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    (0..cpus)
        .map(|cpu| {
            let vcpu = vm
                .create_vcpu(cpu.into())
                .map_err(|error| VcpuError::Create { cpu, error })?;
            let topology = Topology {
                cpus,
                cpu,
                tsc_deadline,
            };
            let table = cpuid::table(&supported, topology).map_err(VcpuError::from)?;
            vcpu.set_cpuid2(&table).map_err(VcpuError::setup("CPUID"))?;
            setup::set_model_specific(&vcpu)?;
            setup::wire_interrupt_pins(&vcpu)?;
            if cpu == 0 {
                setup::set_entry(&vcpu, entry)?;
            }
            Ok(vcpu)
        })
        .collect()
}
