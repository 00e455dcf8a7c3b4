//! The debug port of developers' images: see [`loam_node_api::debug`].
//!
//! A thread of its own answers it, so that nothing said there can hold up the main loop; it has no
//! access to the main loop's state.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use loam_node_api::debug::{DebugRequest, DebugResponse, PORT};
use rustix::process::{Pid, Signal, kill_process};

use crate::cgroup::{DAEMONS, ROOT};

/// Until the port's driver has found it, and while nobody holds its other end.
const PAUSE: Duration = Duration::from_millis(250);

/// The longest request: a path has 4 KiB at most.
const MAX_REQUEST: u64 = 8 << 10;

/// What is read of a file.
const MAX_READ: u64 = 64 << 10;

/// Answers for ever. Call it in images for developers only.
pub fn serve() {
    let spawned = thread::Builder::new().name("debug".into()).spawn(|| {
        loop {
            if let Some(port) = port()
                && let Err(error) = converse(&port)
            {
                tracing::debug!(error = format!("{error:#}"), "the debug port was left");
            }
            thread::sleep(PAUSE);
        }
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "there is no debug port");
    }
}

fn port() -> Option<PathBuf> {
    fs::read_dir("/sys/class/virtio-ports")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let name = fs::read_to_string(entry.path().join("name")).ok()?;
            (name.trim_end() == PORT).then(|| Path::new("/dev").join(entry.file_name()))
        })
}

fn converse(port: &Path) -> anyhow::Result<()> {
    // The kernel lets a port be opened only once, so both directions share it.
    let port = OpenOptions::new().read(true).write(true).open(port)?;
    let mut requests = BufReader::new(&port);
    loop {
        let mut line = Vec::new();
        (&mut requests)
            .take(MAX_REQUEST)
            .read_until(b'\n', &mut line)?;
        ensure!(!line.is_empty(), "nobody is there");
        let response = serde_json::from_slice(&line)
            .context("not a request")
            .and_then(answer)
            .unwrap_or_else(|error| DebugResponse::Error {
                reason: format!("{error:#}"),
            });
        let mut line = serde_json::to_vec(&response)?;
        line.push(b'\n');
        (&port).write_all(&line)?;
    }
}

fn answer(request: DebugRequest) -> anyhow::Result<DebugResponse> {
    Ok(match request {
        DebugRequest::Kill { service } => {
            ensure!(!service.contains(['/', '.']), "{service} is no daemon");
            let pid = main_process(&service)?;
            kill_process(pid, Signal::KILL)?;
            DebugResponse::Killed {
                pid: pid.as_raw_nonzero().get(),
            }
        }
        DebugRequest::List { path } => {
            let mut names = fs::read_dir(&path)
                .context(path)?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<anyhow::Result<Vec<_>>>()?;
            names.sort();
            DebugResponse::Names { names }
        }
        DebugRequest::Read { path } => {
            let mut bytes = Vec::new();
            File::open(&path)
                .context(path)?
                .take(MAX_READ)
                .read_to_end(&mut bytes)?;
            DebugResponse::Bytes { bytes }
        }
        DebugRequest::Panic => {
            fs::write("/proc/sysrq-trigger", "c")?;
            bail!("the kernel goes on")
        }
        DebugRequest::Freeze => {
            // All of its threads, this one too.
            let group = Path::new(ROOT).join("frozen");
            fs::create_dir_all(&group)?;
            fs::write(group.join("cgroup.freeze"), "1")?;
            fs::write(group.join("cgroup.procs"), std::process::id().to_string())?;
            bail!("PID 1 goes on")
        }
        DebugRequest::Length { path } => {
            let length = fs::symlink_metadata(&path).context(path)?.len();
            DebugResponse::Length { length }
        }
    })
}

/// The oldest process of the daemon's group: what it started comes after it.
fn main_process(service: &str) -> anyhow::Result<Pid> {
    let group = Path::new(ROOT)
        .join(DAEMONS)
        .join(service)
        .join("cgroup.procs");
    let text = fs::read_to_string(&group).with_context(|| format!("{service} does not run"))?;
    text.lines()
        .filter_map(|line| line.parse().ok())
        .min()
        .and_then(Pid::from_raw)
        .with_context(|| format!("{service} does not run"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_listed_read_in_part_and_told_how_long_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        File::create(&path).unwrap().set_len(MAX_READ + 5).unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let list = DebugRequest::List {
            path: text(folder.path()),
        };
        let names = vec!["file".to_owned()];
        assert_eq!(answer(list).unwrap(), DebugResponse::Names { names });
        let read = DebugRequest::Read { path: text(&path) };
        let bytes = vec![0; MAX_READ as usize];
        assert_eq!(answer(read).unwrap(), DebugResponse::Bytes { bytes });
        let length = DebugRequest::Length { path: text(&path) };
        let told = DebugResponse::Length {
            length: MAX_READ + 5,
        };
        assert_eq!(answer(length).unwrap(), told);
        let path = text(&folder.path().join("none"));
        answer(DebugRequest::Length { path }).unwrap_err();
    }
}
