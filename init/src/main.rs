//! PID 1 of the node.
//!
//! | module | what |
//! |---|---|
//! | [`early`], [`grid`], [`preload`], [`coldplug`], [`modprobe`] | mounts, settings, modules, which grid |
//! | [`node`], [`event`] | the main loop |
//! | [`service`], [`machine`] | the processes that PID 1 starts: daemons, and VMMs |
//! | [`spawn`], [`cgroup`] | how any process is started and limited |
//! | [`api`] | the calls that init answers |
//! | [`screen`], [`log`], [`kernel_log`], [`crash_log`], [`virtualisation`] | what people see |
//! | [`farm`] | which farm sticks and command line name |
//! | [`debug`] | what tests look at and break, in images for developers |
//! | [`power`] | button, watchdog, the end |

mod api;
mod cgroup;
mod coldplug;
mod crash_log;
mod debug;
mod device;
mod early;
mod event;
mod farm;
mod grid;
mod kernel_log;
mod lines;
mod log;
mod machine;
mod modprobe;
mod node;
mod power;
mod preload;
mod screen;
mod service;
mod spawn;
mod uevent;
mod virtualisation;

use std::{future::Future, os::fd::OwnedFd, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Context;
use loam_init::module::Loader;
use loam_node_api::{machine::Shutdown, page::Changes, path::INIT_SOCKET, system};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::LocalSet,
};

use crate::{
    coldplug::{Coldplug, Hotplug},
    crash_log::LastBoot,
    event::Event,
    farm::FarmFinder,
    log::Log,
    machine::{Machines, NodeLauncher, memory::MemoryBudget},
    node::{Node, Phase},
    power::watchdog::Watchdog,
    preload::Preload,
    screen::{
        Screen,
        facts::{self, Observer},
        network_test::Tester,
    },
    service::Services,
    uevent::{Uevent, Uevents},
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
    tracing::info!(image = system::image(), "loam starts");

    let devices = uevent::open().context("listening for devices")?;
    let coldplug = Coldplug::new()
        .inspect_err(|error| {
            let error = format!("{error:#}");
            tracing::error!(error, "no modules are loaded");
        })
        .ok();
    let loader = coldplug.as_ref().map(|coldplug| coldplug.loader().clone());
    let preload = loader.as_ref().map(Preload::begin);
    let modules = coldplug.and_then(|coldplug| {
        Hotplug::new(coldplug)
            .inspect_err(|error| tracing::error!(%error, "devices get no modules"))
            .ok()
    });
    if let Some(modules) = &modules {
        modules.begin();
    }
    if let Err(error) = grid::take_overrides(loader.as_ref()) {
        tracing::error!(
            error = format!("{error:#}"),
            "keeping the image's own settings"
        );
    }
    if grid::may_be_overridden() {
        debug::serve();
    }
    early::seal_root()?;
    cgroup::prepare()?;

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let modules = Modules {
        loader,
        preload,
        hotplug: modules,
    };
    let (how, watchdog) = LocalSet::new().block_on(&runtime, run(log.clone(), modules, devices))?;
    power::end::end(how, watchdog, &log)
}

/// Those who load modules, where the image has any.
struct Modules {
    loader: Option<Loader>,
    preload: Option<Preload>,
    hotplug: Option<Hotplug>,
}

/// The node's life, until it is to be switched off or restarted.
async fn run(
    log: Log,
    modules: Modules,
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
        image: system::image(),
        services: Services::new(log.clone(), modules.preload),
        machines: Machines::new(
            budget,
            NodeLauncher::new(sender.clone(), log.clone())?,
            changes.clone(),
        ),
        screen: Screen::open(sender.clone(), log.clone()),
        tester: Tester::new(sender.clone(), log.clone()),
        last_boot: LastBoot::look(modules.loader),
        virtualisation: Default::default(),
        watchdog: Watchdog::arm(),
        asked_for_watchdog: false,
        modules: modules.hotplug,
        farm: FarmFinder::begin(),
        buttons: Default::default(),
        log,
        sender: sender.clone(),
        status: None,
        observer: Observer::start().context("making a thread")?,
        phase: Phase::Up,
    };
    node.buttons.listen(&sender);

    // Each in a task of its own, and made anew when it ends: none of them may end the node.
    keep_serving(INIT_SOCKET.into(), sender.clone(), changes);
    keep_forwarding(devices, sender.clone());
    keep_up("signals", KEEP_UP_PAUSE, move || {
        forward_signals(sender.clone())
    });
    let how = node.run(&mut events, &mut children).await;
    node.screen.last_words(match how {
        Shutdown::PowerOff => "everything has ended; switching off",
        Shutdown::Reboot => "everything has ended; restarting",
    });
    Ok((how, node.watchdog.take()))
}

/// How long something that ended stays away, in case it ends again at once.
const KEEP_UP_PAUSE: Duration = Duration::from_secs(1);

/// Runs what `make` makes, in a task of its own, again and again, with a pause between.
fn keep_up<F>(what: &'static str, pause: Duration, mut make: impl FnMut() -> F + 'static)
where
    F: Future<Output = std::io::Result<()>> + 'static,
{
    tokio::task::spawn_local(async move {
        loop {
            match tokio::task::spawn_local(make()).await {
                Ok(Ok(())) => tracing::error!(what, "ended; trying again"),
                Ok(Err(error)) => tracing::error!(what, %error, "failed; trying again"),
                Err(error) => tracing::error!(what, %error, "panicked; trying again"),
            }
            tokio::time::sleep(pause).await;
        }
    });
}

fn keep_serving(socket: PathBuf, sender: mpsc::Sender<Event>, changes: Changes) {
    keep_up("the calls of the daemons", KEEP_UP_PAUSE, move || {
        api::serve(socket.clone(), sender.clone(), changes.clone())
    });
}

fn keep_forwarding(devices: OwnedFd, sender: mpsc::Sender<Event>) {
    let mut devices = Some(devices);
    keep_up("news of devices", KEEP_UP_PAUSE, move || {
        forward_devices(devices.take(), sender.clone())
    });
}

/// By the socket that was open from the start; if that failed, by a new one, and then all devices
/// are looked at again.
async fn forward_devices(
    first: Option<OwnedFd>,
    sender: mpsc::Sender<Event>,
) -> std::io::Result<()> {
    let again = first.is_none();
    let devices = Uevents::new(match first {
        Some(socket) => socket,
        None => uevent::open()?,
    })?;
    if again {
        let _ = sender.send(Event::Device(Uevent::Lost)).await;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_or_panics_is_made_anew() {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let (sender, mut lives) = mpsc::channel(8);
                let mut life = 0;
                keep_up("a test", Duration::ZERO, move || {
                    let sender = sender.clone();
                    life += 1;
                    async move {
                        sender.send(life).await.map_err(std::io::Error::other)?;
                        match life {
                            1 => panic!("on purpose"),
                            2 => Err(std::io::Error::other("on purpose")),
                            _ => Ok(()),
                        }
                    }
                });
                for life in 1..=4 {
                    assert_eq!(lives.recv().await, Some(life));
                }
            })
            .await;
    }

    /// Far longer than anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn calls_are_served_though_their_socket_could_not_be_made_at_first() {
        let folder = tempfile::tempdir().unwrap();
        // A file where a folder must be.
        let below = folder.path().join("loam");
        std::fs::write(&below, "").unwrap();
        let socket = below.join("init.sock");
        let local = tokio::task::LocalSet::new();
        let served = local.run_until(async {
            let (sender, _events) = mpsc::channel(8);
            keep_serving(socket.clone(), sender, Changes::new());
            // Serving begins, and fails at once.
            tokio::task::yield_now().await;
            std::fs::remove_file(&below).unwrap();
            while !socket.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let served = tokio::time::timeout(LONG, served).await;
        served.expect("nobody serves again");
    }

    #[tokio::test]
    async fn devices_are_heard_of_though_their_socket_breaks() {
        let local = tokio::task::LocalSet::new();
        let heard = local.run_until(async {
            let (sender, mut events) = mpsc::channel(8);
            // Nothing that can be waited for.
            let broken = std::fs::File::open("/dev/null").unwrap();
            keep_forwarding(broken.into(), sender);
            events.recv().await
        });
        match tokio::time::timeout(LONG, heard).await {
            Ok(Some(Event::Device(Uevent::Lost))) => {}
            other => panic!("{other:?}; opening one anew needs root (CAP_NET_ADMIN)"),
        }
    }
}
