//! Passing on what noded learns about the time: finalized blocks to clockd, and what is certain to
//! the disks, for the next boot. A node without clockd does without.

use std::{
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use loam_chain::GridReader;
use loam_node_api::clock::{Clock, UnixTime};
use tokio::{sync::watch, time::sleep};
use tracing::{debug, warn};

use crate::{
    daemons::{Daemon, DaemonError, Sockets, call, shortly},
    follow::View,
};

/// The name under which storaged keeps the time: seconds since 1970, 8 bytes, big-endian.
const KEPT: &str = "time";
/// Between two blocks whose time is told: the floor is for years, not for minutes.
const BLOCKS: Duration = Duration::from_secs(10 * 60);
/// Between two writings to the disks.
const KEEP: Duration = Duration::from_secs(60 * 60);
const RETRY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct ClockKeeper {
    pub sockets: Sockets,
    /// What clockd wrote.
    pub clock: PathBuf,
}

impl ClockKeeper {
    /// Tells clockd, for ever, what the disks have kept and what the chain says.
    pub async fn run(self, reader: Arc<dyn GridReader>, views: watch::Receiver<Option<Rc<View>>>) {
        tokio::join!(self.keep(), self.tell_blocks(reader, views));
    }

    async fn tell_blocks(
        &self,
        reader: Arc<dyn GridReader>,
        mut views: watch::Receiver<Option<Rc<View>>>,
    ) {
        loop {
            // The sender lives as long as the process.
            let block = match views.wait_for(Option::is_some).await {
                Ok(view) => view.as_ref().map(|view| view.block),
                Err(_) => return std::future::pending().await,
            };
            let Some(block) = block else { continue };
            let told = match reader.time_of(block).await {
                Ok(time) => self.has_passed(UnixTime(time), true).await.map_err(text),
                Err(error) => Err(text(error)),
            };
            let pause = match told {
                Ok(()) => BLOCKS,
                Err(error) => {
                    debug!(error, "the time of a block was not passed on");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn keep(&self) {
        while let Err(error) = self.tell_kept().await {
            debug!(error, "the time that the disks have kept was not passed on");
            sleep(RETRY).await;
        }
        let mut kept = UnixTime::default();
        let mut told: Option<Instant> = None;
        loop {
            let clock = Clock::read(&self.clock);
            let time = clock.for_ends(UnixTime::kernel());
            if time > kept {
                match self.store(time).await {
                    Ok(()) => kept = time,
                    Err(error) if told.is_none_or(|told| told.elapsed() > KEEP * 24) => {
                        warn!(error, "the time is not kept on the disks");
                        told = Some(Instant::now());
                    }
                    Err(_) => {}
                }
            }
            // The first hour may be the only one that this boot has.
            sleep(if clock.set || kept.0 > 0 { KEEP } else { RETRY }).await;
        }
    }

    async fn tell_kept(&self) -> Result<(), String> {
        let storage = self.sockets.storage().await.map_err(text)?;
        let kept = storage
            .secret_load(shortly(), KEPT.into())
            .await
            .map_err(text)?
            .map_err(text)?;
        match kept.map(<[u8; 8]>::try_from) {
            Some(Ok(bytes)) => {
                let time = UnixTime(u64::from_be_bytes(bytes));
                self.has_passed(time, false).await.map_err(text)
            }
            Some(Err(_)) => {
                warn!("the time that the disks have kept cannot be read; it is written anew");
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn store(&self, time: UnixTime) -> Result<(), String> {
        let storage = self.sockets.storage().await.map_err(text)?;
        storage
            .secret_store(shortly(), KEPT.into(), time.0.to_be_bytes().to_vec())
            .await
            .map_err(text)?
            .map_err(text)
    }

    async fn has_passed(&self, time: UnixTime, finalized: bool) -> Result<(), DaemonError> {
        self.sockets
            .clock()
            .await?
            .has_passed(shortly(), time, finalized)
            .await
            .map_err(call(Daemon::Clockd))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
