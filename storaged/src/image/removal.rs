//! What becomes of images and attempts that nobody wants any more, or that are needed no more.
//!
//! They leave the lists at once, and their files as soon as their disks let them: until then they are
//! known as leaving, since what comes in their place must not take their files for its own.

use std::sync::MutexGuard;

use loam_node_api::image::Image;
use tokio::runtime::Handle;

use super::{
    kept::Kept,
    known::{Attempt, Known, Leaving, Removing},
    late::{Late, Remains},
    staging::Staging,
    store::Images,
};
use crate::pool::Pool;

impl Images {
    /// Removes what an attempt that has gone elsewhere leaves on a disk that hangs, when it has ended.
    pub(super) fn clear_late(&self, known: &mut Known, image: &Image, late: Late) {
        let number = known.leaves(image.clone(), &late.pool);
        let images = self.clone();
        Handle::current().spawn(async move {
            let Remains { kept, left } = late.work.await;
            let mut known = images.lock();
            kept.into_iter()
                .for_each(|kept| images.remove(&mut known, kept));
            left.into_iter()
                .for_each(|left| images.put_away(&mut known, left));
            known.leaving.remove(&number);
            images.tell_of_leaving(known);
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
        let pool = left.pool().clone();
        let number = known.leaves(left.record().image, &pool);
        let remove = move || (left.remove(), left);
        self.have_removed(&pool, remove, move |known, (removed, left)| {
            known.leaving.remove(&number);
            if let Err(error) = removed {
                let image = left.record().image;
                tracing::error!(%image, %error, "cannot remove an unfinished image; its space counts until storaged starts anew");
                known.stuck.push(left);
            }
        });
    }

    /// Removes an image that is no longer in the list, as soon as its disk lets it.
    pub(super) fn remove(&self, known: &mut Known, kept: Kept) {
        let pool = kept.pool().clone();
        let number = known.next_number();
        let removing = Removing {
            content: kept.image().content(),
            pool: pool.clone(),
        };
        known.removing.insert(number, removing);
        let changes = self.0.changes.clone();
        let remove = move || (kept.remove(), kept);
        self.have_removed(&pool, remove, move |known, (removed, kept)| {
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
            changes.note();
        });
    }

    /// `remove` waits for the disk, and nobody waits for `remove`; what came of it goes to `ended`.
    fn have_removed<T>(
        &self,
        pool: &Pool,
        remove: impl FnOnce() -> T + Send + 'static,
        ended: impl FnOnce(&mut Known, T) + Send + 'static,
    ) {
        let images = self.clone();
        pool.queue(move || {
            let removed = remove();
            let mut known = images.lock();
            ended(&mut known, removed);
            images.tell_of_leaving(known);
        });
    }

    /// Something is not in `leaving` or `removing` any more. Who hears of it looks at what is known at once.
    pub(super) fn tell_of_leaving(&self, known: MutexGuard<'_, Known>) {
        drop(known);
        self.0.left.send_modify(|count| *count += 1);
    }
}
