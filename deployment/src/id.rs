//! The numbers and keys by which the grid knows its records.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = std::num::ParseIntError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

number!(
    /// A twin: a person or a machine that owns things on the grid. Starts at 1.
    TwinId
);
number!(
    /// A farm: the nodes of one farmer. Starts at 1.
    FarmId
);
number!(
    /// A contract: one deployment on one node. Starts at 1.
    ContractId
);
number!(
    /// The version of a deployment: starts at 1, rises by 1 with each update.
    Version
);

/// A node's Ed25519 public key: its identity. Written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeKey(pub [u8; 32]);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a node's key; expected 64 hexadecimal digits")]
pub struct NodeKeyError(String);

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({self})")
    }
}

impl FromStr for NodeKey {
    type Err = NodeKeyError;

    fn from_str(text: &str) -> Result<Self, NodeKeyError> {
        let mut key = [0; 32];
        hex::decode_to_slice(text, &mut key).map_err(|_| NodeKeyError(text.to_owned()))?;
        Ok(Self(key))
    }
}

impl TryFrom<String> for NodeKey {
    type Error = NodeKeyError;

    fn try_from(text: String) -> Result<Self, NodeKeyError> {
        text.parse()
    }
}

impl From<NodeKey> for String {
    fn from(key: NodeKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_key_is_shown_in_one_way() {
        let text = format!("{}0f", "ab".repeat(31));
        let key: NodeKey = text.parse().unwrap();
        assert_eq!(key.to_string(), text);
        assert_eq!(format!("{key:?}"), format!("NodeKey({text})"));
        assert_eq!(String::from(key), text);
        for wrong in ["", "ab", &"zz".repeat(32), &"ab".repeat(33)] {
            assert!(wrong.parse::<NodeKey>().is_err(), "{wrong}");
        }
    }
}
