use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;
use crate::image::testing::unpacked;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

#[test]
fn unpacks_every_kind_in_several_parts() {
    let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let (one, two) = data.split_at(123_457);
    assert_eq!(unpacked(&data).unwrap(), data);
    assert_eq!(unpacked(&gzip(&data)).unwrap(), data);
    assert_eq!(unpacked(&[gzip(one), gzip(two)].concat()).unwrap(), data);
    assert_eq!(unpacked(&zstd(&data)).unwrap(), data);
    let skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc".to_vec();
    let frames = [&skippable, &zstd(one), &skippable, &zstd(two), &skippable].map(Vec::clone);
    assert_eq!(unpacked(&frames.concat()).unwrap(), data);
}

/// As `gzip` takes them: to whole blocks, and more than is read at once.
#[test]
fn zeroes_behind_gzip_are_ignored_and_nothing_else() {
    let data: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    for zeroes in [1, 512, 300_000] {
        let padded = [gzip(&data), vec![0; zeroes]].concat();
        assert_eq!(unpacked(&padded).unwrap(), data);
        for behind in [&b"x"[..], &gzip(b"more")] {
            let error = unpacked(&[&padded, behind].concat()).unwrap_err();
            assert!(error.to_string().contains("follows the zeroes"), "{error}");
        }
    }
    unpacked(&[gzip(&data), b"garbage".to_vec()].concat()).unwrap_err();
    // An empty member is one too.
    let members = [gzip(b""), gzip(&data), gzip(b"")].concat();
    assert_eq!(unpacked(&members).unwrap(), data);
}

#[test]
fn how_a_layer_is_compressed_that_cannot_be_read_is_named() {
    for (start, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
        let error = unpacked(start).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn a_bomb_is_stopped_where_the_allowance_ends() {
    // The helper allows 1 MiB.
    let zeroes = vec![0; 64 << 20];
    for bomb in [gzip(&zeroes), zstd(&zeroes)] {
        assert!(bomb.len() < 1 << 20);
        let error = unpacked(&bomb).unwrap_err().to_string();
        assert!(error.contains("unpack to more than"), "{error}");
    }
}

#[test]
fn what_is_cut_or_damaged_is_an_error() {
    let data: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
    for whole in [gzip(&data), zstd(&data)] {
        unpacked(&whole[..whole.len() / 2]).unwrap_err();
    }
    unpacked(b"\x50\x2a\x4d\x18\xff\x00\x00\x00abc").unwrap_err();
    // A frame that asks for a window of terabytes.
    unpacked(b"\x28\xb5\x2f\xfd\x00\xff\x00\x00\x00").unwrap_err();
}

#[test]
fn stops_when_it_is_no_longer_wanted_or_takes_too_long() {
    let stop = Stop::default();
    let later = Instant::now() + std::time::Duration::from_secs(3600);
    let mut layer = Unpacked::new(&b"plain"[..], Allowance::new(&stop, later)).unwrap();
    layer.read_exact(&mut [0; 2]).unwrap();
    stop.set();
    let error = layer.read_exact(&mut [0; 2]).unwrap_err().to_string();
    assert!(error.contains("no longer wanted"), "{error}");

    let now = Allowance::new(&Stop::default(), Instant::now());
    let mut layer = Unpacked::new(&b"plain"[..], now).unwrap();
    let error = layer.read_exact(&mut [0; 2]).unwrap_err().to_string();
    assert!(error.contains("too long"), "{error}");
}
