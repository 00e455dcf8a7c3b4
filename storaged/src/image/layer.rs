//! A layer's file, unpacked: gzip, zstd or plain tar, told by its first bytes as every other tool
//! does, and checked by the digest of what comes out.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use flate2::bufread::GzDecoder;
use loam_oci::digest::Digest;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};
use sha2::{Digest as _, Sha256};

use super::{limits, stop::Stop};

const GZIP: &[u8] = b"\x1f\x8b";
/// RFC 8878, sections 3.1.1 and 3.1.2: a frame, and the middle of a skippable frame's magic.
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
const ZSTD_SKIPPABLE: &[u8] = b"\x2a\x4d\x18";

/// What docker takes and OCI has no name for (image specification, "layer.md", media types).
const OTHERS: [(&[u8], &str); 2] = [(b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz")];

/// A zstd frame may ask for any amount of memory. Builders use 8 MiB; this is what level 22 with
/// long matching uses.
const ZSTD_WINDOW: u64 = 128 << 20;

/// How much may still be unpacked, of all layers together, and until when; and the wish to stop.
#[derive(Clone, Debug)]
pub struct Allowance {
    left: Arc<AtomicU64>,
    /// What files may still have, holes included.
    files: Arc<AtomicU64>,
    until: Instant,
    stop: Stop,
}

impl Allowance {
    /// For reading all layers of one image once.
    pub fn new(stop: &Stop, until: Instant) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(limits::UNPACKED)),
            files: Arc::new(AtomicU64::new(limits::UNPACKED)),
            until,
            stop: stop.clone(),
        }
    }

    #[cfg(test)]
    pub fn of(bytes: u64) -> Self {
        Self {
            left: Arc::new(AtomicU64::new(bytes)),
            files: Arc::new(AtomicU64::new(limits::UNPACKED)),
            until: Instant::now() + std::time::Duration::from_secs(3600),
            stop: Stop::default(),
        }
    }

    /// Ends whoever still reads by it, as soon as more has come out.
    pub fn withdraw(&self) {
        self.left.store(0, Ordering::Relaxed);
    }

    /// Whether a file of this size may be there beside all that were asked for before. An image is refused for
    /// one that may not ([`super::tree`]), but what layers ahead claim must come to nothing before that.
    pub fn has_room_for(&self, file: u64) -> bool {
        let less = |left: u64| left.checked_sub(file);
        let taken = self
            .files
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }

    fn take(&self, bytes: u64) -> io::Result<()> {
        if self.stop.is_set() {
            return Err(io::Error::other("the image is no longer wanted"));
        }
        if Instant::now() > self.until {
            return Err(io::Error::other("unpacking it takes too long"));
        }
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .map(drop)
            .map_err(|_| {
                io::Error::other(format!(
                    "the layers unpack to more than {} bytes in all",
                    limits::UNPACKED
                ))
            })
    }
}

/// The unpacked bytes of a layer.
pub struct Unpacked {
    stream: Box<dyn Read + Send>,
    allowance: Allowance,
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked")
            .field("allowance", &self.allowance)
            .finish_non_exhaustive()
    }
}

impl Unpacked {
    pub fn open(path: &Path, allowance: Allowance) -> io::Result<Self> {
        Self::new(
            BufReader::with_capacity(128 << 10, File::open(path)?),
            allowance,
        )
    }

    fn new(mut packed: impl BufRead + Send + 'static, allowance: Allowance) -> io::Result<Self> {
        let start = packed.fill_buf()?;
        if let Some((_, other)) = OTHERS.iter().find(|(magic, _)| start.starts_with(magic)) {
            return Err(invalid(format!(
                "the layer is compressed by {other}; an OCI image has gzip or zstd"
            )));
        }
        let stream: Box<dyn Read + Send> = if start.starts_with(GZIP) {
            Box::new(GzipMembers::new(packed))
        } else if begins_as_zstd(start) {
            Box::new(ZstdFrames::new(packed))
        } else {
            Box::new(packed)
        };
        Ok(Self { stream, allowance })
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stream.read(buffer)?;
        self.allowance.take(length as u64)?;
        Ok(length)
    }
}

/// Hashes what is read of a layer. Only for who reads it first: then it is known to be what it should.
#[derive(Debug)]
pub struct Hashed<R> {
    unpacked: R,
    hasher: Sha256,
}

impl<R: Read> Hashed<R> {
    pub fn new(unpacked: R) -> Self {
        Self {
            unpacked,
            hasher: Sha256::new(),
        }
    }

    /// Of all that was read. Equals the layer's diff id once it was read to its end.
    pub fn digest(self) -> Digest {
        Digest::finish(self.hasher)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.unpacked.read(buffer)?;
        self.hasher.update(&buffer[..length]);
        Ok(length)
    }
}

/// Whether the layer is compressed by zstd, of which each frame may ask for [`ZSTD_WINDOW`].
pub fn is_zstd(path: &Path) -> io::Result<bool> {
    Ok(begins_as_zstd(
        BufReader::new(File::open(path)?).fill_buf()?,
    ))
}

fn begins_as_zstd(start: &[u8]) -> bool {
    start.starts_with(ZSTD) || start.get(1..4) == Some(ZSTD_SKIPPABLE)
}

/// All members of a gzip file. Builders that make layers seekable use many.
struct GzipMembers<R> {
    /// `None` at the file's end.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    fn new(packed: R) -> Self {
        Self {
            member: Some(GzDecoder::new(packed)),
        }
    }

    /// Zeroes may fill the file up behind the last member, as on a tape; `gzip` ignores them.
    fn next_member(mut packed: R) -> io::Result<Option<GzDecoder<R>>> {
        match packed.fill_buf()?.first() {
            None => return Ok(None),
            Some(0) => {}
            Some(_) => return Ok(Some(GzDecoder::new(packed))),
        }
        loop {
            let zeroes = packed.fill_buf()?;
            if zeroes.is_empty() {
                return Ok(None);
            }
            if zeroes.iter().any(|byte| *byte != 0) {
                return Err(invalid("something follows the zeroes behind its gzip data"));
            }
            let length = zeroes.len();
            packed.consume(length);
        }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let length = member.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            if let Some(ended) = self.member.take() {
                self.member = Self::next_member(ended.into_inner())?;
            }
        }
        Ok(0)
    }
}

/// All frames of a zstd file. Builders that make layers seekable use many, and skippable ones.
struct ZstdFrames<R> {
    packed: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(packed: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(ZSTD_WINDOW);
        Self {
            packed,
            decoder,
            inside: false,
        }
    }

    /// False at the end of the file.
    fn open_frame(&mut self) -> io::Result<bool> {
        while !self.packed.fill_buf()?.is_empty() {
            match self.decoder.init(&mut self.packed) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.packed).take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(invalid(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if !self.inside {
                self.inside = self.open_frame()?;
                if !self.inside {
                    return Ok(0);
                }
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                self.decoder
                    .decode_blocks(&mut self.packed, BlockDecodingStrategy::UptoBlocks(1))
                    .map_err(invalid)?;
            }
            let length = self.decoder.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            self.inside = !self.decoder.is_finished();
        }
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
