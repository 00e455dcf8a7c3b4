//! Doing a plan: each step is one call, and a step that fails stops only what waits for it.

use std::collections::{BTreeMap, BTreeSet};

use loam_deployment::payload::Filesystem;
use loam_node_api::{
    guest::{GuestConfig, GuestInterface, GuestMount},
    machine::{Boot, MachineDisk, MachineInterface, MachineSpec},
    network::Uplink,
    storage::{ImageConfig, ImageState, VolumeKey},
};
use tracing::{info, warn};

use crate::{
    actual::Actual,
    daemons::{DaemonError, Daemons, call, deadline},
    plan::fingerprint,
    step::{MachinePlan, Resource, Step},
};

/// How long a guest has to shut down before it is ended.
const STOP_GRACE_SECONDS: u32 = 30;

/// Serial numbers of the guest's disks: the image, the writable layer, the volumes by position.
const IMAGE_SERIAL: &str = "loam-image";
const ROOT_SERIAL: &str = "loam-root";

/// Where a container without a `PATH` of its own finds its programs.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What became of the steps that are not done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Went wrong, or waits for what went wrong, and why; tried again in the next round.
    pub failed: BTreeMap<Resource, String>,
    /// Those of `failed` whose own step was refused.
    pub refused: BTreeSet<Resource>,
    /// Under way, or waiting for something that is.
    pub waiting: BTreeMap<Resource, String>,
    /// Steps done.
    pub done: usize,
}

enum Progress {
    Done,
    UnderWay(String),
}

/// `actual` is what the plan was made from; it is kept up to date with what the steps make.
pub async fn apply(
    daemons: &Daemons,
    steps: &[Step],
    actual: &mut Actual,
    uplink: &Uplink,
) -> Result<Outcome, DaemonError> {
    let mut outcome = Outcome::default();
    for step in steps {
        let blocker = outcome
            .failed
            .keys()
            .chain(outcome.waiting.keys())
            .find(|resource| step.waits_for(resource))
            .cloned();
        if let Some(resource) = blocker {
            // The first reason stays: it is the one to tell.
            if !outcome.failed.contains_key(&step.resource()) {
                let reason = outcome
                    .failed
                    .get(&resource)
                    .or_else(|| outcome.waiting.get(&resource))
                    .cloned()
                    .unwrap_or_default();
                if outcome.failed.contains_key(&resource) {
                    outcome.failed.insert(step.resource(), reason);
                } else {
                    outcome.waiting.entry(step.resource()).or_insert(reason);
                }
            }
            continue;
        }
        match carry_out(daemons, step, actual, uplink).await? {
            Ok(Progress::Done) => {
                info!(step = %step, "done");
                outcome.done += 1;
            }
            Ok(Progress::UnderWay(what)) => {
                outcome.waiting.insert(step.resource(), what);
            }
            Err(reason) => {
                warn!(step = %step, %reason, "failed");
                outcome.refused.insert(step.resource());
                outcome.failed.insert(step.resource(), reason);
            }
        }
    }
    Ok(outcome)
}

/// The outer error is a daemon that is away, which ends the round; the inner one is its refusal.
async fn carry_out(
    daemons: &Daemons,
    step: &Step,
    actual: &mut Actual,
    uplink: &Uplink,
) -> Result<Result<Progress, String>, DaemonError> {
    let Daemons {
        storage,
        network,
        machines,
    } = daemons;
    let result = match step {
        Step::MachineStop(id) => {
            if let Err(error) = machines
                .machine_stop(deadline(), id.clone(), STOP_GRACE_SECONDS)
                .await
                .map_err(call("init"))?
            {
                return Ok(Err(error.to_string()));
            }
            return Ok(Ok(Progress::UnderWay("stopping".into())));
        }
        Step::MachineForget(id) => machines
            .machine_forget(deadline(), id.clone())
            .await
            .map_err(call("init"))?
            .map_err(|error| error.to_string()),
        Step::InterfaceDelete(id) => network
            .interface_delete(deadline(), id.clone())
            .await
            .map_err(call("netd"))?
            .map_err(|error| error.to_string()),
        Step::NetworkDelete(id) => network
            .network_delete(deadline(), id.clone())
            .await
            .map_err(call("netd"))?
            .map_err(|error| error.to_string()),
        Step::VolumeDelete(key, why) => storage
            .volume_delete(deadline(), key.clone(), *why)
            .await
            .map_err(call("storaged"))?
            .map_err(|error| error.to_string()),
        Step::ImageEnsure(image) => {
            let status = storage
                .image_ensure(deadline(), image.clone())
                .await
                .map_err(call("storaged"))?;
            actual.images.note(status.clone());
            match status.state {
                ImageState::Ready { .. } => Ok(()),
                ImageState::Fetching { .. } => {
                    return Ok(Ok(Progress::UnderWay(fetching(&status.state))));
                }
                ImageState::Failed(reason) => Err(reason),
            }
        }
        Step::VolumeEnsure(key, spec, version) => storage
            .volume_ensure(deadline(), key.clone(), spec.clone(), *version)
            .await
            .map_err(call("storaged"))?
            .map(|volume| {
                actual.volumes.insert(key.clone(), volume);
            })
            .map_err(|error| error.to_string()),
        Step::NetworkEnsure(id, spec) => network
            .network_ensure(deadline(), id.clone(), spec.clone())
            .await
            .map_err(call("netd"))?
            .map_err(|error| error.to_string()),
        Step::InterfaceEnsure(id, spec) => network
            .interface_ensure(deadline(), id.clone(), spec.clone())
            .await
            .map_err(call("netd"))?
            .map(|interface| {
                actual.interfaces.insert(id.clone(), interface);
            })
            .map_err(|error| error.to_string()),
        Step::MachineStart(plan) => {
            let image = storage
                .image_config(deadline(), plan.content.image.clone())
                .await
                .map_err(call("storaged"))?
                .map_err(|error| error.to_string());
            match image.and_then(|image| spec(plan, &image, actual, uplink)) {
                Ok(spec) => machines
                    .machine_start(deadline(), spec)
                    .await
                    .map_err(call("init"))?
                    .map_err(|error| error.to_string()),
                Err(missing) => Err(missing),
            }
        }
        Step::ImageDelete(image) => storage
            .image_delete(deadline(), image.clone())
            .await
            .map_err(call("storaged"))?
            .map_err(|error| error.to_string()),
    };
    Ok(result.map(|()| Progress::Done))
}

/// `fetching 40 %`.
pub fn fetching(state: &ImageState) -> String {
    match state {
        ImageState::Fetching {
            done,
            total: Some(total),
        } if total.get() > 0 => {
            let percent = u128::from(done.get()) * 100 / u128::from(total.get());
            format!("fetching {} %", percent.min(100))
        }
        _ => "fetching".into(),
    }
}

/// Turns a planned machine into what init starts, now that all it needs is there.
fn spec(
    plan: &MachinePlan,
    image_config: &ImageConfig,
    actual: &Actual,
    uplink: &Uplink,
) -> Result<MachineSpec, String> {
    let content = &plan.content;
    let image = actual
        .images
        .ready(&content.image)
        .ok_or_else(|| format!("image {} is not there", content.image))?;
    let volume_path = |key: &VolumeKey| {
        let volume = actual
            .volumes
            .get(key)
            .ok_or_else(|| format!("{key} is not there"))?;
        Ok::<_, String>(volume.path.clone())
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
    let mut interfaces = Vec::new();
    let mut guest_interfaces = Vec::new();
    for planned in &content.interfaces {
        let interface = actual
            .interfaces
            .get(&planned.id)
            .ok_or_else(|| format!("its interface on {} is not there", planned.id.network))?;
        interfaces.push(MachineInterface {
            tap: interface.tap.clone(),
            namespace: interface.namespace.clone(),
            mac: planned.mac,
        });
        guest_interfaces.push(GuestInterface {
            mac: planned.mac,
            addresses: planned.addresses.clone(),
            gateways: planned.gateways.clone(),
        });
    }
    Ok(MachineSpec {
        id: plan.id.clone(),
        fingerprint: fingerprint(content),
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
            ssh_keys: content.ssh_keys.clone(),
        })),
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
    use super::*;

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
    fn later_variables_win_by_coming_last() {
        let image = ImageConfig {
            env: vec!["PATH=/image".into()],
            ..ImageConfig::default()
        };
        let env = environment(&[("A".into(), "b=c".into())].into(), &image);
        assert_eq!(env, [DEFAULT_PATH, "PATH=/image", "A=b=c"]);
    }
}
