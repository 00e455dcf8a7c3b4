//! `/hello [--port PORT] [--data FOLDER] [--probes]`: see the library's first page.

use std::{
    env,
    ffi::OsString,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    path::PathBuf,
    process,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hello::{
    routes::Site,
    server::{Server, log},
    start::Start,
};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// How long what is being answered may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let options = Options::parse(env::args_os().skip(1))?;
    let (exit, exits) = mpsc::channel();

    let start = Start::of(&options.data);
    let farewell = start.farewell(&options.data);

    // As PID 1 or under one, a signal without a handler may do nothing at all.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle SIGTERM")?;
    let asked = exit.clone();
    thread::spawn(move || {
        for _ in signals.forever() {
            if let Err(error) = farewell.leave() {
                log(&format!("no farewell: {error}"));
            }
            if asked.send(0).is_err() {
                return;
            }
        }
    });

    let (listener, socket) =
        listen(options.port).with_context(|| format!("cannot listen on port {}", options.port))?;
    let server = Server::new(Site::new(options.data, start, options.probes), exit);
    let active = server.active();
    server
        .count_datagrams(socket)
        .context("cannot count datagrams")?;
    log(&format!("listening on port {}", options.port));
    thread::spawn(move || server.serve_forever(&listener));

    let status = exits.recv().context("nobody is left to end the process")?;
    if !active.wait_idle(GRACE) {
        log("ending although clients are being served");
    }
    log(&format!("bye, status {status}"));
    process::exit(status)
}

/// IPv6 and IPv4 alike, or IPv4 alone where the kernel has no IPv6.
fn listen(port: u16) -> std::io::Result<(TcpListener, UdpSocket)> {
    let both = (Ipv6Addr::UNSPECIFIED, port);
    let four = (Ipv4Addr::UNSPECIFIED, port);
    Ok((
        TcpListener::bind(both).or_else(|_| TcpListener::bind(four))?,
        UdpSocket::bind(both).or_else(|_| UdpSocket::bind(four))?,
    ))
}

struct Options {
    port: u16,
    data: PathBuf,
    /// Answers what only tests may ask.
    probes: bool,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Result<Self> {
        let mut options = Self {
            port: 80,
            data: "/data".into(),
            probes: false,
        };
        while let Some(name) = arguments.next() {
            if name == "--probes" {
                options.probes = true;
                continue;
            }
            let value = arguments
                .next()
                .with_context(|| format!("{} needs a value", name.display()))?;
            match name.to_str() {
                Some("--port") => {
                    options.port = value
                        .to_str()
                        .and_then(|text| text.parse().ok())
                        .with_context(|| format!("--port: {} is no port", value.display()))?;
                }
                Some("--data") => options.data = value.into(),
                _ => bail!(
                    "{} is not an option; use --port, --data and --probes",
                    name.display()
                ),
            }
        }
        Ok(options)
    }
}
