//! Makes an image's file of layers that are files, without a pool: for tools and tests.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{
    aside::Ground,
    build,
    failure::{FetchError, io as io_error},
    layer::{Allowance, Hashed, Unpacked},
    space::Unbounded,
    stop::Stop,
};

/// As long as anybody has who waits for it.
const PATIENCE: Duration = Duration::from_secs(3600);

/// `layers`: the lowest first, packed or not. `target` does not exist yet; beside it is put what the file is made
/// of, in files without names. Blocks. The same layers give what storaged makes of them.
pub fn pack(layers: &[PathBuf], target: &Path) -> Result<(), FetchError> {
    let allowance = || Allowance::new(&Stop::default(), Instant::now() + PATIENCE);
    let read = io_error("read a layer");
    let mut files = Vec::new();
    // Unpacked once more for this alone: whoever reads layers must know what they are to be, as on a node.
    for path in layers {
        let mut unpacked = Hashed::new(Unpacked::open(path, allowance()).map_err(&read)?);
        io::copy(&mut unpacked, &mut io::sink()).map_err(&read)?;
        files.push((path.clone(), unpacked.digest()));
    }
    let folder = target.parent().filter(|parent| *parent != Path::new(""));
    let ground = Ground {
        folder: folder.unwrap_or(Path::new(".")),
        space: &Unbounded,
    };
    let (tree, asides) = build::read(&files, ground, &allowance())?;
    build::write(&tree, &asides, target, &Unbounded, &Stop::default())
}
