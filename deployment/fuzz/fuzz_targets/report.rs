//! Any bytes at all, as a command line gets them from the chain: refused without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loam_deployment::{ChainContext, NodeKey, SigningKey, report};

fuzz_target!(|bytes: &[u8]| {
    let node = NodeKey(SigningKey::from_bytes(&[5; 32]).verifying_key().to_bytes());
    let chain = ChainContext {
        chain_id: 31337,
        contract: [0; 20],
    };
    assert!(report::verify(bytes, &chain, &node).is_err());
});
