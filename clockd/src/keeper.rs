//! [`Keeper`]: asks, judges and sets; tells the other daemons by a file what is known.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use loam_node_api::{
    clock::{Clock, ClockService, UnixTime},
    tls::{self, KnownTime},
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tarpc::context::Context;
use tokio::time::sleep;

use crate::{
    config::Config,
    floor::Floor,
    instant::{self, Nanos, since_boot},
    judge,
    query::Asker,
};

/// First pause after a try that set no clock, doubled up to [`LONGEST_RETRY`]: the uplink comes
/// seconds after the start, or whenever somebody plugs the cable in.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(64);
/// A quartz is off by a tenth of a second in this time; servers are not asked more often.
const CALM: Duration = Duration::from_secs(1024);

/// What is known about the time, shared by the loop and the calls of other daemons.
#[derive(Clone, Debug)]
pub struct Known {
    state: Arc<Mutex<State>>,
    file: PathBuf,
}

#[derive(Debug)]
struct State {
    floor: Floor,
    set: bool,
    source: String,
}

impl Known {
    /// `file` is where the other daemons read it ([`loam_node_api::path::CLOCK`]).
    ///
    /// A predecessor that was killed left there what it knew; that the kernel's clock was set stays
    /// true for as long as the kernel runs.
    pub fn new(file: PathBuf, built: UnixTime) -> anyhow::Result<Self> {
        let left = Clock::read(&file);
        let mut floor = Floor::new(built);
        floor.kept_on_disk(left.floor);
        let known = Self {
            state: Arc::new(Mutex::new(State {
                floor,
                set: left.set,
                source: if left.set {
                    left.source
                } else {
                    "no time server has been asked yet".to_owned()
                },
            })),
            file,
        };
        known.write()?;
        Ok(known)
    }

    /// What is known now.
    pub fn now(&self) -> Clock {
        self.with(|state| Clock {
            floor: state.floor.time(),
            set: state.set,
            source: state.source.clone(),
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        // Plain values, right at every moment.
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes what is known, and tells it.
    fn change(&self, act: impl FnOnce(&mut State)) {
        let before = self.now();
        self.with(act);
        if self.now() != before
            && let Err(error) = self.write()
        {
            tracing::error!("what is known about the time cannot be told: {error:#}");
        }
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
        self.change(|state| {
            if !finalized_block {
                state.floor.kept_on_disk(time);
                return;
            }
            let now = state.set.then(UnixTime::kernel);
            if !state.floor.finalized_block(time, now) {
                tracing::warn!(
                    block = time.0,
                    "a finalized block is from the future; not believed"
                );
            }
        });
    }

    async fn clock(self, _: Context) -> Clock {
        self.now()
    }
}

/// Asks servers for as long as the node runs.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    known: Known,
    asker: Asker,
    /// The last words about it in the log, which are not repeated.
    told: String,
}

impl Keeper {
    /// # Errors
    ///
    /// `authorities` of the configuration are no certificates.
    pub fn new(config: Config, known: Known) -> anyhow::Result<Self> {
        let roots = match &config.authorities {
            None => tls::public_roots(),
            Some(pem) => authorities(pem).context("authorities")?,
        };
        let judged_by = known.clone();
        let time: KnownTime = Arc::new(move || judged_by.now());
        let asker = Asker::new(tls::client_config(roots, time).context("TLS")?);
        Ok(Self {
            config,
            known,
            asker,
            told: String::new(),
        })
    }

    pub async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        loop {
            let pause = match self.round().await {
                Ok(said) => {
                    if self.told != said {
                        tracing::info!(source = said, "the clock is set");
                        self.told = said;
                    }
                    retry = FIRST_RETRY;
                    CALM
                }
                Err(why) => {
                    if self.told != why {
                        tracing::warn!(why, "the clock is not set");
                        self.told = why;
                    }
                    let pause = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    /// Asks once, and sets the clock if a time is to be believed: by whom, or why not.
    pub async fn round(&mut self) -> Result<String, String> {
        let Config { nts, ntp, .. } = &self.config;
        if nts.is_empty() && ntp.is_empty() {
            return Err("this image names no time server".to_owned());
        }
        let floor = Nanos::from(self.known.now().floor);
        let mut answers = Vec::new();
        for (server, answer) in self.asker.ask(nts, ntp, floor).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => tracing::debug!(%server, %error, "a time server was of no use"),
            }
        }
        let up = since_boot();
        let judged = self
            .known
            .with(|state| judge::judge(&answers, ntp.len(), &state.floor, up));
        let decided = judged.and_then(|decision| {
            let off = instant::set(decision.boot + up, up)
                .map_err(|error| format!("the kernel refuses the time: {error}"))?;
            tracing::info!(
                seconds_off = off.0 as f64 / 1e9,
                source = decision.source,
                "compared the clock"
            );
            Ok(decision.source)
        });
        self.known.change(|state| match &decided {
            Ok(source) => {
                state.set = true;
                state.source.clone_from(source);
            }
            Err(why) if !state.set => state.source.clone_from(why),
            // A clock that was set goes on; the servers' silence makes it no worse.
            Err(_) => {}
        });
        decided
    }
}

fn authorities(pem: &str) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "there is no certificate in it");
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_knows_what_its_predecessor_knew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("clock.json");
        let known = Known::new(file.clone(), UnixTime(10)).unwrap();
        assert_eq!(Clock::read(&file), known.now());
        assert_eq!((known.now().floor, known.now().set), (UnixTime(10), false));
        known.change(|state| {
            state.floor.kept_on_disk(UnixTime(20));
            state.set = true;
            state.source = "somebody".to_owned();
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
        known.change(|state| state.set = true);
        known
            .clone()
            .has_passed(call(), UnixTime(u64::MAX), true)
            .await;
        assert_eq!(ClockService::clock(known, call()).await.floor, UnixTime(40));
    }

    #[tokio::test]
    async fn without_servers_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::new(folder.path().join("clock.json"), UnixTime(10)).unwrap();
        let mut keeper = Keeper::new(Config::default(), known.clone()).unwrap();
        let why = keeper.round().await.unwrap_err();
        assert_eq!(why, "this image names no time server");
    }

    #[test]
    fn authorities_must_be_certificates() {
        let error = authorities("nothing").unwrap_err();
        assert_eq!(error.to_string(), "there is no certificate in it");
    }
}
