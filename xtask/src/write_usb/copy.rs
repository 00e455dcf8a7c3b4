//! Bytes onto a stick, and back.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context, Result, bail};

/// At a time.
const CHUNK: usize = 4 << 20;

/// Without its beginning nothing takes a stick for bootable: it is wiped first and written last, so that one that was
/// pulled out in the middle is empty, and not half of an image.
const HEAD: usize = 1 << 20;

/// Bytes that stay where they are written once they are synced, and not before: a cache writes in any order.
pub trait Stick: Read + Write + Seek {
    fn sync(&mut self) -> io::Result<()>;
}

impl Stick for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

/// Writes what differs; `tell` is told how far it is, in percent.
pub fn write(stick: &mut impl Stick, bytes: &[u8], tell: impl Fn(usize)) -> Result<()> {
    let (head, rest) = bytes.split_at(HEAD.min(bytes.len()));
    spoil(stick)?;
    let mut there = vec![0; CHUNK];
    for (index, chunk) in rest.chunks(CHUNK).enumerate() {
        let at = HEAD + index * CHUNK;
        tell(at * 100 / bytes.len());
        // Most of an image is zeroes, and sticks read faster than they write.
        let there = &mut there[..chunk.len()];
        stick.seek(SeekFrom::Start(at as u64))?;
        if stick.read_exact(there).is_ok() && there == chunk {
            continue;
        }
        stick.seek(SeekFrom::Start(at as u64))?;
        stick
            .write_all(chunk)
            .with_context(|| format!("at byte {at}"))?;
    }
    stick.sync()?;
    stick.seek(SeekFrom::Start(0))?;
    stick.write_all(head)?;
    stick.sync()?;
    Ok(())
}

/// Reads all back. A stick that claims more room than it has gives back what was written last.
pub fn compare(stick: &mut (impl Read + Seek), bytes: &[u8], tell: impl Fn(usize)) -> Result<()> {
    stick.seek(SeekFrom::Start(0))?;
    let mut back = vec![0; CHUNK];
    for (index, chunk) in bytes.chunks(CHUNK).enumerate() {
        let at = index * CHUNK;
        tell(at * 100 / bytes.len());
        let back = &mut back[..chunk.len()];
        stick
            .read_exact(back)
            .with_context(|| format!("it cannot be read at byte {at}"))?;
        if let Some(wrong) = std::iter::zip(&*back, chunk).position(|(a, b)| a != b) {
            bail!(
                "it gives back something else than was written, at byte {}",
                at + wrong
            );
        }
    }
    Ok(())
}

/// Makes the stick one from which nothing boots.
pub fn spoil(stick: &mut impl Stick) -> Result<()> {
    stick.seek(SeekFrom::Start(0))?;
    stick.write_all(&vec![0; HEAD])?;
    stick.sync()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Cursor;

    use super::*;

    fn image() -> Vec<u8> {
        let mut image: Vec<u8> = (0..9_000_000_u32).map(|n| (n / 11) as u8).collect();
        image[4_000_000..8_900_000].fill(0);
        image
    }

    #[test]
    fn what_was_written_comes_back() {
        let image = image();
        let mut stick = Cursor::new(vec![7; 10_000_000]);
        let told = RefCell::new(Vec::new());
        write(&mut stick, &image, |percent| {
            told.borrow_mut().push(percent)
        })
        .unwrap();
        compare(&mut stick, &image, |percent| assert!(percent < 100)).unwrap();
        assert!(stick.get_ref()[image.len()..].iter().all(|byte| *byte == 7));
        assert!(told.borrow().is_sorted() && told.borrow().len() == 2);
        stick.get_mut()[5_000_001] = 1;
        let error = compare(&mut stick, &image, |_| ()).unwrap_err().to_string();
        assert!(error.contains("at byte 5000001"), "{error}");
    }

    /// Fails at the given write, and counts.
    struct Fake {
        bytes: Cursor<Vec<u8>>,
        writes: usize,
        /// Since the last sync.
        unsynced: usize,
        pulled_at: usize,
        /// What it has; it claims more.
        room: u64,
    }

    impl Fake {
        fn new(pulled_at: usize, room: u64) -> Self {
            let bytes = Cursor::new(vec![0; 10_000_000]);
            Self {
                bytes,
                writes: 0,
                unsynced: 0,
                pulled_at,
                room,
            }
        }
    }

    impl Read for Fake {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.bytes.read(into)
        }
    }

    impl Write for Fake {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.writes == self.pulled_at {
                return Err(io::ErrorKind::NotFound.into());
            }
            self.writes += 1;
            let at = self.bytes.position();
            // Neither end of the work may come to the stick before what it is about.
            let is_spoilt = self.bytes.get_ref()[..HEAD].iter().all(|byte| *byte == 0);
            assert!(at > 0 || self.unsynced == 0);
            assert!(at == 0 || is_spoilt);
            self.unsynced += 1;
            let written = self.bytes.write(bytes)?;
            if at >= self.room {
                // It is kept in the place of something else.
                let start = (at % self.room) as usize;
                self.bytes.get_mut()[start..start + written].copy_from_slice(bytes);
            }
            Ok(written)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Stick for Fake {
        fn sync(&mut self) -> io::Result<()> {
            self.unsynced = 0;
            Ok(())
        }
    }

    /// Memory is as good as synced.
    impl Stick for Cursor<Vec<u8>> {
        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Fake {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.bytes.seek(to)
        }
    }

    #[test]
    fn one_that_was_pulled_out_does_not_look_whole() {
        let image = image();
        let mut whole = Fake::new(usize::MAX, u64::MAX);
        write(&mut whole, &image, |_| ()).unwrap();
        // Of the three chunks behind the head the middle one was all zeroes, as the stick was.
        assert!(whole.writes < 5, "{}", whole.writes);
        for pulled_at in 1..whole.writes {
            let mut stick = Fake::new(pulled_at, u64::MAX);
            stick.bytes.get_mut()[..1000].fill(9);
            write(&mut stick, &image, |_| ()).unwrap_err();
            assert!(stick.bytes.get_ref()[..HEAD].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn one_that_claims_more_room_than_it_has_is_found() {
        let image = image();
        let mut stick = Fake::new(usize::MAX, 5 << 20);
        write(&mut stick, &image, |_| ()).unwrap();
        assert!(compare(&mut stick, &image, |_| ()).is_err());
    }
}
