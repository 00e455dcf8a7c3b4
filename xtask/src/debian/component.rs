//! What Debian's archives sort packages into, by their terms (Debian policy, 2.2).

use serde::{Deserialize, Serialize};

#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Component {
    /// Free, with its source.
    #[default]
    Main,
    /// What processors and cards load, under its makers' terms and mostly without source.
    NonFreeFirmware,
}

impl Component {
    /// For `skip_serializing_if`.
    pub fn is_main(&self) -> bool {
        *self == Self::Main
    }

    /// Its folder below that of a suite.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::NonFreeFirmware => "non-free-firmware",
        }
    }
}
