//! What holds for every deployment: one encoding, and no way round its signature.

mod arbitrary;

use ciborium::Value;
use coset::{CoseSignBuilder, CoseSignatureBuilder, HeaderBuilder, TaggedCborSerializable, iana};
use ed25519_dalek::Signer;
use loam_deployment::{
    ChainContext, ContractId, ImageDigest, ImageName, NodeKey, Payload, Rejection, SigningKey,
    TwinId, Version, cbor,
    envelope::{self, EnvelopeError, Expected, Farm, LABEL, TwinKeys},
    limits,
    payload::{Body, Target},
    validate,
};
use proptest::{prelude::*, sample::Index};

const OWNER: TwinId = TwinId(5);
const CHAIN: ChainContext = ChainContext {
    chain_id: 31337,
    contract: [7; 20],
};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn owner_keys() -> TwinKeys {
    TwinKeys {
        keys: vec![(key(1).verifying_key().to_bytes(), 1)],
        threshold: 1,
    }
}

/// The records under which this payload is right.
fn records<'a>(payload: &Payload, keys: &'a TwinKeys) -> Expected<'a> {
    let (node, farm) = match payload.target {
        Target::Node(node) => (node, loam_deployment::FarmId(1)),
        Target::Farm(farm) => (NodeKey([9; 32]), farm),
    };
    Expected {
        chain: CHAIN,
        node,
        farm: Some(Farm {
            id: farm,
            twin: OWNER,
        }),
        contract: payload.contract,
        version: payload.version,
        owner: OWNER,
        keys,
        now: 0,
        running: None,
    }
}

/// The least that can be signed.
fn least() -> Payload {
    Payload {
        target: Target::Node(NodeKey([9; 32])),
        contract: ContractId(3),
        version: Version(1),
        valid_until: None,
        description: String::new(),
        body: Body::Workload(Default::default()),
    }
}

fn sign(payload: &Payload) -> Vec<u8> {
    envelope::sign(payload, &CHAIN, &[(OWNER, &key(1))]).expect("a valid payload is signed")
}

/// Signs any bytes, right or wrong, as the owner.
fn sign_bytes(payload: Vec<u8>) -> Vec<u8> {
    let header = HeaderBuilder::new()
        .algorithm(iana::Algorithm::EdDSA)
        .key_id(OWNER.0.to_be_bytes().to_vec())
        .build();
    let aad = [LABEL, &CHAIN.chain_id.to_be_bytes(), &CHAIN.contract].concat();
    let signature = CoseSignatureBuilder::new().protected(header).build();
    CoseSignBuilder::new()
        .payload(payload)
        .add_created_signature(signature, &aad, |tbs| key(1).sign(tbs).to_bytes().to_vec())
        .build()
        .to_tagged_vec()
        .expect("encodable")
}

fn verify(bytes: &[u8], payload: &Payload) -> Result<Payload, Rejection> {
    envelope::verify(bytes, &records(payload, &owner_keys()))
}

fn value_of(payload: &Payload) -> Value {
    ciborium::from_reader(cbor::encode(payload).as_slice()).expect("CBOR")
}

/// Signs the value as it stands, in whatever order its maps are.
fn sign_value(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("encodable");
    sign_bytes(bytes)
}

type Entries = Vec<(Value, Value)>;

/// Changes one of the maps that have `at_least` entries: which one, `index` says. The outermost
/// always has enough.
fn change_map(value: &mut Value, at_least: usize, index: Index, change: impl Fn(&mut Entries)) {
    let mut count = 0;
    each_map(value, &mut |entries| {
        count += usize::from(entries.len() >= at_least)
    });
    let picked = index.index(count);
    let mut number = 0;
    each_map(value, &mut |entries| {
        if entries.len() >= at_least {
            if number == picked {
                change(entries);
            }
            number += 1;
        }
    });
}

fn each_map(value: &mut Value, visit: &mut dyn FnMut(&mut Entries)) {
    match value {
        Value::Map(entries) => {
            for (_, value) in entries.iter_mut() {
                each_map(value, visit);
            }
            visit(entries);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_map(item, visit)),
        _ => {}
    }
}

fn sort(entries: &mut Entries) {
    entries.sort_by_key(|(key, _)| {
        let text = key.as_text().expect("keys are text").to_owned();
        (text.len(), text)
    });
}

fn config(cases: u32) -> ProptestConfig {
    // Without optimisation a signature takes milliseconds, so cases are few where many are made.
    let default = ProptestConfig::default();
    ProptestConfig {
        // PROPTEST_CASES may make them fewer.
        cases: cases.min(default.cases),
        ..default
    }
}

proptest! {
    #![proptest_config(config(128))]

    #[test]
    fn payloads_survive_their_bytes(payload in arbitrary::payload()) {
        prop_assert_eq!(validate::payload(&payload), Ok(()));
        let bytes = cbor::encode(&payload);
        prop_assume!(bytes.len() <= limits::DEPLOYMENT_BYTES);
        prop_assert_eq!(cbor::decode(&bytes), Ok(payload.clone()));

        let json = serde_json::to_string(&payload).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Payload>(&json).expect("a payload"), payload);
    }

    /// What is read from bytes that someone else made is written back as the same bytes.
    #[test]
    fn changed_bytes_are_refused_or_mean_what_they_say(
        payload in arbitrary::payload(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = cbor::encode(&payload);
        for (index, byte) in changes {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        if let Ok(read) = cbor::decode(&bytes) {
            prop_assert_eq!(cbor::encode(&read), bytes);
        }
    }

    #[test]
    fn a_map_in_another_order_is_refused(
        payload in arbitrary::payload(),
        map: Index,
        entry: Index,
    ) {
        let mut value = value_of(&payload);
        change_map(&mut value, 2, map, |entries| {
            let first = entry.index(entries.len() - 1);
            entries.swap(first, first + 1);
        });
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).expect("encodable");
        prop_assume!(bytes.len() <= limits::DEPLOYMENT_BYTES);
        let refused = cbor::decode(&bytes).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("unsorted-map"));
    }

    #[test]
    fn a_key_that_is_there_twice_is_refused(
        payload in arbitrary::payload(),
        map: Index,
        entry: Index,
    ) {
        let mut value = value_of(&payload);
        change_map(&mut value, 1, map, |entries| {
            let first = entry.index(entries.len());
            entries.insert(first, entries[first].clone());
        });
        let mut bytes = Vec::new();
        ciborium::into_writer(&value, &mut bytes).expect("encodable");
        prop_assume!(bytes.len() <= limits::DEPLOYMENT_BYTES);
        let refused = cbor::decode(&bytes).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("duplicate-key"));
    }
}

proptest! {
    /// What people write and what is signed for it mean the same to both who read it.
    #[test]
    fn what_is_pinned_names_its_host_and_nothing_else(
        text in "(([a-z0-9.:-]{1,9}|localhost|docker\\.io|GHCR\\.io|\\[::1\\]:5000)/)?[a-z0-9._-]{1,5}(/[a-z]{1,3})?(:[A-Za-z0-9.]{1,4})?|[ -~]{0,20}",
        digest: [u8; 32],
    ) {
        let Ok(name) = text.parse::<ImageName>() else { return Ok(()) };
        prop_assert_eq!(name.to_string().parse(), Ok(name.clone()));
        let pinned = name.pinned(name.digest().unwrap_or(ImageDigest(digest)));
        let signed = pinned.to_string();
        prop_assert_eq!(signed.parse(), Ok(pinned.clone()));
        let read: ImageName = signed.parse().expect("what is signed can be written");
        prop_assert_eq!(read.pinned(pinned.digest()), pinned);
        let host = name.registry();
        prop_assert!(host == "localhost" || host.contains(['.', ':']), "{}", host);
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn signed_is_verified(payload in arbitrary::payload()) {
        prop_assert_eq!(verify(&sign(&payload), &payload), Ok(payload));
    }

    #[test]
    fn any_flipped_bit_is_refused(
        payload in arbitrary::payload(),
        bits in proptest::collection::vec(any::<Index>(), 8),
    ) {
        let bytes = sign(&payload);
        for bit in bits {
            let bit = bit.index(bytes.len() * 8);
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(verify(&flipped, &payload).is_err(), "bit {}", bit);
        }
    }

    #[test]
    fn an_unknown_field_is_refused_even_when_signed(payload in arbitrary::payload(), map: Index) {
        let mut value = value_of(&payload);
        change_map(&mut value, 0, map, |entries| {
            // No field, variable or workload may be called so.
            entries.push((Value::Text("?".to_owned()), Value::Bool(true)));
            sort(entries);
        });
        prop_assert!(verify(&sign_value(&value), &payload).is_err());

        let Value::Map(mut entries) = value_of(&payload) else { panic!("a map") };
        entries.push((Value::Text("owner".to_owned()), Value::Integer(5.into())));
        sort(&mut entries);
        let refused = verify(&sign_value(&Value::Map(entries)), &payload);
        prop_assert_eq!(refused.map_err(|rejection| rejection.code()), Err("unknown-field"));
    }

    #[test]
    fn another_signer_is_refused(payload in arbitrary::payload(), seed in 2_u8.., twin: u64) {
        let forged = envelope::sign(&payload, &CHAIN, &[(OWNER, &key(seed))]).expect("signed");
        let refused = verify(&forged, &payload).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("bad-signature"));

        prop_assume!(twin != OWNER.0);
        let named = envelope::sign(&payload, &CHAIN, &[(TwinId(twin), &key(1))]).expect("signed");
        let refused = verify(&named, &payload).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("wrong-owner"));
    }

    #[test]
    fn a_replayed_version_is_refused(payload in arbitrary::payload(), running: u64) {
        let bytes = sign(&payload);
        let keys = owner_keys();
        let running = Some(Version(payload.version.0.saturating_add(running)));
        let expected = Expected { running, ..records(&payload, &keys) };
        let refused = envelope::verify(&bytes, &expected).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("not-newer"));

        prop_assume!(payload.version.0 < u64::MAX);
        let version = Version(payload.version.0 + 1);
        let expected = Expected { version, ..records(&payload, &keys) };
        let refused = envelope::verify(&bytes, &expected).map_err(|rejection| rejection.code());
        prop_assert_eq!(refused, Err("wrong-version"));
    }

    #[test]
    fn a_foreign_chain_contract_or_node_is_refused(
        payload in arbitrary::payload(),
        chain_id: u64,
        contract: [u8; 20],
        number: u64,
        node: [u8; 32],
    ) {
        let bytes = sign(&payload);
        let keys = owner_keys();
        let right = records(&payload, &keys);
        let code = |expected: &Expected<'_>| {
            envelope::verify(&bytes, expected).map_err(|rejection| rejection.code())
        };
        prop_assume!(chain_id != CHAIN.chain_id && contract != CHAIN.contract);
        let chain = ChainContext { chain_id, ..CHAIN };
        prop_assert_eq!(code(&Expected { chain, ..right }), Err("bad-signature"));
        let chain = ChainContext { contract, ..CHAIN };
        prop_assert_eq!(code(&Expected { chain, ..right }), Err("bad-signature"));

        prop_assume!(number != payload.contract.0 && node != right.node.0);
        let contract = ContractId(number);
        prop_assert_eq!(code(&Expected { contract, ..right }), Err("wrong-contract"));
        if let Target::Node(_) = payload.target {
            let node = NodeKey(node);
            prop_assert_eq!(code(&Expected { node, ..right }), Err("wrong-node"));
        }
    }
}

#[test]
fn more_bytes_than_a_contract_holds_are_not_looked_at() {
    let (payload, keys) = (least(), owner_keys());
    let most = limits::DEPLOYMENT_BYTES;
    for (size, too_large) in [(most, false), (most + 1, true), (2 * most, true)] {
        let zeros = vec![0; size];
        let refusals = [
            envelope::verify(&zeros, &records(&payload, &keys)).unwrap_err(),
            cbor::decode(&zeros).unwrap_err(),
        ];
        for refused in refusals {
            let said = matches!(refused, Rejection::TooLarge { size: told } if told == size);
            assert_eq!(said, too_large, "{size}: {refused}");
        }
    }
}

#[test]
fn a_verifier_tries_as_many_keys_as_the_chain_records() {
    let payload = least();
    let bytes = sign(&payload);
    let most = u8::try_from(limits::TWIN_KEYS).unwrap();
    // Its own is the last.
    let with = |count: u8| TwinKeys {
        keys: (1..=count)
            .rev()
            .map(|seed| (key(seed).verifying_key().to_bytes(), 1))
            .collect(),
        threshold: 1,
    };
    envelope::verify(&bytes, &records(&payload, &with(most))).unwrap();
    for more in [most + 1, most + 2] {
        let refused = envelope::verify(&bytes, &records(&payload, &with(more))).unwrap_err();
        assert_eq!(refused, EnvelopeError::NoKeys.into(), "{more} keys");
    }
}
