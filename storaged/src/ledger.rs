//! What the space of one pool is promised to.
//!
//! Volumes are sparse files, but each is promised its whole size: no tenant can find the disk full
//! because of another. Images take what is left, and are always left some.

use loam_deployment::Bytes;

/// The most that is kept for images alone. Enough for dozens of usual ones.
const IMAGE_SHARE_MOST: u64 = 32 << 30;

#[derive(Debug)]
pub struct Ledger {
    /// What is promised to nobody: btrfs itself takes of it.
    reserve: u64,
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
        let reserve = overhead(total);
        Self {
            reserve,
            usable: total - reserve,
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

    pub fn reserve(&self) -> Bytes {
        Bytes(self.reserve)
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

/// Of a file system larger than this btrfs makes chunks of metadata of 1 GiB each, of others 256 MiB at most
/// (`calc_chunk_size` in Linux's `fs/btrfs/space-info.c`).
const LARGE_CHUNKS_ABOVE: u64 = 50 << 30;

/// What btrfs itself may take: metadata, twice (5 % of a small disk at once, a little of a large
/// one as it fills), and the last chunks, which it needs to move things about. At least one chunk of
/// metadata, twice, for that much of what is free goes at once.
fn overhead(total: u64) -> u64 {
    let chunks = if total > LARGE_CHUNKS_ABOVE {
        2 << 30
    } else {
        (total / 8).min(1 << 30)
    };
    chunks + total / 100
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

    #[test]
    fn the_file_system_keeps_some_and_images_a_share_with_an_end() {
        let free = |total| {
            let ledger = Ledger::new(total);
            assert_eq!(
                ledger.reserve().get() + ledger.free_for_images().get(),
                total.get()
            );
            (ledger.free_for_images(), ledger.free_for_volumes())
        };
        let hundredth = |total: Bytes| Bytes(total.get() / 100);
        let less = |total: Bytes, parts: &[Bytes]| {
            Bytes(total.get() - parts.iter().map(|part| part.get()).sum::<u64>())
        };
        // Small: an eighth for metadata. Large: two gibibytes, and 32 for images.
        let (small, large) = (Bytes::gib(4), Bytes::gib(1000));
        let usable = less(small, &[Bytes::mib(512), hundredth(small)]);
        let share = Bytes(small.get() / 5);
        assert_eq!(free(small), (usable, less(usable, &[share])));
        let usable = less(large, &[Bytes::gib(2), hundredth(large)]);
        assert_eq!(free(large), (usable, less(usable, &[Bytes::gib(32)])));
    }

    #[test]
    fn a_large_file_system_keeps_a_chunk_of_metadata_twice() {
        let reserve = |total| Ledger::new(total).reserve();
        assert!(reserve(Bytes::gib(60)) > Bytes::gib(2));
        assert!(reserve(Bytes(Bytes::gib(50).get() + 1)) > Bytes::gib(2));
        assert!(reserve(Bytes::gib(50)) < Bytes::gib(2));
    }

    /// As before the reserve of large disks was raised.
    #[test]
    fn what_is_promised_stays_when_less_may_be() {
        let mut ledger = Ledger::new(Bytes::gib(60));
        ledger.record_volume(Bytes::gib(47));
        ledger.record_image(Bytes(Bytes::gib(11).get() + (300 << 20)));
        assert_eq!(ledger.free_for_volumes(), Bytes(0));
        assert_eq!(ledger.free_for_images(), Bytes(0));
        assert_eq!(ledger.promised_to_volumes(), Bytes::gib(47));
        ledger.promise_volume(Bytes(0)).unwrap();
        ledger.release_volume(Bytes::gib(2));
        ledger.promise_volume(Bytes::mib(256)).unwrap();
    }

    #[test]
    fn the_last_byte_is_given_and_no_more() {
        let mut ledger = Ledger::new(Bytes::gib(10));
        let all = ledger.free_for_volumes();
        let over = Bytes(all.get() + 1);
        let full = Full {
            wanted: over,
            free: all,
        };
        assert_eq!(ledger.promise_volume(over), Err(full));
        ledger.promise_volume(all).unwrap();
        assert_eq!(ledger.promised_to_volumes(), all);
        assert_eq!(ledger.free_for_volumes(), Bytes(0));
        let share = ledger.free_for_images();
        assert_eq!(share, Bytes(Bytes::gib(10).get() / 5));
        ledger.promise_image(Bytes(share.get() + 1)).unwrap_err();
        ledger.promise_image(share).unwrap();
        assert_eq!(ledger.promised_to_images(), share);
        assert_eq!(ledger.free_for_images(), Bytes(0));
        // What is there is counted, fit or not.
        ledger.record_image(Bytes(7));
        ledger.record_volume(Bytes(9));
        assert_eq!(ledger.free_for_volumes(), Bytes(0));
        ledger.release_image(Bytes(8));
        ledger.release_volume(Bytes(11));
        assert_eq!(ledger.promised_to_images(), Bytes(share.get() - 1));
        assert_eq!(ledger.promised_to_volumes(), Bytes(all.get() - 2));
        assert_eq!(ledger.free_for_images(), Bytes(3));
        assert_eq!(ledger.free_for_volumes(), Bytes(2));
    }

    proptest! {
        #[test]
        fn a_larger_file_system_keeps_no_less(one in 1u64 << 30..1 << 45, more in 0u64..1 << 40) {
            let reserve = |total| Ledger::new(Bytes(total)).reserve();
            prop_assert!(reserve(one) <= reserve(one + more));
            // And by the border of large chunks.
            let near = LARGE_CHUNKS_ABOVE - (one % (1 << 30));
            prop_assert!(reserve(near) <= reserve(near + more));
        }

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
