//! Any text as TOML: what is read becomes a payload that every node accepts.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use loam_deployment::{
    ChainContext, ContractId, ImageDigest, NodeKey, Version, seal, validate,
    written::{self, Recipient},
};

fuzz_target!(|text: &str| {
    let lookup = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    match written::read("fuzz.toml", text, &lookup) {
        Ok(written) => {
            // Whatever a registry says, what is signed names its host and its digest.
            let asked = written.unpinned().iter();
            let digests: BTreeMap<_, _> = asked
                .map(|asked| (asked.machine.clone(), ImageDigest([7; 32])))
                .collect();
            let draft = written.pinned(&digests).expect("all that was asked is told");
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
