//! [`Keeper`]: asks, judges and sets.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use loam_node_api::tls::{self, KnownTime};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::time::sleep;

use crate::{
    alarm,
    config::Config,
    instant::{self, kernel, since_boot},
    judge::{self, Decision},
    known::Known,
    query::Asker,
};

/// First pause after a try that set no clock, doubled up to [`LONGEST_RETRY`]: the uplink comes
/// seconds after the start, or whenever somebody plugs the cable in.
const FIRST_RETRY: Duration = Duration::from_secs(2);
const LONGEST_RETRY: Duration = Duration::from_secs(64);
/// A quartz is off by a tenth of a second in this time; servers are not asked more often.
const CALM: Duration = Duration::from_secs(1024);
/// The node's screen shows an error for an hour.
const ALARM_AGAIN: Duration = Duration::from_secs(50 * 60);

/// Asks servers for as long as the node runs.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    known: Known,
    asker: Asker,
    /// The last words about it in the log, which are not repeated.
    told: String,
    /// What a farmer must hear of the last answers.
    alarm: Option<String>,
    alarmed: Option<Instant>,
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
            alarm: None,
            alarmed: None,
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
                        tracing::warn!(reason = why, "the clock is not set");
                        self.told = why;
                    }
                    let pause = retry;
                    retry = (retry * 2).min(LONGEST_RETRY);
                    pause
                }
            };
            self.sound_alarm();
            tokio::select! {
                () = sleep(pause) => {}
                () = self.known.worth_asking_again() => retry = FIRST_RETRY,
            }
        }
    }

    /// What the last answers say against the floor, if several do.
    pub fn alarm(&self) -> Option<&str> {
        self.alarm.as_deref()
    }

    fn sound_alarm(&mut self) {
        let due = self.alarmed.is_none_or(|at| at.elapsed() >= ALARM_AGAIN);
        if let Some(alarm) = &self.alarm
            && due
        {
            tracing::error!("{alarm}");
            self.alarmed = Some(Instant::now());
        }
    }

    /// Asks once, and sets the clock if a time is to be believed: by whom, or why not.
    async fn round(&mut self) -> Result<String, String> {
        let decided = self.ask().await.and_then(|decision| {
            let up = since_boot();
            let off = instant::set(decision.boot + up, up)
                .map_err(|error| format!("the kernel refuses the time: {error}"))?;
            tracing::info!(
                seconds_off = off.0 as f64 / 1e9,
                source = decision.source,
                "compared the clock"
            );
            Ok(decision)
        });
        self.known.decided(&decided);
        decided.map(|decision| decision.source)
    }

    /// Asks once: which time is to be believed, or why none. Sets nothing.
    ///
    /// # Errors
    ///
    /// Why no time is believed, for people.
    pub async fn ask(&mut self) -> Result<Decision, String> {
        let Config { nts, ntp, .. } = &self.config;
        if nts.is_empty() && ntp.is_empty() {
            return Err("this image names no time server".to_owned());
        }
        let (mut answers, mut ended) = (Vec::new(), 0);
        for (server, answer) in self.asker.ask(nts, ntp, self.config.era()).await {
            match answer {
                Ok(answer) => answers.push(answer),
                Err(error) => {
                    ended += usize::from(error.is_ended_certificate());
                    tracing::debug!(%server, %error, "a time server was of no use");
                }
            }
        }
        let (floor, up) = (self.known.floor(), since_boot());
        self.alarm = alarm::alarm(&answers, ended, &floor, up);
        let proved = self.known.now().authenticated.then(|| kernel() - up);
        judge::judge(&answers, ntp.len(), &floor, up)?.held_to(proved)
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
    use loam_node_api::clock::UnixTime;

    use super::*;

    #[tokio::test]
    async fn without_servers_it_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let known = Known::new(folder.path().join("clock.json"), UnixTime(10)).unwrap();
        let mut keeper = Keeper::new(Config::default(), known.clone()).unwrap();
        let why = keeper.ask().await.unwrap_err();
        assert_eq!(why, "this image names no time server");
    }

    #[test]
    fn authorities_must_be_certificates() {
        let error = authorities("nothing").unwrap_err();
        assert_eq!(error.to_string(), "there is no certificate in it");
    }
}
