//! Doing a step: one call to one daemon, remembered for as long as it takes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    time::{Duration, Instant},
};

use loam_deployment::ContractId;
use loam_node_api::{
    image::{Image, ImageContent, ImageLogin},
    machine::{Machine, MachineSpec, MachineState},
    network::{Network, Uplink},
    storage::{ImageConfig, ImageState},
};
use tarpc::client::RpcError;
use tracing::{info, warn};

use crate::{
    actual::Actual,
    apply::{Missing, fetching, spec},
    complaint::{Complaints, Lines},
    course::Progress,
    daemons::{Daemon, Sockets, call, deadline, within},
    errand::{Effect, Ending, Errand, Errands, Late, contract},
    picture::{Picture, Revisions},
    report::ENDING,
    retry::Retries,
    step::{MachinePlan, Resource, Step},
};

/// How long a guest has to shut down before it is ended.
const STOP_GRACE_SECONDS: u32 = 30;
/// Making the file system of a large volume, or deleting one on a slow disk.
const VOLUME_PATIENCE: Duration = Duration::from_secs(15 * 60);

#[derive(Debug)]
pub struct Executor {
    sockets: Sockets,
    errands: Errands,
    retries: Retries,
    complaints: Complaints,
    news: Lines,
    /// Of ready images, by their contents.
    configs: BTreeMap<ImageContent, ImageConfig>,
    /// Which login storaged was told last, of attempts with one.
    logins: BTreeMap<Image, ImageLogin>,
    away: BTreeSet<Daemon>,
    touched: BTreeSet<Daemon>,
}

impl Executor {
    pub fn new(sockets: Sockets) -> Self {
        Self {
            sockets,
            errands: Errands::default(),
            retries: Retries::default(),
            complaints: Complaints::default(),
            news: Lines::of_news(),
            configs: BTreeMap::new(),
            logins: BTreeMap::new(),
            away: BTreeSet::new(),
            touched: BTreeSet::new(),
        }
    }

    /// Takes in what has ended since the last round, and tells it. The lists of the daemons concerned
    /// are old.
    pub fn begin_round(
        &mut self,
        picture: &mut Picture,
        now: Revisions,
    ) -> Vec<(Step, Result<(), String>)> {
        self.away = [
            (Daemon::Storaged, now.storaged),
            (Daemon::Netd, now.netd),
            (Daemon::Init, now.init),
        ]
        .into_iter()
        .filter_map(|(daemon, revision)| revision.is_none().then_some(daemon))
        .collect();
        let mut ended = Vec::new();
        for Late { errand, ending } in self.errands.begin_round() {
            picture.touch(errand.daemon);
            let result = match ending {
                // The step itself is still to be done.
                Ok(Effect::Config(config)) => {
                    self.learn(&errand.step, config);
                    continue;
                }
                Ok(effect) => {
                    info!(step = %errand.step, "done, after a while");
                    note(&errand.step, effect, &mut picture.actual);
                    Ok(())
                }
                Err(reason) => {
                    self.fail(&errand.step, &reason);
                    Err(reason)
                }
            };
            ended.push((errand.step, result));
        }
        ended
    }

    /// Tells which steps this round will try.
    pub fn begin_plan<'a>(
        &mut self,
        plan: impl Iterator<Item = &'a Step> + Clone,
        actual: &Actual,
    ) {
        let now = Instant::now();
        self.retries.begin_round(plan.clone(), now);
        let planned: BTreeSet<Resource> = plan.map(Step::resource).collect();
        self.complaints
            .retain(|resource| planned.contains(resource), now);
        self.news.prune(now);
        self.configs
            .retain(|content, _| actual.images.ready.contains_key(content));
        self.logins
            .retain(|image, _| actual.images.attempts.contains_key(image));
    }

    /// Marks what the steps of this round have made old.
    pub fn end_round(&mut self, picture: &mut Picture) {
        for daemon in std::mem::take(&mut self.touched) {
            picture.touch(daemon);
        }
    }

    /// Until a step of an earlier round has ended. May be dropped at any time.
    pub async fn ended(&mut self) {
        self.errands.ended().await;
    }

    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.retries.next_due(now)
    }

    /// Whether a line about this contract leaves room in the log for the others'.
    pub fn is_news_of(&mut self, contract: Option<ContractId>) -> bool {
        self.news.take(contract, Instant::now())
    }

    pub fn forgive(&mut self, contract: ContractId) {
        self.retries.forgive(contract);
    }

    /// Room or a way out has changed: what failed for the want of it may succeed now.
    pub fn try_now(&mut self, daemon: Daemon) {
        self.retries
            .try_now(|resource| owner(resource) == daemon, Instant::now());
    }

    /// `actual` is kept up to date with what the step makes.
    pub async fn carry_out(
        &mut self,
        step: &Step,
        actual: &mut Actual,
        uplink: &Uplink,
    ) -> Progress {
        if let Some(reason) = self.retries.held(step, Instant::now()) {
            return Progress::Refused(reason.to_owned());
        }
        if let Some(reason) = self.errands.hinders(step) {
            return Progress::UnderWay(reason);
        }
        let spec = match step {
            Step::ImageEnsure(request) => {
                let image = request.image();
                let is_told = self.logins.get(&image) == request.login.as_ref();
                match actual.images.attempts.get(&image) {
                    // Its end is told.
                    Some(state @ ImageState::Fetching { .. }) if is_told => {
                        return Progress::UnderWay(fetching(state));
                    }
                    _ => None,
                }
            }
            Step::MachineStop(id) => match actual.machines.get(id).map(|m| &m.state) {
                Some(MachineState::Stopping) => return Progress::Begun("stopping".into()),
                Some(MachineState::Ending(_)) => return Progress::UnderWay(ENDING.into()),
                _ => None,
            },
            Step::MachineCheck(plan) | Step::MachineStart(plan) => {
                // By the name under which storaged has it, which may be another's.
                let image = &plan.content.image;
                let ready = actual.images.ready(image.content());
                let image = ready.map_or(image, |ready| &ready.image).clone();
                let config = match self.config(step, &image).await {
                    Ok(config) => config,
                    Err(progress) => return progress,
                };
                let missing = match step {
                    Step::MachineCheck(_) => Missing::Left,
                    _ => Missing::Error,
                };
                match spec(plan, &config, actual, uplink, missing) {
                    Ok(spec) => Some(spec),
                    Err(reason) => return self.refuse(step, reason),
                }
            }
            _ => None,
        };
        let daemon = owner(&step.resource());
        let call = perform(self.sockets.clone(), step.clone(), spec);
        match self.send(step, daemon, call).await {
            Ok(effect) => self.take_in(step, effect, actual),
            Err(progress) => progress,
        }
    }

    /// The image's configuration, asked for once.
    async fn config(&mut self, step: &Step, image: &Image) -> Result<ImageConfig, Progress> {
        if let Some(config) = self.configs.get(&image.content()) {
            return Ok(config.clone());
        }
        let (sockets, asked) = (self.sockets.clone(), image.clone());
        let call = async move {
            let storage = sockets.storage().await.map_err(text)?;
            let config = storage.image_config(deadline(), asked).await;
            said(Daemon::Storaged, config, Effect::Config)
        };
        match self.send(step, Daemon::Storaged, call).await? {
            Effect::Config(config) => {
                self.learn(step, config.clone());
                Ok(config)
            }
            effect => Err(self.refuse(step, format!("no image configuration but {effect:?}"))),
        }
    }

    async fn send(
        &mut self,
        step: &Step,
        daemon: Daemon,
        call: impl Future<Output = Ending> + 'static,
    ) -> Result<Effect, Progress> {
        if self.away.contains(&daemon) {
            return Err(Progress::UnderWay(format!(
                "waits for {daemon}, which does not answer"
            )));
        }
        if self.errands.is_full(daemon) {
            return Err(Progress::UnderWay(format!("waits: {daemon} is busy")));
        }
        let errand = Errand {
            step: step.clone(),
            daemon,
        };
        match self.errands.send(errand, call).await {
            Some(Ok(effect)) => Ok(effect),
            Some(Err(reason)) => Err(self.refuse(step, reason)),
            None => Err(Progress::Begun(format!("{step}: takes its time"))),
        }
    }

    fn take_in(&mut self, step: &Step, effect: Effect, actual: &mut Actual) -> Progress {
        // It is asked again for as long as others are waited for.
        if step.is_check() {
            return Progress::Done;
        }
        self.touched.insert(owner(&step.resource()));
        if let Step::ImageEnsure(request) = step
            && let Some(login) = &request.login
        {
            self.logins.insert(request.image(), login.clone());
        }
        match &effect {
            Effect::Begun(what) => return Progress::Begun(what.clone()),
            Effect::Image(status) => match &status.state {
                ImageState::Ready { .. } => {}
                state @ ImageState::Fetching { .. } => {
                    let progress = Progress::UnderWay(fetching(state));
                    note(step, effect, actual);
                    return progress;
                }
                ImageState::Failed(reason) => {
                    let progress = self.refuse(step, reason.clone());
                    note(step, effect, actual);
                    return progress;
                }
            },
            Effect::Done | Effect::Volume(_) | Effect::Interface(_) | Effect::Config(_) => {}
        }
        note(step, effect, actual);
        if self.is_news_of(contract(&step.resource())) {
            info!(%step, "done");
        }
        self.retries.done(step);
        if frees(step) {
            self.try_now(owner(&step.resource()));
        }
        Progress::Done
    }

    fn refuse(&mut self, step: &Step, reason: String) -> Progress {
        self.fail(step, &reason);
        Progress::Refused(reason)
    }

    fn fail(&mut self, step: &Step, reason: &str) {
        let now = Instant::now();
        if self.complaints.is_worth_a_line(step, reason, now) {
            warn!(%step, reason, "failed; it is tried again, and told again more seldom");
        }
        // A machine's starts have their own back-off, which counts its ends too.
        if !matches!(step, Step::MachineStart(_)) {
            self.retries.failed(step, reason, now);
        }
    }

    fn learn(&mut self, step: &Step, config: ImageConfig) {
        if let Step::MachineCheck(plan) | Step::MachineStart(plan) = step {
            let MachinePlan { content, .. } = &**plan;
            self.configs.insert(content.image.content(), config);
        }
    }
}

/// What a step has made or removed is known before the lists are read again, which may take a while
/// if the daemon falls silent now.
fn note(step: &Step, effect: Effect, actual: &mut Actual) {
    match effect {
        Effect::Volume(volume) => {
            actual.volumes.insert(volume.key.clone(), volume);
        }
        Effect::Interface(interface) => {
            actual.interfaces.insert(interface.id.clone(), interface);
        }
        Effect::Image(status) => actual.images.note(status),
        Effect::Begun(_) | Effect::Config(_) => {}
        Effect::Done => match step {
            Step::MachineForget(id) => {
                actual.machines.remove(id);
            }
            Step::MachineStart(plan) => {
                let machine = Machine {
                    id: plan.id.clone(),
                    fingerprint: plan.fingerprint.clone(),
                    state: MachineState::Booting,
                    age_seconds: 0,
                    health: None,
                    resets: 0,
                    ends: None,
                    console_position: 0,
                };
                actual.machines.insert(plan.id.clone(), machine);
            }
            Step::InterfaceDelete(id) => {
                actual.interfaces.remove(id);
            }
            Step::NetworkDelete(id) => {
                actual.networks.remove(id);
            }
            Step::NetworkEnsure(id, spec) => {
                let network = Network {
                    id: id.clone(),
                    spec: spec.clone(),
                    bridge: String::new(),
                };
                actual.networks.insert(id.clone(), network);
            }
            Step::VolumeDelete(key, _) => {
                actual.volumes.remove(key);
                actual.away.remove(key);
            }
            Step::ImageDelete(image) => {
                actual.images.attempts.remove(image);
                actual.images.ready.remove(&image.content());
            }
            Step::MachineStop(_)
            | Step::MachineCheck(_)
            | Step::NetworkCheck(..)
            | Step::ImageEnsure(_)
            | Step::VolumeEnsure(..)
            | Step::InterfaceEnsure(..) => {}
        },
    }
}

/// Whom the resource belongs to.
fn owner(resource: &Resource) -> Daemon {
    match resource {
        Resource::Image(_) | Resource::Volume(_) => Daemon::Storaged,
        Resource::Network(_) | Resource::Interface(_) => Daemon::Netd,
        Resource::Machine(_) => Daemon::Init,
    }
}

/// Whether others may have failed for what the step has given back.
fn frees(step: &Step) -> bool {
    matches!(
        step,
        Step::MachineForget(_)
            | Step::InterfaceDelete(_)
            | Step::NetworkDelete(_)
            | Step::VolumeDelete(..)
            | Step::ImageDelete(_)
    )
}

/// The call itself, which owns all that it needs.
///
/// It may break off with its daemon, and nobody knows how far it came: the step has failed, and is
/// planned again from the lists of the daemon's successor, soon. Each one of storaged and netd can be
/// repeated. A volume is made or grown to what is asked for, or is so already; a fetch that was begun
/// goes on; a network or an interface is what its record says, written again; what is deleted twice is
/// gone; a check and a configuration change nothing. Of init's, a start and a stop are no such calls
/// (see [`crate::plan::Memory`]), but init has no successor, and its connections stay.
async fn perform(sockets: Sockets, step: Step, spec: Option<MachineSpec>) -> Ending {
    let done = |()| Effect::Done;
    match owner(&step.resource()) {
        Daemon::Storaged => {
            let storage = sockets.storage().await.map_err(text)?;
            match step {
                Step::VolumeEnsure(key, spec, version) => {
                    let volume = storage
                        .volume_ensure(within(VOLUME_PATIENCE), key, spec, version)
                        .await;
                    said(Daemon::Storaged, volume, Effect::Volume)
                }
                Step::VolumeDelete(key, why) => {
                    let deleted = storage
                        .volume_delete(within(VOLUME_PATIENCE), key, why)
                        .await;
                    said(Daemon::Storaged, deleted, done)
                }
                Step::ImageEnsure(request) => storage
                    .image_ensure(deadline(), request)
                    .await
                    .map(Effect::Image)
                    .map_err(|error| text(call(Daemon::Storaged)(error))),
                Step::ImageDelete(image) => {
                    let deleted = storage.image_delete(deadline(), image).await;
                    said(Daemon::Storaged, deleted, done)
                }
                other => Err(misdirected(&other)),
            }
        }
        Daemon::Netd => {
            let network = sockets.network().await.map_err(text)?;
            match step {
                Step::NetworkCheck(id, spec) => {
                    let checked = network.network_check(deadline(), id, spec).await;
                    said(Daemon::Netd, checked, done)
                }
                Step::NetworkEnsure(id, spec) => {
                    let made = network.network_ensure(deadline(), id, spec).await;
                    said(Daemon::Netd, made, done)
                }
                Step::NetworkDelete(id) => {
                    let deleted = network.network_delete(deadline(), id).await;
                    said(Daemon::Netd, deleted, done)
                }
                Step::InterfaceEnsure(id, spec) => {
                    let made = network.interface_ensure(deadline(), id, spec).await;
                    said(Daemon::Netd, made, Effect::Interface)
                }
                Step::InterfaceDelete(id) => {
                    let deleted = network.interface_delete(deadline(), id).await;
                    said(Daemon::Netd, deleted, done)
                }
                other => Err(misdirected(&other)),
            }
        }
        Daemon::Init | Daemon::Clockd => {
            let machines = sockets.machines().await.map_err(text)?;
            match (step, spec) {
                (Step::MachineStop(id), _) => {
                    let stopping = machines
                        .machine_stop(deadline(), id, STOP_GRACE_SECONDS)
                        .await;
                    said(Daemon::Init, stopping, |()| {
                        Effect::Begun("stopping".into())
                    })
                }
                (Step::MachineForget(id), _) => {
                    let forgotten = machines.machine_forget(deadline(), id).await;
                    said(Daemon::Init, forgotten, done)
                }
                (Step::MachineCheck(_), Some(spec)) => {
                    let checked = machines.machine_check(deadline(), spec).await;
                    said(Daemon::Init, checked, done)
                }
                (Step::MachineStart(_), Some(spec)) => {
                    let started = machines.machine_start(deadline(), spec).await;
                    said(Daemon::Init, started, done)
                }
                (other, _) => Err(misdirected(&other)),
            }
        }
    }
}

fn misdirected(step: &Step) -> String {
    format!("no daemon is asked to {step}")
}

fn said<T, E: Display>(
    daemon: Daemon,
    answer: Result<Result<T, E>, RpcError>,
    effect: impl FnOnce(T) -> Effect,
) -> Ending {
    answer
        .map_err(|error| text(call(daemon)(error)))?
        .map(effect)
        .map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;

    #[test]
    fn what_fails_again_and_again_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let subscriber = tracing_subscriber::fmt()
            .with_writer(Arc::new(fs::File::create_new(&log).unwrap()))
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let mut executor = Executor::new(Sockets::of_node());
            let step = Step::NetworkDelete("1.net".parse().unwrap());
            for _ in 0..100 {
                executor.fail(&step, "it is in use");
            }
            executor.fail(&step, "the disk hangs");
        });
        let log = fs::read_to_string(log).unwrap();
        assert_eq!(log.matches("it is in use").count(), 1, "{log}");
        assert_eq!(log.matches("the disk hangs").count(), 1, "{log}");
    }
}
