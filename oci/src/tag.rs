//! What a tag names now: for those who sign. A node is told digests alone.
//!
//! What is signed is the digest of **what the tag names**, be that an index or a manifest, and not that
//! of the one image that an index leads to here: an index lets each node choose what makes most of its
//! processor, its digest is the one that registries and other tools show for the tag, and registries
//! that throw away what no tag names keep it for as long as the tag stays.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::Deserialize;

use crate::{
    digest::Digest,
    json::{self, JsonError},
    manifest::DocumentError,
    platform::{ARCHITECTURE, Level, OS},
    registry::{Registry, RegistryError},
    resolve::{Resolved, Search},
};

#[derive(Debug, thiserror::Error)]
pub enum TagError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("its configuration cannot be read: {0}")]
    Config(JsonError),
    #[error("it has no image for {OS}/{ARCHITECTURE}, which is what nodes run; it has {0}")]
    Platform(String),
}

/// What a tag names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tagged {
    pub digest: Digest,
    /// What a node's processor must be to run one of its images.
    pub needs: Level,
}

/// From the lowest on.
const LEVELS: [Level; 4] = [Level::V1, Level::V2, Level::V3, Level::V4];

/// Asks what the tag names, and has made sure that some node can run it.
///
/// # Errors
///
/// The registry does not answer, or what it has is for other platforms.
pub async fn look_up(registry: &Registry, tag: &str) -> Result<Tagged, TagError> {
    let document = registry.tagged(tag).await?;
    let digest = Digest::of(&document);
    let mut known = BTreeMap::from([(digest, document)]);
    let mut first = None;
    for needs in LEVELS {
        let error = match follow(registry, digest, needs, &mut known).await {
            Ok(()) => return Ok(Tagged { digest, needs }),
            Err(TagError::Registry(error)) if error.is_passing() => return Err(error.into()),
            Err(TagError::Document(DocumentError::Platform(others))) => TagError::Platform(others),
            Err(error) => error,
        };
        // What nodes of this level cannot have says nothing of those of the next. That there is nothing for
        // a level is of less use than why what there is cannot be had.
        let is_better = |first: &TagError| matches!(first, TagError::Platform(_));
        if first.as_ref().is_none_or(is_better) {
            first = Some(error);
        }
    }
    Err(first.unwrap_or_else(|| TagError::Platform(String::new())))
}

/// To the image that a node of this level runs, and has made sure that it can. Nothing that is there is asked
/// for twice.
async fn follow(
    registry: &Registry,
    digest: Digest,
    level: Level,
    known: &mut BTreeMap<Digest, Vec<u8>>,
) -> Result<(), TagError> {
    let mut search = Search::new(digest, level);
    loop {
        let wanted = search.wanted();
        let document = match known.get(&wanted) {
            Some(document) => document,
            None => match registry.manifest(wanted).await {
                Ok(document) => known.entry(wanted).or_insert(document),
                Err(error) if error.is_passing() => return Err(error.into()),
                // What an index has besides may be there.
                Err(error) => {
                    search.pass_over(TagError::from(error))?;
                    continue;
                }
            },
        };
        if let Some(resolved) = search.take_in(document)? {
            return check_config(registry, &resolved, known).await;
        }
    }
}

/// A tag that names no index says nothing of its platform but there.
async fn check_config(
    registry: &Registry,
    resolved: &Resolved,
    known: &mut BTreeMap<Digest, Vec<u8>>,
) -> Result<(), TagError> {
    #[derive(Deserialize)]
    struct Config {
        architecture: String,
        os: String,
    }
    let config = &resolved.manifest.config;
    let bytes = match known.entry(config.digest) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(place) => {
            place.insert(registry.small_blob(config.digest, config.size).await?)
        }
    };
    // As nodes read it.
    let text = String::from_utf8_lossy(bytes);
    let Config { architecture, os } = json::read(text.as_bytes()).map_err(TagError::Config)?;
    if os != OS || architecture != ARCHITECTURE {
        let platform = format!("{os}/{architecture}").chars().take(80).collect();
        return Err(TagError::Platform(platform));
    }
    Ok(())
}

#[cfg(test)]
#[path = "tag_tests.rs"]
mod tests;
