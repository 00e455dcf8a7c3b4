use std::{
    fs,
    io::Read,
    sync::atomic::{AtomicU64, Ordering},
};

use super::*;
use crate::image::{
    aside::{Ground, Source, Writer},
    space::Unbounded,
};

struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Source for Bytes<'_> {
    fn pass_hole(&mut self) -> u64 {
        0
    }
}

#[derive(Default)]
struct Counted(AtomicU64);

impl Space for Counted {
    fn take(&self, bytes: u64) -> Result<(), FetchError> {
        self.0.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    fn give_back(&self, _: u64) {}
}

/// So many blocks, each full of a number of its own.
fn aside(folder: &std::path::Path, blocks: u8) -> Aside {
    let bytes: Vec<u8> = (1..=blocks)
        .flat_map(|block| vec![block; BLOCK as usize])
        .collect();
    let space = &Unbounded;
    let mut writer = Writer::new(Ground { folder, space });
    writer.put(&mut Bytes(&bytes), 64).unwrap();
    writer.finish().unwrap()
}

fn carried(live: &Live, stop: &Stop) -> (Result<(), FetchError>, Vec<u8>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let aside = aside(folder.path(), 200);
    let target = folder.path().join("image");
    let image = File::create(&target).unwrap();
    let space = Counted::default();
    let done = carry(&aside, live, &image, &space, stop);
    let blocks = fs::read(target).unwrap();
    let blocks = blocks.chunks(BLOCK as usize).map(|block| {
        assert!(block.iter().all(|byte| *byte == block[0]));
        block[0]
    });
    (done, blocks.collect(), space.0.into_inner() / BLOCK)
}

fn extent(from: u32, blocks: u32, to: u32) -> Extent {
    Extent { from, blocks, to }
}

#[test]
fn what_shows_of_a_layer_comes_to_its_places_and_has_space_of_its_own() {
    let parts = Live::Parts(vec![extent(2, 3, 1), extent(150, 1, 4)]);
    let (done, blocks, taken) = carried(&parts, &Stop::default());
    done.unwrap();
    assert_eq!((blocks, taken), (vec![0, 3, 4, 5, 151], 4));
}

/// Whether the file system shares it or not.
#[test]
fn a_layer_comes_whole() {
    let whole = Live::Whole(extent(0, 200, 3));
    let (done, blocks, taken) = carried(&whole, &Stop::default());
    done.unwrap();
    let expected: Vec<u8> = [0; 3].into_iter().chain(1..=200).collect();
    assert_eq!(blocks, expected);
    assert!(taken == 0 || taken == 200);
}

#[test]
fn nothing_comes_that_nobody_wants_any_more() {
    let stop = Stop::default();
    stop.set();
    for live in [
        Live::Whole(extent(0, 200, 3)),
        Live::Parts(vec![extent(2, 3, 1)]),
    ] {
        let (done, blocks, _) = carried(&live, &stop);
        assert!(matches!(done, Err(FetchError::Stopped)), "{done:?}");
        assert!(blocks.is_empty());
    }
}

#[test]
fn of_a_layer_without_data_nothing_comes() {
    let folder = tempfile::tempdir().unwrap();
    let image = File::create(folder.path().join("image")).unwrap();
    let none = Live::Parts(Vec::new());
    let space = Counted::default();
    carry(&Aside::default(), &none, &image, &space, &Stop::default()).unwrap();
    assert_eq!(image.metadata().unwrap().len(), 0);
}
