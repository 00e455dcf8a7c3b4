//! Any text as TOML: what is read becomes a payload that every node accepts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use loam_deployment::{
    ChainContext, ContractId, NodeKey, Version, seal, validate,
    written::{self, Recipient},
};

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    match written::read("fuzz.toml", text, &lookup) {
        Ok(draft) => {
            let recipient = Recipient {
                chain: ChainContext {
                    chain_id: 31337,
                    contract: [0; 20],
                },
                node: NodeKey([2; 32]),
                hpke_public: seal::derive_keypair(&[6; 32]).public,
                contract: ContractId(7),
                version: Version(1),
            };
            let payload = draft.for_node(&recipient).expect("the key is good");
            assert_eq!(validate::payload(&payload), Ok(()));
        }
        Err(error) => assert!(error.line <= text.lines().count().max(1) + 1),
    }
});
