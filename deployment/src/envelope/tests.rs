use super::*;
use crate::{
    NodeKey,
    payload::{Body, Target},
};

const OWNER: TwinId = TwinId(5);
const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [7; 20],
};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn payload() -> Payload {
    Payload {
        target: Target::Node(NodeKey([9; 32])),
        contract: ContractId(3),
        version: Version(1),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(Default::default()),
    }
}

fn keys(seeds: impl IntoIterator<Item = u8>) -> TwinKeys {
    let keys = seeds.into_iter();
    TwinKeys {
        keys: keys
            .map(|seed| (key(seed).verifying_key().to_bytes(), 1))
            .collect(),
        threshold: 1,
    }
}

fn expected(keys: &TwinKeys) -> Expected<'_> {
    Expected {
        chain: CHAIN,
        node: NodeKey([9; 32]),
        farm: None,
        contract: ContractId(3),
        version: Version(1),
        owner: OWNER,
        keys,
        now: 0,
        running: None,
    }
}

#[test]
fn more_bytes_than_a_contract_holds_are_not_looked_at() {
    let keys = keys([1]);
    let most = limits::DEPLOYMENT_BYTES;
    for (size, too_large) in [(most, false), (most + 1, true), (2 * most, true)] {
        let refused = verify(&vec![0; size], &expected(&keys)).unwrap_err();
        let said = matches!(refused, Rejection::TooLarge { size: told } if told == size);
        assert_eq!(said, too_large, "{size}: {refused}");
        let refused = cbor::decode(&vec![0; size]).unwrap_err();
        let said = matches!(refused, Rejection::TooLarge { size: told } if told == size);
        assert_eq!(said, too_large, "{size}: {refused}");
    }
}

#[test]
fn a_verifier_tries_as_many_keys_as_the_chain_records() {
    let bytes = sign(&payload(), &CHAIN, &[(OWNER, &key(1))]).unwrap();
    let most = u8::try_from(limits::TWIN_KEYS).unwrap();
    // Its own is the last.
    verify(&bytes, &expected(&keys((1..=most).rev()))).unwrap();
    for more in [most + 1, most + 2] {
        let keys = keys((1..=more).rev());
        let refused = verify(&bytes, &expected(&keys)).unwrap_err();
        assert_eq!(refused, EnvelopeError::NoKeys.into(), "{more} keys");
    }
}
