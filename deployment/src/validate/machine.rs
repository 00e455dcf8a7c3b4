//! Machines, and what machines of one deployment share.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use super::{Result, at_most, ensure, invalid, network};
use crate::{
    Bytes, Name, limits,
    payload::{ImageSource, Machine, NetworkAttachment, Workload},
    seal,
};

pub(super) fn check(machine: &Machine, workloads: &BTreeMap<Name, Workload>, path: &str) -> Result {
    let at = |field: &str| format!("{path}.{field}");
    ensure(
        &at("cpus"),
        (1..=limits::CPUS).contains(&machine.cpus),
        "must be 1 to 64",
    )?;
    size(
        &at("memory"),
        machine.memory,
        limits::MEMORY_MIN,
        limits::MEMORY_MAX,
        limits::MEMORY_UNIT,
    )?;
    size(
        &at("root"),
        machine.root,
        limits::DISK_MIN,
        limits::ROOT_MAX,
        limits::DISK_UNIT,
    )?;
    login(machine, &at("image_login"))?;
    command(&machine.command, &at("command"))?;
    environment(machine, path)?;
    ssh_keys(&machine.ssh_keys, &at("ssh_keys"))?;
    volumes(&machine.volumes, workloads, &at("volumes"))?;
    networks(&machine.networks, workloads, &at("networks"))?;
    publish(machine, &at("publish"))?;
    devices(&machine.devices, &at("devices"))
}

/// What two machines of one deployment may not both have.
pub(super) fn shared(workloads: &BTreeMap<Name, Workload>) -> Result {
    let mut taken = Taken::default();
    for (name, workload) in workloads {
        let Workload::Machine(machine) = workload else {
            continue;
        };
        let at = |field: &str| format!("workloads.{name}.{field}");
        for volume in machine.volumes.keys() {
            taken.by(name, format!("volume {volume}"), || {
                at(&format!("volumes.{volume}"))
            })?;
        }
        for (index, NetworkAttachment { network, address }) in machine.networks.iter().enumerate() {
            if let Some(address) = address {
                let what = format!("address {address} of network {network}");
                taken.by(name, what, || at(&format!("networks[{index}].address")))?;
            }
        }
        for (index, port) in machine.publish.iter().enumerate() {
            let what = format!("{:?} port {} of the node", port.protocol, port.node_port);
            let what = what.to_lowercase();
            taken.by(name, what, || at(&format!("publish[{index}]")))?;
        }
        for (index, device) in machine.devices.iter().enumerate() {
            taken.by(name, format!("device {device}"), || {
                at(&format!("devices[{index}]"))
            })?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Taken(BTreeMap<String, Name>);

impl Taken {
    fn by(&mut self, machine: &Name, what: String, path: impl Fn() -> String) -> Result {
        match self.0.get(&what) {
            Some(other) => Err(invalid(
                &path(),
                format!("{what} is taken by machine {other}"),
            )),
            None => {
                self.0.insert(what, machine.clone());
                Ok(())
            }
        }
    }
}

/// `min` to `max`, a multiple of `unit`.
pub(super) fn size(path: &str, size: Bytes, min: Bytes, max: Bytes, unit: Bytes) -> Result {
    if size < min || size > max {
        return Err(invalid(
            path,
            format!("{size} is out of range; it must be {min} to {max}"),
        ));
    }
    if !size.get().is_multiple_of(unit.get()) {
        return Err(invalid(path, format!("{size} is not a multiple of {unit}")));
    }
    Ok(())
}

/// A password is for the registry that is asked for the image, and no other.
fn login(machine: &Machine, path: &str) -> Result {
    let Some(login) = &machine.image_login else {
        return Ok(());
    };
    let (ImageSource::Oci(image) | ImageSource::Disk(image)) = &machine.image;
    if login.registry != image.registry() {
        let registry = image.registry();
        let why = format!("must be the image's, `{registry}`");
        return Err(invalid(&format!("{path}.registry"), why));
    }
    let user = format!("{path}.sealed_user");
    ciphertext(&login.sealed_user.ciphertext, &user)?;
    let bytes = login.sealed_user.ciphertext.len() - seal::OVERHEAD;
    at_most(&user, bytes, limits::LOGIN_USER_BYTES, "bytes")?;
    ciphertext(
        &login.sealed_password.ciphertext,
        &format!("{path}.sealed_password"),
    )
}

fn command(command: &[String], path: &str) -> Result {
    at_most(path, command.len(), limits::COMMAND_ITEMS, "entries")?;
    for (index, item) in command.iter().enumerate() {
        let path = format!("{path}[{index}]");
        at_most(&path, item.len(), limits::COMMAND_ITEM_BYTES, "bytes")?;
        ensure(&path, !item.contains('\0'), "must not hold a NUL character")?;
        ensure(
            &path,
            index > 0 || !item.is_empty(),
            "is the program to run and must not be empty",
        )?;
    }
    Ok(())
}

fn environment(machine: &Machine, path: &str) -> Result {
    let Machine {
        env, sealed_env, ..
    } = machine;
    at_most(
        &format!("{path}.env"),
        env.len(),
        limits::ENV_ITEMS,
        "entries",
    )?;
    at_most(
        &format!("{path}.sealed_env"),
        sealed_env.len(),
        limits::ENV_ITEMS,
        "entries",
    )?;
    for (name, value) in env {
        let path = format!("{path}.env.{name}");
        variable_name(name, &path)?;
        at_most(&path, value.len(), limits::ENV_VALUE_BYTES, "bytes")?;
        ensure(
            &path,
            !value.contains('\0'),
            "must not hold a NUL character",
        )?;
    }
    for (name, sealed) in sealed_env {
        let path = format!("{path}.sealed_env.{name}");
        variable_name(name, &path)?;
        ensure(
            &path,
            !env.contains_key(name),
            "is in `env` too; one of them must go",
        )?;
        ciphertext(&sealed.ciphertext, &path)?;
    }
    Ok(())
}

/// POSIX: letters, digits and underscores, not starting with a digit.
fn variable_name(name: &str, path: &str) -> Result {
    let valid = (1..=limits::ENV_NAME_BYTES).contains(&name.len())
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    ensure(
        path,
        valid,
        "is not a variable's name; use 1 to 128 letters, digits and _, not starting with a digit",
    )
}

pub(super) fn ciphertext(bytes: &[u8], path: &str) -> Result {
    ensure(
        path,
        bytes.len() >= seal::OVERHEAD,
        "is too short to be a sealed secret",
    )?;
    at_most(
        path,
        bytes.len() - seal::OVERHEAD,
        limits::ENV_VALUE_BYTES,
        "bytes",
    )
}

fn ssh_keys(keys: &[String], path: &str) -> Result {
    const TYPES: [&str; 7] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    at_most(path, keys.len(), limits::SSH_KEYS, "entries")?;
    for (index, key) in keys.iter().enumerate() {
        let path = format!("{path}[{index}]");
        at_most(&path, key.len(), limits::SSH_KEY_BYTES, "bytes")?;
        let mut parts = key.split(' ');
        let known = parts.next().is_some_and(|kind| TYPES.contains(&kind));
        let base64 = |c: u8| c.is_ascii_alphanumeric() || b"+/=".contains(&c);
        let body = parts
            .next()
            .is_some_and(|text| !text.is_empty() && text.bytes().all(base64));
        let one_line = !key.contains(char::is_control);
        ensure(
            &path,
            known && body && one_line,
            "is not a line of an OpenSSH public key file",
        )?;
    }
    Ok(())
}

fn volumes(
    volumes: &BTreeMap<Name, String>,
    workloads: &BTreeMap<Name, Workload>,
    path: &str,
) -> Result {
    at_most(path, volumes.len(), limits::MACHINE_VOLUMES, "entries")?;
    let mut mounts = BTreeSet::new();
    for (name, mount) in volumes {
        let path = format!("{path}.{name}");
        if !matches!(workloads.get(name), Some(Workload::Volume(_))) {
            return Err(absent(&path, "volume", name));
        }
        mount_path(mount, &path)?;
        ensure(
            &path,
            mounts.insert(mount),
            "another volume is mounted on the same path",
        )?;
    }
    Ok(())
}

fn mount_path(mount: &str, path: &str) -> Result {
    at_most(path, mount.len(), limits::MOUNT_PATH_BYTES, "bytes")?;
    let parts = mount
        .strip_prefix('/')
        .map(|rest| rest.split('/').collect::<Vec<_>>());
    let plain = |part: &&str| !["", ".", ".."].contains(part) && !part.contains(char::is_control);
    let Some(parts) = parts.filter(|parts| parts.iter().all(plain)) else {
        let why = "is not an absolute path below `/` without `.`, `..` or empty parts";
        return Err(invalid(path, format!("`{}` {why}", mount.escape_default())));
    };
    let system = ["proc", "sys", "dev"].contains(&parts[0]);
    ensure(
        path,
        !system,
        "must not be in /proc, /sys or /dev, which the guest's kernel fills",
    )
}

fn networks(
    attachments: &[NetworkAttachment],
    workloads: &BTreeMap<Name, Workload>,
    path: &str,
) -> Result {
    at_most(path, attachments.len(), limits::MACHINE_NETWORKS, "entries")?;
    let mut seen = BTreeSet::new();
    for (
        index,
        NetworkAttachment {
            network: name,
            address,
        },
    ) in attachments.iter().enumerate()
    {
        let path = format!("{path}[{index}]");
        let Some(Workload::Network(network)) = workloads.get(name) else {
            return Err(absent(&format!("{path}.network"), "network", name));
        };
        ensure(
            &path,
            seen.insert(name),
            "attaches the machine to the same network again",
        )?;
        if let Some(address) = address {
            network::fixed_address(network, *address, &format!("{path}.address"))?;
        }
    }
    Ok(())
}

fn absent(path: &str, what: impl Display, name: &Name) -> crate::FieldError {
    invalid(
        path,
        format!("there is no {what} `{name}` in this deployment"),
    )
}

fn publish(machine: &Machine, path: &str) -> Result {
    at_most(
        path,
        machine.publish.len(),
        limits::MACHINE_PORTS,
        "entries",
    )?;
    let reachable = machine.publish.is_empty() || !machine.networks.is_empty();
    ensure(
        path,
        reachable,
        "needs a network; the machine is attached to none",
    )?;
    for (index, port) in machine.publish.iter().enumerate() {
        let path = format!("{path}[{index}]");
        ensure(
            &path,
            port.node_port > 0 && port.machine_port > 0,
            "ports are 1 to 65535",
        )?;
    }
    Ok(())
}

/// `0000:01:00.0`: domain, bus, device (5 bits), function (3 bits), in lower case.
fn devices(devices: &[String], path: &str) -> Result {
    at_most(path, devices.len(), limits::MACHINE_DEVICES, "entries")?;
    for (index, device) in devices.iter().enumerate() {
        let pattern = "hhhh:hh:dh.f";
        let valid = device.len() == pattern.len()
            && device
                .bytes()
                .zip(pattern.bytes())
                .all(|(byte, expected)| match expected {
                    b'h' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                    b'd' => matches!(byte, b'0' | b'1'),
                    b'f' => matches!(byte, b'0'..=b'7'),
                    separator => byte == separator,
                });
        ensure(
            &format!("{path}[{index}]"),
            valid,
            "is not a PCI address; write it as 0000:01:00.0",
        )?;
    }
    Ok(())
}
