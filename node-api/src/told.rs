//! Files below [`crate::path::RUN`] in which one daemon tells all others what it knows.

use std::{fs, io, path::Path};

use serde::de::DeserializeOwned;

/// What was told last. Absent, unreadable: nothing is known.
pub(crate) fn read<T: DeserializeOwned + Default>(path: &Path) -> T {
    fs::read(path)
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(io::Error::other))
        .unwrap_or_default()
}
