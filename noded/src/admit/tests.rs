use ed25519_dalek::SigningKey;
use loam_deployment::{
    Bytes, ContractId, TwinId, Version,
    envelope::{self, Expected, TwinKeys},
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
    let sealed = sealed(identity, SealedField::Env("TOKEN"), b"hunter2");
    let plain = fixture::machine(&["private"], &["data"]);
    let machine = payload::Machine {
        image: ImageSource::Oci(plain.image),
        cpus: plain.cpus,
        memory: plain.memory,
        root: plain.root,
        command: plain.command,
        env: plain.env,
        image_login: None,
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
    publish_ports: Option<PortRange>,
) -> Result<Workloads, Refusal> {
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
    let verified = envelope::verify(&bytes, &expected).unwrap();
    Judge {
        identity,
        chain: CHAIN,
        volumes,
    }
    .admit(&verified, publish_ports)
}

fn admit(identity: &Identity, payload: &Payload) -> Result<Workloads, Refusal> {
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
    let workloads = admit(&identity, &hello(&identity)).unwrap();
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

/// As its owner seals it for a field of contract 3's machine `web`.
fn sealed(identity: &Identity, field: SealedField<'_>, secret: &[u8]) -> payload::Sealed {
    let web: Name = "web".parse().unwrap();
    let context = SealContext {
        chain: CHAIN,
        node: identity.node,
        contract: ContractId(3),
        workload: &web,
        field,
    };
    seal::seal(secret, &identity.hpke.public, &context).unwrap()
}

fn with_login(identity: &Identity, user: payload::Sealed, password: payload::Sealed) -> Payload {
    let mut payload = hello(identity);
    let machine = machine_of(&mut payload);
    machine.image_login = Some(payload::ImageLogin {
        registry: "registry.example".to_owned(),
        sealed_user: user,
        sealed_password: password,
    });
    payload
}

#[test]
fn a_login_is_opened_and_is_of_its_contract() {
    let identity = identity();
    let user = sealed(&identity, SealedField::ImageUser, b"alice");
    let password = sealed(&identity, SealedField::ImagePassword, b"correct horse");
    let payload = with_login(&identity, user, password);
    let workloads = admit(&identity, &payload).unwrap();
    let web = &workloads.machines[&"web".parse::<Name>().unwrap()];
    let expected = ImageLogin {
        contract: ContractId(3),
        user: "alice".to_owned(),
        password: "correct horse".to_owned(),
    };
    assert_eq!(web.image_login, Some(expected));
    assert_eq!(web.image_needed().only_for, Some(ContractId(3)));
    let shown = format!("{web:?}");
    assert!(
        !shown.contains("horse") && !shown.contains("alice"),
        "{shown}"
    );
}

#[test]
fn a_login_that_does_not_open_is_refused_by_its_field() {
    let identity = identity();
    let user = || sealed(&identity, SealedField::ImageUser, b"alice");
    let password = || sealed(&identity, SealedField::ImagePassword, b"secret");
    let elsewhere = || sealed(&identity, SealedField::Env("TOKEN"), b"secret");
    let refused = |user, password| {
        let payload = with_login(&identity, user, password);
        let refusal = admit(&identity, &payload).unwrap_err();
        (refusal.code(), refusal.to_string())
    };
    for (user, password, field) in [
        (elsewhere(), password(), "sealed_user"),
        (user(), elsewhere(), "sealed_password"),
        (password(), user(), "sealed_user"),
    ] {
        let (code, text) = refused(user, password);
        assert_eq!(code, "sealed");
        let place = format!("web.image_login.{field} does not open");
        assert!(text.starts_with(&place), "{text}");
    }
    // Another contract's does not open either.
    let mut copied = with_login(&identity, user(), password());
    machine_of(&mut copied).sealed_env.clear();
    copied.contract = ContractId(4);
    let refusal = admit(&identity, &copied).unwrap_err().to_string();
    assert!(refusal.contains("image_login.sealed_user"), "{refusal}");
    let binary = sealed(&identity, SealedField::ImagePassword, &[0xff, 0xfe]);
    let (code, text) = refused(user(), binary);
    assert_eq!(code, "secret-text");
    assert!(
        text.starts_with("workloads.web: the secret of image_login.sealed_password is not"),
        "{text}"
    );
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
    let with = |port, range| {
        let mut payload = hello(&identity);
        machine_of(&mut payload).publish[0].node_port = port;
        admit_with(&identity, &payload, &BTreeMap::new(), range).map(|_| ())
    };
    for (port, range, allowed) in [
        (8080, None, true),
        (1023, None, false),
        (1024, None, true),
        (65535, None, true),
        (8080, Some((8000, 8100)), true),
        (8000, Some((8000, 8100)), true),
        (8100, Some((8000, 8100)), true),
        (7999, Some((8000, 8100)), false),
        (8101, Some((8000, 8100)), false),
        (TENANT_PORT, None, false),
        (TENANT_PORT, Some((9000, 9999)), false),
    ] {
        let refused = matches!(with(port, range), Err(Refusal::Port { port: p, .. }) if p == port);
        assert_eq!(refused, !allowed, "{port} of {range:?}");
    }
}

fn there(key: VolumeKey, size: Bytes, filesystem: Filesystem) -> BTreeMap<VolumeKey, Volume> {
    let spec = VolumeSpec {
        size,
        media: Media::Any,
        filesystem,
    };
    let volume = fixture::volume_there(&key, spec, Version(1));
    BTreeMap::from([(key, volume)])
}

#[test]
fn a_volume_may_grow_and_nothing_else() {
    let identity = identity();
    let payload = hello(&identity);
    let data = || VolumeKey::Data("3.data".parse().unwrap());
    let with = |volumes| admit_with(&identity, &payload, &volumes, None).map(|_| ());
    for size in [Bytes::mib(512), Bytes::gib(1)] {
        assert!(with(there(data(), size, Filesystem::Ext4)).is_ok());
    }
    assert!(matches!(
        with(there(data(), Bytes::gib(2), Filesystem::Ext4)),
        Err(Refusal::Shrink { .. })
    ));
    assert!(matches!(
        with(there(data(), Bytes::gib(1), Filesystem::Raw)),
        Err(Refusal::Filesystem { .. })
    ));
    let mut on_ssd = there(data(), Bytes::gib(1), Filesystem::Ext4);
    for volume in on_ssd.values_mut() {
        volume.spec.media = Media::Ssd;
    }
    let refusal = with(on_ssd).unwrap_err();
    assert!(
        refusal.to_string().starts_with("workloads.data.media: "),
        "{refusal}"
    );
    assert_eq!(refusal.code(), "media");
    // Another contract's volume of the same name is nothing to this one.
    let other = VolumeKey::Data("4.data".parse().unwrap());
    assert!(with(there(other, Bytes::gib(2), Filesystem::Raw)).is_ok());
}

#[test]
fn a_root_layer_may_grow_and_never_shrink() {
    let identity = identity();
    let payload = hello(&identity);
    let with = |image, size| {
        let key = root_key(&"3.web".parse().unwrap(), &fixture::image(image));
        admit_with(
            &identity,
            &payload,
            &there(key, size, Filesystem::Ext4),
            None,
        )
        .map(|_| ())
    };
    assert!(with(1, Bytes::mib(64)).is_ok());
    let refusal = with(1, Bytes::mib(65)).unwrap_err();
    assert!(
        refusal.to_string().starts_with("workloads.web.root: "),
        "{refusal}"
    );
    assert_eq!(refusal.code(), "root-shrink");
    // Another image gets another layer.
    assert!(with(2, Bytes::mib(65)).is_ok());
}

#[test]
fn whatever_this_node_does_not_do_is_refused() {
    use loam_deployment::payload::{Peer, PublicIp};
    let identity = identity();
    let place = |change: &dyn Fn(&mut Payload)| {
        let mut payload = hello(&identity);
        change(&mut payload);
        let refusal = admit(&identity, &payload).unwrap_err();
        assert_eq!(refusal.code(), "not-offered", "{refusal}");
        let text = refusal.to_string();
        text.split(": ").next().unwrap().to_owned()
    };
    let workload = |payload: &mut Payload, name: &str, workload| {
        let Body::Workload(workloads) = &mut payload.body else {
            panic!()
        };
        workloads.insert(name.parse().unwrap(), workload);
    };
    let device = |p: &mut Payload| machine_of(p).devices.push("0000:01:00.0".into());
    assert_eq!(place(&device), "workloads.web.devices");
    let disk = |p: &mut Payload| machine_of(p).image = ImageSource::Disk(fixture::image(1));
    assert_eq!(place(&disk), "workloads.web.image");
    let peers = |p: &mut Payload| {
        let peer = Peer {
            public_key: [1; 32],
            allowed: vec!["10.9.0.0/24".parse().unwrap()],
            endpoint: None,
        };
        let network = Network {
            ipv4: "10.20.0.0/24".parse().unwrap(),
            ipv6: None,
            peers: vec![peer],
            nat: true,
        };
        workload(p, "private", Workload::Network(network));
    };
    assert_eq!(place(&peers), "workloads.private.peers");
    let public = |p: &mut Payload| {
        let address = PublicIp {
            v4: true,
            v6: false,
        };
        workload(p, "address", Workload::PublicIp(address));
    };
    assert_eq!(place(&public), "workloads.address");
}

#[test]
fn a_secret_that_no_environment_can_hold_is_refused() {
    let identity = identity();
    for secret in [&b"a\0b"[..], &[0xff, 0xfe]] {
        let mut payload = hello(&identity);
        let sealed = sealed(&identity, SealedField::Env("TOKEN"), secret);
        machine_of(&mut payload)
            .sealed_env
            .insert("TOKEN".into(), sealed);
        let refusal = admit(&identity, &payload).unwrap_err();
        assert_eq!(refusal.code(), "secret-text", "{refusal}");
    }
}

#[test]
fn only_a_policy_that_is_followed_is_admitted() {
    let policy = NodePolicy {
        publish_ports: Some((8000, 8100)),
        ..NodePolicy::default()
    };
    assert_eq!(followed(&policy).unwrap(), policy);
    let refused = |change: &dyn Fn(&mut NodePolicy)| {
        let mut policy = NodePolicy::default();
        change(&mut policy);
        let refusal = followed(&policy).unwrap_err();
        assert_eq!(refusal.code(), "policy-not-offered");
        refusal.to_string()
    };
    let gateway = refused(&|policy| policy.gateway = true);
    assert_eq!(gateway, "policy.gateway: this node does not follow it yet");
    let wipe = refused(&|policy| policy.wipe_disks = vec!["x".into()]);
    assert!(wipe.starts_with("policy.wipe_disks: "), "{wipe}");
    let power = refused(&|policy| policy.power = payload::PowerPolicy::OnDemand);
    assert!(power.starts_with("policy.power: "), "{power}");
    let subnets = refused(&|p| p.public_addresses = vec!["192.0.2.0/24".parse().unwrap()]);
    assert!(
        subnets.starts_with("policy.public_addresses: "),
        "{subnets}"
    );
}

#[test]
fn the_volumes_of_a_contract_are_its_own() {
    let identity = identity();
    let mut volumes = BTreeMap::new();
    for contract in 2..5 {
        let machine: WorkloadId = format!("{contract}.web").parse().unwrap();
        for key in [
            VolumeKey::Data(machine.clone()),
            root_key(&machine, &fixture::image(1)),
        ] {
            volumes.extend(there(key, Bytes::gib(1), Filesystem::Ext4));
        }
    }
    let judge = Judge {
        identity: &identity,
        chain: CHAIN,
        volumes: &volumes,
    };
    let own: Vec<_> = judge
        .volumes_of(ContractId(3))
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    let machine: WorkloadId = "3.web".parse().unwrap();
    assert_eq!(
        own,
        [
            VolumeKey::Data(machine.clone()),
            root_key(&machine, &fixture::image(1))
        ]
    );
}
