//! The payload: what a deployment says, as plain types.
//!
//! Holding one of these does not mean that it is valid; [`crate`]'s verification and its TOML
//! reader are the only ways in from outside, and both check every limit.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use crate::oci_reference::{OciReference, OciReferenceError};
use crate::{Bytes, ContractId, FarmId, Name, NodeKey, Version};

/// The only format there is. A node refuses any other.
pub const FORMAT: u64 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub target: Target,
    pub contract: ContractId,
    pub version: Version,
    /// Seconds since 1970 after which the deployment is worth nothing.
    pub valid_until: Option<u64>,
    /// Free text, at most 256 bytes.
    pub description: String,
    pub body: Body,
}

/// Whom the deployment is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    Node(NodeKey),
    /// Every node of a farm; only in `node` deployments.
    Farm(FarmId),
}

/// The kind of a deployment with what that kind says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "body")]
pub enum Body {
    Workload(BTreeMap<Name, Workload>),
    Node(NodePolicy),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "type")]
pub enum Workload {
    Machine(Box<Machine>),
    Volume(Volume),
    Network(Network),
    Gateway(Gateway),
    PublicIp(PublicIp),
    ObjectStore(ObjectStore),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub image: ImageSource,
    /// What the image's registry is told, where it does not show the image to anybody.
    pub image_login: Option<ImageLogin>,
    /// Virtual CPUs, 1 to 64.
    pub cpus: u32,
    /// 64 MiB to 1 TiB, a multiple of 2 MiB.
    pub memory: Bytes,
    /// Size of the writable layer over the image.
    pub root: Bytes,
    /// Replaces the image's entry point and command when not empty.
    pub command: Vec<String>,
    pub env: BTreeMap<String, String>,
    /// Environment variables sealed to the node's HPKE key.
    pub sealed_env: BTreeMap<String, Sealed>,
    /// OpenSSH public keys, one line each.
    pub ssh_keys: Vec<String>,
    /// Volume (a workload of the same deployment) to its absolute mount path.
    pub volumes: BTreeMap<Name, String>,
    pub networks: Vec<NetworkAttachment>,
    pub mesh: bool,
    pub publish: Vec<Publish>,
    pub restart: Restart,
    /// PCI addresses for passthrough, as `0000:01:00.0`.
    pub devices: Vec<String>,
}

/// What a machine boots.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageSource {
    /// An OCI container image, run under the node's own kernel and guest init.
    Oci(OciReference),
    /// A whole disk with its own boot loader, kept as an OCI artifact.
    Disk(OciReference),
}

/// An account at the registry of a machine's image, sealed to the node's HPKE key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLogin {
    /// The image's. It stands here too, so that an image of another registry takes the password nowhere.
    pub registry: String,
    pub sealed_user: Sealed,
    pub sealed_password: Sealed,
}

/// Bytes sealed with HPKE to the node's key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The encapsulated X25519 public key.
    pub encapsulated: [u8; 32],
    /// Ciphertext with its 16 byte tag.
    pub ciphertext: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    pub network: Name,
    /// A fixed address; the node chooses one when absent.
    pub address: Option<IpAddr>,
}

/// A port of the node that leads to a port of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Publish {
    pub protocol: Protocol,
    pub node_port: u16,
    pub machine_port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    Tcp,
    Udp,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    Always,
    OnFailure,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub size: Bytes,
    pub media: Media,
    pub filesystem: Filesystem,
    pub encrypted: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Media {
    Ssd,
    Hdd,
    #[default]
    Any,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filesystem {
    #[default]
    Ext4,
    Btrfs,
    Raw,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    pub ipv4: Ipv4Net,
    pub ipv6: Option<Ipv6Net>,
    pub peers: Vec<Peer>,
    pub nat: bool,
}

/// A WireGuard peer of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    pub public_key: [u8; 32],
    pub allowed: Vec<IpNet>,
    pub endpoint: Option<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    pub host: GatewayHost,
    /// URLs or network addresses.
    pub backends: Vec<String>,
    pub tls: GatewayTls,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayHost {
    /// A name registered on the chain.
    Name(Name),
    /// A domain of the tenant's own.
    Domain(String),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayTls {
    #[default]
    Terminate,
    Passthrough,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicIp {
    pub v4: bool,
    pub v6: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStore {
    pub size: Bytes,
    pub mode: ObjectStoreMode,
    pub sealed_password: Sealed,
    pub public: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ObjectStoreMode {
    User,
    Sequential,
}

/// What a farmer says about one node or all nodes of a farm.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodePolicy {
    /// Disks (by their stable id, as the node reports them) that may be wiped and used.
    pub wipe_disks: Vec<String>,
    /// Public subnets that the farmer routes to the node.
    pub public_addresses: Vec<IpNet>,
    /// Whether the node offers itself as a gateway.
    pub gateway: bool,
    pub power: PowerPolicy,
    /// When the node may restart itself into a new image; any time when absent.
    pub update_window: Option<UpdateWindow>,
    /// Ports of the node that tenants may publish: first and last, both included.
    pub publish_ports: Option<(u16, u16)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PowerPolicy {
    #[default]
    On,
    /// The node may be put to sleep when it runs nothing.
    OnDemand,
}

/// A time of day in UTC, in minutes since midnight (0 to 1439), and how long it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateWindow {
    pub start_minute: u16,
    pub minutes: u16,
}
