//! Commands in real namespaces, with a pseudo-terminal as the machine's console. They need root.

use std::{
    io::Read,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
    ptr,
    sync::mpsc::{self, Receiver},
};

use rustix::process::{Resource, Signal, WaitOptions, geteuid, kill_process, waitpid};

use super::*;
use crate::{fixture, folder::ImageFolders, namespace::PowerRequest};

/// A command that was started as a machine's.
pub struct Started {
    pub running: Running,
    /// Its terminal.
    pub console: PathBuf,
    /// What it writes, until the last process that has the terminal is gone.
    output: Receiver<Vec<u8>>,
    seen: String,
    /// And reaped.
    pub ended: bool,
}

/// What a test that fails started goes, too.
impl Drop for Started {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

impl Started {
    pub fn new(config: &GuestConfig) -> Self {
        assert!(
            geteuid().is_root(),
            "these tests make namespaces: run them as root"
        );
        let (terminal, held) = terminal();
        let path = fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        let running = start(
            config,
            &Surroundings::of(config, &ImageFolders::default()).unwrap(),
            &path,
        )
        .unwrap();
        drop(held);
        let (tell, output) = mpsc::channel();
        thread::spawn(move || {
            let mut terminal = terminal;
            let mut part = [0; 4096];
            while let Ok(count @ 1..) = terminal.read(&mut part) {
                let _ = tell.send(part[..count].to_vec());
            }
        });
        Self {
            running,
            console: path,
            output,
            seen: String::new(),
            ended: false,
        }
    }

    fn script(text: &str) -> Self {
        let command = ["/bin/sh", "-c", text].map(str::to_owned).to_vec();
        Self::new(&GuestConfig {
            command,
            ..fixture::config()
        })
    }

    /// A program that handles no signal.
    fn sleep() -> Self {
        let started = Self::script("exec sleep 1000");
        let name = format!("/proc/{}/comm", started.running.pid.as_raw_pid());
        // The shell before it has handlers.
        while fs::read_to_string(&name).unwrap() != "sleep\n" {
            thread::yield_now();
        }
        started
    }

    /// Waits until it has written `text`.
    pub fn until(&mut self, text: &str) {
        while !self.seen.contains(text) {
            let part = self.output.recv();
            let part = part.unwrap_or_else(|_| panic!("it ended with {:?}", self.seen));
            self.seen += &String::from_utf8_lossy(&part).replace('\r', "");
        }
    }

    pub fn kill(&self) {
        kill_process(self.running.pid, Signal::KILL).unwrap();
    }

    /// Waits for its end, and that of all that it started.
    fn end(mut self) -> (End, String) {
        let (_, status) = waitpid(Some(self.running.pid), WaitOptions::empty())
            .unwrap()
            .unwrap();
        self.ended = true;
        let signal = status.terminating_signal().map(End::Signalled);
        let end = status.exit_status().map(End::Exited).or(signal).unwrap();
        for part in &self.output {
            self.seen += &String::from_utf8_lossy(&part).replace('\r', "");
        }
        (end, std::mem::take(&mut self.seen))
    }
}

/// Both ends of a new pseudo-terminal: where it is read, and the one of the command.
fn terminal() -> (File, OwnedFd) {
    let (mut outer, mut inner) = (-1, -1);
    // SAFETY: both numbers are live; name, attributes and size may be null.
    let made = unsafe {
        let (name, attributes, size) = (ptr::null_mut(), ptr::null(), ptr::null());
        libc::openpty(&mut outer, &mut inner, name, attributes, size)
    };
    assert_eq!(made, 0, "{}", io::Error::last_os_error());
    // SAFETY: these are open and nobody else's.
    let ends = unsafe { (File::from_raw_fd(outer), OwnedFd::from_raw_fd(inner)) };
    // Commands of other tests must not hold them.
    for end in [ends.0.as_fd(), ends.1.as_fd()] {
        rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
    }
    ends
}

#[test]
fn the_command_is_process_1_among_its_own() {
    let (end, seen) = Started::script(
        "echo pid=$$; cd /proc; echo numbers [0-9]*; grep -c ' /proc ' mounts; exit 3",
    )
    .end();
    assert_eq!(end, End::Exited(3));
    assert_eq!(seen, "pid=1\nnumbers 1\n1\n");
}

#[test]
fn the_console_is_its_controlling_terminal() {
    let (end, seen) = Started::script("echo seen > /dev/tty; exec ps -o tpgid= -p 1").end();
    assert_eq!(
        (end, seen.split_whitespace().collect::<Vec<_>>()),
        (End::Exited(0), vec!["seen", "1"])
    );
}

#[test]
fn it_inherits_orphans() {
    let mut started = Started::script(
        "(sh -c 'until grep -qx PPid:.1 /proc/$$/status; do sleep 0.05; done; echo mine' &)\n\
         exec sleep 1000",
    );
    started.until("mine\n");
    started.kill();
    assert_eq!(started.end().0, End::Signalled(libc::SIGKILL));
}

#[test]
fn its_end_is_the_end_of_all_that_it_started() {
    let mut started = Started::script(
        "setsid sh -c 'trap \"\" TERM HUP; echo up; while :; do sleep 1000; done' & exec sleep 1000",
    );
    started.until("up\n");
    started.kill();
    // `end` waits until nobody holds the terminal.
    assert_eq!(started.end().0, End::Signalled(libc::SIGKILL));
}

#[test]
fn what_it_mounts_is_not_seen_outside() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().display();
    let (end, _) = Started::script(&format!(
        "mount -t tmpfs none {path} && touch {path}/inside && test -f {path}/inside"
    ))
    .end();
    assert_eq!(end, End::Exited(0));
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

/// As `halt -f`, `poweroff -f` and `reboot -f` do, in any process.
#[test]
fn what_is_asked_of_the_machine_is_told_by_its_end() {
    // Numbers of reboot(2). In a machine's namespace alone: here they would be heeded.
    for (number, request) in [
        (0xcdef_0123_u32, PowerRequest::Off),
        (0x4321_fedc, PowerRequest::Off),
        (0x0123_4567, PowerRequest::Reset),
    ] {
        let ask = format!(
            "syscall {}, 0xfee1dead, 672274793, {number}, 0",
            libc::SYS_reboot
        );
        let (end, seen) = Started::script(&format!(
            "set /proc/[0-9]*; [ $$ = 1 ] && [ \"$*\" = /proc/1 ] || exit 100; \
             perl -e '{ask}'; sleep 1000"
        ))
        .end();
        assert_eq!(
            namespace::power_request(end),
            Some(request),
            "{end:?} {seen}"
        );
    }
}

#[test]
fn no_other_end_is_taken_for_such_a_request() {
    for (text, ended) in [
        ("kill -HUP $$; exit 5", End::Exited(5)),
        ("exit 130", End::Exited(130)),
        ("sh -c 'kill -INT $$'; exit 6", End::Exited(6)),
    ] {
        let (end, _) = Started::script(text).end();
        assert_eq!((end, namespace::power_request(end)), (ended, None));
    }
    let started = Started::sleep();
    for signal in [Signal::INT, Signal::HUP, Signal::KILL] {
        kill_process(started.running.pid, signal).unwrap();
    }
    assert_eq!(started.end().0, End::Signalled(libc::SIGKILL));
}

#[test]
fn a_signal_that_it_handles_is_delivered() {
    let mut started =
        Started::script("trap 'echo got; exit 7' TERM; echo up; while :; do sleep 0.05; done");
    started.until("up\n");
    assert!(started.running.ask_to_end());
    let (end, seen) = started.end();
    assert_eq!((end, seen.ends_with("got\n")), (End::Exited(7), true));
}

/// The kernel would drop it, and a grace be waited for in vain.
#[test]
fn a_signal_that_it_does_not_handle_is_told_at_once() {
    let started = Started::sleep();
    assert!(!started.running.ask_to_end());
    started.kill();
    assert_eq!(started.end().0, End::Signalled(libc::SIGKILL));
}

#[test]
fn it_is_asked_by_the_signal_that_its_image_names() {
    for name in ["SIGQUIT", "SIGRTMIN+3"] {
        let signal: StopSignal = name.parse().unwrap();
        let number = signal.number();
        let text = format!(
            "trap 'echo wrong' TERM; trap 'echo got; exit 0' {number}; echo up; \
             while :; do sleep 0.05; done"
        );
        let mut started = Started::new(&GuestConfig {
            command: ["/bin/bash", "-c", &text].map(str::to_owned).to_vec(),
            stop_signal: Some(signal),
            ..fixture::config()
        });
        started.until("up\n");
        assert!(started.running.ask_to_end());
        assert_eq!(started.end(), (End::Exited(0), "up\ngot\n".into()));
    }
}

#[test]
fn it_has_its_image_s_folder_variables_and_user() {
    let folder = tempfile::tempdir().unwrap();
    let working_dir = folder.path().join("link");
    std::os::unix::fs::symlink("far/away", &working_dir).unwrap();
    let command = [
        "sh",
        "-c",
        "pwd -P; echo $A.$HOME.$HOSTNAME.$PATH; id -u; id -g; id -G",
    ];
    let started = Started::new(&GuestConfig {
        command: command.map(str::to_owned).to_vec(),
        env: ["A=1", "NOVALUE", "=", "A=2"].map(str::to_owned).to_vec(),
        working_dir: working_dir.to_str().unwrap().into(),
        user: "12345:54321".into(),
        ..fixture::config()
    });
    let (end, seen) = started.end();
    assert_eq!(end, End::Exited(0), "{seen}");
    let expected = format!(
        "{}/far/away\n2./.web.{}\n12345\n54321\n54321\n",
        folder.path().display(),
        command::DEFAULT_PATH
    );
    assert_eq!(seen, expected);
}

#[test]
fn it_has_the_limits_of_containers() {
    let (_, seen) = Started::script(
        "ulimit -Sn; while read -r max what soft _; do \
         [ \"$max $what\" = 'Max processes' ] && echo $soft; done < /proc/self/limits",
    )
    .end();
    let (files, processes) = seen.trim_end().split_once('\n').unwrap();
    assert_eq!(files, "1024");
    // As much as the test itself may have.
    let most = rustix::process::getrlimit(Resource::Nproc).maximum;
    assert_eq!(
        processes,
        most.map_or("unlimited".to_owned(), |n| n.to_string())
    );
}

#[test]
fn handled_blocked_and_ignored_signals_are_heeded() {
    let status = "Name:\tx\nSigPnd:\t0000000000004000\nSigBlk:\t0000000000000001\n\
                  SigIgn:\t0000000000000002\nSigCgt:\t8000000000004000\nSigOdd:\t0000000000000004\n";
    let heeded: Vec<u8> = (1..=64)
        .filter(|number| heeds(status, StopSignal::try_from(*number).unwrap()))
        .collect();
    assert_eq!(heeded, [1, 2, 15, 64]);
}
