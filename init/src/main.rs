//! PID 1 of the node.
//!
//! | module | what |
//! |---|---|
//! | [`early`], [`grid`], [`coldplug`], [`modprobe`] | mounts, settings, modules, which grid |
//! | [`node`], [`event`] | the main loop |
//! | [`service`], [`machine`] | the processes that PID 1 starts: daemons, and VMMs |
//! | [`spawn`], [`cgroup`] | how any process is started and limited |
//! | [`api`] | the calls that init answers |
//! | [`screen`], [`log`], [`kernel_log`] | what people see |
//! | [`debug`] | what tests look at and break, in images for developers |
//! | [`power`] | button, watchdog, the end |

mod api;
mod cgroup;
mod coldplug;
mod debug;
mod device;
mod early;
mod event;
mod grid;
mod kernel_log;
mod lines;
mod log;
mod machine;
mod modprobe;
mod node;
mod power;
mod screen;
mod service;
mod spawn;
mod uevent;

use std::{future::Future, os::fd::OwnedFd, process::ExitCode};

use anyhow::{Context, bail};
use loam_node_api::{machine::Shutdown, page::Changes};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::LocalSet,
};

use crate::{
    coldplug::Coldplug,
    event::Event,
    log::Log,
    machine::{Machines, memory::MemoryBudget},
    node::{Node, Phase},
    power::watchdog::Watchdog,
    screen::{Screen, facts},
    service::Services,
    uevent::Uevents,
};

/// Events that wait for the main loop. Those who send more wait themselves.
const MAX_EVENTS: usize = 256;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return modprobe::run(std::env::args());
    }
    // Coming back from here ends PID 1: the kernel panics, and restarts the node after a while
    // (`kernel.panic`), with this message as the last thing on its console.
    let error = match boot() {
        Ok(never) => match never {},
        Err(error) => error,
    };
    eprintln!("loam-init: the node cannot run: {error:#}");
    ExitCode::FAILURE
}

fn boot() -> anyhow::Result<std::convert::Infallible> {
    early::set_up()?;
    let log = Log::default();
    log::install(&log);
    early::configure();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "loam starts");

    let devices = uevent::open().context("listening for devices")?;
    let mut modules = match Coldplug::new() {
        Ok(modules) => Some(modules),
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "no modules are loaded");
            None
        }
    };
    if let Some(modules) = &mut modules {
        modules.load_list();
        modules.load_all(&devices);
    }
    if let Err(error) = grid::take_override(modules.as_mut()) {
        tracing::error!(error = format!("{error:#}"), "keeping the image's own grid");
    }
    if grid::may_be_overridden() {
        debug::serve();
    }
    early::seal_root()?;
    cgroup::prepare()?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let (how, watchdog) = LocalSet::new().block_on(&runtime, run(log.clone(), modules, devices))?;
    power::end::end(how, watchdog, &log)
}

/// The node's life, until it is to be switched off or restarted.
async fn run(
    log: Log,
    mut modules: Option<Coldplug>,
    devices: OwnedFd,
) -> anyhow::Result<(Shutdown, Option<Watchdog>)> {
    let (sender, mut events) = mpsc::channel(MAX_EVENTS);
    let mut children = signal(SignalKind::child()).context("listening for children")?;
    if let Some(port) = log.open_port() {
        tokio::task::spawn_local(port);
    }
    tokio::task::spawn_local(kernel_log::follow(log.clone()));
    let budget = MemoryBudget::new(facts::available_memory());
    tracing::info!(mib = budget.total().get() >> 20, "memory for machines");
    let changes = Changes::new();
    let mut node = Node {
        services: Services::new(log.clone()),
        machines: Machines::new(budget, sender.clone(), log.clone(), changes.clone()),
        screen: Screen::open(),
        watchdog: arm_watchdog(modules.as_mut()),
        modules,
        buttons: Default::default(),
        log,
        sender: sender.clone(),
        status: Default::default(),
        observer: Default::default(),
        phase: Phase::Up,
    };
    node.buttons.listen(&sender);

    let devices = Uevents::new(devices).context("listening for devices")?;
    let served = api::serve(sender.clone(), changes);
    let ended = tokio::select! {
        how = node.run(&mut events, &mut children) => Ok(how),
        // Each of these goes on as long as the node; without one the node is better restarted.
        ended = vital("the calls of the daemons", served) => ended,
        ended = vital("news of devices", forward_devices(devices, sender.clone())) => ended,
        ended = vital("signals", forward_signals(sender)) => ended,
    };
    let how = ended?;
    node.screen.last_words(match how {
        Shutdown::PowerOff => "everything has ended; switching off",
        Shutdown::Reboot => "everything has ended; restarting",
    });
    Ok((how, node.watchdog.take()))
}

/// The machine's own, or the kernel's if there is none.
fn arm_watchdog(modules: Option<&mut Coldplug>) -> Option<Watchdog> {
    Watchdog::arm().or_else(|| {
        modules?.load_named("softdog");
        Watchdog::arm()
    })
}

async fn vital<T>(
    what: &str,
    task: impl Future<Output = std::io::Result<()>>,
) -> anyhow::Result<T> {
    task.await.with_context(|| format!("{what} failed"))?;
    bail!("{what} ended")
}

async fn forward_devices(devices: Uevents, sender: mpsc::Sender<Event>) -> std::io::Result<()> {
    loop {
        let event = devices.next().await?;
        if sender.send(Event::Device(event)).await.is_err() {
            return Ok(());
        }
    }
}

/// SIGTERM and SIGINT (ctrl-alt-del) restart, SIGPWR and SIGUSR2 switch off, as with other inits.
async fn forward_signals(sender: mpsc::Sender<Event>) -> std::io::Result<()> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut power = signal(SignalKind::from_raw(libc::SIGPWR))?;
    let mut off = signal(SignalKind::user_defined2())?;
    loop {
        let how = tokio::select! {
            _ = term.recv() => Shutdown::Reboot,
            _ = int.recv() => Shutdown::Reboot,
            _ = power.recv() => Shutdown::PowerOff,
            _ = off.recv() => Shutdown::PowerOff,
        };
        if sender.send(Event::Power(how)).await.is_err() {
            return Ok(());
        }
    }
}
