//! [`Found`]: what of images a pool holds when it comes.

use std::{collections::BTreeSet, path::Path};

use super::{
    kept::{self, FoundImage},
    staging::{self, Leftover},
};

/// All of it counts in the pool's ledger.
#[derive(Debug, Default)]
pub struct Found {
    pub ready: Vec<FoundImage>,
    pub leftovers: Vec<Leftover>,
    /// Of what could not be removed.
    strays: u64,
}

impl Found {
    /// Looks into a pool's folder of images, and clears away what a killed predecessor left
    /// unfinished and nobody can go on with.
    pub fn look(images: &Path) -> Self {
        let (ready, mut strays) = kept::find(images);
        let there: BTreeSet<_> = ready.iter().map(|found| found.image.content()).collect();
        let (leftovers, more) = staging::find(images, |image| there.contains(&image.content()));
        strays += more;
        Self {
            ready,
            leftovers,
            strays,
        }
    }

    pub fn bytes(&self) -> u64 {
        let ready: u64 = self.ready.iter().map(|found| found.size.get()).sum();
        let leftovers: u64 = self.leftovers.iter().map(|left| left.bytes).sum();
        ready + leftovers + self.strays
    }
}
