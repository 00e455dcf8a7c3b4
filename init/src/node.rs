//! [`Node`]: the main loop of PID 1. It alone owns daemons, machines and screen, and takes one
//! event after the other.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use loam_init::reap;
use loam_node_api::{machine::Shutdown, status::NodeStatus};
use tokio::sync::mpsc;

use crate::{
    api::Call,
    coldplug::Coldplug,
    event::Event,
    log::Log,
    machine::Machines,
    power::{button::Buttons, watchdog::Watchdog},
    screen::{Screen, facts::Observer, layout::Facts},
    service::Services,
};

/// How long machines have to end when the node does.
const MACHINES_GRACE: Duration = Duration::from_secs(60);
/// Killed machines are gone soon; what the kernel does not let go of must not hold up the end.
const KILLED_MACHINES_GRACE: Duration = Duration::from_secs(20);
const DAEMONS_GRACE: Duration = Duration::from_secs(15);

/// The loop turns at least so often: the watchdog is petted, and the screen's facts are fresh.
const TURN: Duration = Duration::from_secs(5);
/// While a daemon waits for another's socket, which comes without an event.
const WAITING_TURN: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Node {
    pub services: Services,
    pub machines: Machines,
    pub screen: Screen,
    pub modules: Option<Coldplug>,
    pub watchdog: Option<Watchdog>,
    pub buttons: Buttons,
    pub log: Log,
    pub sender: mpsc::Sender<Event>,
    pub status: NodeStatus,
    pub observer: Observer,
    pub phase: Phase,
}

#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Up,
    StoppingMachines { how: Shutdown, until: Instant },
    StoppingDaemons { how: Shutdown, until: Instant },
}

impl Node {
    /// Runs until the node is to be switched off or restarted; all but the pools has ended then.
    pub async fn run(
        &mut self,
        events: &mut mpsc::Receiver<Event>,
        children: &mut tokio::signal::unix::Signal,
    ) -> Shutdown {
        loop {
            let turn = self.turn(Instant::now());
            tokio::select! {
                event = events.recv() => {
                    if let Some(event) = event {
                        self.take(event, Instant::now());
                    }
                }
                _ = children.recv() => self.reap(),
                () = tokio::time::sleep(turn) => {}
            }
            let now = Instant::now();
            self.machines.tick(now);
            self.services.tick(now);
            if let Some(watchdog) = &self.watchdog {
                watchdog.pet();
            }
            if let ControlFlow::Break(how) = self.go_down(now) {
                return how;
            }
            self.draw(now);
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
        let deadlines = [self.machines.deadline(), self.services.deadline(), phase];
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
        // Something changed that the screen could not show yet.
        match self.screen.pause(now) {
            Duration::ZERO => turn,
            pause => turn.min(pause),
        }
    }

    fn reap(&mut self) {
        while let Some((pid, end)) = reap::next() {
            let now = Instant::now();
            if !self.machines.child_ended(pid, end, now)
                && !self.services.child_ended(pid, end, now)
            {
                tracing::debug!(pid = pid.as_raw_nonzero(), %end, "orphan reaped");
            }
        }
    }

    fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Call(call) => self.answer(call, now),
            Event::Machine { id, launch, input } => self.machines.heard(&id, launch, input, now),
            Event::Device(event) => {
                if let Some(modules) = &mut self.modules {
                    modules.device(&event);
                }
                self.buttons.listen(&self.sender);
                if self.watchdog.is_none() {
                    self.watchdog = Watchdog::arm();
                }
            }
            Event::Power(how) => self.start_going_down(how, now),
        }
    }

    /// Whoever asked may be gone: then the answer goes nowhere.
    fn answer(&mut self, call: Call, now: Instant) {
        match call {
            Call::Start { spec, reply } => {
                let _ = reply.send(self.machines.start(*spec, now));
            }
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
                self.status = *status;
                let _ = reply.send(());
            }
        }
    }

    /// The host name, which DHCP servers and neighbours see, tells nodes apart.
    fn rename(&self, status: &NodeStatus) {
        let Some(node) = status.node.filter(|node| Some(*node) != self.status.node) else {
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

    fn draw(&mut self, now: Instant) {
        if !self.screen.pause(now).is_zero() {
            return;
        }
        let (machines, machines_memory) = self.machines.load();
        let facts = Facts {
            status: self.status.clone(),
            services: self
                .services
                .states()
                .map(|(name, state)| (name, state.to_string()))
                .collect(),
            machines,
            machines_memory,
            machines_budget: self.machines.budget().total(),
            node: self.observer.look(now),
            warnings: self.log.warnings(now),
            phase: match self.phase {
                Phase::Up => None,
                Phase::StoppingMachines { .. } => Some("going down: stopping machines".to_owned()),
                Phase::StoppingDaemons { .. } => Some("going down: stopping daemons".to_owned()),
            },
        };
        self.screen.draw(&facts, now);
    }
}
