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
/// Between two blocks whose time is told, once the clock is set: the floor is for years then.
const BLOCKS: Duration = Duration::from_mins(10);
/// As long as it is not: the floor alone says that a deployment has ended.
const BLOCKS_UNSET: Duration = Duration::from_mins(1);
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
                Ok(()) if Clock::read(&self.clock).set => BLOCKS,
                Ok(()) => BLOCKS_UNSET,
                Err(error) => {
                    debug!(error, "the time of a block was not passed on");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn keep(&self) {
        let mut kept = loop {
            match self.tell_kept().await {
                Ok(kept) => break kept,
                Err(error) => debug!(error, "the time that the disks have kept was not passed on"),
            }
            sleep(RETRY).await;
        };
        let mut told: Option<Instant> = None;
        let mut calm = false;
        loop {
            // What is kept binds every later boot: were it wrong, each certificate and deployment
            // would have ended, and servers that say the right time would be refused.
            if let Some(time) = Clock::read(&self.clock).to_keep(UnixTime::kernel()) {
                // The first hour may be the only one that this boot has.
                calm = true;
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
            }
            sleep(if calm { KEEP } else { RETRY }).await;
        }
    }

    /// Says what the disks have kept; 0 if nothing.
    async fn tell_kept(&self) -> Result<UnixTime, String> {
        let storage = self.sockets.storage().await.map_err(text)?;
        let kept = storage
            .secret_load(shortly(), KEPT.into())
            .await
            .map_err(text)?
            .map_err(text)?;
        match kept.map(<[u8; 8]>::try_from) {
            Some(Ok(bytes)) => {
                let time = UnixTime(u64::from_be_bytes(bytes));
                self.has_passed(time, false).await.map_err(text)?;
                Ok(time)
            }
            Some(Err(_)) => {
                warn!("the time that the disks have kept cannot be read; it is written anew");
                Ok(UnixTime::default())
            }
            None => Ok(UnixTime::default()),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::task::{LocalSet, spawn_local};

    use super::*;
    use crate::{
        fake::{FakeNode, Part, State},
        fake_chain::{FakeChain, block},
    };

    fn view() -> Rc<View> {
        Rc::new(View {
            block: block(7),
            node: None,
            farm: None,
            contracts: Rc::new([]),
            cancelled: BTreeSet::new(),
            generation: 1,
        })
    }

    fn keep(node: &FakeNode) -> tokio::task::JoinHandle<()> {
        let keeper = ClockKeeper {
            sockets: node.sockets.clone(),
            clock: node.clock(),
        };
        let (_, views) = watch::channel(Some(view()));
        spawn_local(keeper.run(Arc::new(FakeChain::default()), views))
    }

    fn kept(state: &State) -> Option<u64> {
        let bytes = state.secrets.get(KEPT)?;
        Some(u64::from_be_bytes(bytes[..].try_into().unwrap()))
    }

    #[tokio::test]
    async fn what_was_kept_and_what_blocks_say_is_told_and_the_time_is_kept() {
        let work = async {
            let node = FakeNode::new();
            let before = 1_700_000_000u64;
            node.change(|state| {
                state
                    .secrets
                    .insert(KEPT.into(), before.to_be_bytes().into());
            });
            let now = UnixTime::kernel();
            let clock = Clock {
                set: true,
                authenticated: true,
                ..Clock::default()
            };
            std::fs::write(node.clock(), serde_json::to_vec(&clock).unwrap()).unwrap();
            let _daemons = [node.start(Part::Storaged), node.start(Part::Clockd)];
            node.wait_for_sockets(&[Part::Storaged, Part::Clockd]).await;
            let keeper = keep(&node);
            node.wait("both are told", |state| {
                state.passed.contains(&(UnixTime(before), false))
                    && state.passed.contains(&(UnixTime(1_800_000_007), true))
            })
            .await;
            node.wait("it is kept", |state| kept(state) >= Some(now.0))
                .await;
            keeper.abort();
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn of_a_time_that_plain_ntp_told_no_more_is_kept_than_a_block_confirms() {
        let work = async {
            let node = FakeNode::new();
            let now = UnixTime::kernel().0;
            let clock = Clock {
                floor: UnixTime(now + 1_000_000),
                set: true,
                block: Some(UnixTime(now - 1000)),
                ..Clock::default()
            };
            std::fs::write(node.clock(), serde_json::to_vec(&clock).unwrap()).unwrap();
            let _daemons = [node.start(Part::Storaged), node.start(Part::Clockd)];
            node.wait_for_sockets(&[Part::Storaged, Part::Clockd]).await;
            let keeper = keep(&node);
            node.wait("a time is kept", |state| kept(state).is_some())
                .await;
            node.look(|state| assert_eq!(kept(state), Some(now - 1000)));
            keeper.abort();
        };
        LocalSet::new().run_until(work).await;
    }

    #[tokio::test]
    async fn nothing_is_kept_before_what_was_kept_is_told() {
        let work = async {
            let node = FakeNode::new();
            node.change(|state| {
                state.secrets.insert(KEPT.into(), 5u64.to_be_bytes().into());
            });
            let clock = Clock {
                floor: UnixTime(3),
                set: true,
                authenticated: true,
                ..Clock::default()
            };
            std::fs::write(node.clock(), serde_json::to_vec(&clock).unwrap()).unwrap();
            let _storaged = node.start(Part::Storaged);
            node.wait_for_sockets(&[Part::Storaged]).await;
            // No clockd.
            let keeper = keep(&node);
            node.wait("the time is read", |state| {
                state.calls.contains_key("secret_load")
            })
            .await;
            node.look(|state| assert_eq!(kept(state), Some(5)));
            keeper.abort();
        };
        LocalSet::new().run_until(work).await;
    }
}
