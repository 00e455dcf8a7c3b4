//! Makes an image's file of what was read of its layers.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
};

use super::{
    aside::Aside,
    carry::carry,
    erofs::{
        format::BLOCK,
        plan::Plan,
        write::{WriteError, write},
    },
    failure::{FetchError, io as io_error},
    space::Space,
    stop::Stop,
    tree::Tree,
};

/// What is written at once.
const BUFFER: usize = 256 << 10;

/// `layers`: what was put aside of each, the lowest first. `image` is empty; it is as long as it takes when this
/// returns, and not yet durable. The same tree and layers give the same bytes. Ends soon when `stop` is set.
pub fn finish(
    tree: &Tree,
    layers: &[Aside],
    image: &File,
    space: &dyn Space,
    stop: &Stop,
) -> Result<(), FetchError> {
    let blocks: Vec<u32> = layers.iter().map(Aside::count).collect();
    let plan = Plan::new(tree, &blocks)?;
    space.take(plan.metadata())?;
    let mut out = BufWriter::with_capacity(BUFFER, Stopping { image, stop });
    let written = write(&plan, &layers, &mut out).and_then(|()| Ok(out.flush()?));
    written.map_err(|error| match error {
        WriteError::Io(_) if stop.is_set() => FetchError::Stopped,
        WriteError::Io(error) => io_error("write the image's names")(error),
        WriteError::TooLarge(error) => error.into(),
    })?;
    for (layer, live) in layers.iter().zip(plan.live()) {
        carry(layer, live, image, space, stop)?;
    }
    let length = image
        .metadata()
        .map_err(io_error("look at the image's file"))?
        .len();
    if length != u64::from(plan.blocks()) * BLOCK {
        let short = io::Error::other(format!("it has {length} bytes"));
        return Err(io_error("write the whole image")(short));
    }
    Ok(())
}

/// Writes nothing any more when it is to stop.
struct Stopping<'a> {
    image: &'a File,
    stop: &'a Stop,
}

impl Write for Stopping<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.stop.is_set() {
            return Err(io::Error::other("the image is no longer wanted"));
        }
        self.image.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.image.flush()
    }
}

#[cfg(test)]
#[path = "finish_tests.rs"]
mod tests;
