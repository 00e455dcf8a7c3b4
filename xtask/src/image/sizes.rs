//! What the image's bytes are spent on.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Alignment, Style};

use super::stage::Kept;

/// Of an image. Bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub name: String,
    /// In the node's memory.
    pub unpacked: u64,
    /// In the image; none where several parts are packed as one.
    pub packed: Option<u64>,
}

impl Part {
    pub fn of(name: &str, kept: &Kept) -> Self {
        Self {
            name: name.to_owned(),
            unpacked: kept.size.unpacked,
            packed: Some(kept.size.packed),
        }
    }
}

/// What an image weighs, and what the one before it weighed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sizes {
    pub parts: Vec<Part>,
    pub before: Vec<Part>,
}

impl Sizes {
    /// The record of the image before is in `file`, and makes room for these parts.
    pub fn record(file: &Path, parts: Vec<Part>) -> Result<Self> {
        // One that cannot be read is of an older kind, or there was none.
        let before = fs::read(file).ok();
        let before = before.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        fs::write(file, serde_json::to_vec(&parts)?)
            .with_context(|| format!("writing {}", file.display()))?;
        Ok(Self {
            before: before.unwrap_or_default(),
            parts,
        })
    }

    /// A row a part, and the whole below; what is of another size than before says how much.
    pub fn table(&self) -> String {
        let mut builder = Builder::default();
        builder.push_record(["part", "in memory", "", "in the image", ""]);
        for part in &self.parts {
            let before = self.before.iter().find(|other| other.name == part.name);
            builder.push_record(row(part, before));
        }
        let before = (!self.before.is_empty()).then(|| whole(&self.before));
        builder.push_record(row(&whole(&self.parts), before.as_ref()));
        let mut table = builder.build();
        table
            .with(Style::rounded())
            .modify(Columns::new(1..), Alignment::right());
        let gone = self
            .before
            .iter()
            .filter(|old| self.parts.iter().all(|part| part.name != old.name));
        let gone: String = gone.map(|old| format!("\ngone: {}", old.name)).collect();
        format!("{table}{gone}")
    }
}

fn whole(parts: &[Part]) -> Part {
    Part {
        name: "all".to_owned(),
        unpacked: parts.iter().map(|part| part.unpacked).sum(),
        packed: Some(parts.iter().filter_map(|part| part.packed).sum()),
    }
}

fn row(part: &Part, before: Option<&Part>) -> [String; 5] {
    let packed = part.packed.map_or_else(String::new, mebibytes);
    let packed_before = before.and_then(|before| before.packed);
    [
        part.name.clone(),
        mebibytes(part.unpacked),
        change(before.map(|before| before.unpacked), Some(part.unpacked)),
        packed,
        change(packed_before, part.packed),
    ]
}

/// Such as `+0.20`; nothing where nothing is compared, or it shows no difference.
fn change(before: Option<u64>, now: Option<u64>) -> String {
    let (Some(before), Some(now)) = (before, now) else {
        return String::new();
    };
    let change = (now as f64 - before as f64) / MEBIBYTE;
    match format!("{change:+.2}") {
        none if none == "+0.00" || none == "-0.00" => String::new(),
        some => some,
    }
}

const MEBIBYTE: f64 = (1 << 20) as f64;

/// Such as `12.3 MiB`.
pub fn mebibytes(bytes: u64) -> String {
    format!("{:.2} MiB", bytes as f64 / MEBIBYTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, unpacked: u64, packed: Option<u64>) -> Part {
        Part {
            name: name.into(),
            unpacked: unpacked << 20,
            packed: packed.map(|packed| packed << 20),
        }
    }

    #[test]
    fn what_changed_since_the_image_before_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sizes");
        let first = vec![
            part("a", 4, Some(2)),
            part("b", 3, None),
            part("old", 1, Some(1)),
        ];
        let sizes = Sizes::record(&file, first.clone()).unwrap();
        assert!(sizes.before.is_empty());
        let told = sizes.table();
        assert!(
            !told.contains(['+', '-']) && !told.contains("gone"),
            "{told}"
        );

        let second = vec![
            part("a", 4, Some(3)),
            part("b", 2, None),
            part("new", 1, Some(1)),
        ];
        let sizes = Sizes::record(&file, second).unwrap();
        assert_eq!(sizes.before, first);
        let rows: Vec<Vec<String>> = sizes
            .table()
            .lines()
            .map(|line| line.split('│').map(|cell| cell.trim().to_owned()).collect())
            .collect();
        let row = |name: &str| {
            let row = rows
                .iter()
                .find(|row| row.get(1).is_some_and(|cell| cell == name));
            row.unwrap()[2..6].to_vec()
        };
        assert_eq!(row("a"), ["4.00 MiB", "", "3.00 MiB", "+1.00"]);
        assert_eq!(row("b"), ["2.00 MiB", "-1.00", "", ""]);
        assert_eq!(row("new"), ["1.00 MiB", "", "1.00 MiB", ""]);
        assert_eq!(row("all"), ["7.00 MiB", "-1.00", "4.00 MiB", "+1.00"]);
        assert!(sizes.table().ends_with("gone: old"));
    }

    #[test]
    fn a_record_that_cannot_be_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("sizes");
        fs::write(&file, "{").unwrap();
        let sizes = Sizes::record(&file, vec![part("a", 1, Some(1))]).unwrap();
        assert!(sizes.before.is_empty());
        assert_eq!(Sizes::record(&file, Vec::new()).unwrap().before.len(), 1);
    }
}
