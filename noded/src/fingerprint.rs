//! What a running machine was started with, in the word that init keeps for it.
//!
//! A machine is started anew when all that a restart is needed to change ([`MachineContent`]) has
//! changed: then its fingerprint differs. noded forgets what the versions before said, so the
//! fingerprint also tells, of a machine that still runs by one of them, which disks it holds.
//!
//! Besides it names the mounts that the machine's files were on: one that is gone has taken them along,
//! also when the disk is back. And it says whether the image is its contract's own, which restarts nothing
//! when it changes.
//!
//! [`MachineContent`]: crate::step::MachineContent

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use loam_deployment::{Bytes, ContractId, ImageDigest, Name, payload::Filesystem};
use loam_node_api::{
    image::{Image, ImageContent},
    storage::MountId,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::{
    actual::Mounted,
    desired::{Machine, Workloads},
    step::PlannedInterface,
};

/// Room for a fingerprint with a few volumes.
const LENGTH: usize = 192;

/// `digest/image/volume,volume`, and `/pool=mount,pool=mount` once it is started, and `/own` if its image
/// is its contract's own: of the content and the image in full, of volumes enough to tell them apart. Two
/// that look alike cost a machine a wait for another's end, no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    pub fn new<'a>(
        digest: &[u8; 32],
        machine: &Machine,
        interfaces: impl IntoIterator<Item = &'a PlannedInterface>,
    ) -> Self {
        let mut hash = Sha256::new_with_prefix(digest);
        for interface in interfaces {
            let PlannedInterface {
                id,
                mac,
                addresses,
                gateways,
            } = interface;
            hash.update(id.network.name.as_str());
            hash.update([0]);
            hash.update(mac.0);
            for address in addresses {
                update(&mut hash, address.addr());
                hash.update([address.prefix_len()]);
            }
            hash.update([1]);
            for gateway in gateways {
                update(&mut hash, *gateway);
            }
            hash.update([2]);
        }
        let (digest, image) = (<[u8; 32]>::from(hash.finalize()), machine.image.digest());
        let mut text = String::with_capacity(LENGTH);
        push_hex(&mut text, &digest);
        text.push('/');
        push_hex(&mut text, &image.0);
        text.push('/');
        for (index, volume) in machine.volumes.keys().enumerate() {
            if index > 0 {
                text.push(',');
            }
            push_hex(&mut text, &brief(volume));
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a machine of `fingerprint` is as this says, on whatever mounts.
    pub fn is_of(&self, fingerprint: &str) -> bool {
        let rest = fingerprint.strip_prefix(&self.0);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// What a contract's own image adds.
const OWN: &str = "own";

/// The fingerprint of a machine that is started from `image` with files on `mounts`.
pub fn started(fingerprint: &str, image: &Image, mounts: &BTreeSet<&Mounted>) -> String {
    let mounts = mounts.iter();
    let mounts: Vec<_> = mounts
        .map(|m| format!("{}={}", m.pool, m.mount.0))
        .collect();
    let started = format!("{fingerprint}/{}", mounts.join(","));
    match image.only_for {
        Some(_) => format!("{started}/{OWN}"),
        None => started,
    }
}

/// The mounts that the machine's files were on when it was started: each one's pool, and which it was.
pub fn mounts(fingerprint: &str) -> impl Iterator<Item = (&str, MountId)> {
    let mounts = fingerprint.split('/').nth(3).unwrap_or_default();
    mounts.split(',').filter_map(|mounted| {
        let (pool, mount) = mounted.split_once('=')?;
        Some((pool, MountId(mount.parse().ok()?)))
    })
}

/// The disks of a machine of which only the fingerprint is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disks {
    /// None when the fingerprint does not say: then it may be any.
    known: Option<(ImageDigest, BTreeSet<String>)>,
    /// Whether its image is its contract's own. None when the fingerprint does not say.
    has_own_image: Option<bool>,
}

impl Disks {
    pub fn of(fingerprint: &str) -> Self {
        let mut parts = fingerprint.split('/').skip(1);
        let known = parts.next().zip(parts.next()).and_then(|(image, volumes)| {
            let volumes = volumes.split(',').map(str::to_owned).collect();
            Some((image.parse().ok()?, volumes))
        });
        let has_own_image = parts.next().map(|_mounts| parts.next() == Some(OWN));
        Self {
            known,
            has_own_image,
        }
    }

    /// Whether the machine may hold the contract's volume of this name.
    pub fn may_hold(&self, volume: &Name) -> bool {
        self.known
            .as_ref()
            .is_none_or(|(_, volumes)| volumes.contains(&hex::encode(brief(volume))))
    }

    pub fn image(&self) -> Option<ImageDigest> {
        self.known.as_ref().map(|(image, _)| *image)
    }

    /// Which of what is ready under its image's digest it may have, as a machine of the contract: the one,
    /// or either if the fingerprint does not say.
    pub fn images(&self, contract: ContractId) -> impl Iterator<Item = ImageContent> + use<> {
        let has_own = self.has_own_image;
        let either = self.image().into_iter().flat_map(move |digest| {
            [None, Some(contract)].map(|only_for| ImageContent { digest, only_for })
        });
        either.filter(move |content| has_own.is_none_or(|own| own == content.only_for.is_some()))
    }
}

fn brief(volume: &Name) -> [u8; 4] {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(volume.as_str()));
    [a, b, c, d]
}

/// Such that no two lists of addresses look alike.
fn update(hash: &mut Sha256, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            hash.update([4]);
            hash.update(address.octets());
        }
        IpAddr::V6(address) => {
            hash.update([6]);
            hash.update(address.octets());
        }
    }
}

/// Without a text of its own: this is done for every machine on each plan.
fn push_hex<const N: usize>(text: &mut String, bytes: &[u8; N]) {
    let digit = |n: u8| char::from_digit(n.into(), 16).expect("four bits are a digit");
    text.extend(
        bytes
            .iter()
            .flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]),
    );
}

/// Of all that a restart is needed to change, but for the interfaces, which depend on the addresses
/// that the node gives.
pub fn digest(machine: &Machine, workloads: &Workloads) -> [u8; 32] {
    /// The volume's name, where it is mounted, and what it is where the deployment says.
    type Mount<'a> = (&'a Name, &'a str, Option<(Bytes, Filesystem)>);

    /// The fields of the machine that are not here change without a restart.
    #[derive(Serialize)]
    struct Content<'a> {
        cpus: u32,
        memory: Bytes,
        /// By whatever name.
        image: ImageDigest,
        root: Bytes,
        /// The size is part of it: a running guest does not see its disk grow.
        mounts: Vec<Mount<'a>>,
        command: &'a [String],
        env: &'a BTreeMap<String, String>,
        ssh_keys: &'a [String],
    }
    let Machine {
        image,
        // It says how the bytes are got, and they are the same.
        image_login: _,
        cpus,
        memory,
        root,
        command,
        env,
        ssh_keys,
        volumes,
        networks: _,
        publish: _,
        restart: _,
    } = machine;
    let content = Content {
        cpus: *cpus,
        memory: *memory,
        image: image.digest(),
        root: *root,
        mounts: volumes
            .iter()
            .map(|(name, path)| {
                let volume = workloads.volumes.get(name);
                let disk = volume.map(|volume| (volume.size, volume.filesystem));
                (name, path.as_str(), disk)
            })
            .collect(),
        command,
        env,
        ssh_keys,
    };
    let written =
        serde_json::to_vec(&content).expect("plain data with text keys is always written as JSON");
    Sha256::digest(written).into()
}

#[cfg(test)]
mod tests;
