//! A node's word for its chain account.
//!
//! The contract cannot check Ed25519, so anyone may register anyone's key. What tells a node from
//! an impostor is this signature, which only the holder of the node's key can make; every reader
//! checks it, and takes a record without it for no record.

use alloy::primitives::Address;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use loam_deployment::{ChainContext, NodeKey};

const CONTEXT: &[u8] = b"loam-node-v1";

/// What a node signs: `loam-node-v1`, the chain id (8 bytes, big-endian), the contract's address
/// (20 bytes) and the account's (20 bytes).
pub fn node_binding_message(grid: ChainContext, account: Address) -> Vec<u8> {
    let mut message = CONTEXT.to_vec();
    message.extend(grid.chain_id.to_be_bytes());
    message.extend(grid.contract);
    message.extend(account);
    message
}

/// Signs with the node's Ed25519 seed.
pub fn sign_binding(seed: &[u8; 32], grid: ChainContext, account: Address) -> [u8; 64] {
    SigningKey::from_bytes(seed)
        .sign(&node_binding_message(grid, account))
        .to_bytes()
}

/// Whether the holder of `node` bound itself to `account` on this grid.
pub fn binding_holds(
    node: NodeKey,
    grid: ChainContext,
    account: Address,
    binding: &[u8; 64],
) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(&node.0) else {
        return false;
    };
    // Strict: a small-order key would verify a signature that nobody made.
    key.verify_strict(
        &node_binding_message(grid, account),
        &Signature::from_bytes(binding),
    )
    .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn grid() -> ChainContext {
        ChainContext {
            chain_id: 31337,
            contract: [0xc0; 20],
        }
    }

    proptest! {
        // Each case verifies five signatures, which takes a while without optimisation.
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn holds_for_its_own_words_only(seed: [u8; 32], account: [u8; 20], flip in 0usize..512) {
            let account = Address::from(account);
            let node = NodeKey(SigningKey::from_bytes(&seed).verifying_key().to_bytes());
            let mut binding = sign_binding(&seed, grid(), account);
            prop_assert!(binding_holds(node, grid(), account, &binding));

            let mut other = account;
            other.0[flip % 20] ^= 1;
            prop_assert!(!binding_holds(node, grid(), other, &binding));
            let foreign = ChainContext { chain_id: 1, ..grid() };
            prop_assert!(!binding_holds(node, foreign, account, &binding));
            let foreign = ChainContext { contract: [0; 20], ..grid() };
            prop_assert!(!binding_holds(node, foreign, account, &binding));
            binding[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!binding_holds(node, grid(), account, &binding));
        }
    }

    #[test]
    fn a_small_order_key_binds_nobody() {
        // The neutral element verifies (R = identity, s = 0) in a lax verifier.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let mut binding = [0; 64];
        binding[0] = 1;
        assert!(!binding_holds(
            NodeKey(neutral),
            grid(),
            Address::ZERO,
            &binding
        ));
    }
}
