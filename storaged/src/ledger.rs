//! What the space of one pool is promised to.
//!
//! Volumes are sparse files, but each is promised its whole size: no tenant can find the disk full
//! because of another. Images take what is left, and are always left some.

use loam_deployment::Bytes;

/// The most that is kept for images alone. Enough for dozens of usual ones.
const IMAGE_SHARE_MOST: u64 = 32 << 30;

#[derive(Debug)]
pub struct Ledger {
    /// What may be promised in all.
    usable: u64,
    /// What volumes may never take from images.
    image_share: u64,
    volumes: u64,
    images: u64,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} are wanted and {free} are free")]
pub struct Full {
    pub wanted: Bytes,
    pub free: Bytes,
}

impl Ledger {
    /// `total` is the size of the file system.
    pub fn new(total: Bytes) -> Self {
        let total = total.get();
        Self {
            usable: total - overhead(total),
            image_share: (total / 5).min(IMAGE_SHARE_MOST),
            volumes: 0,
            images: 0,
        }
    }

    /// For what is on the disk already: whether it fits is no longer the question.
    pub fn record_volume(&mut self, size: Bytes) {
        self.volumes = self.volumes.saturating_add(size.get());
    }

    pub fn record_image(&mut self, size: Bytes) {
        self.images = self.images.saturating_add(size.get());
    }

    pub fn promise_volume(&mut self, wanted: Bytes) -> Result<(), Full> {
        let free = self.free_for_volumes();
        if wanted > free {
            return Err(Full { wanted, free });
        }
        self.record_volume(wanted);
        Ok(())
    }

    pub fn promise_image(&mut self, wanted: Bytes) -> Result<(), Full> {
        let free = self.free_for_images();
        if wanted > free {
            return Err(Full { wanted, free });
        }
        self.record_image(wanted);
        Ok(())
    }

    pub fn release_volume(&mut self, size: Bytes) {
        self.volumes = self.volumes.saturating_sub(size.get());
    }

    pub fn release_image(&mut self, size: Bytes) {
        self.images = self.images.saturating_sub(size.get());
    }

    pub fn promised_to_volumes(&self) -> Bytes {
        Bytes(self.volumes)
    }

    pub fn promised_to_images(&self) -> Bytes {
        Bytes(self.images)
    }

    pub fn free_for_volumes(&self) -> Bytes {
        let taken = self
            .volumes
            .saturating_add(self.images.max(self.image_share));
        Bytes(self.usable.saturating_sub(taken))
    }

    pub fn free_for_images(&self) -> Bytes {
        Bytes(
            self.usable
                .saturating_sub(self.volumes.saturating_add(self.images)),
        )
    }
}

/// What btrfs itself may take: metadata, twice (5 % of a small disk at once, a little of a large
/// one as it fills), and the last chunks, which it needs to move things about.
fn overhead(total: u64) -> u64 {
    (total / 8).min(1 << 30) + total / 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn images_keep_their_share_and_may_use_more() {
        let mut ledger = Ledger::new(Bytes::gib(10));
        let full = ledger.promise_volume(Bytes::gib(8)).unwrap_err();
        assert!(
            full.free < Bytes::gib(8) && full.free > Bytes::gib(6),
            "{full}"
        );
        ledger.promise_image(Bytes::gib(5)).unwrap();
        ledger.promise_volume(Bytes::gib(4)).unwrap_err();
        ledger.promise_volume(Bytes::gib(3)).unwrap();
        ledger.release_image(Bytes::gib(5));
        ledger.promise_volume(Bytes::gib(2)).unwrap();
    }

    proptest! {
        #[test]
        fn never_promises_more_than_there_is(
            total in 1u64 << 30..1 << 45,
            wishes: Vec<(bool, u64)>,
        ) {
            let mut ledger = Ledger::new(Bytes(total));
            let mut given = 0u64;
            for (volume, wish) in wishes {
                let wish = wish % total;
                let promised = if volume {
                    ledger.promise_volume(Bytes(wish))
                } else {
                    ledger.promise_image(Bytes(wish))
                };
                if promised.is_ok() {
                    given += wish;
                }
                prop_assert!(given < total);
            }
        }
    }
}
