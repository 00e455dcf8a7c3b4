use std::time::Duration;

use loam_deployment::{Bytes, FarmId, NodeKey};
use loam_node_api::{
    clock::UnixTime,
    farm::{FarmSource, NamedFarm},
    screen::Daemon,
    status::DiskCount,
};
use proptest::prelude::*;

use super::*;

const SERIAL: Rect = Rect::new(0, 0, 80, 23);
const VGA: Rect = Rect::new(0, 0, 80, 25);

/// A node that works.
pub fn facts() -> Facts {
    let daemon = |name: &str| Daemon {
        name: name.into(),
        state: "running".into(),
        runs: true,
    };
    let workloads = |kind: &str, running, coming, failed| WorkloadCount {
        kind: kind.into(),
        running,
        coming,
        failed,
        ..WorkloadCount::default()
    };
    Facts {
        image: "0.1.0+g3a087a6d2b1f".into(),
        last_boot: None,
        uptime: Duration::from_secs(3 * 86_400 + 4 * 3600 + 5 * 60),
        cpus: 4,
        busy: 12,
        memory_total: Bytes::gib(2),
        memory_used: Bytes::mib(700),
        machines: 1,
        machines_memory: Bytes::mib(300),
        machines_budget: Bytes::mib(1500),
        links: vec![
            Link {
                name: "enp1s0".into(),
                carrier: true,
                speed: Some(1000),
            },
            Link {
                name: "enp2s0".into(),
                carrier: false,
                speed: None,
            },
        ],
        now: UnixTime(1_795_881_902),
        clock: Clock {
            set: true,
            source: "NTS".into(),
            ..Clock::default()
        },
        daemons: ["storaged", "netd", "noded"].map(daemon).into(),
        status: Some(NodeStatus {
            node: Some(NodeKey([0x3f; 32])),
            farm: Some(NamedFarm {
                number: FarmId(7),
                source: FarmSource::Stick,
            }),
            addresses: vec!["10.0.2.15".parse().unwrap(), "fd00::15".parse().unwrap()],
            chain: ChainState::Following { block: 1234 },
            trouble: None,
            disks: DiskCount {
                used: 2,
                size: Bytes(1_920_000_000_000),
                left_alone: 1,
                failed: 0,
                unfit: 0,
            },
            workloads: vec![
                workloads("machine", 1, 0, 0),
                workloads("network", 1, 0, 0),
                workloads("volume", 2, 1, 1),
            ],
            notices: excerpt(&["/dev/sdc is left alone: it holds a partition table"]),
        }),
        trouble: None,
        warnings: vec!["noded: daemon ended".into()],
        phase: None,
        network_test: None,
        log: Vec::new(),
    }
}

fn excerpt(lines: &[&str]) -> Excerpt<String> {
    lines.iter().map(|line| (*line).to_owned()).collect()
}

fn status(facts: &mut Facts) -> &mut NodeStatus {
    facts.status.as_mut().unwrap()
}

/// As somebody sees it, without blanks at the ends of lines.
pub fn text(buffer: &Buffer) -> String {
    let width = usize::from(buffer.area.width).max(1);
    let row = |cells: &[ratatui::buffer::Cell]| {
        let row: String = cells.iter().map(|cell| cell.symbol()).collect();
        row.trim_end().to_owned() + "\n"
    };
    buffer.content.chunks(width).map(row).collect()
}

fn line(facts: &Facts) -> String {
    text(&draw(facts, Kind::Line, SERIAL, None))
}

#[test]
fn a_serial_line_shows_all_in_80_by_23() {
    let expected = "\
Loam 0.1.0+g3a087a6d2b1f                                            up 3 d 04:05

 READY  It works; there is nothing to do. Something to look at stands below.

node      3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f
farm      7, from the stick
network   enp1s0 at 1 Gbit/s, enp2s0 without a cable
address   10.0.2.15 fd00::15
chain     following block 1234
time      2026-11-28 16:05 UTC, by NTS
disks     2 in use, 1.9 TB; 1 left alone
runs      1 machine, 1 network, 4 volumes (1 on the way, 1 failed)
promised  300 of 1500 MiB, to 1 machine
load      4 x, 12 % busy; 700 of 2048 MiB used
daemons   all run






! /dev/sdc is left alone: it holds a partition table
  noded: daemon ended
";
    assert_eq!(line(&facts()), expected);
}

#[test]
fn the_smallest_screen_has_room_for_the_code_of_a_node_that_works() {
    let mut facts = facts();
    facts.warnings.clear();
    status(&mut facts).notices = Excerpt::default();
    let expected = "\
Loam 0.1.0+g3a087a6d2b1f                                            up 3 d 04:05

 READY  It works; there is nothing to do.

node      3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f3f
          3f3f3f3f3f3f3f3f3f3f3f3f3f3f
farm      7, from the stick
network   enp1s0 at 1 Gbit/s, enp2s0 without a
          cable
address   10.0.2.15 fd00::15
chain     following block 1234
time      2026-11-28 16:05 UTC, by NTS
disks     2 in use, 1.9 TB; 1 left alone
runs      1 machine, 1 network, 4 volumes (1
          on the way, 1 failed)
promised  300 of 1500 MiB, to 1 machine
load      4 x, 12 % busy; 700 of 2048 MiB used
daemons   all run



r restart   p power off   l log   i node's id   n network test
";
    let seen = text(&draw(&facts, Kind::Screen, VGA, None));
    let code = qr::rows(&"3f".repeat(32)).unwrap();
    let left: String = seen
        .lines()
        .enumerate()
        .map(|(y, row)| match (4..21).contains(&y) {
            true => {
                let cells: Vec<char> = row.chars().chain(std::iter::repeat(' ')).take(80).collect();
                let (left, right) = cells.split_at(47);
                assert_eq!(right.iter().collect::<String>(), code[y - 4], "row {y}");
                left.iter().collect::<String>().trim_end().to_owned() + "\n"
            }
            false => row.to_owned() + "\n",
        })
        .collect();
    let blank = expected.lines().count();
    assert_eq!(blank, 22, "of 25, three are blank");
    let left: String = left.replace("all run\n\n\n\n\n\n\n", "all run\n\n\n\n");
    assert_eq!(left, expected);
}

/// The code gives way to what is to be looked at.
#[test]
fn what_is_to_be_looked_at_comes_before_the_code() {
    let mut facts = facts();
    let code = |facts: &Facts, area| text(&draw(facts, Kind::Screen, area, None)).contains('▄');
    assert!(code(&facts, VGA), "two lines leave room");
    status(&mut facts).notices = excerpt(&["n"; 5]);
    assert!(!code(&facts, VGA));
    assert!(code(&facts, Rect::new(0, 0, 128, 48)));
    facts.status.as_mut().unwrap().node = None;
    assert!(!code(&facts, Rect::new(0, 0, 128, 48)));
}

#[test]
fn a_large_screen_is_used_in_the_middle() {
    let seen = text(&draw(
        &facts(),
        Kind::Screen,
        Rect::new(0, 0, 240, 67),
        None,
    ));
    assert_eq!(seen.lines().count(), 67);
    for row in seen.lines() {
        let row: Vec<char> = row.chars().collect();
        assert!(row.len() <= 175);
        assert!(row.iter().take(65).all(|c| *c == ' '), "{row:?}");
    }
}

#[test]
fn what_is_asked_stands_in_the_place_of_the_keys() {
    let seen = |question| text(&draw(&facts(), Kind::Screen, VGA, question));
    assert!(
        seen(None).ends_with("\nr restart   p power off   l log   i node's id   n network test\n")
    );
    assert!(KEYS.len() <= 80, "the smallest screen shows them all");
    assert!(seen(Some("Sure?")).ends_with("\nSure?\n"));
}

#[test]
fn how_the_boot_before_ended_is_said_if_it_was_not_well() {
    assert!(!line(&facts()).contains("last boot"));
    let how = "ended in a crash of the kernel: Fatal exception in interrupt";
    let crashed = Facts {
        last_boot: Some(how.into()),
        ..facts()
    };
    assert!(line(&crashed).contains(&format!("\nlast boot {how}\n")));
}

#[test]
fn an_empty_node_says_what_it_waits_for() {
    let seen = line(&Facts::default());
    for row in [
        " STARTING  The node starts.",
        "node      none yet: its key needs a disk",
        "farm      none",
        "network   no card that this image has a driver for",
        "address   none yet",
        "chain     connecting",
        "time      not known yet",
        "disks     none in use",
        "runs      nothing yet",
        "promised  0 of 0 MiB, to 0 machines",
    ] {
        assert!(seen.contains(&format!("\n{row}\n")), "{row}\n{seen}");
    }
}

#[test]
fn daemons_are_named_when_one_does_not_run() {
    let mut facts = facts();
    facts.daemons[1].runs = false;
    facts.daemons[1].state = "restarting".into();
    let row = "\ndaemons   storaged running, netd restarting, noded running\n";
    assert!(line(&facts).contains(row));
}

#[test]
fn each_field_says_what_is_unusual() {
    let mut facts = facts();
    facts.links[0].speed = Some(2500);
    facts.links[1] = Link {
        name: "usb0".into(),
        carrier: true,
        speed: None,
    };
    facts.clock.set = false;
    let told = status(&mut facts);
    told.chain = ChainState::Silent {
        reason: "refused".into(),
    };
    told.disks.failed = 1;
    told.disks.unfit = 2;
    told.workloads = vec![WorkloadCount {
        stopped: 2,
        ..WorkloadCount::default()
    }];
    told.farm = None;
    let seen = line(&facts);
    for row in [
        "network   enp1s0 at 2500 Mbit/s, usb0",
        "chain     no answer (refused)",
        "time      not known yet (NTS)",
        "disks     2 in use, 1.9 TB; 1 left alone; 1 failed; 2 not for data",
        "runs      2 others (2 stopped)",
        "farm      none",
    ] {
        assert!(seen.contains(&format!("\n{row}\n")), "{row}\n{seen}");
    }
    facts.clock.source.clear();
    assert!(line(&facts).contains("\ntime      not known yet\n"));
    facts.clock.set = true;
    facts.clock.floor = UnixTime(facts.now.0 + 86_400);
    assert!(line(&facts).contains("\ntime      2026-11-29 16:05 UTC\n"));
    status(&mut facts).chain = ChainState::Registering { block: 5 };
    assert!(line(&facts).contains("\nchain     registering, block 5\n"));
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut facts = facts();
    status(&mut facts).notices = excerpt(&["n"; 9]);
    facts.warnings = vec!["w".into(); 9];
    let seen = line(&facts);
    assert_eq!(seen.lines().count(), 23);
    assert!(
        seen.ends_with("\n\n! n\n! n\n! n\n! n\n! n\n! and 4 more\n  w\n  w\n  w\n"),
        "{seen}"
    );
    // What was left out before it came here counts, too.
    status(&mut facts).notices.first.truncate(1);
    status(&mut facts).notices.more = 7;
    assert!(line(&facts).contains("\n! n\n! and 7 more\n"));
}

#[test]
fn of_two_troubles_one_stands_above_and_the_other_comes_first_below() {
    let mut facts = facts();
    status(&mut facts).trouble = Some("made for no grid".into());
    assert_eq!(line(&facts).matches("made for no grid").count(), 1);
    assert!(line(&facts).contains("\n BLOCKED  made for no grid\n"));
    facts.trouble = Some("switch on SVM".into());
    let seen = line(&facts);
    assert!(seen.contains("\n BLOCKED  switch on SVM\n"));
    assert!(seen.contains("\n! made for no grid\n! /dev/sdc"), "{seen}");
}

/// What to do stands at the end of a notice and of a warning.
#[test]
fn the_longest_notice_and_warning_are_whole() {
    let copy = "/dev/nvme10n1 is left alone: it holds what pool a3d4180d-fd5b-50c1-252e-06a8b49c3752 \
        was on before, which is used on disk nvme-SAMSUNG_MZVL22T0HBLB-00B00_S677NF0RA01234 now; only \
        one of the two can be used: to go on with this one, take that one out and restart";
    let foreign = "/dev/vdb is left alone: it holds a pool of node \
        a3d4180dfd5b50c1252e06a8b49c3752cfdfb2d4b5335e4e17ea43b1e30f9cc5";
    let clock = "clockd: 2 time servers contradict the time that this node's disks have kept: \
        2099-01-01. If that is in the future, delete the file secrets/time on each of its disks";
    let mut facts = facts();
    status(&mut facts).notices = excerpt(&[copy, foreign, foreign]);
    facts.warnings = vec![clock.to_owned()];
    let seen = line(&facts);
    let expected = "

! /dev/nvme10n1 is left alone: it holds what pool
  a3d4180d-fd5b-50c1-252e-06a8b49c3752 was on before, which is used on disk
  nvme-SAMSUNG_MZVL22T0HBLB-00B00_S677NF0RA01234 now; only one of the two can be
  used: to go on with this one, take that one out and restart
! and 2 more
  clockd: 2 time servers contradict the time that this node's disks have kept:
  2099-01-01. If that is in the future, delete the file secrets/time on each of
  its disks
";
    assert!(seen.ends_with(expected), "{seen}");
    // And the farmer still sees what the node is.
    assert!(seen.contains("\nchain     following block 1234\n"));
}

/// One of them, however long, takes neither the others' place nor that of what the node is.
#[test]
fn no_notice_or_warning_takes_all_lines() {
    let mut facts = facts();
    status(&mut facts).notices = excerpt(&[&"n".repeat(9999), "second"]);
    facts.warnings = vec!["older".to_owned(), "w ".repeat(999)];
    let seen = line(&facts);
    assert!(seen.contains("\n! n") && seen.contains("\n! second\n"));
    assert!(seen.ends_with("w w ..\n"), "{seen}");
    assert!(!seen.contains("older") && seen.contains("\nnode "));
}

#[test]
fn the_id_is_shown_or_said_to_be_missing() {
    let shown = |facts: &Facts, kind| text(&draw_code(facts, kind, VGA));
    let mut facts = facts();
    let seen = shown(&facts, Kind::Screen);
    let rows: Vec<&str> = seen.lines().collect();
    assert_eq!(rows[0], "3f".repeat(32));
    assert_eq!(rows[2], "█".repeat(33));
    assert_eq!(rows[18], "▀".repeat(33));
    assert_eq!(rows[20], "any key: back");
    assert!(!shown(&facts, Kind::Line).contains('█'));
    status(&mut facts).node = None;
    assert!(shown(&facts, Kind::Screen).starts_with("This node has no id yet"));
}

proptest! {
    /// Whatever servers and daemons say, on consoles of any size.
    #[test]
    fn hostile_strings_stay_inside(
        reason: String, kind: String, trouble: Option<String>,
        notices in prop::collection::vec(any::<String>(), 0..9),
        warnings in prop::collection::vec(any::<String>(), 0..9),
        names in prop::collection::vec(any::<String>(), 0..9),
        phase: Option<String>,
        width in 0u16..150, height in 0u16..60,
    ) {
        let mut facts = facts();
        let told = status(&mut facts);
        told.chain = ChainState::Silent { reason };
        told.workloads[0].kind = kind;
        told.notices = notices.into_iter().collect();
        told.trouble = trouble;
        facts.warnings = warnings;
        facts.phase = phase;
        facts.links = names.into_iter().map(|name| Link { name, carrier: false, speed: None }).collect();
        let area = Rect::new(0, 0, width, height);
        let buffer = draw(&facts, Kind::Line, area, None);
        prop_assert_eq!(buffer.area, area);
        prop_assert!(text(&buffer).bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
        draw(&facts, Kind::Screen, area, Some("?"));
    }
}
