//! Doing a plan: each step is one call, and a step that fails stops only what waits for it.

use std::collections::BTreeMap;

use loam_deployment::payload::Filesystem;
use loam_node_api::{
    guest::{GuestConfig, GuestInterface, GuestMount},
    machine::{Boot, MachineDisk, MachineInterface, MachineSpec},
    network::Uplink,
    storage::{ImageConfig, ImageState, VolumeKey},
};

use crate::{
    actual::Actual,
    course::{Course, Outcome},
    execute::Executor,
    fingerprint,
    plan::Task,
    step::MachinePlan,
};

/// Serial numbers of the guest's disks: the image, the writable layer, the volumes by position.
const IMAGE_SERIAL: &str = "loam-image";
const ROOT_SERIAL: &str = "loam-root";

/// Where a container without a `PATH` of its own finds its programs.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `actual` is what the plan was made from; it is kept up to date with what the steps make.
pub async fn apply(
    executor: &mut Executor,
    tasks: &[Task],
    actual: &mut Actual,
    uplink: &Uplink,
) -> Outcome {
    let mut course = Course::new(tasks);
    while let Some(step) = course.next_step() {
        let progress = executor.carry_out(step, actual, uplink).await;
        course.note(progress);
    }
    course.outcome()
}

/// `fetching 40 %`, or what it waits for; and why that is not the first try.
pub fn fetching(state: &ImageState) -> String {
    let ImageState::Fetching {
        done,
        total,
        waits_for,
        failed_before,
    } = state
    else {
        return "fetching".into();
    };
    let now = match (waits_for, total) {
        (Some(why), _) => why.clone(),
        (None, Some(total)) if total.get() > 0 => {
            let percent = u128::from(done.get()) * 100 / u128::from(total.get());
            format!("fetching {} %", percent.min(100))
        }
        (None, _) => "fetching".into(),
    };
    match failed_before {
        Some(why) => format!("{now}; before that, {why}"),
        None => now,
    }
}

/// What becomes of an interface that is not there yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Error,
    /// Another machine still has what it shall get.
    Left,
}

/// Turns a planned machine into what init starts, now that what it needs is there.
pub fn spec(
    plan: &MachinePlan,
    image_config: &ImageConfig,
    actual: &Actual,
    uplink: &Uplink,
    missing: Missing,
) -> Result<MachineSpec, String> {
    let content = &plan.content;
    let image = actual
        .images
        .ready(content.image.content())
        .ok_or_else(|| format!("image {} is not there", content.image))?;
    let volume_path = |key: &VolumeKey| {
        let volume = actual
            .volumes
            .get(key)
            .ok_or_else(|| format!("{key} is not there"))?;
        let path = volume.path.clone();
        path.ok_or_else(|| format!("{key} cannot be used now"))
    };
    let mut disks = vec![
        MachineDisk {
            path: image.path.clone(),
            read_only: true,
            serial: IMAGE_SERIAL.into(),
        },
        MachineDisk {
            path: volume_path(&content.root.volume)?,
            read_only: false,
            serial: ROOT_SERIAL.into(),
        },
    ];
    let mut mounts = Vec::new();
    for (index, mount) in content.mounts.iter().enumerate() {
        let serial = format!("loam-volume-{index}");
        disks.push(MachineDisk {
            path: volume_path(&mount.disk.volume)?,
            read_only: false,
            serial: serial.clone(),
        });
        mounts.push(GuestMount {
            disk: serial,
            path: mount.path.clone(),
            filesystem: match mount.filesystem {
                Filesystem::Ext4 => Some("ext4".into()),
                Filesystem::Btrfs => Some("btrfs".into()),
                Filesystem::Raw => None,
            },
        });
    }
    let mount_of = |disk: &MachineDisk| {
        let mount = actual.mount_of(&disk.path);
        mount.ok_or_else(|| format!("{} is on no pool that is there", disk.path.display()))
    };
    let held = disks.iter().map(mount_of).collect::<Result<_, _>>()?;
    let mut interfaces = Vec::new();
    let mut guest_interfaces = Vec::new();
    for planned in &content.interfaces {
        let network = &planned.id.network;
        let interface = match actual.interfaces.get(&planned.id) {
            Some(interface) => interface,
            None if missing == Missing::Left => continue,
            None => return Err(format!("its interface on {network} is not there")),
        };
        interfaces.push(MachineInterface {
            tap: interface.tap.clone(),
            namespace: interface.namespace.clone(),
            mac: planned.mac,
        });
        guest_interfaces.push(GuestInterface {
            mac: planned.mac,
            addresses: planned.addresses.clone(),
            gateways: planned.gateways.clone(),
            // As with name servers, of when the machine starts.
            mtu: uplink.mtu,
        });
    }
    Ok(MachineSpec {
        id: plan.id.clone(),
        fingerprint: fingerprint::started(&plan.fingerprint, &content.image, &held),
        cpus: content.cpus,
        memory: content.memory,
        boot: Boot::Guest(Box::new(GuestConfig {
            hostname: plan.id.name.to_string(),
            image_disk: IMAGE_SERIAL.into(),
            root_disk: ROOT_SERIAL.into(),
            mounts,
            interfaces: guest_interfaces,
            dns: uplink.dns.clone(),
            command: command(&content.command, image_config)?,
            env: environment(&content.env, image_config),
            working_dir: image_config.working_dir.clone(),
            user: image_config.user.clone(),
            stop_signal: image_config.stop_signal,
            healthcheck: image_config.healthcheck.clone(),
            volumes: image_config.volumes.clone(),
            ssh_keys: content.ssh_keys.clone(),
        })),
        on_reset: plan.on_reset,
        disks,
        interfaces,
    })
}

/// What the deployment says, else the image's entry point with its arguments.
fn command(asked: &[String], image: &ImageConfig) -> Result<Vec<String>, String> {
    let command = if asked.is_empty() {
        image.entrypoint.iter().chain(&image.cmd).cloned().collect()
    } else {
        asked.to_vec()
    };
    if command.is_empty() {
        return Err(
            "neither the deployment nor the image says which command to run; \
                    set `command` in the deployment"
                .into(),
        );
    }
    Ok(command)
}

/// The image's variables, over a default `PATH`, under the deployment's.
fn environment(asked: &BTreeMap<String, String>, image: &ImageConfig) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned()];
    env.extend(image.env.iter().cloned());
    env.extend(asked.iter().map(|(name, value)| format!("{name}={value}")));
    env
}

#[cfg(test)]
mod tests {
    use loam_deployment::{Bytes, Version, payload::Media};
    use loam_node_api::{
        WorkloadId,
        machine::OnReset,
        network::{InterfaceId, InterfaceSpec, Mac},
        storage::{MountId, VolumeSpec},
    };

    use super::*;
    use crate::{
        actual::{Mounted, ReadyImage},
        desired, fixture,
        step::{MachineContent, PlannedDisk, PlannedInterface},
    };

    #[test]
    fn the_deployment_s_command_replaces_the_image_s() {
        let image = ImageConfig {
            entrypoint: vec!["/hello".into()],
            cmd: vec!["--port".into(), "80".into()],
            ..ImageConfig::default()
        };
        assert_eq!(command(&[], &image).unwrap(), ["/hello", "--port", "80"]);
        assert_eq!(command(&["/x".into()], &image).unwrap(), ["/x"]);
        assert!(
            command(&[], &ImageConfig::default())
                .unwrap_err()
                .contains("`command`")
        );
    }

    #[test]
    fn what_the_image_says_reaches_the_guest_and_the_policy_reaches_init() {
        let (id, image): (WorkloadId, _) = ("1.web".parse().unwrap(), fixture::image(1));
        let root = desired::root_key(&id, &image);
        let spec_of = VolumeSpec {
            size: Bytes::mib(64),
            media: Media::Any,
            filesystem: Filesystem::Ext4,
        };
        let mut actual = Actual::default();
        let mounted = Mounted {
            pool: "a".into(),
            mount: MountId(1),
        };
        actual.mounts.insert("/".into(), mounted);
        let ready = ReadyImage {
            image: image.clone().into(),
            path: "/image".into(),
        };
        actual.images.ready.insert(ready.image.content(), ready);
        let there = fixture::volume_there(&root, spec_of, Version(1));
        actual.volumes.insert(root.clone(), there);
        let planned = PlannedInterface {
            id: InterfaceId {
                machine: id.clone(),
                network: "1.net".parse().unwrap(),
            },
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![],
            gateways: vec![],
        };
        let spec_there = InterfaceSpec {
            mac: planned.mac,
            addresses: vec![],
            publish: vec![],
        };
        let there = fixture::interface(&planned.id, spec_there);
        actual.interfaces.insert(planned.id.clone(), there);
        let content = MachineContent {
            cpus: 1,
            memory: Bytes::mib(128),
            image: image.into(),
            root: PlannedDisk {
                volume: root,
                size: Bytes::mib(64),
            },
            mounts: vec![],
            interfaces: vec![planned],
            command: vec![],
            env: BTreeMap::new(),
            ssh_keys: vec![],
        };
        let plan = MachinePlan {
            id,
            fingerprint: "f".into(),
            on_reset: OnReset::End,
            content,
        };
        let config = ImageConfig {
            entrypoint: vec!["/x".into()],
            cmd: vec!["y".into()],
            env: vec!["A=1".into()],
            working_dir: "/srv".into(),
            user: "app".into(),
            stop_signal: Some("SIGQUIT".parse().unwrap()),
            volumes: vec!["/data".into()],
            healthcheck: Some(fixture::healthcheck()),
        };
        let uplink = Uplink {
            mtu: Some(1400),
            ..Uplink::default()
        };
        let spec = spec(&plan, &config, &actual, &uplink, Missing::Error).unwrap();
        assert_eq!(spec.on_reset, OnReset::End);
        let Boot::Guest(guest) = spec.boot;
        assert_eq!(guest.command, ["/x", "y"]);
        assert_eq!(guest.env.last().unwrap(), "A=1");
        assert_eq!((&*guest.working_dir, &*guest.user), ("/srv", "app"));
        assert_eq!(guest.stop_signal, config.stop_signal);
        assert_eq!(guest.healthcheck, config.healthcheck);
        assert_eq!(guest.volumes, config.volumes);
        // What the network carries reaches it as well.
        assert_eq!(guest.interfaces[0].mtu, Some(1400));
    }

    #[test]
    fn later_variables_win_by_coming_last() {
        let image = ImageConfig {
            env: vec!["PATH=/image".into()],
            ..ImageConfig::default()
        };
        let env = environment(&[("A".into(), "b=c".into())].into(), &image);
        assert_eq!(env, [DEFAULT_PATH, "PATH=/image", "A=b=c"]);
    }
}
