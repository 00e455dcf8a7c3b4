//! The node's identity: one secret seed, from which all its keys come.
//!
//! The seed is made at the first boot that finds a disk, and kept by storaged. Beside it stands the
//! name of the grid that it was made for: the contract numbers of one grid mean nothing on another,
//! so a node that boots with another grid's image must not take its data for somebody's left-overs.

use anyhow::{Context, ensure};
use ed25519_dalek::SigningKey;
use hkdf::Hkdf;
use loam_chain::AccountKey;
use loam_deployment::{
    NodeKey,
    seal::{self, HpkeKeys},
};
use loam_node_api::storage::{StorageClient, StorageError};
use rand::RngCore;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::daemons::{Daemon, DaemonError, call, deadline};

const SEED: &str = "node-seed";
const GRID: &str = "grid";

#[derive(Debug)]
pub struct Identity {
    pub node: NodeKey,
    pub signing: SigningKey,
    /// Opens sealed secrets; also the node's static Noise key.
    pub hpke: HpkeKeys,
    /// Pays for and signs the node's own transactions.
    pub account: AccountKey,
}

#[derive(Debug, Error)]
pub enum IdentityError {
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error(
        "the disks hold data of the grid {found}, and this image joins {ours}: boot that grid's \
         image, or empty the disks"
    )]
    OtherGrid { found: String, ours: String },
    #[error("the node's identity on the disks is damaged: {0:#}")]
    Damaged(anyhow::Error),
}

impl Identity {
    pub fn from_seed(seed: &[u8; 32]) -> anyhow::Result<Self> {
        let signing = SigningKey::from_bytes(seed);
        Ok(Self {
            node: NodeKey(signing.verifying_key().to_bytes()),
            hpke: seal::derive_keypair(&derive(seed, b"loam-node-hpke-v1")),
            account: AccountKey::from_seed(&derive(seed, b"loam-node-account-v1"))?,
            signing,
        })
    }

    /// The node's identity, made if no disk has one yet.
    pub async fn load(storage: &StorageClient, grid: &str) -> Result<Self, IdentityError> {
        let found = storage
            .secret_load(deadline(), GRID.into())
            .await
            .map_err(call(Daemon::Storaged))??;
        if let Some(found) = found
            && found != grid.as_bytes()
        {
            let found = String::from_utf8_lossy(&found).into_owned();
            return Err(IdentityError::OtherGrid {
                found,
                ours: grid.to_owned(),
            });
        }
        let seed = storage
            .secret_load(deadline(), SEED.into())
            .await
            .map_err(call(Daemon::Storaged))??;
        let seed = match seed {
            Some(seed) => Zeroizing::new(seed),
            None => {
                let mut seed = Zeroizing::new(vec![0; 32]);
                rand::rng().fill_bytes(&mut seed);
                // The grid first: a seed without it would be used on any grid.
                for (name, secret) in [(GRID, grid.as_bytes()), (SEED, &seed[..])] {
                    storage
                        .secret_store(deadline(), name.into(), secret.to_vec())
                        .await
                        .map_err(call(Daemon::Storaged))??;
                }
                seed
            }
        };
        Self::checked(&seed).map_err(IdentityError::Damaged)
    }

    /// Lets the pools of this node carry its name.
    pub async fn tell(&self, storage: &StorageClient) -> Result<(), IdentityError> {
        storage
            .node_is(deadline(), self.node)
            .await
            .map_err(call(Daemon::Storaged))??;
        Ok(())
    }

    fn checked(seed: &[u8]) -> anyhow::Result<Self> {
        ensure!(seed.len() == 32, "the seed has {} bytes", seed.len());
        let seed = seed.try_into().context("32 bytes")?;
        Self::from_seed(seed)
    }
}

fn derive(seed: &[u8; 32], purpose: &[u8]) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, seed)
        .expand(purpose, &mut *key)
        .expect("32 bytes are far below what HKDF can give");
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_identity_and_unrelated_keys() {
        let a = Identity::from_seed(&[1; 32]).unwrap();
        let again = Identity::from_seed(&[1; 32]).unwrap();
        let b = Identity::from_seed(&[2; 32]).unwrap();
        assert_eq!(a.node, again.node);
        assert_eq!(a.account.address(), again.account.address());
        assert_eq!(a.hpke.public, again.hpke.public);
        assert_ne!(a.node, b.node);
        assert_ne!(a.account.address(), b.account.address());
        assert_ne!(derive(&[1; 32], b"x"), derive(&[1; 32], b"y"));
    }
}
