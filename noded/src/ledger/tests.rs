use ed25519_dalek::SigningKey;
use loam_chain::{Address, WeightedKey, record::Stored};
use loam_deployment::{
    Bytes, ChainContext, TwinId, envelope,
    payload::{Body, Payload, Target, Workload},
};

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
    let payload = Payload {
        target: Target::Node(identity.node),
        contract: ContractId(3),
        version: Version(version),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(
            [(
                "data".parse().unwrap(),
                Workload::Volume(fixture::volume(size)),
            )]
            .into(),
        ),
    };
    let bytes = envelope::sign(&payload, &CHAIN, &[(OWNER, signer)]).unwrap();
    // Any hash that differs with the bytes serves.
    let mut hash = B256::ZERO;
    hash.0[..8].copy_from_slice(&version.to_be_bytes());
    hash.0[8..16].copy_from_slice(&size.get().to_be_bytes());
    hash.0[16..].copy_from_slice(&signer.to_bytes()[..16]);
    Published {
        record: ContractRecord {
            id: ContractId(3),
            twin: OWNER,
            node: identity.node,
            state: ContractState::Created,
            deployment: Stored {
                version: Version(version),
                pointer: Address::ZERO,
                hash,
            },
            report: None,
            created: 1,
            updated: 1,
        },
        bytes,
        owner: TwinRecord {
            id: OWNER,
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
}

impl Fixture {
    fn new() -> Self {
        Self {
            identity: Identity::from_seed(&[1; 32]).unwrap(),
            ledger: Ledger::default(),
        }
    }

    fn update(&mut self, published: &[Published]) -> Changes {
        let judge = Judge {
            identity: &self.identity,
            chain: CHAIN,
            publish_ports: None,
            volumes: &BTreeMap::new(),
        };
        self.ledger.update(published, &judge, None, 0)
    }
}

#[test]
fn a_refused_update_leaves_the_desired_state_as_it_was() {
    let mut f = Fixture::new();
    let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(&[good]);
    let before = f.ledger.desired(&BTreeSet::new());
    assert!(matches!(before.contracts[&ContractId(3)], Contract::Run(_)));

    let forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    let changes = f.update(std::slice::from_ref(&forged));
    assert_eq!(changes.rejected.len(), 1);
    assert_eq!(f.ledger.desired(&BTreeSet::new()), before);
    // Said once, not at every block.
    assert_eq!(f.update(&[forged]), Changes::default());

    let mended = published(&f.identity, 3, Bytes::gib(2), &key(5));
    assert_eq!(f.update(&[mended]).accepted, [(ContractId(3), Version(3))]);
    assert_ne!(f.ledger.desired(&BTreeSet::new()), before);
}

#[test]
fn a_version_that_went_back_is_refused() {
    let mut f = Fixture::new();
    let second = published(&f.identity, 2, Bytes::gib(2), &key(5));
    f.update(&[second]);
    let before = f.ledger.desired(&BTreeSet::new());
    let replayed = published(&f.identity, 1, Bytes::gib(1), &key(5));
    assert_eq!(f.update(&[replayed]).rejected.len(), 1);
    assert_eq!(f.ledger.desired(&BTreeSet::new()), before);
}

#[test]
fn the_standing_bytes_published_again_as_a_new_version_are_refused() {
    let mut f = Fixture::new();
    let mut first = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(std::slice::from_ref(&first));
    let before = f.ledger.desired(&BTreeSet::new());
    first.record.deployment.version = Version(2);
    assert_eq!(f.update(&[first]).rejected.len(), 1);
    assert_eq!(f.ledger.desired(&BTreeSet::new()), before);
}

#[test]
fn after_a_restart_a_refused_deployment_freezes_its_contract() {
    let mut f = Fixture::new();
    let forged = published(&f.identity, 2, Bytes::gib(2), &key(6));
    f.update(&[forged]);
    assert_eq!(
        f.ledger.desired(&BTreeSet::new()).contracts[&ContractId(3)],
        Contract::Keep
    );
}

#[test]
fn a_cancelled_contract_is_wanted_no_more() {
    let mut f = Fixture::new();
    let good = published(&f.identity, 1, Bytes::gib(1), &key(5));
    f.update(std::slice::from_ref(&good));
    let mut suspended = good;
    suspended.record.state = ContractState::Suspended;
    f.update(&[suspended]);
    assert!(matches!(
        f.ledger.desired(&BTreeSet::new()).contracts[&ContractId(3)],
        Contract::Suspended(_)
    ));
    assert_eq!(f.update(&[]).gone, [ContractId(3)]);
    assert!(f.ledger.desired(&BTreeSet::new()).contracts.is_empty());
}
