//! The workloads.

use ciborium::Value;

use super::{ByteString, Decode, Encode, Fields, Map, Named, payload::Either};
use crate::{
    payload::{
        Filesystem, Gateway, GatewayHost, GatewayTls, ImageLogin, ImageSource, Machine, Media,
        Network, NetworkAttachment, ObjectStore, ObjectStoreMode, OciReference, Peer, Protocol,
        PublicIp, Publish, Restart, Sealed, Volume, Workload,
    },
    rejection::{FieldError, Problem},
};

impl Named for Protocol {
    const NAMES: &'static [(Self, &'static str)] = &[(Self::Tcp, "tcp"), (Self::Udp, "udp")];
}

impl Named for Restart {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Always, "always"),
        (Self::OnFailure, "on-failure"),
        (Self::Never, "never"),
    ];
}

impl Named for Media {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::Ssd, "ssd"), (Self::Hdd, "hdd"), (Self::Any, "any")];
}

impl Named for Filesystem {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Ext4, "ext4"),
        (Self::Btrfs, "btrfs"),
        (Self::Raw, "raw"),
    ];
}

impl Named for GatewayTls {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Terminate, "terminate"),
        (Self::Passthrough, "passthrough"),
    ];
}

impl Named for ObjectStoreMode {
    const NAMES: &'static [(Self, &'static str)] =
        &[(Self::User, "user"), (Self::Sequential, "sequential")];
}

impl Encode for Workload {
    fn encode(&self) -> Value {
        let of_type = |name: &str| Map::default().with("type", &name.to_owned());
        match self {
            Self::Machine(machine) => machine.put(of_type("machine")),
            Self::Volume(volume) => of_type("volume")
                .with("size", &volume.size)
                .unless_default("media", &volume.media)
                .unless_default("filesystem", &volume.filesystem)
                // Encryption is what one gets who says nothing.
                .with_some("encrypted", (!volume.encrypted).then_some(&false)),
            Self::Network(network) => of_type("network")
                .with("ipv4", &network.ipv4)
                .with_some("ipv6", network.ipv6.as_ref())
                .unless_default("peers", &network.peers)
                .unless_default("nat", &network.nat),
            Self::Gateway(gateway) => {
                let map = of_type("gateway")
                    .with("backends", &gateway.backends)
                    .unless_default("tls", &gateway.tls);
                match &gateway.host {
                    GatewayHost::Name(name) => map.with("name", name),
                    GatewayHost::Domain(domain) => map.with("domain", domain),
                }
            }
            Self::PublicIp(ip) => of_type("public-ip")
                .unless_default("v4", &ip.v4)
                .unless_default("v6", &ip.v6),
            Self::ObjectStore(store) => of_type("object-store")
                .with("size", &store.size)
                .with("mode", &store.mode)
                .with("sealed_password", &store.sealed_password)
                .unless_default("public", &store.public),
        }
        .finish()
    }
}

impl Machine {
    fn put(&self, map: Map) -> Map {
        let map = match &self.image {
            ImageSource::Oci(image) => map.with("image", image),
            ImageSource::Disk(disk) => map.with("disk", disk),
        };
        map.with_some("image_login", self.image_login.as_ref())
            .with("cpus", &self.cpus)
            .with("memory", &self.memory)
            .with("root", &self.root)
            .unless_default("command", &self.command)
            .unless_default("env", &self.env)
            .unless_default("sealed_env", &self.sealed_env)
            .unless_default("ssh_keys", &self.ssh_keys)
            .unless_default("volumes", &self.volumes)
            .unless_default("networks", &self.networks)
            .unless_default("mesh", &self.mesh)
            .unless_default("publish", &self.publish)
            .unless_default("restart", &self.restart)
            .unless_default("devices", &self.devices)
    }
}

impl Decode for Workload {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let kind: String = fields.required("type")?;
        let workload = match kind.as_str() {
            "machine" => Self::Machine(Box::new(machine(&mut fields)?)),
            "volume" => Self::Volume(Volume {
                size: fields.required("size")?,
                media: fields.or_default("media")?,
                filesystem: fields.or_default("filesystem")?,
                encrypted: fields.optional("encrypted")?.unwrap_or(true),
            }),
            "network" => Self::Network(Network {
                ipv4: fields.required("ipv4")?,
                ipv6: fields.optional("ipv6")?,
                peers: fields.or_default("peers")?,
                nat: fields.or_default("nat")?,
            }),
            "gateway" => Self::Gateway(Gateway {
                host: match fields.either("name", "domain")? {
                    Either::First(name) => GatewayHost::Name(name),
                    Either::Second(domain) => GatewayHost::Domain(domain),
                },
                backends: fields.required("backends")?,
                tls: fields.or_default("tls")?,
            }),
            "public-ip" => Self::PublicIp(PublicIp {
                v4: fields.or_default("v4")?,
                v6: fields.or_default("v6")?,
            }),
            "object-store" => Self::ObjectStore(ObjectStore {
                size: fields.required("size")?,
                mode: fields.required("mode")?,
                sealed_password: fields.required("sealed_password")?,
                public: fields.or_default("public")?,
            }),
            other => {
                let why = format!("there is no workload of the type `{other}`");
                return Err(fields.error("type", Problem::Value(why)));
            }
        };
        fields.finish()?;
        Ok(workload)
    }
}

fn machine(fields: &mut Fields<'_>) -> Result<Machine, FieldError> {
    Ok(Machine {
        image: match fields.either("image", "disk")? {
            Either::First(image) => ImageSource::Oci(image),
            Either::Second(disk) => ImageSource::Disk(disk),
        },
        image_login: fields.optional("image_login")?,
        cpus: fields.required("cpus")?,
        memory: fields.required("memory")?,
        root: fields.required("root")?,
        command: fields.or_default("command")?,
        env: fields.or_default("env")?,
        sealed_env: fields.or_default("sealed_env")?,
        ssh_keys: fields.or_default("ssh_keys")?,
        volumes: fields.or_default("volumes")?,
        networks: fields.or_default("networks")?,
        mesh: fields.or_default("mesh")?,
        publish: fields.or_default("publish")?,
        restart: fields.or_default("restart")?,
        devices: fields.or_default("devices")?,
    })
}

impl Encode for OciReference {
    fn encode(&self) -> Value {
        Value::Text(self.to_string())
    }
}

impl Decode for OciReference {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        String::decode(value, path)?
            .parse()
            .map_err(|why: crate::payload::OciReferenceError| FieldError {
                path: path.to_owned(),
                problem: Problem::Value(why.to_string()),
            })
    }
}

impl Encode for ImageLogin {
    fn encode(&self) -> Value {
        Map::default()
            .with("registry", &self.registry)
            .with("sealed_user", &self.sealed_user)
            .with("sealed_password", &self.sealed_password)
            .finish()
    }
}

impl Decode for ImageLogin {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let login = Self {
            registry: fields.required("registry")?,
            sealed_user: fields.required("sealed_user")?,
            sealed_password: fields.required("sealed_password")?,
        };
        fields.finish()?;
        Ok(login)
    }
}

impl Encode for Sealed {
    fn encode(&self) -> Value {
        Map::default()
            .with("encapsulated", &self.encapsulated)
            .with("ciphertext", &ByteString(self.ciphertext.clone()))
            .finish()
    }
}

impl Decode for Sealed {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let sealed = Self {
            encapsulated: fields.required("encapsulated")?,
            ciphertext: fields.required::<ByteString>("ciphertext")?.0,
        };
        fields.finish()?;
        Ok(sealed)
    }
}

impl Encode for NetworkAttachment {
    fn encode(&self) -> Value {
        Map::default()
            .with("network", &self.network)
            .with_some("address", self.address.as_ref())
            .finish()
    }
}

impl Decode for NetworkAttachment {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let attachment = Self {
            network: fields.required("network")?,
            address: fields.optional("address")?,
        };
        fields.finish()?;
        Ok(attachment)
    }
}

impl Encode for Publish {
    fn encode(&self) -> Value {
        Map::default()
            .with("protocol", &self.protocol)
            .with("node_port", &self.node_port)
            .with("machine_port", &self.machine_port)
            .finish()
    }
}

impl Decode for Publish {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let publish = Self {
            protocol: fields.required("protocol")?,
            node_port: fields.required("node_port")?,
            machine_port: fields.required("machine_port")?,
        };
        fields.finish()?;
        Ok(publish)
    }
}

impl Encode for Peer {
    fn encode(&self) -> Value {
        Map::default()
            .with("public_key", &self.public_key)
            .with("allowed", &self.allowed)
            .with_some("endpoint", self.endpoint.as_ref())
            .finish()
    }
}

impl Decode for Peer {
    fn decode(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let peer = Self {
            public_key: fields.required("public_key")?,
            allowed: fields.required("allowed")?,
            endpoint: fields.optional("endpoint")?,
        };
        fields.finish()?;
        Ok(peer)
    }
}
