//! A file tree in memory, on its way into a cpio archive.

use std::collections::BTreeMap;

/// Files by their path without a leading slash. The parents of every entry are in it too, and a
/// parent sorts before what it holds, as unpacking needs.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    Folder,
    File { mode: u32, bytes: Vec<u8> },
    Symlink(String),
}

pub const EXECUTABLE: u32 = 0o755;
pub const DATA: u32 = 0o644;

impl Tree {
    pub fn folder(&mut self, path: &str) {
        self.insert(path, Entry::Folder);
    }

    pub fn file(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        self.insert(path, Entry::File { mode, bytes });
    }

    pub fn symlink(&mut self, path: &str, target: &str) {
        self.insert(path, Entry::Symlink(target.to_owned()));
    }

    /// Sorted by path.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(path, entry)| (path.as_str(), entry))
    }

    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_start_matches('/');
        for (slash, _) in path.match_indices('/') {
            self.entries
                .entry(path[..slash].to_owned())
                .or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_parents_before_children() {
        let mut tree = Tree::default();
        tree.file("/usr/bin/x", EXECUTABLE, vec![]);
        tree.folder("usr-local");
        let paths: Vec<_> = tree.entries().map(|(path, _)| path).collect();
        assert_eq!(paths, ["usr", "usr-local", "usr/bin", "usr/bin/x"]);
    }
}
