//! What becomes of images and attempts that nobody wants any more, or that are needed no more.
//!
//! They leave the lists at once, and their files as soon as their disks let them: until then they are
//! known as leaving, since what comes in their place must not take their files for its own.

use std::sync::{Arc, OnceLock};

use loam_node_api::image::Image;
use tokio::runtime::Handle;

use super::{
    kept::Kept,
    known::{Attempt, Known, Leaving, Removing},
    late::{Late, Remains},
    staging::Staging,
    store::Images,
};

impl Images {
    /// Removes what an attempt that has gone elsewhere leaves on a disk that hangs, when it has ended.
    pub(super) fn clear_late(&self, known: &mut Known, image: &Image, late: Late) {
        let number = known.next_number();
        let leaving = Leaving {
            image: image.clone(),
            at: Arc::new(OnceLock::from(late.pool)),
        };
        known.leaving.insert(number, leaving);
        let images = self.clone();
        Handle::current().spawn(async move {
            let Remains { kept, left } = late.work.await;
            let mut known = images.lock();
            kept.into_iter()
                .for_each(|kept| images.remove(&mut known, kept));
            left.into_iter()
                .for_each(|left| images.put_away(&mut known, left));
            known.leaving.remove(&number);
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
        });
    }

    /// Has an attempt that is no longer in the list end, and what it holds removed.
    pub(super) fn end(&self, known: &mut Known, image: &Image, attempt: Attempt) {
        match attempt {
            Attempt::Fetching {
                number,
                stop,
                progress,
                ..
            } => {
                stop.set();
                let leaving = Leaving {
                    image: image.clone(),
                    at: progress.at.clone(),
                };
                known.leaving.insert(number, leaving);
            }
            Attempt::Failed(failure) => {
                let left = failure.left.into_iter();
                left.for_each(|left| self.put_away(known, left));
            }
        }
    }

    /// Ends attempts at what is ready.
    pub(super) fn end_needless(&self, known: &mut Known) {
        let attempts = known.attempts.keys();
        let needless = attempts.filter(|image| known.kept(image).is_some());
        let needless: Vec<_> = needless.cloned().collect();
        for image in needless {
            if let Some(attempt) = known.attempts.remove(&image) {
                self.end(known, &image, attempt);
                self.0.changes.note();
            }
        }
    }

    /// Removes what an attempt left on its disk, as soon as the disk lets it.
    pub(super) fn put_away(&self, known: &mut Known, left: Staging) {
        let number = known.next_number();
        let pool = left.pool().clone();
        let leaving = Leaving {
            image: left.record().image,
            at: Arc::new(OnceLock::from(pool.clone())),
        };
        known.leaving.insert(number, leaving);
        let images = self.clone();
        pool.queue(move || {
            let removed = left.remove();
            let mut known = images.lock();
            known.leaving.remove(&number);
            if let Err(error) = removed {
                let image = left.record().image;
                tracing::error!(%image, %error, "cannot remove an unfinished image; its space counts until storaged starts anew");
                known.stuck.push(left);
            }
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
        });
    }

    /// Removes an image that is no longer in the list, as soon as its disk lets it.
    pub(super) fn remove(&self, known: &mut Known, kept: Kept) {
        let number = known.next_number();
        let pool = kept.pool().clone();
        let removing = Removing {
            content: kept.image().content(),
            pool: pool.clone(),
        };
        known.removing.insert(number, removing);
        let images = self.clone();
        pool.queue(move || {
            let removed = kept.remove();
            let mut known = images.lock();
            known.removing.remove(&number);
            match removed {
                Ok(()) => tracing::info!(image = %kept.image(), "removed an image"),
                Err(error) => {
                    tracing::error!(image = %kept.image(), %error, "cannot remove an image");
                    if known.has_pool(kept.pool()) {
                        known.add(kept);
                    }
                }
            }
            drop(known);
            images.0.left.send_modify(|count| *count += 1);
            images.0.changes.note();
        });
    }
}
