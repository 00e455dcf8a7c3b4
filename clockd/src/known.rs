//! [`Known`]: what is known about the time; the other daemons read it in a file.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use loam_node_api::clock::{Clock, ClockService, UnixTime};
use tarpc::context::Context;
use tokio::sync::Notify;

use crate::{floor::Floor, judge::Decision};

/// What is known about the time, shared by the loop and the calls of other daemons.
#[derive(Clone, Debug)]
pub struct Known {
    state: Arc<Mutex<State>>,
    /// Servers that were asked with no use may be of use now.
    ask: Arc<Notify>,
    file: PathBuf,
}

impl Known {
    /// `file` is where the other daemons read it ([`loam_node_api::path::CLOCK`]).
    ///
    /// A predecessor that was killed left there what it knew since this boot: who set the kernel's
    /// clock stays true for as long as the kernel runs, and so does which block was seen.
    pub fn new(file: PathBuf, built: UnixTime) -> anyhow::Result<Self> {
        let left = Clock::read(&file);
        let mut floor = Floor::new(built);
        floor.kept_on_disk(left.floor);
        if let Some(block) = left.block {
            // Judged by the predecessor.
            floor.finalized_block(block, None);
        }
        let known = Self {
            state: Arc::new(Mutex::new(State {
                floor,
                set_by: match left {
                    Clock { set: false, .. } => None,
                    Clock {
                        authenticated: true,
                        ..
                    } => Some(SetBy::Nts),
                    _ => Some(SetBy::Plain),
                },
                source: if left.set {
                    left.source
                } else {
                    "no time server has been asked yet".to_owned()
                },
            })),
            ask: Arc::new(Notify::new()),
            file,
        };
        known.write()?;
        Ok(known)
    }

    /// What is known now.
    pub fn now(&self) -> Clock {
        self.with(|state| Clock {
            floor: state.floor.time(),
            set: state.set_by.is_some(),
            authenticated: state.set_by == Some(SetBy::Nts),
            block: state.floor.block(),
            source: state.source.clone(),
        })
    }

    pub fn floor(&self) -> Floor {
        self.with(|state| state.floor.clone())
    }

    /// The servers were asked: the kernel's clock was set, or why not.
    pub fn decided(&self, decided: &Result<Decision, String>) {
        self.change(|state| state.decided(decided));
    }

    /// Returns when a block was heard of since the last time that makes other answers likely.
    pub async fn worth_asking_again(&self) {
        self.ask.notified().await;
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Plain values, right at every moment.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known, and tells it.
    fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let before = self.now();
        let result = self.with(act);
        if self.now() != before
            && let Err(error) = self.write()
        {
            tracing::error!("what is known about the time cannot be told: {error:#}");
        }
        result
    }

    /// A reader sees the old state or the new one, never a part.
    fn write(&self) -> anyhow::Result<()> {
        let beside = self.file.with_extension("new");
        let written = || -> std::io::Result<()> {
            std::fs::write(&beside, serde_json::to_vec(&self.now())?)?;
            std::fs::rename(&beside, &self.file)
        };
        written().with_context(|| format!("writing {}", self.file.display()))
    }
}

impl ClockService for Known {
    async fn has_passed(self, _: Context, time: UnixTime, finalized_block: bool) {
        let ask = self.change(|state| {
            if finalized_block {
                state.finalized_block(time, UnixTime::kernel())
            } else {
                state.kept_on_disk(time, UnixTime::kernel())
            }
        });
        if ask {
            self.ask.notify_one();
        }
    }

    async fn clock(self, _: Context) -> Clock {
        self.now()
    }
}

#[derive(Debug)]
struct State {
    floor: Floor,
    /// Who set the kernel's clock since this boot.
    set_by: Option<SetBy>,
    source: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SetBy {
    Nts,
    Plain,
}

impl State {
    fn decided(&mut self, decided: &Result<Decision, String>) {
        match decided {
            Ok(decision) => {
                // What NTS has set, plain answers do no more than follow.
                let proved = decision.authenticated || self.set_by == Some(SetBy::Nts);
                self.set_by = Some(if proved { SetBy::Nts } else { SetBy::Plain });
                self.source.clone_from(&decision.source);
            }
            Err(why) if self.set_by.is_none() => self.source.clone_from(why),
            // A clock that was set goes on; the servers' silence makes it no worse.
            Err(_) => {}
        }
    }

    /// Whether servers are to be asked again at once.
    fn kept_on_disk(&mut self, time: UnixTime, kernel: UnixTime) -> bool {
        self.floor.kept_on_disk(time);
        // Disks may come later than an answer, which is refused then as it would have been before.
        let refused = self.set_by.is_some() && time > kernel;
        if refused {
            self.take_back("is before the time that the disks have kept");
        }
        refused
    }

    /// Whether servers are to be asked again at once.
    fn finalized_block(&mut self, block: UnixTime, kernel: UnixTime) -> bool {
        let newest = self.floor.block();
        let proved = (self.set_by == Some(SetBy::Nts)).then_some(kernel);
        if !self.floor.finalized_block(block, proved) {
            tracing::warn!(
                block = block.0,
                "a finalized block is from the future; not believed"
            );
            return false;
        }
        // Of a chain that stands still, the same block comes again: it contradicts nobody.
        if Some(block) <= newest {
            return false;
        }
        if self.set_by == Some(SetBy::Plain) && !kernel.is_near(block) {
            self.take_back("is more than a day from the chain's finalized block");
            return true;
        }
        newest.is_none()
    }

    /// The kernel's clock is not believed any longer.
    fn take_back(&mut self, why: &str) {
        self.set_by = None;
        self.source = format!("the time of {} {why}", self.source);
        tracing::error!(reason = self.source, "the clock is not believed any longer");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instant::Nanos;

    const DAY: u64 = 24 * 3600;
    const NOW: UnixTime = UnixTime(1_750_000_000);

    fn told(source: &str, authenticated: bool) -> Result<Decision, String> {
        Ok(Decision {
            boot: Nanos(0),
            authenticated,
            source: source.to_owned(),
        })
    }

    fn state(set_by: Option<SetBy>, block: Option<UnixTime>) -> State {
        let mut floor = Floor::new(UnixTime(10));
        if let Some(block) = block {
            assert!(floor.finalized_block(block, None));
        }
        State {
            floor,
            set_by,
            source: "somebody".to_owned(),
        }
    }

    #[test]
    fn a_block_that_contradicts_takes_back_a_time_that_nothing_proves() {
        let ahead = |seconds| UnixTime(NOW.0 + seconds);
        let behind = |seconds| UnixTime(NOW.0 - seconds);
        for block in [ahead(DAY + 1), behind(DAY + 1), UnixTime(20)] {
            // The first one, and one that is newer than the first.
            for seen in [None, Some(UnixTime(19))] {
                let mut state = state(Some(SetBy::Plain), seen);
                assert!(state.finalized_block(block, NOW), "{block:?}");
                assert_eq!(state.set_by, None);
                assert_eq!(
                    state.source,
                    "the time of somebody is more than a day from the chain's finalized block"
                );
                // It counts, as any does that comes while the clock is not set.
                assert_eq!(state.floor.block(), Some(block));
            }
        }
        for block in [ahead(DAY), behind(DAY), NOW] {
            let mut state = state(Some(SetBy::Plain), Some(UnixTime(19)));
            assert!(!state.finalized_block(block, NOW));
            assert_eq!(state.set_by, Some(SetBy::Plain));
        }
        // A chain that stands still says the same for ever, and an endpoint that lags says less.
        for block in [behind(2 * DAY), behind(3 * DAY)] {
            let mut state = state(Some(SetBy::Plain), Some(behind(2 * DAY)));
            assert!(!state.finalized_block(block, NOW));
            assert_eq!(state.set_by, Some(SetBy::Plain));
        }
    }

    #[test]
    fn a_block_changes_nothing_about_a_time_that_nts_proved() {
        for block in [UnixTime(NOW.0 + DAY + 1), UnixTime(20), NOW] {
            let mut state = state(Some(SetBy::Nts), Some(UnixTime(19)));
            assert!(!state.finalized_block(block, NOW));
            assert_eq!(state.set_by, Some(SetBy::Nts));
            assert_eq!(state.floor.block() == Some(block), block <= NOW);
        }
    }

    #[test]
    fn an_answer_before_the_time_on_the_disks_is_refused_even_if_the_disks_came_later() {
        for set_by in [SetBy::Nts, SetBy::Plain] {
            let mut state = state(Some(set_by), None);
            assert!(!state.kept_on_disk(NOW, NOW));
            assert_eq!(state.set_by, Some(set_by));
            assert!(state.kept_on_disk(UnixTime(NOW.0 + 1), NOW));
            assert_eq!(state.set_by, None);
            assert_eq!(state.floor.time(), UnixTime(NOW.0 + 1));
        }
        let mut state = state(None, None);
        assert!(!state.kept_on_disk(UnixTime(NOW.0 + 1), NOW));
    }

    #[test]
    fn servers_are_asked_at_once_when_the_first_block_is_seen() {
        let mut state = state(None, None);
        assert!(state.finalized_block(UnixTime(20), NOW));
        assert!(!state.finalized_block(UnixTime(20), NOW));
        assert!(!state.finalized_block(UnixTime(21), NOW));
    }

    #[tokio::test]
    async fn a_time_that_is_taken_back_is_told_and_asked_for_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock.json");
        let known = Known::new(file.clone(), UnixTime(10)).unwrap();
        known.decided(&told("somebody", false));
        let clock = Clock::read(&file);
        assert_eq!((clock.set, clock.authenticated), (true, false));
        let block = UnixTime(UnixTime::kernel().0 + 2 * DAY);
        let call = tarpc::context::current;
        known.clone().has_passed(call(), block, true).await;
        known.worth_asking_again().await;
        let clock = Clock::read(&file);
        assert!(!clock.set);
        assert_eq!((clock.floor, clock.block), (block, Some(block)));
        // The servers' words are told while nobody is believed, and not afterwards.
        known.decided(&Err("silence".to_owned()));
        assert_eq!(Clock::read(&file).source, "silence");
        known.decided(&told("another", true));
        known.decided(&Err("silence".to_owned()));
        let clock = Clock::read(&file);
        assert_eq!((clock.set, clock.authenticated), (true, true));
        assert_eq!(clock.source, "another");
        // Plain servers that agree with it make it no worse either.
        known.decided(&told("plain", false));
        assert!(Clock::read(&file).authenticated);
    }

    #[test]
    fn a_successor_knows_what_its_predecessor_knew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock.json");
        let known = Known::new(file.clone(), UnixTime(10)).unwrap();
        assert_eq!(Clock::read(&file), known.now());
        assert_eq!((known.now().floor, known.now().set), (UnixTime(10), false));
        known.change(|state| {
            state.floor.kept_on_disk(UnixTime(20));
            state.decided(&told("somebody", true));
        });
        let next = Known::new(file.clone(), UnixTime(10)).unwrap();
        assert_eq!(next.now(), known.now());
        assert_eq!(Clock::read(&file), next.now());
        // Torn by whatever: nothing is known but the build's date.
        std::fs::write(&file, "{\"floor\":").unwrap();
        let next = Known::new(file, UnixTime(10)).unwrap();
        assert_eq!((next.now().floor, next.now().set), (UnixTime(10), false));
    }

    #[tokio::test]
    async fn a_successor_holds_plain_time_to_the_block_that_its_predecessor_saw() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock.json");
        let known = Known::new(file.clone(), UnixTime(10)).unwrap();
        let call = tarpc::context::current;
        known.clone().has_passed(call(), UnixTime(30), true).await;
        known.decided(&told("somebody", false));
        known.has_passed(call(), UnixTime(40), false).await;
        let next = Known::new(file, UnixTime(10)).unwrap();
        assert_eq!(next.floor().block(), Some(UnixTime(30)));
        assert_eq!(next.now().floor, UnixTime(40));
        // Plain time stays what can be taken back.
        assert_eq!((next.now().set, next.now().authenticated), (true, false));
    }

    #[tokio::test]
    async fn what_has_passed_raises_the_floor_and_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock.json");
        let known = Known::new(file.clone(), UnixTime(10)).unwrap();
        let call = tarpc::context::current;
        known.clone().has_passed(call(), UnixTime(30), false).await;
        assert_eq!(Clock::read(&file).floor, UnixTime(30));
        known.clone().has_passed(call(), UnixTime(40), true).await;
        assert_eq!(Clock::read(&file).floor, UnixTime(40));
        known.clone().has_passed(call(), UnixTime(35), true).await;
        assert_eq!(Clock::read(&file).floor, UnixTime(40));
        // Set, a block of the far future is not believed.
        known.decided(&told("somebody", true));
        known
            .clone()
            .has_passed(call(), UnixTime(u64::MAX), true)
            .await;
        assert_eq!(ClockService::clock(known, call()).await.floor, UnixTime(40));
    }
}
