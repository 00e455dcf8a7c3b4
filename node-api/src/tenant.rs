//! What a tenant may ask a node directly, over the network: the console of its own machines.
//!
//! TCP port [`crate::path::TENANT_PORT`], `Noise_NK_25519_ChaChaPoly_SHA256`: the node's static key
//! is the HPKE public key in its record on the chain, so the tenant knows whom it talks to. The
//! tenant proves itself with the first message inside: [`Hello`], signed with a key of its twin.

use loam_deployment::{ContractId, Name, TwinId};
use serde::{Deserialize, Serialize};

use crate::window::WindowSize;

#[cfg(feature = "tenant")]
pub mod channel;

pub const NOISE_PATTERN: &str = "Noise_NK_25519_ChaChaPoly_SHA256";

/// Mixed into the handshake, so that no other protocol's message is taken for one of ours.
pub const PROLOGUE: &[u8] = b"loam-tenant-v1";

/// Each Noise message is preceded by its length, 2 bytes big-endian; inside is one JSON object.
pub const MAX_MESSAGE: usize = 65535;

/// First message inside the channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub twin: TwinId,
    /// Which of the twin's keys signed.
    pub key: [u8; 32],
    /// Ed25519 over [`PROLOGUE`] followed by the handshake hash (32 bytes). 64 bytes.
    pub signature: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "request")]
pub enum TenantRequest {
    /// Console output from `from` on; with `follow`, the answers go on as the machine writes.
    Console {
        contract: ContractId,
        machine: Name,
        from: u64,
        follow: bool,
    },
    /// Types into the console.
    Input {
        contract: ContractId,
        machine: Name,
        bytes: Vec<u8>,
    },
    /// The terminal at which the console is shown has this size now.
    Resize {
        contract: ContractId,
        machine: Name,
        size: WindowSize,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "response")]
pub enum TenantResponse {
    Welcome,
    /// `start` is the position of the first byte. At most 32 KiB a message.
    Output {
        start: u64,
        bytes: Vec<u8>,
    },
    /// No more output: end of what is there, or the machine ended.
    End,
    Done,
    Refused {
        reason: String,
    },
}
