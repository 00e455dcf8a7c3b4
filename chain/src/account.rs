//! [`AccountKey`]: the secp256k1 key of a chain account.

use std::fmt;

use alloy::primitives::{Address, B256, Signature};
use k256::ecdsa::SigningKey;

/// The key of a chain account. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct AccountKey(SigningKey);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("these 32 bytes are no secp256k1 key; draw others")]
pub struct AccountKeyError;

impl AccountKey {
    /// 32 bytes of a good random source or key derivation. All but one in 2^128 are a key.
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, AccountKeyError> {
        let key = SigningKey::from_bytes(seed.into()).map_err(|_| AccountKeyError)?;
        Ok(Self(key))
    }

    pub fn address(&self) -> Address {
        Address::from_private_key(&self.0)
    }

    /// Signs a hash that nobody else chose.
    pub(crate) fn sign(&self, hash: B256) -> Signature {
        // RFC 6979 signing of a 32-byte hash fails only for hashes of another length.
        let signature = self
            .0
            .sign_prehash_recoverable(hash.as_slice())
            .expect("a hash of 32 bytes");
        signature.into()
    }
}

impl fmt::Debug for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountKey({})", self.address())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first account of the mnemonic that every development chain funds.
    #[test]
    fn address_of_a_well_known_key() {
        let seed = alloy::primitives::hex!(
            "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
        );
        let key = AccountKey::from_seed(&seed).unwrap();
        assert_eq!(
            key.address().to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        assert!(!format!("{key:?}").contains("ac0974"));
    }

    #[test]
    fn refuses_what_is_no_key() {
        assert!(AccountKey::from_seed(&[0; 32]).is_err());
        assert!(AccountKey::from_seed(&[0xff; 32]).is_err());
    }

    #[test]
    fn signature_recovers_to_the_address() {
        let key = AccountKey::from_seed(&[7; 32]).unwrap();
        let hash = B256::repeat_byte(3);
        let signer = key.sign(hash).recover_address_from_prehash(&hash).unwrap();
        assert_eq!(signer, key.address());
    }
}
