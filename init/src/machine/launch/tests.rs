use std::{io, os::fd::AsRawFd, os::unix::net::UnixListener};

use tokio::time::timeout;

use super::*;
use crate::{
    cgroup::{Group, GroupLimits},
    machine::{
        console::{ConsoleRing, ConsoleTail},
        fixture::spec,
    },
};

#[test]
fn numbers_are_those_that_the_child_sees() {
    let open = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let (null, zero, config) = (open("/dev/null"), open("/dev/zero"), open("/dev/full"));
    let raw = [&config, &null, &zero].map(AsRawFd::as_raw_fd);
    let mut held = Held::default();
    assert_eq!(held.add(null), 4);
    assert_eq!(held.add(zero), 5);
    // The child sees the list from number 3 on.
    let order: Vec<_> = held
        .after(config)
        .0
        .iter()
        .map(AsRawFd::as_raw_fd)
        .collect();
    assert_eq!(order, raw);
}

/// Far longer than any test runs.
const LONG: Duration = Duration::from_secs(3600);

/// A disk hangs for good if its name says so.
fn open_disk(disk: &MachineDisk) -> anyhow::Result<(OwnedFd, DiskIdentity)> {
    while disk.path.ends_with("hangs") {
        thread::park();
    }
    Ok((null()?, DiskIdentity::of(1, true)))
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::open("/dev/null")?.into())
}

/// Without a cgroup file system: a folder stands for the group.
fn seat() -> Seat {
    let folder = tempfile::tempdir().unwrap();
    let group = folder.path().join("group");
    Seat {
        group: Group::at(group, GroupLimits::default()).unwrap(),
        control: UnixListener::bind(folder.path().join("socket")).unwrap(),
    }
}

/// Begins to open what a machine with this one disk may use. Its seat is there already, as after a
/// reset.
fn open(launcher: &mut NodeLauncher, name: &str, disk: &str) {
    let mut spec = spec(name);
    spec.disks[0].path = disk.into();
    spec.interfaces.clear();
    let place = launcher.places.entry(spec.id.clone()).or_default();
    *lock(&place.seat) = Some(Arc::new(seat()));
    let console = ConsoleRing::make(&spec.id, &ConsoleTail::default()).unwrap();
    let order = Order {
        spec: Arc::new(spec),
        guest_config: Arc::from(*b"{}"),
        console: Arc::new(console),
        user: 1,
        launch: 1,
    };
    launcher.open(order).unwrap();
}

#[tokio::test]
async fn a_launch_whose_disk_hangs_fails_alone_and_names_it() {
    let (sender, mut events) = mpsc::channel(8);
    let mut launcher = NodeLauncher::new(sender, Log::default()).unwrap();
    launcher.means = Means {
        disk: open_disk,
        kvm: || Ok(null()?),
        file: |_| Ok(null()?),
        patience: Duration::ZERO,
    };
    open(&mut launcher, "1.web", "/pools/a/hangs");
    launcher.means.patience = LONG;
    open(&mut launcher, "1.stopped", "/pools/a/hangs");
    launcher.give_up(&"1.stopped".parse().unwrap());
    open(&mut launcher, "1.same-pool", "/pools/a/good");
    open(&mut launcher, "1.other-pool", "/pools/b/good");

    let mut told = BTreeMap::new();
    while told.len() < 4 {
        let event = timeout(Duration::from_secs(60), events.recv()).await;
        match event.expect("a launch waits for its disk still") {
            Some(Event::Machine {
                id,
                launch: 1,
                news: News::Opened(opened),
            }) => told.insert(id.to_string(), opened),
            other => panic!("{other:?}"),
        };
    }
    let hung = "the disk /pools/a/hangs does not answer".to_owned();
    assert_eq!(told["1.web"], Err(hung));
    let stopped = "nobody waits for the disk /pools/a/hangs any longer".to_owned();
    assert_eq!(told["1.stopped"], Err(stopped));
    for name in ["1.same-pool", "1.other-pool"] {
        assert_eq!(told[name], Ok(vec![DiskIdentity::of(1, true)]));
        let place = &launcher.places[&name.parse().unwrap()];
        assert!(lock(&place.ready).is_some(), "a process can be made");
    }
}
