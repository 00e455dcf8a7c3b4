//! [`Node`]: the main loop of PID 1. It alone owns daemons, machines and screen, and takes one
//! event after the other.

use std::{
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use loam_init::reap::{self, End};
use loam_node_api::{
    clock::UnixTime,
    machine::Shutdown,
    screen::{Daemon, Facts, Request},
    status::NodeStatus,
};
use rustix::process::Pid;
use tokio::sync::mpsc;

use crate::{
    api::Call,
    coldplug::Hotplug,
    crash_log::LastBoot,
    event::Event,
    farm::FarmFinder,
    log::Log,
    machine::{Machines, launcher::Launcher},
    power::{button::Buttons, watchdog::Watchdog},
    screen::{Screen, facts::Observer, network_test::Tester},
    service::{Services, State},
    uevent::Uevent,
    virtualisation::Virtualisation,
};

/// How long machines have to end when the node does.
const MACHINES_GRACE: Duration = Duration::from_secs(60);
/// Killed machines are gone soon; what the kernel does not let go of must not hold up the end.
const KILLED_MACHINES_GRACE: Duration = Duration::from_secs(20);
const DAEMONS_GRACE: Duration = Duration::from_secs(15);

/// The loop turns at least so often: the watchdog is petted, and the screen's facts are fresh.
const TURN: Duration = Duration::from_secs(5);
/// After a panic the loop turns no faster than this, in case each turn has one.
const PANIC_PAUSE: Duration = Duration::from_secs(1);
/// How far back the screen's reader can go in the log.
const LOG_LINES: usize = 300;
/// While a daemon waits for another's socket, which comes without an event.
const WAITING_TURN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Node<L> {
    /// Which image runs, for the screen.
    pub image: String,
    pub services: Services,
    pub machines: Machines<L>,
    pub screen: Screen,
    pub tester: Tester,
    pub last_boot: LastBoot,
    pub virtualisation: Virtualisation,
    pub modules: Option<Hotplug>,
    pub farm: Option<FarmFinder>,
    pub watchdog: Option<Watchdog>,
    /// The kernel's own is loaded once.
    pub asked_for_watchdog: bool,
    pub buttons: Buttons,
    pub log: Log,
    pub sender: mpsc::Sender<Event>,
    /// What noded told last.
    pub status: Option<NodeStatus>,
    pub observer: Observer,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Up,
    StoppingMachines { how: Shutdown, until: Instant },
    StoppingDaemons { how: Shutdown, until: Instant },
}

impl<L: Launcher> Node<L> {
    /// Runs until the node is to be switched off or restarted; all but the pools has ended then.
    pub async fn run(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        children: &mut tokio::signal::unix::Signal,
    ) -> Shutdown {
        let mut calm = true;
        loop {
            let turn = match calm {
                true => self.turn(Instant::now()),
                false => PANIC_PAUSE,
            };
            calm = true;
            tokio::select! {
                event = events.recv() => {
                    if let Some(event) = event {
                        calm &= survive("an event", || self.take(event, Instant::now())).is_some();
                    }
                }
                _ = children.recv() => calm &= self.reap(),
                () = tokio::time::sleep(turn) => {}
            }
            let now = Instant::now();
            calm &= survive("machines", || self.machines.tick(now)).is_some();
            calm &= survive("daemons", || self.services.tick(now)).is_some();
            calm &= survive("the screen", || self.screen.tick(now)).is_some();
            calm &= survive("the network's test", || self.tester.tick(now)).is_some();
            self.watch();
            if let Some(ControlFlow::Break(how)) = survive("going down", || self.go_down(now)) {
                return how;
            }
            calm &= survive("telling the screen", || self.tell_screen(now)).is_some();
        }
    }

    /// Says to the watchdog that the loop turns: to the machine's own, or to the kernel's where no device has brought one.
    fn watch(&mut self) {
        match (&self.watchdog, &self.modules) {
            (Some(watchdog), _) => watchdog.pet(),
            (None, Some(modules)) if modules.is_settled() && !self.asked_for_watchdog => {
                self.asked_for_watchdog = true;
                modules.load_named("softdog");
            }
            (None, _) => {}
        }
    }

    /// How long to wait if nothing happens.
    fn turn(&self, now: Instant) -> Duration {
        let until = |deadline: Instant| deadline.saturating_duration_since(now);
        let phase = match self.phase {
            Phase::Up => None,
            Phase::StoppingMachines { until, .. } | Phase::StoppingDaemons { until, .. } => {
                Some(until)
            }
        };
        let deadlines = [
            self.machines.deadline(),
            self.services.deadline(),
            self.screen.deadline(),
            self.tester.deadline(),
            phase,
        ];
        let mut turn = deadlines
            .into_iter()
            .flatten()
            .map(until)
            .min()
            .unwrap_or(TURN)
            .min(TURN);
        if self.services.waits() {
            turn = turn.min(WAITING_TURN);
        }
        // Something may have changed that the screen could not be told yet.
        match self.screen.pause(now) {
            None | Some(Duration::ZERO) => turn,
            Some(pause) => turn.min(pause),
        }
    }

    /// Each end is told on its own, so that a panic costs no other. False after a panic.
    fn reap(&mut self) -> bool {
        let mut calm = true;
        while let Some((pid, end)) = reap::next() {
            let now = Instant::now();
            calm &= survive("the end of a process", || {
                if !self.machines.child_ended(pid, end, now)
                    && !self.services.child_ended(pid, end, now)
                    && !self.screen.child_ended(pid, end, now)
                    && !self.test_ended(pid, end)
                {
                    tracing::debug!(pid = pid.as_raw_nonzero(), %end, "orphan reaped");
                }
            })
            .is_some();
        }
        calm
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Call(call) => self.answer(call, now),
            Event::Machine { id, launch, news } => self.machines.heard(&id, launch, news, now),
            Event::ButtonGone(name) => {
                self.buttons.forget(&name);
                self.buttons.listen(&self.sender);
            }
            Event::Device(event) => self.device(event),
            Event::Power(how) => self.start_going_down(how, now),
            Event::Screen(request) => self.heed(request, now),
            Event::NetworkTest(news) => {
                self.tester.heard(news);
                self.screen.hurry();
            }
        }
    }

    /// Hundreds come when the node starts: each is for those alone whom it concerns.
    fn device(&mut self, event: Uevent) {
        let is = |class: &str| match &event {
            Uevent::Added { subsystem, .. } => subsystem == class,
            Uevent::Lost => true,
        };
        if is("input") {
            self.buttons.listen(&self.sender);
        }
        if is("watchdog") && self.watchdog.is_none() {
            self.watchdog = Watchdog::arm();
        }
        if let Some(farm) = &self.farm {
            farm.device(&event);
        }
        if let Some(modules) = &self.modules {
            modules.device(event);
        }
    }

    /// Whoever sits at the keyboard could as well pull the plug.
    fn heed(&mut self, request: Request, now: Instant) {
        match request {
            Request::Seen => {}
            Request::Log(shows) => {
                self.screen.shows_log = shows;
                self.screen.hurry();
            }
            Request::TestNetwork => {
                // A node that goes down begins nothing.
                if matches!(self.phase, Phase::Up) {
                    self.tester.begin(now);
                }
                self.screen.hurry();
            }
            Request::Reboot => self.start_going_down(Shutdown::Reboot, now),
            Request::PowerOff => self.start_going_down(Shutdown::PowerOff, now),
        }
    }

    /// Whether the process that ended was the test of the network.
    fn test_ended(&mut self, child: Pid, end: End) -> bool {
        let mine = self.tester.child_ended(child, end);
        if mine {
            self.screen.hurry();
        }
        mine
    }

    /// Whoever asked may be gone: then the answer goes nowhere.
    fn answer(&mut self, call: Call, now: Instant) {
        match call {
            Call::Start { spec, reply } => self.machines.start(*spec, reply, now),
            Call::Stop {
                id,
                grace_seconds,
                reply,
            } => {
                self.machines
                    .stop(&id, Duration::from_secs(grace_seconds.into()), now);
                let _ = reply.send(());
            }
            Call::Check { spec, reply } => {
                let _ = reply.send(self.machines.check(&spec));
            }
            Call::List { after, reply } => {
                let _ = reply.send(self.machines.list(after.as_ref(), now));
            }
            Call::Forget { id, reply } => {
                let _ = reply.send(self.machines.forget(&id));
            }
            Call::ReadConsole { id, from, reply } => {
                let _ = reply.send(self.machines.console_read(&id, from));
            }
            Call::Reachable { id, reply } => {
                let _ = reply.send(self.machines.reachable(&id));
            }
            Call::SetStatus { status, reply } => {
                self.rename(&status);
                self.status = Some(*status);
                let _ = reply.send(());
            }
        }
    }

    /// The host name, which DHCP servers and neighbours see, tells nodes apart.
    fn rename(&self, status: &NodeStatus) {
        let before = self.status.as_ref().and_then(|status| status.node);
        let Some(node) = status.node.filter(|node| Some(*node) != before) else {
            return;
        };
        let name = format!("loam-{:.8}", node.to_string());
        if let Err(error) = rustix::system::sethostname(name.as_bytes()) {
            tracing::warn!(name, %error, "host name was not set");
        }
        tracing::info!(%node, "this node's identity");
    }

    fn start_going_down(&mut self, how: Shutdown, now: Instant) {
        if !matches!(self.phase, Phase::Up) {
            return;
        }
        tracing::info!(?how, "the node goes down; machines first");
        self.machines.stop_all(MACHINES_GRACE, now);
        let until = now + MACHINES_GRACE + KILLED_MACHINES_GRACE;
        self.phase = Phase::StoppingMachines { how, until };
    }

    fn go_down(&mut self, now: Instant) -> ControlFlow<Shutdown> {
        match self.phase {
            Phase::Up => {}
            Phase::StoppingMachines { how, until } => {
                if self.machines.all_over() || until <= now {
                    tracing::info!("machines have ended; now the daemons");
                    self.services.stop();
                    self.phase = Phase::StoppingDaemons {
                        how,
                        until: now + DAEMONS_GRACE,
                    };
                    return self.go_down(now);
                }
            }
            Phase::StoppingDaemons { how, until } => {
                if self.services.all_ended() {
                    return ControlFlow::Break(how);
                }
                if until <= now {
                    tracing::warn!("some daemons did not end; killing them");
                    self.services.kill();
                    return ControlFlow::Break(how);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// How the boot before ended, if that was not well.
    fn last_boot(&self) -> Option<&str> {
        let fired = self.watchdog.as_ref().is_some_and(Watchdog::has_fired);
        let fired = fired.then_some("ended by the watchdog: the node stood still for a minute");
        // What the kernel said of it says more.
        self.last_boot.said().or(fired)
    }

    fn tell_screen(&mut self, now: Instant) {
        if self.screen.pause(now) != Some(Duration::ZERO) {
            return;
        }
        let (machines, machines_memory) = self.machines.load();
        let node = self.observer.look(now);
        let daemon = |(name, state): (&str, State)| Daemon {
            name: name.to_owned(),
            state: state.to_string(),
            runs: matches!(state, State::Running { .. }),
        };
        let facts = Facts {
            image: self.image.clone(),
            last_boot: self.last_boot().map(str::to_owned),
            uptime: minutes(node.uptime),
            cpus: node.cpus,
            busy: node.busy,
            memory_total: node.memory_total,
            memory_used: node.memory_used,
            machines,
            machines_memory,
            machines_budget: self.machines.budget().total(),
            links: node.links,
            now: UnixTime(minutes(UnixTime::kernel().since_epoch()).as_secs()),
            clock: node.clock,
            daemons: self.services.states().map(daemon).collect(),
            status: self.status.clone(),
            trouble: self.virtualisation.trouble().map(str::to_owned),
            warnings: self.log.warnings(now),
            phase: match self.phase {
                Phase::Up => None,
                Phase::StoppingMachines { .. } => Some(
                    "It goes down: machines are asked to end, which takes a minute at most."
                        .to_owned(),
                ),
                Phase::StoppingDaemons { .. } => {
                    Some("It goes down: the node's own programs end.".to_owned())
                }
            },
            network_test: self.tester.told().cloned(),
            log: match self.screen.shows_log {
                true => self.log.last(LOG_LINES),
                false => Vec::new(),
            },
        };
        self.screen.tell(&facts, now);
    }
}

/// The screen shows no more of a time; seconds alone would be news all the time.
fn minutes(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs() / 60 * 60)
}

/// PID 1 outlives a fault in any one of its parts: what it was about is lost, all else goes on.
fn survive<T>(what: &str, part: impl FnOnce() -> T) -> Option<T> {
    let done = catch_unwind(AssertUnwindSafe(part));
    if done.is_err() {
        tracing::error!(
            part = what,
            "init panicked in one of its parts, and goes on"
        );
    }
    done.ok()
}

#[cfg(test)]
mod tests;
