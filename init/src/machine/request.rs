//! What a machine's specification must keep to before anything is opened for it.

use loam_deployment::Bytes;
use loam_node_api::machine::{Boot, MAX_GUEST_CONFIG, MachineDisk, MachineInterface, MachineSpec};

/// The kernel's guest has that many slots on its one PCI bus, less console, entropy and bridge.
const MAX_DISKS: usize = 20;
const MAX_INTERFACES: usize = 8;

const MIN_MEMORY: Bytes = Bytes::mib(64);
const MAX_MEMORY: Bytes = Bytes(Bytes::TIB);
const MEMORY_STEP: u64 = 2 * Bytes::MIB;

/// Length of `virtio_blk_config`'s serial (virtio 1.2, 5.2.6).
const MAX_SERIAL: usize = 20;

/// The guest's configuration as the guest reads it, if the specification keeps to the limits.
pub fn check(spec: &MachineSpec) -> Result<Vec<u8>, String> {
    if !(1..=64).contains(&spec.cpus) {
        return Err(format!("{} CPUs; expected 1 to 64", spec.cpus));
    }
    let memory = spec.memory;
    if memory < MIN_MEMORY || memory > MAX_MEMORY || !memory.get().is_multiple_of(MEMORY_STEP) {
        return Err(format!(
            "{memory} of memory; expected {MIN_MEMORY} to {MAX_MEMORY} in steps of 2MiB"
        ));
    }
    if spec.disks.len() > MAX_DISKS {
        return Err(format!(
            "{} disks; expected {MAX_DISKS} at most",
            spec.disks.len()
        ));
    }
    if spec.interfaces.len() > MAX_INTERFACES {
        let count = spec.interfaces.len();
        return Err(format!(
            "{count} interfaces; expected {MAX_INTERFACES} at most"
        ));
    }
    for (n, disk) in spec.disks.iter().enumerate() {
        check_serial(disk)?;
        if spec.disks[..n]
            .iter()
            .any(|other| other.serial == disk.serial)
        {
            return Err(format!("two disks with the serial {}", disk.serial));
        }
    }
    spec.interfaces.iter().try_for_each(check_tap)?;
    let Boot::Guest(config) = &spec.boot;
    if config.command.is_empty() {
        return Err("no command".into());
    }
    let json = serde_json::to_vec(config).map_err(|error| error.to_string())?;
    if json.len() > MAX_GUEST_CONFIG {
        return Err(format!(
            "a guest configuration of {} bytes; expected {MAX_GUEST_CONFIG} at most",
            json.len()
        ));
    }
    Ok(json)
}

fn check_serial(disk: &MachineDisk) -> Result<(), String> {
    let serial = &disk.serial;
    let valid = (1..=MAX_SERIAL).contains(&serial.len())
        && serial.bytes().all(|byte| byte.is_ascii_graphic());
    if valid {
        return Ok(());
    }
    Err(format!(
        "the serial {serial:?}; expected 1 to {MAX_SERIAL} printable ASCII characters"
    ))
}

fn check_tap(interface: &MachineInterface) -> Result<(), String> {
    let tap = &interface.tap;
    // IFNAMSIZ, less the closing NUL.
    let valid = (1..16).contains(&tap.len())
        && tap
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'%');
    if valid {
        Ok(())
    } else {
        Err(format!("{tap:?} is not the name of an interface"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fixture::spec;

    #[test]
    fn an_ordinary_machine_passes() {
        let json = check(&spec("1.web")).unwrap();
        assert!(json.starts_with(b"{\"hostname\":\"web\""));
    }

    #[test]
    fn limits_are_kept() {
        let refused = |change: &dyn Fn(&mut MachineSpec)| {
            let mut spec = spec("1.web");
            change(&mut spec);
            check(&spec).unwrap_err()
        };
        assert!(refused(&|s| s.cpus = 0).contains("CPUs"));
        assert!(refused(&|s| s.cpus = 65).contains("CPUs"));
        assert!(refused(&|s| s.memory = Bytes(1)).contains("memory"));
        assert!(refused(&|s| s.memory = Bytes::gib(2048)).contains("memory"));
        assert!(refused(&|s| s.memory.0 += 4096).contains("memory"));
        assert!(refused(&|s| s.disks[0].serial = "x".repeat(21)).contains("serial"));
        assert!(refused(&|s| s.disks[0].serial = "a\nb".into()).contains("serial"));
        assert!(refused(&|s| s.disks.push(s.disks[0].clone())).contains("two disks"));
        assert!(refused(&|s| s.disks = vec![s.disks[0].clone(); 21]).contains("disks"));
        assert!(refused(&|s| s.interfaces[0].tap = "../x".into()).contains("interface"));
        assert!(refused(&|s| s.interfaces[0].tap = "tap%d".into()).contains("interface"));
        assert!(
            refused(&|s| s.interfaces = vec![s.interfaces[0].clone(); 9]).contains("interfaces")
        );
        assert!(
            refused(&|s| {
                let Boot::Guest(config) = &mut s.boot;
                config.env = vec!["x".repeat(MAX_GUEST_CONFIG)];
            })
            .contains("configuration")
        );
    }
}
