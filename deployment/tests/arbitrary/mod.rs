//! Arbitrary valid payloads: every field varies, every limit holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ipnet::{IpNet, Ipv4Net};
use loam_deployment::{
    Bytes, ContractId, FarmId, Name, NodeKey, Version,
    payload::{
        Body, Filesystem, Gateway, GatewayHost, GatewayTls, ImageLogin, ImageSource, Machine,
        Media, Network, NetworkAttachment, NodePolicy, ObjectStore, ObjectStoreMode, Payload, Peer,
        PowerPolicy, Protocol, PublicIp, Publish, Restart, Sealed, Target, UpdateWindow, Volume,
        Workload,
    },
};
use proptest::{
    collection::{btree_map, btree_set, vec},
    option,
    prelude::*,
    sample::{Index, select},
};

pub fn payload() -> impl Strategy<Value = Payload> {
    let body = prop_oneof![
        3 => workloads().prop_map(Body::Workload),
        1 => policy().prop_map(Body::Node),
    ];
    let target = prop_oneof![
        any::<[u8; 32]>().prop_map(|key| Target::Node(NodeKey(key))),
        (1_u64..).prop_map(|farm| Target::Farm(FarmId(farm))),
    ];
    let numbers = (1_u64.., 1_u64.., option::of(any::<u64>()));
    (target, numbers, "[ -~é\n]{0,100}", body).prop_map(
        |(target, (contract, version, valid_until), description, body)| Payload {
            target: match (target, &body) {
                (Target::Farm(_), Body::Workload(_)) => Target::Node(NodeKey([0; 32])),
                (target, _) => target,
            },
            contract: ContractId(contract),
            version: Version(version),
            valid_until,
            description,
            body,
        },
    )
}

fn workloads() -> impl Strategy<Value = BTreeMap<Name, Workload>> {
    let names = btree_set("[a-z][a-z0-9-]{0,35}", 0..12);
    let parts = (
        vec(volume(), 12),
        vec(network(), 12),
        vec(machine(), 12),
        vec(other(), 12),
    );
    let kinds = vec(0_usize..4, 12);
    (names, kinds, parts).prop_map(|(names, kinds, (volumes, networks, machines, others))| {
        let names: Vec<Name> = names
            .into_iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        let of_kind = |kind| -> Vec<Name> {
            let pairs = names.iter().zip(&kinds).filter(|(_, k)| **k == kind);
            pairs.map(|(name, _)| name.clone()).collect()
        };
        let (volume_names, network_names) = (of_kind(0), of_kind(1));
        let mut taken = BTreeSet::new();
        let mut result = BTreeMap::new();
        for (index, name) in names.iter().enumerate() {
            let workload = match kinds[index] {
                0 => Workload::Volume(volumes[index].clone()),
                1 => Workload::Network(networks[index].clone().numbered(index)),
                2 => {
                    let machine = machines[index].clone();
                    let number = u8::try_from(index).expect("small");
                    Workload::Machine(Box::new(machine.attached(
                        number,
                        &volume_names,
                        &network_names,
                        &mut taken,
                    )))
                }
                _ => others[index].clone(),
            };
            result.insert(name.clone(), workload);
        }
        // Fixed addresses follow from the networks' subnets.
        let subnets: BTreeMap<Name, Ipv4Net> = result
            .iter()
            .filter_map(|(name, workload)| match workload {
                Workload::Network(network) => Some((name.clone(), network.ipv4)),
                _ => None,
            })
            .collect();
        for workload in result.values_mut() {
            let Workload::Machine(machine) = workload else {
                continue;
            };
            for attachment in &mut machine.networks {
                if let Some(IpAddr::V4(host)) = attachment.address {
                    let start = u32::from(subnets[&attachment.network].network());
                    attachment.address = Some(Ipv4Addr::from(start + u32::from(host)).into());
                }
            }
        }
        result
    })
}

fn size(min: u64, max: u64) -> impl Strategy<Value = Bytes> {
    (min..=max).prop_map(Bytes::mib)
}

fn volume() -> impl Strategy<Value = Volume> {
    let media = select(vec![Media::Ssd, Media::Hdd, Media::Any]);
    let filesystem = select(vec![Filesystem::Ext4, Filesystem::Btrfs, Filesystem::Raw]);
    (size(128, 16 << 20), media, filesystem, any::<bool>()).prop_map(
        |(size, media, filesystem, encrypted)| Volume {
            size,
            media,
            filesystem,
            encrypted,
        },
    )
}

#[derive(Clone, Debug)]
struct UnnumberedNetwork {
    prefix: u8,
    ipv6: bool,
    nat: bool,
    peers: Vec<Peer>,
}

impl UnnumberedNetwork {
    /// With a subnet of its own.
    fn numbered(self, index: usize) -> Network {
        let number = u8::try_from(index).expect("small");
        let ipv4 = Ipv4Net::new(Ipv4Addr::new(10, number, 0, 0), self.prefix).expect("a subnet");
        let ipv6 = format!("fd00:{number:x}::/64").parse().expect("a subnet");
        Network {
            ipv4,
            ipv6: self.ipv6.then_some(ipv6),
            peers: self.peers,
            nat: self.nat,
        }
    }
}

fn subnet() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0_u8..=32).prop_map(|(address, prefix)| {
        IpNet::new(address, prefix)
            .expect("a prefix that both families have")
            .trunc()
    })
}

fn network() -> impl Strategy<Value = UnnumberedNetwork> {
    let address = any::<IpAddr>().prop_filter("usable", |address| {
        !address.is_unspecified() && !address.is_multicast()
    });
    let endpoint = (address, 1_u16..).prop_map(SocketAddr::from);
    let peer = (vec(subnet(), 1..4), option::of(endpoint));
    let key = any::<[u8; 32]>().prop_filter("a key", |key| *key != [0; 32]);
    let peers = btree_map(key, peer, 0..3);
    (16_u8..=28, any::<bool>(), any::<bool>(), peers).prop_map(|(prefix, ipv6, nat, peers)| {
        let peers = peers
            .into_iter()
            .map(|(public_key, (allowed, endpoint))| Peer {
                public_key,
                allowed,
                endpoint,
            });
        UnnumberedNetwork {
            prefix,
            ipv6,
            nat,
            peers: peers.collect(),
        }
    })
}

#[derive(Clone, Debug)]
struct UnattachedMachine {
    machine: Machine,
    volumes: Vec<Index>,
    networks: Vec<(Index, bool)>,
}

impl UnattachedMachine {
    fn attached(
        self,
        number: u8,
        volumes: &[Name],
        networks: &[Name],
        taken: &mut BTreeSet<Name>,
    ) -> Machine {
        let mut machine = self.machine;
        for index in self.volumes {
            if volumes.is_empty() {
                break;
            }
            let volume = index.get(volumes);
            if taken.insert(volume.clone()) {
                machine
                    .volumes
                    .insert(volume.clone(), format!("/srv/{volume}"));
            }
        }
        for (index, fixed) in self.networks {
            if networks.is_empty() {
                break;
            }
            let network = index.get(networks).clone();
            if machine
                .networks
                .iter()
                .all(|attachment| attachment.network != network)
            {
                // The host's part of the address alone, until the subnet is known.
                let address = fixed.then_some(Ipv4Addr::new(0, 0, 0, 2 + number).into());
                machine
                    .networks
                    .push(NetworkAttachment { network, address });
            }
        }
        if machine.networks.is_empty() {
            machine.publish.clear();
        }
        for port in &mut machine.publish {
            port.node_port = port.node_port / 16 * 16 + u16::from(number);
        }
        for device in &mut machine.devices {
            device.replace_range(0..4, &format!("{number:04x}"));
        }
        machine
    }
}

fn image() -> impl Strategy<Value = ImageSource> {
    let text = "[a-z][a-z0-9]{0,20}(\\.[a-z]{1,9})?(:[1-9][0-9]{0,3})?/[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}\
        (:[A-Za-z0-9_][A-Za-z0-9_.-]{0,9})?@sha256:[0-9a-f]{64}";
    (text, any::<bool>()).prop_map(|(text, disk)| {
        let image = text.parse().expect("an image");
        if disk {
            ImageSource::Disk(image)
        } else {
            ImageSource::Oci(image)
        }
    })
}

fn sealed() -> impl Strategy<Value = Sealed> {
    (any::<[u8; 32]>(), vec(any::<u8>(), 16..40)).prop_map(|(encapsulated, ciphertext)| Sealed {
        encapsulated,
        ciphertext,
    })
}

fn publish() -> impl Strategy<Value = Vec<Publish>> {
    let port = (select(vec![Protocol::Tcp, Protocol::Udp]), 1_u16..4000);
    btree_map(port, 1_u16.., 0..4).prop_map(|ports| {
        let ports = ports
            .into_iter()
            .map(|((protocol, node_port), machine_port)| Publish {
                protocol,
                // A multiple of 16, so that each machine can have its own.
                node_port: node_port * 16,
                machine_port,
            });
        ports.collect()
    })
}

fn machine() -> impl Strategy<Value = UnattachedMachine> {
    let sizes = (1_u32..=64, size(32, 1 << 19), size(16, 1 << 20));
    let command = option::of(("[ -~]{1,20}", vec("[ -~é]{0,20}", 0..4)));
    let env = btree_map("[A-Z][A-Z0-9_]{0,10}", "[ -~\n]{0,20}", 0..4);
    let sealed_env = btree_map("[a-z_][a-z0-9_]{0,10}", sealed(), 0..3);
    let ssh_keys = vec("ssh-ed25519 [A-Za-z0-9+/]{20,40}=( [a-z@]{0,10})?", 0..3);
    let devices = btree_set("0000:[0-9a-f]{2}:[01][0-9a-f]\\.[0-7]", 0..3);
    let restart = select(vec![Restart::Always, Restart::OnFailure, Restart::Never]);
    let texts = (command, env, sealed_env, ssh_keys);
    let references = (vec(any::<Index>(), 0..4), vec(any::<(Index, bool)>(), 0..4));
    let login = option::of((sealed(), sealed()));
    (
        (image(), login),
        sizes,
        texts,
        publish(),
        (any::<bool>(), restart, devices),
        references,
    )
        .prop_map(
            |(
                (image, login),
                (cpus, memory, root),
                texts,
                publish,
                (mesh, restart, devices),
                references,
            )| {
                let (command, env, sealed_env, ssh_keys) = texts;
                let (volumes, networks) = references;
                let command =
                    command.map(|(program, arguments)| [vec![program], arguments].concat());
                let (ImageSource::Oci(named) | ImageSource::Disk(named)) = &image;
                let registry = named.registry().to_owned();
                let image_login = login.map(|(sealed_user, sealed_password)| ImageLogin {
                    registry,
                    sealed_user,
                    sealed_password,
                });
                let machine = Machine {
                    image,
                    image_login,
                    cpus,
                    memory: Bytes(memory.get() * 2),
                    root,
                    command: command.unwrap_or_default(),
                    env,
                    sealed_env,
                    ssh_keys,
                    volumes: BTreeMap::new(),
                    networks: Vec::new(),
                    mesh,
                    publish,
                    restart,
                    devices: devices.into_iter().collect(),
                };
                UnattachedMachine {
                    machine,
                    volumes,
                    networks,
                }
            },
        )
}

fn other() -> impl Strategy<Value = Workload> {
    let host = prop_oneof![
        "[a-z][a-z0-9-]{0,35}".prop_map(|name| GatewayHost::Name(name.parse().expect("a name"))),
        "[a-z0-9]{1,20}\\.[a-z]{2,8}".prop_map(GatewayHost::Domain),
    ];
    let passthrough = vec(
        "([a-z]{1,9}\\.org|10\\.0\\.0\\.7|\\[fd00::7\\]):[1-9][0-9]{0,3}",
        1..4,
    );
    let terminate = vec(
        "https?://[a-z]{1,9}(:[1-9][0-9]{0,3})?(/[a-z/]{0,9})?",
        1..4,
    );
    let backends = prop_oneof![
        passthrough.prop_map(|backends| (backends, GatewayTls::Passthrough)),
        terminate.prop_map(|backends| (backends, GatewayTls::Terminate)),
    ];
    let mode = select(vec![ObjectStoreMode::User, ObjectStoreMode::Sequential]);
    prop_oneof![
        (host, backends).prop_map(|(host, (backends, tls))| {
            Workload::Gateway(Gateway {
                host,
                backends,
                tls,
            })
        }),
        any::<bool>().prop_map(|v4| Workload::PublicIp(PublicIp { v4, v6: !v4 })),
        (size(16, 16 << 20), mode, sealed(), any::<bool>()).prop_map(
            |(size, mode, sealed_password, public)| {
                Workload::ObjectStore(ObjectStore {
                    size,
                    mode,
                    sealed_password,
                    public,
                })
            }
        ),
    ]
}

fn policy() -> impl Strategy<Value = NodePolicy> {
    let disks = btree_set("[!-~]([ -~]{0,20}[!-~])?", 0..4);
    let subnets = btree_set(any::<u16>(), 0..4).prop_map(|numbers| {
        let net = |n: u16| IpNet::new(Ipv4Addr::from(u32::from(n) << 16).into(), 16);
        numbers
            .into_iter()
            .map(|n| net(n).expect("a subnet"))
            .collect()
    });
    let power = select(vec![PowerPolicy::On, PowerPolicy::OnDemand]);
    let window = (0_u16..1440, 1_u16..=1440).prop_map(|(start_minute, minutes)| UpdateWindow {
        start_minute,
        minutes,
    });
    let ports = (1_u16.., any::<u16>()).prop_map(|(a, b)| (a, a.max(b)));
    (
        disks,
        subnets,
        any::<bool>(),
        power,
        option::of(window),
        option::of(ports),
    )
        .prop_map(
            |(disks, public_addresses, gateway, power, update_window, publish_ports)| NodePolicy {
                wipe_disks: disks.into_iter().collect(),
                public_addresses,
                gateway,
                power,
                update_window,
                publish_ports,
            },
        )
}
