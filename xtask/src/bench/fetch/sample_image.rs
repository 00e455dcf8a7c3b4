//! The image that is fetched: some 540 MB in five layers that pack to some 200 MB, like those of a Debian
//! root: words, what looks like machine code, and what does not pack. The same bytes on every machine; kept
//! outside the clone, by the text of this file.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;

use crate::{
    cache::{self, Shelf},
    image::stage::Key,
    oci::{self, Entry, Image, MANIFEST_TYPE, RunConfig},
    phase,
};

/// Bytes of files, from the lowest layer up: one base, then what is installed on it.
const LAYERS: [u64; 5] = [280 << 20, 120 << 20, 65 << 20, 35 << 20, 15 << 20];

/// Of a hundred files of an upper layer, how many take the place of one of the lowest.
const REPLACED: u64 = 5;

/// The image's folder, in the OCI image layout; made now if it is not kept.
pub fn layout() -> Result<PathBuf> {
    let key = Key::new(include_str!("sample_image.rs"));
    Shelf::new(cache::root()?.join("bench"))?.get(&key, |folder| {
        phase::run("image for the bench", |_| {
            let image = make(&LAYERS)?;
            write(&image, folder).with_context(|| format!("writing {}", folder.display()))?;
            Ok(((), image.digest().to_string()))
        })
    })
}

fn make(layers: &[u64]) -> Result<Image> {
    let mut dice = Dice(1);
    let matter = Matter::new(&mut dice);
    let mut lowest: Vec<String> = Vec::new();
    let mut all = Vec::new();
    for (index, size) in layers.iter().enumerate() {
        let mut entries = Vec::new();
        let mut left = *size;
        let mut number = 0;
        while left > 0 {
            let folder = format!("usr/share/layer{index}/part{}", number / 100);
            if number % 100 == 0 {
                entries.push(Entry::folder(&folder));
            }
            let length = dice.file_length().min(left);
            let replaces = index > 0 && dice.below(100) < REPLACED;
            let path = match replaces {
                true => lowest[dice.below(lowest.len() as u64) as usize].clone(),
                false => format!("{folder}/file{number}"),
            };
            if index == 0 {
                lowest.push(path.clone());
            }
            entries.push(Entry::file(
                &path,
                0o644,
                matter.bytes(&mut dice, length as usize),
            ));
            left -= length;
            number += 1;
        }
        all.push(entries);
    }
    let layers: Vec<&[Entry]> = all.iter().map(Vec::as_slice).collect();
    oci::image(&layers, &RunConfig::default())
}

fn write(image: &Image, folder: &Path) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for (digest, bytes) in image.blobs() {
        fs::write(blobs.join(hex::encode(digest.0)), bytes)?;
    }
    let manifest = image.digest();
    let size = image.blobs().get(&manifest).map(|bytes| bytes.len());
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": MANIFEST_TYPE,
            "digest": manifest.to_string(),
            "size": size.context("the image has no manifest")?,
        }],
    });
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )?;
    Ok(())
}

/// Steele, Lea and Flood's SplitMix64: small, and the same everywhere.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    /// Most often near 0, as the words of a language are.
    fn seldom(&mut self, limit: usize) -> usize {
        let part = (self.roll() >> 11) as f64 / (1_u64 << 53) as f64;
        (part.powi(4) * limit as f64) as usize
    }

    /// Most files of a root are short, and most bytes are in a few that are not.
    fn file_length(&mut self) -> u64 {
        match self.below(100) {
            0..75 => 200 + self.below(16 << 10),
            75..95 => (16 << 10) + self.below(112 << 10),
            _ => (128 << 10) + self.below(1 << 20),
        }
    }
}

/// What files are made of.
struct Matter {
    words: Vec<Vec<u8>>,
    instructions: Vec<Vec<u8>>,
}

impl Matter {
    fn new(dice: &mut Dice) -> Self {
        let words = (0..8000).map(|_| {
            let mut word: Vec<u8> = (0..2 + dice.below(8))
                .map(|_| b"etaoinshrdlucmfwypvbgkqjxz"[dice.seldom(26)])
                .collect();
            word.push(b" \n\t,"[dice.seldom(4)]);
            word
        });
        let words = words.collect();
        let instructions = (0..4000).map(|_| {
            let length = 2 + dice.below(6);
            (0..length).map(|_| dice.roll() as u8).collect()
        });
        Self {
            words,
            instructions: instructions.collect(),
        }
    }

    fn bytes(&self, dice: &mut Dice, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 16);
        let parts = match dice.below(100) {
            0..45 => Some(&self.words),
            45..93 => Some(&self.instructions),
            _ => None,
        };
        while bytes.len() < length {
            match parts {
                Some(parts) => match dice.below(24) {
                    // What comes again whole: idioms, tables, names of symbols.
                    0 if bytes.len() > 4096 => {
                        let from = bytes.len() - 1 - dice.seldom(4000).max(200);
                        let until = from + 20 + dice.below(120) as usize;
                        bytes.extend_from_within(from..until);
                    }
                    _ => bytes.extend_from_slice(&parts[dice.seldom(parts.len())]),
                },
                None => bytes.extend_from_slice(&dice.roll().to_le_bytes()),
            }
        }
        bytes.truncate(length);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_image_every_time_and_it_packs_as_programs_do() {
        let sizes = [2 << 20, 1 << 20];
        let image = make(&sizes).unwrap();
        assert_eq!(image.digest(), make(&sizes).unwrap().digest());
        assert_eq!(image.layers().len(), 2);
        let packed: usize = image.blobs().values().map(|bytes| bytes.len()).sum();
        let ratio = (3 << 20) as f64 / packed as f64;
        assert!((2.0..3.5).contains(&ratio), "{ratio}");

        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("kept");
        write(&image, &kept).unwrap();
        let layout = oci::Layout::open(&kept).unwrap();
        assert!(layout.run().unwrap().cmd.is_empty());
        let read = layout.image().unwrap();
        assert_eq!(read.digest(), image.digest());
        assert_eq!(read.layers(), image.layers());
    }
}
