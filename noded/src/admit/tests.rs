use ed25519_dalek::SigningKey;
use loam_deployment::{
    Bytes, ContractId, TwinId,
    envelope::TwinKeys,
    payload::{Filesystem, Network, Target},
};
use loam_node_api::storage::VolumeSpec;

use super::*;
use crate::fixture;

const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [9; 20],
};

fn tenant() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn identity() -> Identity {
    Identity::from_seed(&[1; 32]).unwrap()
}

/// A deployment like `examples/hello.toml`.
fn hello(identity: &Identity) -> Payload {
    let web: Name = "web".parse().unwrap();
    let context = SealContext {
        chain: CHAIN,
        node: identity.node,
        contract: ContractId(3),
        workload: &web,
        field: SealedField::Env("TOKEN"),
    };
    let sealed = seal::seal(b"hunter2", &identity.hpke.public, &context).unwrap();
    let plain = fixture::machine(&["private"], &["data"]);
    let machine = payload::Machine {
        image: ImageSource::Oci(plain.image),
        cpus: plain.cpus,
        memory: plain.memory,
        root: plain.root,
        command: plain.command,
        env: plain.env,
        sealed_env: [("TOKEN".into(), sealed)].into(),
        ssh_keys: vec![],
        volumes: [("data".parse().unwrap(), "/data".into())].into(),
        networks: plain.networks,
        mesh: false,
        publish: plain.publish,
        restart: plain.restart,
        devices: vec![],
    };
    let network = Network {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: None,
        peers: vec![],
        nat: true,
    };
    Payload {
        target: Target::Node(identity.node),
        contract: ContractId(3),
        version: Version(1),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(BTreeMap::from([
            (web, Workload::Machine(Box::new(machine))),
            (
                "data".parse().unwrap(),
                Workload::Volume(fixture::volume(Bytes::gib(1))),
            ),
            ("private".parse().unwrap(), Workload::Network(network)),
        ])),
    }
}

fn admit_with(
    identity: &Identity,
    payload: &Payload,
    volumes: &BTreeMap<VolumeKey, Volume>,
    publish_ports: Option<(u16, u16)>,
) -> Result<Admitted, Refusal> {
    let keys = TwinKeys {
        keys: vec![(tenant().verifying_key().to_bytes(), 1)],
        threshold: 1,
    };
    let bytes = envelope::sign(payload, &CHAIN, &[(TwinId(7), &tenant())]).unwrap();
    let expected = Expected {
        chain: CHAIN,
        node: identity.node,
        farm: None,
        contract: payload.contract,
        version: payload.version,
        owner: TwinId(7),
        keys: &keys,
        now: 0,
        running: None,
    };
    Judge {
        identity,
        chain: CHAIN,
        publish_ports,
        volumes,
    }
    .admit(&bytes, &expected)
}

fn admit(identity: &Identity, payload: &Payload) -> Result<Admitted, Refusal> {
    admit_with(identity, payload, &BTreeMap::new(), None)
}

fn machine_of(payload: &mut Payload) -> &mut payload::Machine {
    let Body::Workload(workloads) = &mut payload.body else {
        panic!("a workload deployment")
    };
    match workloads.get_mut(&"web".parse::<Name>().unwrap()) {
        Some(Workload::Machine(machine)) => machine,
        _ => panic!("a machine"),
    }
}

#[test]
fn opens_sealed_variables_beside_the_plain_ones() {
    let identity = identity();
    let admitted = admit(&identity, &hello(&identity)).unwrap();
    let AdmittedBody::Workloads(workloads) = admitted.body else {
        panic!("workloads")
    };
    let env = &workloads.machines[&"web".parse::<Name>().unwrap()].env;
    assert_eq!(env["TOKEN"], "hunter2");
    assert_eq!(env["A"], "b");
}

#[test]
fn a_secret_copied_into_another_contract_does_not_open() {
    let identity = identity();
    let mut payload = hello(&identity);
    payload.contract = ContractId(4);
    let refusal = admit(&identity, &payload).unwrap_err();
    assert!(matches!(refusal, Refusal::Seal(_)), "{refusal}");
}

#[test]
fn what_is_not_offered_is_refused_with_its_place() {
    let identity = identity();
    let refused = |change: &dyn Fn(&mut Payload)| {
        let mut payload = hello(&identity);
        change(&mut payload);
        admit(&identity, &payload).unwrap_err().to_string()
    };
    let mesh = refused(&|payload| machine_of(payload).mesh = true);
    assert_eq!(
        mesh,
        "workloads.web.mesh: this node does not offer the mesh yet"
    );
    let encrypted = refused(&|payload| {
        let Body::Workload(workloads) = &mut payload.body else {
            panic!()
        };
        let mut volume = fixture::volume(Bytes::gib(1));
        volume.encrypted = true;
        workloads.insert("data".parse().unwrap(), Workload::Volume(volume));
    });
    assert!(
        encrypted.contains("workloads.data.encrypted"),
        "{encrypted}"
    );
}

#[test]
fn ports_keep_to_the_farmer_s_range_and_off_the_node_s_own() {
    let identity = identity();
    let mut payload = hello(&identity);
    let with = |payload: &Payload, range| {
        admit_with(&identity, payload, &BTreeMap::new(), range).map(|_| ())
    };
    assert!(with(&payload, Some((8000, 8100))).is_ok());
    assert!(matches!(
        with(&payload, Some((9000, 9100))),
        Err(Refusal::Port { port: 8080, .. })
    ));
    machine_of(&mut payload).publish[0].node_port = TENANT_PORT;
    assert!(matches!(with(&payload, None), Err(Refusal::Port { .. })));
    machine_of(&mut payload).publish[0].node_port = 80;
    assert!(matches!(with(&payload, None), Err(Refusal::Port { .. })));
}

#[test]
fn a_volume_may_grow_and_nothing_else() {
    let identity = identity();
    let payload = hello(&identity);
    let key = VolumeKey::Data("3.data".parse().unwrap());
    let there = |size, filesystem| {
        let spec = VolumeSpec {
            size,
            media: payload::Media::Any,
            filesystem,
        };
        let volume = Volume {
            key: key.clone(),
            spec,
            path: "/v".into(),
            used: Bytes(0),
            version: Version(1),
        };
        BTreeMap::from([(key.clone(), volume)])
    };
    let with = |volumes| admit_with(&identity, &payload, &volumes, None).map(|_| ());
    assert!(with(there(Bytes::mib(512), Filesystem::Ext4)).is_ok());
    assert!(matches!(
        with(there(Bytes::gib(2), Filesystem::Ext4)),
        Err(Refusal::Shrink { .. })
    ));
    assert!(matches!(
        with(there(Bytes::gib(1), Filesystem::Raw)),
        Err(Refusal::Filesystem { .. })
    ));
}
