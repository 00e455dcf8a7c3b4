//! Secrets sealed to a node: HPKE (RFC 9180), base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
//! ChaCha20Poly1305.
//!
//! | HPKE input | bytes |
//! |---|---|
//! | `info` | `loam-seal-v1`, chain id (8, big-endian), address of the contract (20), node's Ed25519 public key (32), contract's number (8, big-endian) |
//! | `aad` | where the secret stands: `web.sealed_env.TOKEN`, `web.image_login.sealed_user`, `web.image_login.sealed_password`, `store.sealed_password` |
//!
//! So a ciphertext that is copied into another contract, another machine or another variable does
//! not open: nobody can have a node show him a stranger's secret by deploying its ciphertext.

use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, rand_core::CryptoRng,
};
use zeroize::Zeroizing;

use crate::{ChainContext, ContractId, Name, NodeKey, payload::Sealed};

/// Bytes that sealing adds to the plain text in the ciphertext: the tag of Poly1305.
pub const OVERHEAD: usize = 16;

/// Where a secret stands. Sealing and opening need the same.
#[derive(Clone, Copy, Debug)]
pub struct SealContext<'a> {
    pub chain: ChainContext,
    pub node: NodeKey,
    pub contract: ContractId,
    pub workload: &'a Name,
    pub field: SealedField<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SealedField<'a> {
    /// The environment variable of this name.
    Env(&'a str),
    /// The password of an object store.
    Password,
    /// User and password at the registry of a machine's image.
    ImageUser,
    ImagePassword,
}

/// A node's HPKE keys.
#[derive(Clone)]
pub struct HpkeKeys {
    pub private: Zeroizing<[u8; 32]>,
    pub public: [u8; 32],
}

impl std::fmt::Debug for HpkeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HpkeKeys {{ public: {} }}", hex::encode(self.public))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the node's HPKE key in the chain's record is not usable")]
    Key,
    #[error(
        "{0} does not open with this node's key: it was sealed to another node, contract, \
         workload or field, or was changed"
    )]
    Open(String),
}

/// RFC 9180 section 7.1.3, `DeriveKeyPair`. The seed must be secret and at least as good as a key.
pub fn derive_keypair(seed: &[u8; 32]) -> HpkeKeys {
    let (private, public) = X25519HkdfSha256::derive_keypair(seed);
    HpkeKeys {
        private: Zeroizing::new(private.to_bytes().into()),
        public: public.to_bytes().into(),
    }
}

/// Seals with fresh randomness of the operating system: all that this crate ever asks of it.
pub fn seal(
    plain: &[u8],
    node_hpke_public: &[u8; 32],
    context: &SealContext<'_>,
) -> Result<Sealed, SealError> {
    let public = public_key(node_hpke_public)?;
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &context.info(),
            plain,
            &context.aad(),
        )
        .map_err(|_| SealError::Key)?;
    Ok(Sealed {
        encapsulated: encapsulated.to_bytes().into(),
        ciphertext,
    })
}

/// As [`seal`], with the randomness of `rng`.
pub fn seal_with_rng(
    plain: &[u8],
    node_hpke_public: &[u8; 32],
    context: &SealContext<'_>,
    rng: &mut impl CryptoRng,
) -> Result<Sealed, SealError> {
    let public = public_key(node_hpke_public)?;
    let (encapsulated, ciphertext) =
        hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &context.info(),
            plain,
            &context.aad(),
            rng,
        )
        .map_err(|_| SealError::Key)?;
    Ok(Sealed {
        encapsulated: encapsulated.to_bytes().into(),
        ciphertext,
    })
}

pub fn open(
    sealed: &Sealed,
    node_hpke_private: &[u8; 32],
    context: &SealContext<'_>,
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let error = || SealError::Open(context.place());
    let private = <X25519HkdfSha256 as Kem>::PrivateKey::from_bytes(node_hpke_private)
        .map_err(|_| error())?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&sealed.encapsulated)
        .map_err(|_| error())?;
    hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        &context.info(),
        &sealed.ciphertext,
        &context.aad(),
    )
    .map(Zeroizing::new)
    .map_err(|_| error())
}

fn public_key(bytes: &[u8; 32]) -> Result<<X25519HkdfSha256 as Kem>::PublicKey, SealError> {
    <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(bytes).map_err(|_| SealError::Key)
}

impl SealContext<'_> {
    fn info(&self) -> Vec<u8> {
        let mut info = self.chain.bind(b"loam-seal-v1");
        info.extend(self.node.0);
        info.extend(self.contract.0.to_be_bytes());
        info
    }

    fn aad(&self) -> Vec<u8> {
        self.place().into_bytes()
    }

    /// No two places share a text: a workload's name has no dot, and each field its own prefix.
    fn place(&self) -> String {
        match self.field {
            SealedField::Env(name) => format!("{}.sealed_env.{name}", self.workload),
            SealedField::Password => format!("{}.sealed_password", self.workload),
            SealedField::ImageUser => format!("{}.image_login.sealed_user", self.workload),
            SealedField::ImagePassword => format!("{}.image_login.sealed_password", self.workload),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(workload: &Name) -> SealContext<'_> {
        SealContext {
            chain: ChainContext {
                chain_id: 31337,
                contract: [7; 20],
            },
            node: NodeKey([1; 32]),
            contract: ContractId(3),
            workload,
            field: SealedField::Env("TOKEN"),
        }
    }

    #[test]
    fn what_is_logged_of_keys_is_the_public_one() {
        let keys = derive_keypair(&[9; 32]);
        let said = format!("{keys:?}");
        assert!(said.contains(&hex::encode(keys.public)), "{said}");
        assert!(!said.contains(&hex::encode(*keys.private)), "{said}");
    }

    #[test]
    fn opens_where_it_was_sealed_for_and_nowhere_else() {
        let (web, db) = (
            "web".parse().expect("a name"),
            "db".parse().expect("a name"),
        );
        let keys = derive_keypair(&[9; 32]);
        let right = context(&web);
        let sealed = seal(b"hunter2", &keys.public, &right).expect("seals");
        assert_eq!(sealed.ciphertext.len(), 7 + OVERHEAD);
        let opened = open(&sealed, &keys.private, &right).expect("opens");
        assert_eq!(opened.as_slice(), b"hunter2");

        let elsewhere = [
            SealContext {
                chain: ChainContext {
                    chain_id: 1,
                    ..right.chain
                },
                ..right
            },
            SealContext {
                chain: ChainContext {
                    contract: [8; 20],
                    ..right.chain
                },
                ..right
            },
            SealContext {
                node: NodeKey([2; 32]),
                ..right
            },
            SealContext {
                contract: ContractId(4),
                ..right
            },
            SealContext {
                workload: &db,
                ..right
            },
            SealContext {
                field: SealedField::Env("OTHER"),
                ..right
            },
            SealContext {
                field: SealedField::Password,
                ..right
            },
            SealContext {
                field: SealedField::ImageUser,
                ..right
            },
            SealContext {
                field: SealedField::ImagePassword,
                ..right
            },
        ];
        for wrong in elsewhere {
            assert!(open(&sealed, &keys.private, &wrong).is_err(), "{wrong:?}");
        }
        assert!(open(&sealed, &derive_keypair(&[8; 32]).private, &right).is_err());
    }

    #[test]
    fn no_changed_bit_opens() {
        let web = "web".parse().expect("a name");
        let keys = derive_keypair(&[9; 32]);
        let sealed = seal(b"hunter2", &keys.public, &context(&web)).expect("seals");
        for bit in 0..sealed.ciphertext.len() * 8 {
            let mut changed = sealed.clone();
            changed.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&changed, &keys.private, &context(&web)).is_err());
        }
        let mut low_order = sealed;
        low_order.encapsulated = [0; 32];
        assert!(open(&low_order, &keys.private, &context(&web)).is_err());
    }

    #[test]
    fn a_key_of_small_order_seals_nothing() {
        let web = "web".parse().expect("a name");
        assert_eq!(seal(b"x", &[0; 32], &context(&web)), Err(SealError::Key));
    }
}
