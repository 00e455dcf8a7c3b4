use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::*;

use super::*;
use crate::image::{erofs::format::INODE, space::Unbounded};

/// A file, piece by piece.
#[derive(Clone, Debug)]
enum Piece {
    Hole(u64),
    Data(Vec<u8>),
}

/// Gives few bytes at a time, as a stream does.
struct Pieces {
    left: std::collections::VecDeque<Piece>,
    most: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.left.front_mut() {
                None => return Ok(0),
                Some(Piece::Hole(_)) => panic!("a hole is read"),
                Some(Piece::Data(data)) if data.is_empty() => drop(self.left.pop_front()),
                Some(Piece::Data(data)) => {
                    let length = data.len().min(self.most).min(buffer.len());
                    buffer[..length].copy_from_slice(&data[..length]);
                    data.drain(..length);
                    return Ok(length);
                }
            }
        }
    }
}

impl Source for Pieces {
    fn pass_hole(&mut self) -> u64 {
        while matches!(self.left.front(), Some(Piece::Data(data)) if data.is_empty()) {
            self.left.pop_front();
        }
        match self.left.front() {
            Some(Piece::Hole(length)) => {
                let length = *length;
                self.left.pop_front();
                length
            }
            _ => 0,
        }
    }
}

fn source(pieces: &[Piece], most: usize) -> Pieces {
    Pieces {
        left: pieces.iter().cloned().collect(),
        most,
    }
}

fn whole(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Hole(length) => bytes.resize(bytes.len() + *length as usize, 0),
            Piece::Data(data) => bytes.extend_from_slice(data),
        }
    }
    bytes
}

/// Files, one after the other, and what was put aside of them.
fn put_aside(files: &[Vec<Piece>], most: usize) -> (Vec<Stored>, Aside) {
    let folder = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(Ground {
        folder: folder.path(),
        space: &Unbounded,
    });
    let stored = files
        .iter()
        .map(|file| writer.put(&mut source(file, most), INODE).unwrap())
        .collect();
    (stored, writer.finish().unwrap())
}

fn runs(stored: &Stored, aside: &Aside) -> Vec<Run> {
    match stored.shape {
        Shape::Holes(holes) => (0..u64::from(holes.runs))
            .map(|run| {
                let mut bytes = [0; Run::SIZE];
                let beside = aside.beside.as_ref().unwrap();
                beside
                    .read_exact_at(&mut bytes, holes.at + run * Run::SIZE as u64)
                    .unwrap();
                Run::read(bytes)
            })
            .collect(),
        _ => vec![Run {
            first: 0,
            blocks: stored.blocks,
        }],
    }
}

/// A file's bytes again, as many as it has.
fn read_back(stored: &Stored, aside: &Aside, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size.next_multiple_of(BYTES)];
    let mut from = u64::from(stored.first);
    for run in runs(stored, aside) {
        let at = run.first as usize * BYTES;
        let room = &mut bytes[at..at + run.blocks as usize * BYTES];
        if let Some(blocks) = aside.blocks() {
            blocks.read_exact_at(room, from * BLOCK).unwrap();
        }
        from += u64::from(run.blocks);
    }
    assert!(bytes[size..].iter().all(|byte| *byte == 0));
    bytes.truncate(size);
    if let Shape::Tail { at } = stored.shape {
        let tail = size - size % BYTES;
        let beside = aside.beside.as_ref().unwrap();
        beside.read_exact_at(&mut bytes[tail..], at).unwrap();
    }
    bytes
}

fn data(length: usize) -> Piece {
    Piece::Data(vec![7; length])
}

#[test]
fn a_short_end_is_kept_beside_and_a_long_one_fills_a_block() {
    let shortest = BYTES - INODE as usize;
    for (length, blocks, is_tail) in [
        (0, 0, false),
        (1, 0, true),
        (shortest, 0, true),
        (shortest + 1, 1, false),
        (BYTES - 1, 1, false),
        (BYTES, 1, false),
        (BYTES + 1, 1, true),
        (3 * BYTES - 1, 3, false),
    ] {
        let files = [vec![data(length)], vec![data(5)]];
        let (stored, aside) = put_aside(&files, 1000);
        assert_eq!(stored[0].blocks, blocks, "{length}");
        let tail = matches!(stored[0].shape, Shape::Tail { .. });
        assert_eq!(tail, is_tail, "{length}");
        assert_eq!(read_back(&stored[0], &aside, length), vec![7; length]);
        assert_eq!(read_back(&stored[1], &aside, 5), [7; 5]);
        assert_eq!(aside.count(), blocks);
    }
}

#[test]
fn attributes_leave_less_room_for_an_end() {
    let folder = tempfile::tempdir().unwrap();
    let ground = Ground {
        folder: folder.path(),
        space: &Unbounded,
    };
    let mut writer = Writer::new(ground);
    for (head, blocks) in [(4096 - 100, 0), (4096 - 99, 1)] {
        let stored = writer.put(&mut source(&[data(100)], 100), head).unwrap();
        assert_eq!(stored.blocks, blocks);
    }
}

fn holes(of: &Stored) -> (u32, u8) {
    match of.shape {
        Shape::Holes(holes) => (holes.runs, holes.chunk),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_hole_is_not_kept_whoever_says_that_it_is_one() {
    let block = BLOCK;
    let zeroes = |blocks: usize| Piece::Data(vec![0; blocks * BYTES]);
    for middle in [Piece::Hole(3 * block), zeroes(3)] {
        let files = [
            vec![data(BYTES), middle.clone(), data(BYTES)],
            vec![middle.clone(), data(2 * BYTES)],
            vec![data(4 * BYTES), middle.clone()],
            vec![middle],
        ];
        let (stored, aside) = put_aside(&files, 100_000);
        let found: Vec<_> = stored
            .iter()
            .map(|s| (s.first, s.blocks, holes(s)))
            .collect();
        assert_eq!(
            found,
            [
                (0, 2, (2, 0)),
                (2, 2, (1, 0)),
                (4, 4, (1, 2)),
                (8, 0, (0, LARGEST_CHUNK as u8))
            ]
        );
        for (stored, file) in stored.iter().zip(&files) {
            let expected = whole(file);
            assert!(read_back(stored, &aside, expected.len()) == expected);
        }
    }
}

/// Nobody reads or writes it: this would not end.
#[test]
fn a_hole_of_any_length_takes_no_time() {
    let long = 1 << 35;
    let files = [vec![Piece::Hole(long), data(1), Piece::Hole(long - 1)]];
    let (stored, aside) = put_aside(&files, 1);
    assert_eq!((stored[0].blocks, holes(&stored[0])), (1, (1, 0)));
    let first = (long / BLOCK) as u32;
    assert_eq!(runs(&stored[0], &aside), [Run { first, blocks: 1 }]);
}

#[test]
fn a_file_whose_bytes_cannot_be_read_is_told_from_a_disk_that_fails() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::InvalidData.into())
        }
    }
    impl Source for Broken {
        fn pass_hole(&mut self) -> u64 {
            0
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let ground = |folder| Ground {
        folder,
        space: &Unbounded,
    };
    let error = Writer::new(ground(folder.path())).put(&mut Broken, INODE);
    assert!(matches!(error, Err(Failure::Source(_))), "{error:?}");

    let nowhere = folder.path().join("nowhere");
    let mut writer = Writer::new(ground(&nowhere));
    let error = writer.put(&mut source(&[data(BUFFER + 1)], BUFFER), INODE);
    assert!(
        matches!(error, Err(Failure::Own(FetchError::Io { .. }))),
        "{error:?}"
    );
}

/// What is taken and what is there.
#[derive(Default)]
struct Counted {
    taken: AtomicU64,
    most: u64,
}

impl Space for Counted {
    fn take(&self, bytes: u64) -> Result<(), FetchError> {
        let before = self.taken.fetch_add(bytes, Ordering::Relaxed);
        match before + bytes > self.most {
            true => Err(FetchError::NoPool),
            false => Ok(()),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[test]
fn space_is_taken_before_it_is_written_and_what_is_not_needed_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let space = Counted {
        most: 1 << 30,
        ..Counted::default()
    };
    let ground = Ground {
        folder: folder.path(),
        space: &space,
    };
    let mut writer = Writer::new(ground);
    for _ in 0..50 {
        writer
            .put(&mut source(&[data(100_000)], 100_000), INODE)
            .unwrap();
        let taken = space.taken.load(Ordering::Relaxed);
        assert!(taken >= writer.blocks.written + writer.beside.written);
        assert!(taken <= 2 * (writer.blocks.written + writer.beside.written) + BUFFER as u64);
    }
    let blocks = u64::from(writer.finish().unwrap().count());
    let beside = 50 * (100_000 % BLOCK);
    assert_eq!(space.taken.load(Ordering::Relaxed), blocks * BLOCK + beside);

    let full = Counted {
        most: 1 << 20,
        ..Counted::default()
    };
    let ground = Ground {
        folder: folder.path(),
        space: &full,
    };
    let mut writer = Writer::new(ground);
    let error = writer.put(&mut source(&[data(2 << 20)], BUFFER), INODE);
    assert!(
        matches!(error, Err(Failure::Own(FetchError::NoPool))),
        "{error:?}"
    );
    // Nothing was written for which there was none.
    assert!(writer.blocks.written <= 1 << 20);
}

fn piece() -> impl Strategy<Value = Piece> {
    let length = || prop_oneof![1usize..300, 4000usize..4200, 1usize..20_000];
    prop_oneof![
        length().prop_map(|length| Piece::Hole(length as u64)),
        (length(), 0u8..3).prop_map(|(length, byte)| Piece::Data(vec![byte; length])),
        (1usize..4).prop_map(|blocks| Piece::Hole(blocks as u64 * BLOCK)),
        (1usize..90).prop_map(|blocks| Piece::Data(vec![1; blocks * BYTES])),
    ]
}

proptest! {
    #[test]
    fn all_files_come_back_and_no_block_of_zeroes_is_kept(
        files in prop::collection::vec(prop::collection::vec(piece(), 0..9), 1..5),
        most in 1usize..100_000,
    ) {
        let (stored, aside) = put_aside(&files, most);
        let mut blocks = 0;
        for (stored, file) in stored.iter().zip(&files) {
            let expected = whole(file);
            prop_assert!(read_back(stored, &aside, expected.len()) == expected);
            prop_assert_eq!(stored.first, blocks);
            blocks += stored.blocks;
            let runs = runs(stored, &aside);
            let all = expected.len().div_ceil(BYTES) as u32;
            let Shape::Holes(holes) = stored.shape else { continue };
            prop_assert_eq!(runs.iter().map(|run| run.blocks).sum::<u32>(), stored.blocks);
            prop_assert!(stored.blocks < all);
            for run in runs {
                let end = run.first + run.blocks;
                for border in [run.first, end] {
                    prop_assert!(border % (1 << holes.chunk) == 0 || border == all);
                }
                for block in run.first..end {
                    let at = block as usize * BYTES;
                    let block = &expected[at..expected.len().min(at + BYTES)];
                    prop_assert!(block.iter().any(|byte| *byte != 0));
                }
            }
        }
        prop_assert_eq!(aside.count(), blocks);
    }
}
