//! How much a registry may make us do. Whoever names an image chooses the registry, too.

use std::time::Duration;

/// The OCI distribution specification has registries take at least this much; none serves more.
pub const MANIFEST: u64 = 4 << 20;

/// Indexes on the way to one image, each of which is a question more. Builders in use make one, and those
/// who join what several of them made another over it.
pub const INDEXES: usize = 8;

/// Entries of indexes that cannot be had and are passed over on the way to one image, each of which was asked
/// for. An index of 4 MiB may have twenty thousand; those in use have one for each level of processors.
pub const PASSED_OVER: usize = 16;

/// The largest configurations seen in the field have some hundred kilobytes (long histories).
pub const CONFIG: u64 = 1 << 20;

/// Docker's own limit is 127 (overlayfs's); more layers run nowhere.
pub const LAYERS: usize = 128;

/// All layers as the registry serves them. The largest images in use (machine learning) have 10.
pub const COMPRESSED: u64 = 32 << 30;

/// What a token server may answer.
pub const TOKEN: u64 = 64 << 10;

/// A registry that says nothing for so long has gone.
pub const SILENCE: Duration = Duration::from_secs(30);
