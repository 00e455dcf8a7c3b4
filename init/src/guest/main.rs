//! `/init` of OCI machines: sets the machine up as its [`GuestConfig`] says, runs the command,
//! tells the VMM how it ended, and powers off.
//!
//! | module | what it does |
//! |---|---|
//! | [`modules`] | loads the kernel modules that the initramfs lists |
//! | [`builtin`] | what modprobe reads of a kernel without modules |
//! | [`disk`] | finds disks by serial, mounts volumes |
//! | [`root`] | image and writable layer become the root; the way out at the end |
//! | [`folder`] | makes folders in the root, through whatever links |
//! | [`network`], [`netlink`] | interfaces |
//! | [`settings`] | the kernel's, as ordinary systems have them |
//! | [`files`] | `/etc/resolv.conf` and its like |
//! | [`identity`], [`command`] | as whom, what and with which environment to run; pure |
//! | [`surroundings`] | all that together, for the command and its check |
//! | [`process`] | starts the command, reaps, ends |
//! | [`health`] | runs the image's check beside it |
//! | [`namespace`] | makes the command process 1 of a PID namespace |
//! | [`agent`] | the line to the VMM |
//! | [`console`] | the command's terminal, and our messages |

/// Says something on the machine's console.
macro_rules! say {
    ($($text:tt)*) => { $crate::console::say(format_args!($($text)*)) };
}

mod agent;
mod builtin;
mod command;
mod console;
mod disk;
mod files;
#[cfg(test)]
mod fixture;
mod folder;
mod health;
mod identity;
mod modules;
mod namespace;
mod netlink;
mod network;
mod patience;
mod process;
mod root;
mod settings;
mod surroundings;

use std::{
    fs::File,
    io::{self, Read},
    panic,
    path::Path,
    process::ExitCode,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use loam_init::reap::End;
use loam_node_api::guest::{CONFIG_PATH, GuestConfig, GuestEvent, GuestRequest};
use rustix::system::RebootCommand;

use agent::Agent;
use disk::Disk;
use folder::ImageFolders;
use health::{Watch, Watching};
use namespace::PowerRequest;
use process::Running;
use root::Hidden;
use surroundings::Surroundings;

/// How long the command may take to end after its stop signal, as container engines have it. A node that
/// waits less long ends the machine by force.
const GRACE: Duration = Duration::from_secs(10);

/// How long killed processes may take to go; one that waits for a dead disk never does.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What the main thread waits for once the command runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The VMM wants the machine to end.
    StopAsked,
    CommandEnded(End),
    /// No child is left, neither ours nor inherited.
    AllEnded,
}

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("loam-guest-init: this is the init of a machine; it does nothing else");
        return ExitCode::FAILURE;
    }
    // PID 1 must not end, or the kernel panics: whatever happens, the machine is powered off.
    panic::set_hook(Box::new(|panic| say!("{panic}")));
    let mut machine = Machine::default();
    let run = panic::AssertUnwindSafe(|| run(&mut machine));
    let end_of_run = panic::catch_unwind(run);
    let (event, last) = match end_of_run {
        Ok(Ok(end)) => last_words(end),
        Ok(Err(error)) => failed(format!("{error:#}")),
        Err(_) => failed("guest init has a bug; its log says where".into()),
    };
    if let (Some(agent), Some(event)) = (&machine.agent, event) {
        agent.tell(&event);
    }
    end(&machine, last)
}

/// What is said of the command's end, and how the machine ends.
fn last_words(end: End) -> (Option<GuestEvent>, RebootCommand) {
    let exited = |status| Some(GuestEvent::Exited { status });
    match namespace::power_request(end) {
        Some(PowerRequest::Off) => {
            say!("the machine was powered off from inside");
            (exited(0), RebootCommand::PowerOff)
        }
        // The VMM tells of it, and the node knows what follows.
        Some(PowerRequest::Reset) => {
            say!("the machine was reset from inside");
            (None, RebootCommand::Restart)
        }
        None => {
            say!("the command ended with status {}", end.status());
            (exited(end.status()), RebootCommand::PowerOff)
        }
    }
}

fn failed(reason: String) -> (Option<GuestEvent>, RebootCommand) {
    say!("{reason}");
    (Some(GuestEvent::Failed { reason }), RebootCommand::PowerOff)
}

/// What is there to be used even when a later step fails.
#[derive(Default)]
struct Machine {
    agent: Option<Agent>,
    hidden: Option<Hidden>,
    /// Since the command was started.
    happenings: Option<Receiver<Happening>>,
}

fn run(machine: &mut Machine) -> Result<End> {
    root::mount_early().context("mounting what the kernel offers")?;
    let console = console::find().context("looking for the console")?;
    let (happened, happenings) = mpsc::channel();
    let agent = machine.agent.insert(Agent::find());
    agent.tell(&GuestEvent::Booted);
    listen(agent, happened.clone()).context("listening to the VMM")?;

    let config = read_config().with_context(|| format!("reading {CONFIG_PATH}"))?;
    modules::load_all(&config.mounts)?;
    let image = Disk::find(&config.image_disk).context("looking for the image")?;
    let layer = Disk::find(&config.root_disk).context("looking for the writable layer")?;
    machine.hidden = Some(root::enter(&image, &layer).context("changing to the image")?);
    root::mount_kernel_filesystems().context("mounting the kernel's filesystems over the image")?;
    rustix::system::sethostname(config.hostname.as_bytes())
        .with_context(|| format!("naming the machine {}", config.hostname))?;
    settings::apply(Path::new("/proc/sys"));
    network::set_up(&config.interfaces).context("setting the network up")?;
    let folders = image_folders(&config);
    disk::mount_volumes(&config.mounts, &folders)?;
    files::make_volumes(Path::new("/"), &config.volumes, &folders);
    files::write_all(Path::new("/"), &config);

    let surroundings = Surroundings::of(&config, &folders)?;
    let command = process::start(&config, &surroundings, console)?;
    let (ended, ends) = mpsc::channel();
    let group = Path::new(health::GROUP);
    let watch = Watch::new(&config, &surroundings, command.pid, group, ends);
    process::reap_all(command.pid, happened, ended).context("watching the command")?;
    console::resize_again();
    agent.tell(&GuestEvent::Started);
    let watching = watch_health(watch, agent);
    attend(&command, machine.happenings.insert(happenings), watching)
}

/// Of all that a volume may hide and that has to be there.
fn image_folders(config: &GuestConfig) -> ImageFolders {
    let mounts = config.mounts.iter().map(|mount| &mount.path);
    let wanted = mounts.chain(&config.volumes).chain([&config.working_dir]);
    ImageFolders::on_the_ways_to(Path::new("/"), wanted.map(Path::new))
}

fn listen(agent: &Agent, happened: Sender<Happening>) -> Result<()> {
    agent.listen(move |request| match request {
        GuestRequest::Stop => {
            // Fails only when the machine is ending already.
            let _ = happened.send(Happening::StopAsked);
        }
        GuestRequest::ConsoleSize { size } => console::resize(size),
    })?;
    Ok(())
}

/// A machine whose health cannot be watched is one without, and runs.
fn watch_health(watch: io::Result<Option<Watch>>, agent: &Agent) -> Option<Watching> {
    let agent = agent.clone();
    let started = watch.and_then(|watch| {
        let start = |watch: Watch| watch.start(move |event| agent.tell_soon(event));
        watch.map(start).transpose()
    });
    started.unwrap_or_else(|error| {
        say!("the image's health check is not run: {error}");
        None
    })
}

fn read_config() -> Result<GuestConfig> {
    /// A deployment has at most 24 KiB; what the node adds is far less than this.
    const MAX_SIZE: u64 = 1 << 20;
    let mut text = String::new();
    File::open(CONFIG_PATH)?
        .take(MAX_SIZE)
        .read_to_string(&mut text)?;
    let config: GuestConfig = serde_json::from_str(&text).context("it is not what was expected")?;
    if config.command.is_empty() {
        bail!("neither the deployment nor the image says what to run");
    }
    Ok(config)
}

/// Waits for the command's end; ends it when asked.
fn attend(
    command: &Running,
    happenings: &Receiver<Happening>,
    mut watching: Option<Watching>,
) -> Result<End> {
    let mut deadline: Option<Instant> = None;
    loop {
        let left = deadline.map_or(Duration::MAX, |at| {
            at.saturating_duration_since(Instant::now())
        });
        let happening = happenings.recv_timeout(left);
        if happening == Ok(Happening::StopAsked) {
            // What is on its way down is not checked.
            drop(watching.take());
        }
        match happening {
            Ok(Happening::CommandEnded(end)) => return Ok(end),
            Ok(Happening::StopAsked) if command.ask_to_end() => {
                deadline.get_or_insert(Instant::now() + GRACE);
            }
            Ok(Happening::StopAsked) => {
                say!(
                    "the command does not handle {} and is killed",
                    command.stop_signal
                );
                process::kill_all();
            }
            Ok(Happening::AllEnded) | Err(RecvTimeoutError::Disconnected) => {
                bail!("the command vanished without an exit status")
            }
            Err(RecvTimeoutError::Timeout) => {
                say!(
                    "the command goes on after {} and is killed",
                    command.stop_signal
                );
                process::kill_all();
                deadline = None;
            }
        }
    }
}

/// Ends all that still runs, saves everything and powers off, or what else `last` says.
fn end(machine: &Machine, last: RebootCommand) -> ! {
    process::kill_all();
    if let Some(happenings) = &machine.happenings {
        let deadline = Instant::now() + KILL_LIMIT;
        let left = || deadline.saturating_duration_since(Instant::now());
        while let Ok(happening) = happenings.recv_timeout(left()) {
            if happening == Happening::AllEnded {
                break;
            }
        }
    }
    root::leave(machine.hidden.as_ref());
    if let Err(error) = rustix::system::reboot(last) {
        say!("ending the machine: {error}");
    }
    // Nothing is left to do but to wait for the VMM to end the machine.
    loop {
        thread::park();
    }
}
