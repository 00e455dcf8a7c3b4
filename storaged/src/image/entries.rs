//! The entries of all layers in the order in which they apply, of layers that are read at the same time, their
//! data put aside.
//!
//! Unpacking, hashing and parsing a layer needs no other layer; only applying its entries does. So two threads
//! read layers, and what they find waits for its turn, as much of it as there is room for.

use std::{
    collections::VecDeque,
    io,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, Builder},
};

use loam_oci::digest::Digest;

use super::{
    aside::{self, Aside, Ground},
    erofs::{format::INODE, stored::Stored, xattrs},
    failure::{FetchError, io as io_error},
    layer::{self, Allowance, Hashed, Unpacked},
    tarball::{Entry, Kind, TarError, Tarball, show},
};

/// Few: the machines on the node have the other processors.
const READERS: usize = 2;

/// Bytes of entries that wait: of the layer that is applied, and of all behind it. The second is what an
/// ordinary layer has, so that it is read whole meanwhile.
const HELD: usize = 256 << 10;
const HELD_AHEAD: usize = 8 << 20;

/// A layer's file, and the digest of what it unpacks to.
pub type LayerFile = (PathBuf, Digest);

/// What comes of a layer.
#[derive(Debug)]
pub enum Step {
    /// With where a file's data is.
    Entry(Entry, Stored),
    /// It was read to its end, and is what the configuration says. Its files' data.
    End(Aside),
}

/// Gives all that the layers have to `apply`, with each layer's number, the lowest first. The first failure in
/// that order ends it; then nothing is read any more when it returns. What is in files goes to `ground`.
pub fn each(
    layers: &[LayerFile],
    ground: Ground<'_>,
    allowance: &Allowance,
    mut apply: impl FnMut(usize, Step) -> Result<(), FetchError>,
) -> Result<(), FetchError> {
    let line = Line::new(layers.len());
    let readers = readers(layers).map_err(io_error("look at the image's layers"))?;
    thread::scope(|scope| {
        for number in 0..readers {
            let read = || read_layers(layers, ground, allowance, &line);
            let spawned = Builder::new()
                .name("layers".to_owned())
                .spawn_scoped(scope, read);
            match spawned {
                // One is enough.
                Err(error) if number == 0 => {
                    return Err(io_error("start a thread that reads layers")(error));
                }
                _ => {}
            }
        }
        let _over = Over(&line, allowance);
        for layer in 0..layers.len() {
            loop {
                let step = line.next(layer)?;
                let is_end = matches!(step, Step::End(_));
                apply(layer, step)?;
                if is_end {
                    break;
                }
            }
            line.pass(layer);
        }
        Ok(())
    })
}

/// One for layers of which each may take a window of 128 MiB.
fn readers(layers: &[LayerFile]) -> io::Result<usize> {
    for (path, _) in layers {
        if layer::is_zstd(path)? {
            return Ok(1);
        }
    }
    Ok(READERS)
}

fn read_layers(layers: &[LayerFile], ground: Ground<'_>, allowance: &Allowance, line: &Line) {
    let _dies = Dies(line);
    while let Some(layer) = line.take() {
        let (path, expected) = &layers[layer];
        let end = match read(layer, path, *expected, ground, allowance, line) {
            Ok(Some(aside)) => Ok(Step::End(aside)),
            // Nobody wants it any more.
            Ok(None) => return,
            Err(error) => Err(error),
        };
        line.give(layer, end, 0);
    }
}

/// `None` if it has come to an end before the layer.
fn read(
    layer: usize,
    path: &Path,
    expected: Digest,
    ground: Ground<'_>,
    allowance: &Allowance,
    line: &Line,
) -> Result<Option<Aside>, FetchError> {
    let tar = |source| FetchError::Tar { layer, source };
    let unpacked = Unpacked::open(path, allowance.clone()).map_err(|e| tar(TarError::from(e)))?;
    let mut hashed = Hashed::new(unpacked);
    let mut tarball = Tarball::new(&mut hashed);
    let mut writer = aside::Writer::new(ground);
    while let Some(entry) = tarball.next_entry().map_err(tar)? {
        // What there is no room for is refused when its turn comes.
        let stored = if entry.kind == Kind::File && allowance.has_room_for(entry.size) {
            let head = INODE + xattrs::size(&entry.attributes.xattrs);
            let put = writer.put(&mut tarball.data(), head);
            put.map_err(|error| match error {
                aside::Failure::Source(error) => tar(unreadable(error, &entry)),
                aside::Failure::Own(error) => error,
            })?
        } else {
            Stored::default()
        };
        let weight = weight(&entry);
        if !line.give(layer, Ok(Step::Entry(entry, stored)), weight) {
            return Ok(None);
        }
    }
    tarball.finish().map_err(tar)?;
    let found = hashed.digest();
    if found != expected {
        return Err(FetchError::DiffId {
            layer,
            expected,
            found,
        });
    }
    writer.finish().map(Some)
}

fn unreadable(error: io::Error, entry: &Entry) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Entry {
            name: show(&entry.path.components().join(&b'/')),
            why: "the archive ends inside it".to_owned(),
        },
        _ => error.into(),
    }
}

/// About what it takes in memory.
fn weight(entry: &Entry) -> usize {
    let of_path = |components: &[Box<[u8]>]| -> usize {
        components
            .iter()
            .map(|component| component.len() + 32)
            .sum()
    };
    let link = match &entry.kind {
        Kind::HardLink(target) => of_path(target.components()),
        Kind::Symlink(target) => target.len(),
        _ => 0,
    };
    let xattrs = &entry.attributes.xattrs;
    let xattrs: usize = xattrs.iter().map(|(k, v)| k.len() + v.len() + 96).sum();
    size_of::<Step>() + of_path(entry.path.components()) + link + xattrs
}

/// Where steps wait for their turn.
struct Line {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    waiting: Vec<VecDeque<(Result<Step, FetchError>, usize)>>,
    /// Of each layer, the weight of what waits.
    held: Vec<usize>,
    /// Which is applied.
    current: usize,
    /// Which is read next.
    next: usize,
    /// Nobody takes any more, or somebody who was to give has died.
    over: bool,
}

impl State {
    fn has_room(&self, layer: usize, weight: usize) -> bool {
        if layer == self.current {
            self.held[layer] < HELD
        } else {
            let ahead: usize = self.held[self.current + 1..].iter().sum();
            ahead + weight <= HELD_AHEAD
        }
    }
}

impl Line {
    fn new(layers: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: (0..layers).map(|_| VecDeque::new()).collect(),
                held: vec![0; layers],
                current: 0,
                next: 0,
                over: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// A layer to read. They are taken in their order, so whoever waits for room waits for one that is being
    /// read or was.
    fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        let layer = state.next;
        state.next += 1;
        (layer < state.held.len() && !state.over).then_some(layer)
    }

    /// Waits for room. False when nobody wants it any more.
    fn give(&self, layer: usize, step: Result<Step, FetchError>, weight: usize) -> bool {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| !state.over && !state.has_room(layer, weight))
            .unwrap_or_else(PoisonError::into_inner);
        if state.over {
            return false;
        }
        state.held[layer] += weight;
        state.waiting[layer].push_back((step, weight));
        self.changed.notify_all();
        true
    }

    /// What comes next of the layer that is applied.
    fn next(&self, layer: usize) -> Result<Step, FetchError> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| {
                !state.over && state.waiting[layer].is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        let Some((step, weight)) = state.waiting[layer].pop_front() else {
            let died = io::Error::other("a thread that read layers has died");
            return Err(io_error("read the image's layers")(died));
        };
        state.held[layer] -= weight;
        self.changed.notify_all();
        step
    }

    /// The layer is applied; the next one's turn has come.
    fn pass(&self, layer: usize) {
        let mut state = self.lock();
        state.current = (layer + 1).min(state.held.len() - 1);
        self.changed.notify_all();
    }

    fn end(&self) {
        self.lock().over = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the readers, also in the middle of a file, when all is applied or something has failed.
struct Over<'a>(&'a Line, &'a Allowance);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
        self.1.withdraw();
    }
}

/// So that nobody waits for what a reader that panicked would have given.
struct Dies<'a>(&'a Line);

impl Drop for Dies<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.end();
        }
    }
}

#[cfg(test)]
#[path = "entries_tests.rs"]
mod tests;
