//! Whether two files that were made apart are the same, and where the first difference is.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{initrd, uki};

/// Of a UKI it is said which part, or which file of its initrd, is another.
pub fn compare(first: &Path, second: &Path) -> Result<()> {
    let [one, two] = [first, second]
        .map(|file| fs::read(file).with_context(|| format!("reading {}", file.display())));
    let (one, two) = (one?, two?);
    if one == two {
        return Ok(());
    }
    let (first, second) = (first.display(), second.display());
    if let Some(part) = part(&one, &two) {
        bail!("{first} and {second} were made of the same and differ, first in {part}");
    }
    let at = std::iter::zip(&one, &two).position(|(a, b)| a != b);
    let at = at.unwrap_or(one.len().min(two.len()));
    bail!("{first} and {second} were made of the same and differ, first at byte {at}")
}

fn part(one: &[u8], two: &[u8]) -> Option<String> {
    let sections = [
        uki::OS_RELEASE,
        uki::COMMAND_LINE,
        uki::UNAME,
        uki::INITRD,
        uki::LINUX,
    ];
    let differing = sections.into_iter().find(|name| {
        let [one, two] = [one, two].map(|image| Some(&image[uki::section(image, name).ok()?]));
        one.is_some() && one != two
    })?;
    if differing != uki::INITRD {
        return Some(differing.to_owned());
    }
    let [one, two] = [one, two].map(files);
    let (one, two) = (one?, two?);
    let file = std::iter::zip(&one, &two).find(|(one, two)| one != two);
    Some(match file {
        Some(((path, _), _)) => format!("/{path}"),
        None => "how its initrd is packed".to_owned(),
    })
}

fn files(image: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let initrd = &image[uki::section(image, uki::INITRD).ok()?];
    initrd::read(initrd, |path, bytes| {
        files.push((path.to_owned(), bytes.to_vec()))
    })
    .ok()?;
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::media::testing;

    fn said(one: &[u8], two: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| folder.path().join(name));
        fs::write(&first, one).unwrap();
        fs::write(&second, two).unwrap();
        let error = compare(&first, &second).err()?.to_string();
        Some(error.split("differ, ").nth(1).unwrap().to_owned())
    }

    #[test]
    fn the_first_difference_is_named() {
        let uki = testing::uki();
        assert_eq!(said(&uki, &uki), None);
        assert_eq!(
            said(&uki, &testing::uki_with("quiet")).as_deref(),
            Some("first in .cmdline")
        );
        let initrd = uki::section(&uki, uki::INITRD).unwrap();
        let mut other = uki.clone();
        other[initrd.start + 500_000] ^= 1;
        assert_eq!(said(&uki, &other).as_deref(), Some("first in /etc/file"));
        // A time in an archive's header.
        let mut other = uki.clone();
        other[initrd.start + 53] = b'1';
        assert_eq!(
            said(&uki, &other).as_deref(),
            Some("first in how its initrd is packed")
        );
        assert_eq!(said(b"abc", b"abd").as_deref(), Some("first at byte 2"));
        assert_eq!(said(b"abc", b"abcd").as_deref(), Some("first at byte 3"));
    }
}
