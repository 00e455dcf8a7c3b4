//! Which farm the node is in, from its first look to the end: what is known about it is looked at again when there is a
//! reason, and a farm that has accepted the node is kept with the node's identity.
//!
//! On today's chain a farm has accepted a node when the node's record names it.

use std::{
    path::PathBuf,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use loam_deployment::FarmId;
use loam_node_api::{farm::FarmSearch, storage::StorageClient};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    agent::Offer,
    daemons::{Daemon, Sockets, call, deadline},
    farm::{self, Choice, Heard, Known},
    follow::View,
    identity::IdentityError,
    until::until,
};

/// The name under which storaged keeps the farm: its number, 8 bytes, big-endian.
const FARM: &str = "farm";

/// Between two looks at what init has found, until its search is over. After that each block of the chain is
/// reason enough: a stick that comes late says nothing but what shall stand there.
const LOOK: Duration = Duration::from_secs(1);
/// After the disks could not keep it.
const RETRY: Duration = Duration::from_secs(10);

/// The farm that has accepted this node, if one has since farms are kept.
pub async fn kept(storage: &StorageClient) -> Result<Option<FarmId>, IdentityError> {
    let kept = storage
        .secret_load(deadline(), FARM.into())
        .await
        .map_err(call(Daemon::Storaged))??;
    let Some(kept) = kept else { return Ok(None) };
    // As nothing it would be taken for a new node, whose farm others may name.
    let length = kept.len();
    let number = kept.try_into().map_err(|_| {
        IdentityError::Damaged(anyhow!("the number of its farm has {length} bytes"))
    })?;
    Ok(Some(FarmId(u64::from_be_bytes(number))))
}

#[derive(Debug)]
pub struct Membership {
    pub sockets: Sockets,
    /// What init wrote.
    pub search: PathBuf,
    pub image: Option<FarmId>,
    pub kept: Option<FarmId>,
}

impl Membership {
    /// Chooses for ever.
    pub async fn run(
        mut self,
        mut views: watch::Receiver<Option<Rc<View>>>,
        mut offers: watch::Receiver<Option<Offer>>,
        choices: watch::Sender<Choice>,
    ) {
        let mut retry: Option<Instant> = None;
        loop {
            let view = views.borrow_and_update().clone();
            let offer = offers.borrow_and_update().clone();
            let known = self.known(view.as_deref(), offer.as_ref());
            let choice = farm::choose(&known);
            let to_keep = self.to_keep(&known.record, &choice);
            tell(&choices, choice);
            retry = retry.filter(|due| to_keep.is_some() && *due > Instant::now());
            if let Some(farm) = to_keep
                && retry.is_none()
            {
                match self.keep(farm).await {
                    Ok(()) => {
                        info!(%farm, "a farm has accepted this node and is kept with it");
                        self.kept = Some(farm);
                        // It is no stick's word any more.
                        continue;
                    }
                    Err(error) => {
                        warn!(%farm, %error, "the farm is not kept on the disks yet");
                        retry = Some(Instant::now() + RETRY);
                    }
                }
            }
            let look = (!known.search.over).then(|| Instant::now() + LOOK);
            tokio::select! {
                // The senders live as long as the process.
                _ = views.changed() => {}
                _ = offers.changed() => {}
                () = until(look.into_iter().chain(retry).min()) => {}
            }
        }
    }

    fn known(&self, view: Option<&View>, offer: Option<&Offer>) -> Known {
        let record = |view: &View| Heard::Said(view.node.as_ref().map(|record| record.farm));
        Known {
            kept: self.kept,
            record: view.map_or(Heard::NotYet, record),
            search: FarmSearch::read(&self.search),
            network: offer.map_or(Heard::NotYet, |offer| Heard::Said(offer.uplink.farm)),
            image: self.image,
        }
    }

    /// The farm that has accepted the node, and is to be kept: the one that the node wants to be in. A record that
    /// names another, as before a stick has moved the node there, is one of the past.
    fn to_keep(&self, record: &Heard, choice: &Choice) -> Option<FarmId> {
        let farm = choice.to_join()?;
        let accepted = *record == Heard::Said(Some(farm));
        (accepted && self.kept != Some(farm)).then_some(farm)
    }

    async fn keep(&self, farm: FarmId) -> Result<(), IdentityError> {
        self.sockets
            .storage()
            .await?
            .secret_store(deadline(), FARM.into(), farm.0.to_be_bytes().to_vec())
            .await
            .map_err(call(Daemon::Storaged))??;
        Ok(())
    }
}

/// Sends what is news.
fn tell(choices: &watch::Sender<Choice>, choice: Choice) {
    choices.send_if_modified(|before| {
        if *before == choice {
            return false;
        }
        let is_news = before.farm != choice.farm || before.settled != choice.settled;
        match choice.farm {
            Some(farm) if is_news => info!(farm = %farm, settled = choice.settled, "farm"),
            None if choice.settled => warn!("no farm is named, so that this node joins none"),
            _ => {}
        }
        for notice in &choice.notices {
            if !before.notices.contains(notice) {
                warn!(notice, "a farm's number does not count");
            }
        }
        *before = choice;
        true
    });
}

#[cfg(test)]
mod tests;
