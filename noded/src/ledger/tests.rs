use ed25519_dalek::SigningKey;
use loam_chain::{Address, WeightedKey, record::Stored};
use loam_deployment::{
    Bytes, ChainContext, FarmId, TwinId,
    payload::{Filesystem, ImageSource, Machine, Media, Network, Target, Workload},
};
use loam_node_api::storage::Volume;
use sha2::{Digest, Sha256};

use super::*;
use crate::{fixture, identity::Identity};

const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [9; 20],
};
const OWNER: TwinId = TwinId(7);

fn key(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

/// Contract 3 with one volume of this size, in this version, signed with this key.
fn published(identity: &Identity, version: u64, size: Bytes, signer: &SigningKey) -> Published {
    deployment(identity, 3, version, OWNER, signer, |payload| {
        payload.body = volume(size);
    })
}

fn volume(size: Bytes) -> Body {
    let volume = Workload::Volume(fixture::volume(size));
    Body::Workload([("data".parse().unwrap(), volume)].into())
}

/// A machine that publishes a port.
fn machine(port: u16) -> Body {
    let plain = fixture::machine(&["net"], &[]);
    let mut publish = plain.publish;
    publish[0].node_port = port;
    let machine = Machine {
        image: ImageSource::Oci(plain.image),
        cpus: 1,
        memory: plain.memory,
        root: plain.root,
        command: vec![],
        env: BTreeMap::new(),
        image_login: None,
        sealed_env: BTreeMap::new(),
        ssh_keys: vec![],
        volumes: BTreeMap::new(),
        networks: plain.networks,
        mesh: false,
        publish,
        restart: plain.restart,
        devices: vec![],
    };
    let network = Network {
        ipv4: "10.20.0.0/24".parse().unwrap(),
        ipv6: None,
        peers: vec![],
        nat: true,
    };
    Body::Workload(
        [
            ("web".parse().unwrap(), Workload::Machine(Box::new(machine))),
            ("net".parse().unwrap(), Workload::Network(network)),
        ]
        .into(),
    )
}

fn policy(first: u16, last: u16) -> Body {
    Body::Node(NodePolicy {
        publish_ports: Some((first, last)),
        ..NodePolicy::default()
    })
}

fn deployment(
    identity: &Identity,
    contract: u64,
    version: u64,
    owner: TwinId,
    signer: &SigningKey,
    change: impl Fn(&mut Payload),
) -> Published {
    let mut payload = Payload {
        target: Target::Node(identity.node),
        contract: ContractId(contract),
        version: Version(version),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(BTreeMap::new()),
    };
    change(&mut payload);
    let bytes = envelope::sign(&payload, &CHAIN, &[(owner, signer)]).unwrap();
    Published {
        record: ContractRecord {
            id: ContractId(contract),
            twin: owner,
            node: identity.node,
            state: ContractState::Created,
            deployment: Stored {
                version: Version(version),
                pointer: Address::ZERO,
                // Any hash that differs with the bytes serves.
                hash: B256::from(<[u8; 32]>::from(Sha256::digest(&bytes))),
            },
            report: None,
            created: 1,
            updated: 1,
        },
        bytes,
        owner: TwinRecord {
            id: owner,
            owner: Address::ZERO,
            keys: vec![WeightedKey {
                key: key(5).verifying_key().to_bytes(),
                weight: 1,
            }],
            threshold: 1,
            version: 1,
        },
    }
}

struct Fixture {
    identity: Identity,
    ledger: Ledger,
    volumes: BTreeMap<VolumeKey, Volume>,
    farm: Option<Farm>,
    now: UnixTime,
}

impl Fixture {
    fn new() -> Self {
        Self {
            identity: Identity::from_seed(&[1; 32]).unwrap(),
            ledger: Ledger::default(),
            volumes: BTreeMap::new(),
            farm: None,
            now: UnixTime(100),
        }
    }

    fn update(&mut self, published: &[Published]) -> Changes {
        let judge = Judge {
            identity: &self.identity,
            chain: CHAIN,
            volumes: &self.volumes,
        };
        self.ledger.update(published, &judge, self.farm, self.now)
    }

    /// A volume of contract 3 that this version named last.
    fn note_volume(&mut self, version: Version) {
        let key = VolumeKey::Data("3.data".parse().unwrap());
        let spec = VolumeSpec {
            size: Bytes::gib(1),
            media: Media::Any,
            filesystem: Filesystem::Ext4,
        };
        let volume = fixture::volume_there(&key, spec, version);
        self.volumes.insert(key, volume);
    }

    fn desired(&self) -> Desired {
        self.ledger.desired(&BTreeSet::new())
    }

    fn contract(&self, id: u64) -> Contract {
        self.desired().contracts[&ContractId(id)].clone()
    }

    /// `accepted`, or the code of the refusal.
    fn verdict(&self, id: u64) -> String {
        let mut verdicts = self.ledger.verdicts();
        match verdicts.find(|(contract, ..)| contract.0 == id).unwrap().2 {
            Verdict::Accepted => "accepted".into(),
            Verdict::Rejected { code, .. } => code.clone(),
        }
    }
}

#[test]
fn a_refused_update_leaves_the_desired_state_as_it_was() {
    let mut f = Fixture::new();
    let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(&[good]);
    let before = f.desired();
    assert!(matches!(f.contract(3), Contract::Run(_)));

    let forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    let changes = f.update(std::slice::from_ref(&forged));
    assert_eq!(changes.rejected.len(), 1);
    assert_eq!(f.desired(), before);
    assert_eq!(f.verdict(3), "bad-signature");
    // Said once, not at every block.
    assert_eq!(f.update(&[forged]), Changes::default());

    let mended = published(&f.identity, 3, Bytes::gib(2), &key(5));
    assert_eq!(f.update(&[mended]).accepted, [(ContractId(3), Version(3))]);
    assert_ne!(f.desired(), before);
    assert_eq!(f.verdict(3), "accepted");
}

#[test]
fn a_chain_that_goes_back_to_what_stands_is_followed() {
    let mut f = Fixture::new();
    let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
    let forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    f.update(std::slice::from_ref(&good));
    f.update(&[forged]);
    assert_eq!(f.update(&[good]).accepted, [(ContractId(3), Version(1))]);
    assert_eq!(f.verdict(3), "accepted");
}

#[test]
fn a_refused_deployment_is_judged_again_only_when_something_else_would_come_of_it() {
    let mut f = Fixture::new();
    let forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    f.update(std::slice::from_ref(&forged));
    // The bytes of this hash would pass now; nobody looks at them again.
    let mut passing = published(&f.identity, 2, Bytes::gib(2), &key(5));
    passing.record.deployment.hash = forged.record.deployment.hash;
    assert_eq!(f.update(std::slice::from_ref(&passing)), Changes::default());
    assert_eq!(f.contract(3), Contract::Keep(Kept::default()));

    let looks = |f: &mut Fixture, published: &Published| {
        let accepted = f.update(std::slice::from_ref(published)).accepted;
        let looked = !accepted.is_empty();
        f.ledger = Ledger::default();
        f.update(std::slice::from_ref(&forged));
        looked
    };
    let mut keys = passing.clone();
    keys.owner.version = 2;
    assert!(looks(&mut f, &keys), "the owner's keys changed");
    let mut other = passing.clone();
    other.record.deployment.hash = B256::ZERO;
    assert!(looks(&mut f, &other), "the bytes changed");
    f.farm = Some(Farm {
        id: FarmId(1),
        twin: TwinId(99),
    });
    assert!(looks(&mut f, &passing), "the farm changed");
    let spec = VolumeSpec {
        size: Bytes::gib(1),
        media: Media::Any,
        filesystem: Filesystem::Ext4,
    };
    let key = VolumeKey::Data("3.data".parse().unwrap());
    let volume = fixture::volume_there(&key, spec, Version(1));
    f.volumes.insert(key, volume);
    assert!(looks(&mut f, &passing), "there is a volume");
    assert!(!looks(&mut f, &passing), "nothing changed");
}

#[test]
fn a_refusal_says_the_same_at_any_time() {
    let mut f = Fixture::new();
    let ended = deployment(&f.identity, 3, 1, OWNER, &key(5), |p| {
        p.valid_until = Some(99)
    });
    let told = f.update(std::slice::from_ref(&ended)).rejected;
    assert_eq!(told.len(), 1);
    for now in 101..110 {
        f.now = UnixTime(now);
        assert_eq!(f.update(std::slice::from_ref(&ended)), Changes::default());
    }
    f.ledger = Ledger::default();
    assert_eq!(f.update(&[ended]).rejected, told);
    assert_eq!(f.verdict(3), "expired");
}

#[test]
fn a_deployment_that_ends_while_it_stands_is_halted() {
    let mut f = Fixture::new();
    let good = deployment(&f.identity, 3, 1, OWNER, &key(5), |p| {
        p.valid_until = Some(150)
    });
    f.update(std::slice::from_ref(&good));
    assert!(matches!(f.contract(3), Contract::Run(_)));
    // Valid until then, and then too.
    assert_eq!(f.ledger.next_end(), Some(UnixTime(151)));
    f.now = UnixTime(150);
    assert_eq!(f.update(std::slice::from_ref(&good)), Changes::default());
    f.now = UnixTime(151);
    assert_eq!(f.update(std::slice::from_ref(&good)).rejected.len(), 1);
    assert!(matches!(
        f.contract(3),
        Contract::Halted(_, Halt::Ended(UnixTime(150)))
    ));
    assert_eq!(f.verdict(3), "expired");
    assert_eq!(f.ledger.next_end(), None);
    // The same for a noded that was started only then.
    f.ledger = Ledger::default();
    f.update(std::slice::from_ref(&good));
    assert!(matches!(
        f.contract(3),
        Contract::Halted(_, Halt::Ended(UnixTime(150)))
    ));
    // The clock was ahead.
    f.now = UnixTime(149);
    assert_eq!(f.update(&[good]).accepted, [(ContractId(3), Version(1))]);
    assert!(matches!(f.contract(3), Contract::Run(_)));
}

#[test]
fn an_update_that_has_ended_already_does_not_take_the_place_of_what_runs() {
    // The clock was ahead.
    for now in [99, 50] {
        let mut f = Fixture::new();
        let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
        f.update(&[good]);
        let before = f.desired();
        let ended = deployment(&f.identity, 3, 2, OWNER, &key(5), |p| {
            p.valid_until = Some(99)
        });
        assert_eq!(f.update(std::slice::from_ref(&ended)).rejected.len(), 1);
        assert_eq!(f.desired(), before);
        // Remembered, but not for longer than it is so.
        assert_eq!(f.update(std::slice::from_ref(&ended)), Changes::default());
        f.now = UnixTime(now);
        assert_eq!(f.update(&[ended]).accepted, [(ContractId(3), Version(2))]);
    }
}

/// noded has forgotten what stood, and the node's machines still are those of the version before.
#[test]
fn nor_does_it_after_a_restart() {
    let mut f = Fixture::new();
    let ended = deployment(&f.identity, 3, 2, OWNER, &key(5), |p| {
        p.valid_until = Some(99)
    });
    f.note_volume(Version(1));
    assert_eq!(f.update(std::slice::from_ref(&ended)).rejected.len(), 1);
    assert_eq!(f.contract(3), Contract::Keep(Kept { suspended: false }));
    // Also when it is looked at again.
    for volume in f.volumes.values_mut() {
        volume.spec.size = Bytes::gib(2);
    }
    f.update(std::slice::from_ref(&ended));
    assert_eq!(f.verdict(3), "expired");

    // It had been accepted before it ended.
    let mut f = Fixture::new();
    f.note_volume(Version(2));
    f.update(&[ended]);
    assert!(matches!(f.contract(3), Contract::Halted(_, Halt::Ended(_))));
}

#[test]
fn the_next_end_is_the_first_of_those_to_come() {
    let mut f = Fixture::new();
    let at = |id, until| {
        deployment(&f.identity, id, 1, OWNER, &key(5), |p| {
            p.valid_until = Some(until)
        })
    };
    let all = [at(3, 300), at(4, 50), at(5, 200), at(6, u64::MAX)];
    f.update(&all);
    assert_eq!(f.ledger.next_end(), Some(UnixTime(201)));
}

#[test]
fn a_version_that_went_back_is_refused() {
    let mut f = Fixture::new();
    let second = published(&f.identity, 2, Bytes::gib(2), &key(5));
    f.update(&[second]);
    let before = f.desired();
    let replayed = published(&f.identity, 1, Bytes::gib(1), &key(5));
    assert_eq!(f.update(&[replayed]).rejected.len(), 1);
    assert_eq!(f.desired(), before);
}

#[test]
fn the_standing_bytes_published_again_as_a_new_version_are_refused() {
    let mut f = Fixture::new();
    let mut first = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(std::slice::from_ref(&first));
    let before = f.desired();
    first.record.deployment.version = Version(2);
    assert_eq!(f.update(&[first]).rejected.len(), 1);
    assert_eq!(f.desired(), before);
}

#[test]
fn after_a_restart_a_refused_deployment_freezes_its_contract() {
    let mut f = Fixture::new();
    let mut forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    f.update(std::slice::from_ref(&forged));
    assert_eq!(f.contract(3), Contract::Keep(Kept { suspended: false }));
    // But for one thing.
    forged.record.state = ContractState::Suspended;
    assert_eq!(f.update(&[forged]), Changes::default());
    assert_eq!(f.contract(3), Contract::Keep(Kept { suspended: true }));
}

#[test]
fn a_suspended_contract_is_halted_and_one_that_is_not_listed_is_not_known() {
    let mut f = Fixture::new();
    let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(std::slice::from_ref(&good));
    let mut suspended = good;
    suspended.record.state = ContractState::Suspended;
    f.update(std::slice::from_ref(&suspended));
    assert!(matches!(
        f.contract(3),
        Contract::Halted(_, Halt::Suspended)
    ));
    let mut cancelled = suspended;
    cancelled.record.state = ContractState::Cancelled;
    f.update(&[cancelled]);
    assert_eq!(f.desired().cancelled, [ContractId(3)].into());
    assert_eq!(f.update(&[]).gone, [ContractId(3)]);
    assert_eq!(f.desired(), Desired::default());
    // By its own record.
    let cancelled = BTreeSet::from([ContractId(3)]);
    assert_eq!(f.ledger.desired(&cancelled).cancelled, cancelled);
}

#[test]
fn the_farmer_s_word_is_heard_before_anybody_is_judged_by_it() {
    let farmer = TwinId(99);
    let mut f = Fixture::new();
    f.farm = Some(Farm {
        id: FarmId(1),
        twin: farmer,
    });
    // The farmer's contract is the newer one, and comes last in the list.
    let tenant = deployment(&f.identity, 3, 1, OWNER, &key(5), |p| {
        p.body = machine(8080)
    });
    let word = deployment(&f.identity, 9, 1, farmer, &key(5), |p| {
        p.body = policy(9000, 9100)
    });
    let both = [tenant.clone(), word.clone()];
    f.update(&both);
    assert_eq!(f.verdict(9), "accepted");
    assert_eq!(f.ledger.policy().publish_ports, Some((9000, 9100)));
    assert_eq!(f.verdict(3), "port");
    assert!(
        matches!(f.contract(9), Contract::Run(_)),
        "which has no workloads"
    );
    // Another word, in the same view: judged again by it.
    let newer = deployment(&f.identity, 9, 2, farmer, &key(5), |p| {
        p.body = policy(8000, 8100)
    });
    let accepted = f.update(&[tenant.clone(), newer]).accepted;
    assert_eq!(
        accepted,
        [(ContractId(9), Version(2)), (ContractId(3), Version(1))]
    );
    // Of two the one in the newest contract counts; the farmer's own machines are judged by it.
    f.ledger = Ledger::default();
    let other = deployment(&f.identity, 10, 1, farmer, &key(5), |p| {
        p.body = policy(8000, 8100)
    });
    let own = deployment(&f.identity, 2, 1, farmer, &key(5), |p| {
        p.body = machine(9000)
    });
    f.update(&[own, tenant.clone(), word.clone(), other]);
    assert_eq!(
        (f.verdict(2), f.verdict(3)),
        ("port".into(), "accepted".into())
    );
    // What nobody else may say.
    f.ledger = Ledger::default();
    let stranger = deployment(&f.identity, 9, 1, OWNER, &key(5), |p| {
        p.body = policy(9000, 9100)
    });
    f.update(&[tenant, stranger]);
    assert_eq!(
        (f.verdict(3), f.verdict(9)),
        ("accepted".into(), "not-farmer".into())
    );
    assert_eq!(f.ledger.policy(), NodePolicy::default());
}

#[test]
fn a_policy_counts_for_as_long_as_it_is_valid() {
    let farmer = TwinId(99);
    let mut f = Fixture::new();
    f.farm = Some(Farm {
        id: FarmId(1),
        twin: farmer,
    });
    let word = deployment(&f.identity, 9, 1, farmer, &key(5), |p| {
        p.body = policy(9000, 9100);
        p.valid_until = Some(150);
    });
    f.update(std::slice::from_ref(&word));
    assert_eq!(f.ledger.policy().publish_ports, Some((9000, 9100)));
    f.now = UnixTime(151);
    f.update(&[word]);
    assert_eq!(f.ledger.policy(), NodePolicy::default());
    // Nor does one that asks for what the node does not do.
    f.ledger = Ledger::default();
    let gateway = deployment(&f.identity, 9, 1, farmer, &key(5), |p| {
        let policy = NodePolicy {
            gateway: true,
            ..NodePolicy::default()
        };
        p.body = Body::Node(policy);
    });
    f.update(&[gateway]);
    assert_eq!(f.verdict(9), "policy-not-offered");
}
