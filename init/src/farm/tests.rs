use super::*;

const LONG: Duration = Duration::from_secs(60);

const ENDLESS: Patience = Patience {
    least: LONG,
    quiet: LONG,
    most: LONG,
};

struct Bench {
    folder: tempfile::TempDir,
    finder: FarmFinder,
    search: Option<Search>,
}

impl Bench {
    fn new(command_line: Option<u64>, patience: Patience) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let [blocks, devices] = ["block", "dev"].map(|name| folder.path().join(name));
        for made in [&blocks, &devices] {
            fs::create_dir(made).unwrap();
        }
        let places = Places {
            blocks,
            devices,
            result: folder.path().join("farm.json"),
        };
        let command_line = command_line.map(FarmId);
        let (finder, search) = Search::new(places, command_line, patience, Duration::ZERO);
        Self {
            folder,
            finder,
            search: Some(search),
        }
    }

    fn begin(mut self) -> Self {
        let search = self.search.take().unwrap();
        thread::spawn(move || search.run());
        self
    }

    fn plug(&self, name: &str, sequence: u64, sector: &[u8]) {
        fs::write(self.folder.path().join("dev").join(name), sector).unwrap();
        self.show(name, sequence);
    }

    fn show(&self, name: &str, sequence: u64) {
        let block = self.folder.path().join("block").join(name);
        fs::create_dir_all(&block).unwrap();
        fs::write(block.join("uevent"), uevent(name, sequence)).unwrap();
    }

    fn pull(&self, name: &str) {
        fs::remove_dir_all(self.folder.path().join("block").join(name)).unwrap();
    }

    fn device_came(&self) {
        self.finder.device(&Uevent::Added {
            subsystem: "block".into(),
            modalias: None,
        });
    }

    #[track_caller]
    fn wait(&self, expected: &FarmSearch) {
        let begun = Instant::now();
        loop {
            let found = FarmSearch::read(&self.folder.path().join("farm.json"));
            if found == *expected {
                return;
            }
            assert!(begun.elapsed() < LONG, "{found:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn uevent(name: &str, sequence: u64) -> String {
    format!(
        "MAJOR=8\nMINOR=4\nDEVNAME={name}\nDEVTYPE=partition\nDISKSEQ={sequence}\nPARTN=4\nPARTNAME=loam state\n"
    )
}

fn found(stick: Stick) -> FarmSearch {
    FarmSearch {
        stick,
        ..FarmSearch::default()
    }
}

fn sector(farm: u64) -> [u8; SECTOR] {
    farm::write_sector(FarmId(farm))
}

const SEVEN: Stick = Stick::Names(FarmId(7));

#[test]
fn a_partition_is_known_by_its_name() {
    let ours = partition(&uevent("sda4", 5));
    let expected = Partition {
        name: "sda4".into(),
        sequence: "5".into(),
    };
    assert_eq!(ours, Some(expected));
    for (from, to) in [
        ("loam state", "loam B"),
        ("loam state", "loam state 2"),
        ("PARTNAME=loam state\n", ""),
        ("DEVTYPE=partition", "DEVTYPE=disk"),
        ("DEVNAME=sda4\n", ""),
    ] {
        assert_eq!(partition(&uevent("sda4", 5).replace(from, to)), None);
    }
    assert_eq!(partition(""), None);
}

#[test]
fn the_command_line_names_a_farm_by_digits() {
    let of = |text| in_command_line(text).map(|farm| farm.0);
    assert_eq!(of("console=ttyS0 loam.farm=7 panic=10\n"), Some(7));
    assert_eq!(of("loam.farm=7 loam.farm=9"), Some(9));
    for none in [
        "",
        "console=ttyS0",
        "loam.farm",
        "loam.farm=",
        "loam.farm=0",
        "loam.farm=-7",
        "loam.farm=seven",
        "xloam.farm=7",
        "loam.farm=7 loam.farm=x",
    ] {
        assert_eq!(of(none), None, "{none}");
    }
}

#[test]
fn what_a_stick_names_is_told_and_what_is_none_is_passed_over() {
    let bench = Bench::new(Some(3), ENDLESS);
    bench.plug("sda4", 1, &sector(7));
    // Empty, damaged, too short, and one that cannot be opened.
    bench.plug("sdb4", 2, &[0; SECTOR]);
    bench.plug("sdc4", 3, &[1; SECTOR]);
    bench.plug("sdd4", 4, b"LOAMFARM");
    bench.show("sde4", 5);
    bench.begin().wait(&FarmSearch {
        stick: SEVEN,
        command_line: Some(FarmId(3)),
        over: false,
    });
}

#[test]
fn sticks_that_come_and_go_are_looked_at_when_a_device_comes() {
    let bench = Bench::new(None, ENDLESS).begin();
    bench.wait(&found(Stick::Silent));
    bench.plug("sda4", 1, &sector(7));
    bench.device_came();
    bench.wait(&found(SEVEN));
    bench.plug("sdb4", 2, &sector(9));
    bench.device_came();
    bench.wait(&found(Stick::Disagree(FarmId(7), FarmId(9))));
    // Another one at the same port.
    bench.pull("sdb4");
    bench.plug("sdb4", 3, &sector(7));
    bench.device_came();
    bench.wait(&found(SEVEN));
}

#[test]
fn a_stick_that_hangs_holds_up_neither_another_nor_the_end() {
    let bench = Bench::new(
        None,
        Patience {
            least: Duration::from_millis(50),
            quiet: Duration::ZERO,
            most: LONG,
        },
    );
    // Nobody ever writes to it.
    let fifo = bench.folder.path().join("dev/sda4");
    let mode = rustix::fs::Mode::RWXU;
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    bench.show("sda4", 1);
    bench.plug("sdb4", 2, &sector(7));
    let bench = bench.begin();
    bench.wait(&FarmSearch {
        stick: SEVEN,
        command_line: None,
        over: true,
    });
    // One that comes later counts all the same.
    bench.plug("sdb4", 3, &sector(9));
    bench.device_came();
    bench.wait(&FarmSearch {
        stick: Stick::Names(FarmId(9)),
        command_line: None,
        over: true,
    });
}

#[test]
fn a_stick_is_waited_for_as_long_as_devices_come_that_may_lead_to_it() {
    let seconds = Duration::from_secs;
    let search = |since_start| {
        let bench = Bench::new(None, PATIENCE);
        let mut search = bench.search.unwrap();
        search.start = search.last.checked_sub(seconds(since_start)).unwrap();
        search
    };
    let about = |left: Duration, expected: u64| {
        assert!(left <= seconds(expected), "{left:?}");
        assert!(left > seconds(expected.saturating_sub(1)), "{left:?}");
    };
    // The last device came just now, so long after the kernel's start.
    about(search(2).left(), 18);
    about(search(17).left(), 10);
    about(search(55).left(), 5);
    assert_eq!(search(61).left(), Duration::ZERO);
    let mut calm = search(25);
    calm.last = calm.start + seconds(14);
    assert_eq!(calm.left(), Duration::ZERO);
}
