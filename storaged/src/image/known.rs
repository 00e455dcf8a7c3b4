//! [`Known`]: which images are here, which attempts there are, and what of either holds files still.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Instant,
};

use loam_deployment::Bytes;
use loam_node_api::{
    image::{Image, ImageContent, ImageLogin},
    storage::{ImageState, ImageStatus},
};

use super::{
    fetch::{self, Progress},
    kept::Kept,
    staging::{Record, Staging},
    stop::Stop,
};
use crate::pool::{Pool, has_place};

#[derive(Debug, Default)]
pub struct Known {
    /// Whose images and leftovers are below.
    pub pools: Vec<Arc<Pool>>,
    /// More than one where several pools brought it, or where one was on a disk that hung.
    pub ready: BTreeMap<ImageContent, Vec<Kept>>,
    /// None at a content of which [`Self::kept`] knows a copy.
    pub attempts: BTreeMap<Image, Attempt>,
    /// Attempts that nobody wants any more and that still hold files, by their numbers.
    pub leaving: BTreeMap<u64, Leaving>,
    /// Images that are being removed, by the numbers of their removals.
    pub removing: BTreeMap<u64, Removing>,
    /// What could not be removed, and counts.
    pub stuck: Vec<Staging>,
    /// Of the last of all these.
    number: u64,
}

#[derive(Debug)]
pub enum Attempt {
    Fetching {
        number: u64,
        progress: Arc<Progress>,
        stop: Stop,
        /// Why the one before failed.
        failed_before: Option<String>,
        /// Named last. The fetch may have begun with another one.
        login: Option<ImageLogin>,
    },
    Failed(Box<Failure>),
}

#[derive(Debug)]
pub struct Failure {
    pub record: Record,
    pub again: Instant,
    /// What is there still.
    pub left: Option<Staging>,
    /// The number of the fetch that failed, if its registry is waited for: then it is asked again, and nobody
    /// need ask for that.
    pub waits: Option<u64>,
    /// With which it failed, or that was named since. None: with none, or nobody knows, since no
    /// disk is ever told one.
    pub login: Option<ImageLogin>,
}

#[derive(Debug)]
pub struct Leaving {
    pub image: Image,
    /// Nowhere yet, if it is not known.
    pub at: Arc<OnceLock<Arc<Pool>>>,
}

#[derive(Debug)]
pub struct Removing {
    pub content: ImageContent,
    pub pool: Arc<Pool>,
}

impl Failure {
    /// Whether the next try may begin now, with this login. Another one than failed is not answerable
    /// for the failures, but for what the image itself is found to be: its bytes are the same.
    pub fn is_due(&self, login: Option<&ImageLogin>) -> bool {
        let is_judged = self.record.is_flawed || self.record.deaths > 0;
        self.again <= Instant::now() || (self.is_of_another(login) && !is_judged)
    }

    pub fn is_of_another(&self, login: Option<&ImageLogin>) -> bool {
        self.login.as_ref() != login
    }
}

impl Known {
    pub fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// What there is of the image on the pool is to be gone. Gives its number in [`Self::leaving`].
    pub fn leaves(&mut self, image: Image, pool: &Arc<Pool>) -> u64 {
        let number = self.next_number();
        let at = Arc::new(OnceLock::from(pool.clone()));
        self.leaving.insert(number, Leaving { image, at });
        number
    }

    /// A copy that can be used now, if there is one. One on a disk that hangs is as good as none if
    /// there is another disk for it: then it is fetched again.
    pub fn kept(&self, image: &Image) -> Option<&Kept> {
        self.usable(self.ready.get(&image.content())?)
    }

    fn usable<'a>(&self, copies: &'a [Kept]) -> Option<&'a Kept> {
        let hesitates = |kept: &&Kept| (!kept.pool().answers(), kept.pool().hangs());
        let best = copies.iter().min_by_key(hesitates);
        best.filter(|kept| !kept.pool().hangs() || !has_place(&self.pools))
    }

    /// In the order of their images.
    pub fn statuses(&self) -> Vec<ImageStatus> {
        let ready = self.ready.values().filter_map(|kept| self.usable(kept));
        let ready = ready.map(|kept| ImageStatus {
            image: kept.image().clone(),
            state: ImageState::Ready { path: kept.path() },
        });
        let attempts = self.attempts.iter();
        let attempts = attempts.map(|(image, attempt)| attempt.status(image));
        let mut all: Vec<_> = ready.chain(attempts).collect();
        all.sort_by(|a, b| a.image.cmp(&b.image));
        all
    }

    /// On which pools files of earlier attempts at the image, or images of its content, are being
    /// removed. `None` is a pool that is not known yet.
    pub fn in_the_way(&self, image: &Image) -> Vec<Option<Arc<Pool>>> {
        let content = image.content();
        let leaving = self.leaving.values();
        let leaving = leaving.filter(|leaving| leaving.image == *image);
        let removing = self.removing.values();
        let removing = removing.filter(|removing| removing.content == content);
        leaving
            .map(|leaving| leaving.at.get().cloned())
            .chain(removing.map(|removing| Some(removing.pool.clone())))
            .collect()
    }

    pub fn add(&mut self, kept: Kept) {
        let content = kept.image().content();
        self.ready.entry(content).or_default().push(kept);
    }

    /// Whether this very file is in the list.
    pub fn has(&self, kept: &Kept) -> bool {
        let same = self.ready.get(&kept.image().content());
        same.is_some_and(|all| all.iter().any(|other| other.path() == kept.path()))
    }

    pub fn has_pool(&self, pool: &Arc<Pool>) -> bool {
        self.pools.iter().any(|other| Arc::ptr_eq(other, pool))
    }

    pub fn forget_absent(&mut self) {
        let Self {
            pools,
            ready,
            attempts,
            stuck,
            ..
        } = self;
        let has = |pool: &Arc<Pool>| pools.iter().any(|other| Arc::ptr_eq(other, pool));
        ready.retain(|_, all| {
            all.retain(|kept| has(kept.pool()));
            !all.is_empty()
        });
        stuck.retain(|left| has(left.pool()));
        for attempt in attempts.values_mut() {
            if let Attempt::Failed(failure) = attempt {
                failure.left.take_if(|left| !has(left.pool()));
            }
        }
    }
}

impl Attempt {
    /// Has the next try be with this login.
    pub fn set_login(&mut self, named: Option<ImageLogin>) {
        match self {
            Self::Fetching { login, .. } => *login = named,
            Self::Failed(failure) => failure.login = named,
        }
    }

    pub fn status(&self, image: &Image) -> ImageStatus {
        let state = match self {
            Self::Fetching {
                progress,
                failed_before,
                ..
            } => {
                let (done, total) = fetch::shown(progress);
                let queues = progress.queues.load(Ordering::Relaxed);
                ImageState::Fetching {
                    done,
                    total,
                    waits_for: queues.then(|| "others' images are fetched first".to_owned()),
                    failed_before: failed_before.clone(),
                }
            }
            Self::Failed(failure) if failure.waits.is_some() => {
                let left = failure.left.as_ref();
                ImageState::Fetching {
                    done: Bytes(left.map_or(0, |left| left.claim().bytes())),
                    total: None,
                    waits_for: failure.record.why.clone(),
                    failed_before: None,
                }
            }
            Self::Failed(failure) => {
                let why = failure.record.why.clone();
                ImageState::Failed(
                    why.unwrap_or_else(|| "storaged ended while it was fetched".to_owned()),
                )
            }
        };
        ImageStatus {
            image: image.clone(),
            state,
        }
    }
}
