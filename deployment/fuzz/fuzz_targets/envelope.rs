//! Any bytes at all, as a node gets them from the chain: refused without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loam_deployment::{
    ChainContext, ContractId, NodeKey, SigningKey, TwinId, Version,
    envelope::{self, Expected, TwinKeys},
};

fuzz_target!(|bytes: &[u8]| {
    let key = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
    let keys = TwinKeys {
        keys: vec![(key, 1)],
        threshold: 1,
    };
    let expected = Expected {
        chain: ChainContext {
            chain_id: 31337,
            contract: [0; 20],
        },
        node: NodeKey([2; 32]),
        farm: None,
        contract: ContractId(7),
        version: Version(1),
        owner: TwinId(5),
        keys: &keys,
        now: 0,
        running: None,
    };
    // A fuzzer that forges a signature has found more than a panic.
    assert!(envelope::verify(bytes, &expected).is_err());
});
