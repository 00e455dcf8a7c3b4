//! `loam-screen CONSOLE...`: started by PID 1, with the socket and then each console as its descriptors.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::{
        fd::{AsFd as _, FromRawFd as _, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    sync::mpsc::{self, RecvTimeoutError, SyncSender},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use loam_node_api::screen::{Facts, Request, SOCKET_FD};
use loam_screen::{
    app::{App, keys},
    console::{Kind, Output, area, kind, listen},
    pace::Pace,
};

/// What waits for the loop; whoever has more waits.
const MAX_WAITING: usize = 16;

/// The kernel may write over a screen at any time, and a line may be free again.
const TURN: Duration = Duration::from_secs(1);

enum News {
    Facts(Box<Facts>),
    Typed(Vec<u8>),
    /// PID 1 is done with us.
    Over,
}

/// One console on which the node is drawn.
struct Pane {
    kind: Kind,
    /// For its size.
    console: OwnedFd,
    output: Output,
    pace: Pace,
}

fn main() -> anyhow::Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if names.iter().any(|name| name.starts_with('-')) {
        bail!("loam-screen is started by loam-init, with the names of consoles");
    }
    let socket = UnixStream::from(inherited(SOCKET_FD));
    let (sender, news) = mpsc::sync_channel(MAX_WAITING);
    let mut panes = Vec::new();
    for (fd, name) in (SOCKET_FD + 1..).zip(&names) {
        let console = inherited(fd);
        match pane(name, console, &sender) {
            Ok(pane) => panes.push(pane),
            // The others show the node all the same.
            Err(error) => eprintln!("console {name} is not drawn on: {error:#}"),
        }
    }
    let facts = socket.try_clone().context("the socket of init")?;
    thread::Builder::new()
        .name("facts".into())
        .spawn(move || hear(facts, &sender))?;
    run(socket, &news, &mut panes)
}

fn inherited(fd: RawFd) -> OwnedFd {
    // SAFETY: init gives us these descriptors and says how many by the arguments; each is taken once, at the start. One
    // that is not there fails when it is used.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pane(name: &str, console: OwnedFd, sender: &SyncSender<News>) -> anyhow::Result<Pane> {
    let kind = kind(name);
    if kind == Kind::Screen {
        let typed = sender.clone();
        let heard = move |bytes: &[u8]| drop(typed.send(News::Typed(bytes.to_vec())));
        if let Err(error) = listen(console.try_clone()?, heard) {
            eprintln!("console {name} has no keyboard: {error}");
        }
    }
    Ok(Pane {
        kind,
        output: Output::of(console.try_clone()?)?,
        console,
        pace: Pace::new(kind),
    })
}

fn hear(socket: UnixStream, sender: &SyncSender<News>) {
    for line in BufReader::new(socket).lines() {
        let facts = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        let Some(facts) = facts else { break };
        if sender.send(News::Facts(facts)).is_err() {
            break;
        }
    }
    let _ = sender.send(News::Over);
}

fn run(
    mut init: UnixStream,
    news: &mpsc::Receiver<News>,
    panes: &mut [Pane],
) -> anyhow::Result<()> {
    let mut app = App::default();
    // Nothing is shown before anything is known.
    let mut known = false;
    let mut steady = false;
    loop {
        let came = news.recv_timeout(TURN);
        let now = Instant::now();
        match came {
            Ok(News::Facts(facts)) => {
                steady |= app.learn(*facts);
                known = true;
                ask(&mut init, Request::Seen)?;
            }
            Ok(News::Typed(bytes)) => {
                for key in keys(&bytes) {
                    if let Some(request) = app.press(key, now) {
                        ask(&mut init, request)?;
                    }
                }
            }
            Ok(News::Over) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                app.tick(now);
            }
        }
        if known {
            steady &= !draw(&app, panes, !steady, now);
        }
    }
}

/// Whether every line shows what there is now.
fn draw(app: &App, panes: &mut [Pane], restless: bool, now: Instant) -> bool {
    let mut all = true;
    for pane in panes {
        let next = app.draw(pane.kind, area(pane.kind, pane.console.as_fd()));
        if let Some(bytes) = pane.pace.next(&next, restless, now)
            && !pane.output.write(&bytes)
        {
            // A slow console lost a part: only the whole screen sets it right.
            pane.pace.forget();
        }
        all &= pane.kind == Kind::Screen || pane.pace.shows(&next);
    }
    all
}

fn ask(init: &mut UnixStream, request: Request) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(&request)?;
    line.push(b'\n');
    init.write_all(&line).context("speaking to init")
}
