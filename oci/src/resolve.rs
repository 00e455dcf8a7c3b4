//! From what a reference names to the one image that a node runs: through indexes, and indexes in indexes.

use crate::{
    digest::Digest,
    limits,
    manifest::{Descriptor, Document, DocumentError, Manifest},
    platform::Level,
};

/// What a node of some level runs.
#[derive(Debug)]
pub struct Resolved {
    pub manifest: Manifest,
    /// What the processor must have, as far as the indexes say it.
    pub level: Level,
}

/// The way from a digest to the image, one document after another: each index's best entry first, and the
/// next where that one is an index without an image for the node. Asks for nothing itself.
#[derive(Debug)]
pub struct Search {
    level: Level,
    /// The next document, and what a processor must have for what it leads to.
    wanted: (Digest, Level),
    /// What to read if it leads to nothing, the next of them last.
    others: Vec<(Descriptor, Level)>,
    indexes: usize,
    passed_over: usize,
    /// What indexes have for other platforms.
    platforms: Vec<String>,
}

impl Search {
    pub fn new(digest: Digest, level: Level) -> Self {
        Self {
            level,
            wanted: (digest, Level::default()),
            others: Vec::new(),
            indexes: 0,
            passed_over: 0,
            platforms: Vec::new(),
        }
    }

    /// The document to go on with.
    pub fn wanted(&self) -> Digest {
        self.wanted.0
    }

    /// Goes on with the document that was wanted. `None` if another is wanted now.
    ///
    /// # Errors
    ///
    /// It leads to no image for the node, nor does any other that an index has.
    pub fn take_in(&mut self, document: &[u8]) -> Result<Option<Resolved>, DocumentError> {
        let (_, level) = self.wanted;
        let index = match Document::parse(document) {
            Ok(Document::Manifest(manifest)) => return Ok(Some(Resolved { manifest, level })),
            Ok(Document::Index(index)) => index,
            Err(error) => return self.pass_over(error).map(|()| None),
        };
        self.indexes += 1;
        if self.indexes > limits::INDEXES {
            return Err(DocumentError::Indexes);
        }
        let candidates = index.candidates(self.level);
        if candidates.is_empty() {
            self.platforms.push(index.platforms());
        }
        for (entry, needs) in candidates.into_iter().rev() {
            self.others.push((entry.clone(), level.max(needs)));
        }
        let none = DocumentError::Platform(self.platforms.join(", "));
        self.go_on(none).map(|()| None)
    }

    /// Goes on with the next best of what indexes have, in place of what is wanted and cannot be had.
    ///
    /// # Errors
    ///
    /// There is none, or [`limits::PASSED_OVER`] were before: then why the last was passed over.
    pub fn pass_over<E: From<DocumentError>>(&mut self, why: E) -> Result<(), E> {
        self.passed_over += 1;
        if self.passed_over > limits::PASSED_OVER {
            return Err(why);
        }
        self.go_on(why)
    }

    /// `why` there is no image if there is nothing to go on with.
    fn go_on<E: From<DocumentError>>(&mut self, mut why: E) -> Result<(), E> {
        while let Some((next, level)) = self.others.pop() {
            match next.check_document() {
                Ok(()) => {
                    self.wanted = (next.digest, level);
                    return Ok(());
                }
                Err(error) => why = error.into(),
            }
        }
        Err(why)
    }
}

#[cfg(test)]
#[path = "resolve_tests.rs"]
mod tests;
