//! Checks in the namespaces of commands that run. They need root and a cgroup of version 2.

use std::{fs, path::PathBuf};

use super::*;
use crate::{Happening, fixture, folder::ImageFolders, process, process::tests::Started};

/// A command, and what its check says.
struct Checked {
    started: Started,
    watching: Option<Watching>,
    told: Receiver<GuestEvent>,
    happenings: Receiver<Happening>,
    group: PathBuf,
}

impl Drop for Checked {
    fn drop(&mut self) {
        if !self.started.ended {
            self.end();
        }
        let _ = fs::remove_dir(&self.group);
    }
}

fn check(line: &str) -> Healthcheck {
    Healthcheck {
        interval: Duration::from_millis(20),
        // Longer than any test.
        timeout: Duration::from_secs(1000),
        start_interval: Duration::from_millis(20),
        retries: 1,
        ..Healthcheck::new(["/bin/sh", "-c", line].map(str::to_owned).to_vec())
    }
}

/// A machine whose command goes on until it is killed.
fn machine(script: &str, check: Healthcheck) -> GuestConfig {
    let script = format!("{script}\necho up; while :; do sleep 0.05; done");
    GuestConfig {
        command: ["/bin/sh", "-c", &script].map(str::to_owned).to_vec(),
        healthcheck: Some(check),
        ..fixture::config()
    }
}

impl Checked {
    fn new(config: &GuestConfig) -> Self {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let groups = mounts.lines().find(|line| line.starts_with("cgroup2 "));
        let groups = groups.and_then(|line| line.split(' ').nth(1));
        let groups = Path::new(groups.expect("these tests need a cgroup of version 2"));
        let group = groups.join(format!("loam-check-{}", std::process::id()));

        let mut started = Started::new(config);
        started.until("up\n");
        let surroundings = Surroundings::of(config, &ImageFolders::default()).unwrap();
        let (ended, ends) = mpsc::channel();
        let (happened, happenings) = mpsc::channel();
        let pid = started.running.pid;
        let watch = Watch::new(config, &surroundings, pid, &group, ends).unwrap();
        process::reap_all(pid, happened, ended).unwrap();
        let (tell, told) = mpsc::channel();
        let watch = Watch {
            pause: Duration::from_millis(1),
            ..watch.unwrap()
        };
        let watching = watch.start(move |event| tell.send(event.clone()).is_ok());
        Self {
            started,
            watching: Some(watching.unwrap()),
            told,
            happenings,
            group,
        }
    }

    /// The next that is told: whether it is healthy, and the words.
    fn next(&self) -> (bool, String) {
        match self.told.recv().unwrap() {
            GuestEvent::Health { healthy, output } => (healthy, output),
            other => panic!("{other:?}"),
        }
    }

    /// The command ends, and with it all that is in its namespaces.
    fn end(&mut self) {
        self.started.kill();
        let mut seen = Vec::new();
        while seen.last() != Some(&Happening::AllEnded) {
            seen.push(self.happenings.recv().unwrap());
        }
        let killed = Happening::CommandEnded(End::Signalled(libc::SIGKILL));
        assert_eq!(seen, [killed, Happening::AllEnded]);
        self.started.ended = true;
    }
}

#[test]
fn changes_are_told_of_a_check_that_runs_as_the_command_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let line = format!(
        "test \"$(id -u).$(id -G).$A.$(pwd)\" = '12345.54321.2.{path}' || exit 3; \
         echo it is not; test -e well"
    );
    let config = GuestConfig {
        env: vec!["A=2".into()],
        user: "12345:54321".into(),
        working_dir: path.to_string(),
        ..machine("", check(&line))
    };
    let folder_mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(folder.path(), folder_mode).unwrap();
    let checked = Checked::new(&config);
    assert_eq!(checked.next(), (false, "status 1: it is not".into()));
    fs::write(folder.path().join("well"), "").unwrap();
    assert_eq!(checked.next(), (true, String::new()));
    fs::remove_file(folder.path().join("well")).unwrap();
    assert_eq!(checked.next(), (false, "status 1: it is not".into()));
}

#[test]
fn it_sees_what_the_command_sees() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let script = format!("mount -t tmpfs none {path}; touch {path}/inside");
    // Process 1 is the command, and what the check's number stands for is the check.
    let line = format!(
        "test -e {path}/inside || exit 3; kill -0 1 || exit 4; test $$ != 1 || exit 5; \
         grep -q echo.up /proc/1/cmdline || exit 6; grep -q test.-e /proc/$$/cmdline || exit 7"
    );
    let checked = Checked::new(&machine(&script, check(&line)));
    assert_eq!(checked.next(), (true, String::new()));
}

#[test]
fn one_that_takes_too_long_is_killed_with_all_that_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let line = format!(
        "setsid sh -c 'trap \"\" TERM HUP; touch {path}/up; while :; do sleep 1; done' &\n\
         until test -e {path}/up; do sleep 0.01; done; echo waiting; sleep 1000"
    );
    let config = machine(
        "",
        Healthcheck {
            timeout: Duration::from_millis(1500),
            ..check(&line)
        },
    );
    let mut checked = Checked::new(&config);
    let processes =
        |checked: &Checked| fs::read_to_string(checked.group.join("cgroup.procs")).unwrap();
    while !folder.path().join("up").exists() {
        thread::yield_now();
    }
    assert_ne!(processes(&checked), "");
    assert_eq!(
        checked.next(),
        (false, "no end after 1500 ms: waiting".into())
    );
    drop(checked.watching.take());
    while !processes(&checked).is_empty() {
        thread::yield_now();
    }
}

#[test]
fn what_one_leaves_behind_ends_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let config = machine(
        "",
        Healthcheck {
            // Never a second one.
            interval: Duration::from_secs(1000),
            // But for the first.
            start_period: Duration::from_secs(1000),
            ..check(&format!(
                "setsid sleep 1000 > /dev/null 2>&1 & touch {path}/up"
            ))
        },
    );
    let checked = Checked::new(&config);
    assert_eq!(checked.next(), (true, String::new()));
    assert!(folder.path().join("up").exists());
    while !fs::read_to_string(checked.group.join("cgroup.procs"))
        .unwrap()
        .is_empty()
    {
        thread::yield_now();
    }
}

#[test]
fn one_that_hangs_does_not_hold_up_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display();
    let line = format!("trap '' TERM HUP; touch {path}/up; sleep 1000");
    let mut checked = Checked::new(&machine("", check(&line)));
    while !folder.path().join("up").exists() {
        thread::yield_now();
    }
    checked.watching = None;
    // Waits for the end of every child.
    checked.end();
}

#[test]
fn no_child_is_left_unreaped_and_none_runs_once_nobody_watches() {
    let mut checked = Checked::new(&machine("", check("exit $(($(date +%N | cut -c1) % 2))")));
    for _ in 0..10 {
        checked.next();
    }
    checked.watching = None;
    // The thread has ended when nobody is there to tell any more.
    while checked.told.recv().is_ok() {}
    let children = || {
        let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
        let children =
            tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        children.collect::<String>()
    };
    let command = format!("{} ", checked.started.running.pid.as_raw_pid());
    while children() != command {
        thread::yield_now();
    }
}

#[test]
fn one_that_is_not_there_is_unhealthy_and_costs_nothing() {
    let config = machine(
        "",
        Healthcheck {
            command: vec!["no-such-check".into()],
            interval: Duration::from_millis(1),
            retries: 8,
            ..check("")
        },
    );
    let checked = Checked::new(&config);
    let expected = "no-such-check is not in the image".to_owned();
    assert_eq!(checked.next(), (false, expected));
}

#[test]
fn one_that_writes_without_end_has_its_time_and_no_more() {
    let config = machine(
        "",
        Healthcheck {
            timeout: Duration::from_millis(300),
            ..check("exec yes")
        },
    );
    let (healthy, output) = Checked::new(&config).next();
    assert!(
        !healthy && output.starts_with("no end after 300 ms: "),
        "{output}"
    );
    assert!(output.ends_with("y y y") && output.len() <= loam_node_api::guest::MAX_CHECK_OUTPUT);
}
