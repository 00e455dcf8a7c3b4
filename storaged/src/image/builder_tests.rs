//! Builders that strangers' bytes have sent astray: none holds the place where images are built.

use std::cell::Cell;

use loam_deployment::{Version, payload::Filesystem};
use loam_node_api::storage::{VolumeKey, VolumeSpec};

use super::*;
use crate::{
    cgroup::{Confined, Group},
    image::{
        failure::FetchError,
        feed::feed,
        watch::{Ended, Room},
    },
    program,
};

/// Runs a script for the first image, and builds all others.
#[derive(Debug)]
struct Astray {
    script: &'static str,
    began: AtomicU32,
    then: KeepTar,
}

impl Pack for Astray {
    fn pack(&self, target: &Path, stream: Stream<'_>, watch: &mut Watch) -> Result<(), PackError> {
        if self.began.fetch_add(1, Ordering::Relaxed) > 0 {
            return self.then.pack(target, stream, watch);
        }
        let mut builder = program::command("sh", None)?;
        builder.args(["-c", self.script]).arg(target);
        let output = fs::File::create_new(target).unwrap();
        feed(builder, &output, stream, watch, |_| Ok(Confined::default()))
    }
}

/// How the image fails whose builder is this script; another that waited for it must be built.
fn fails_alone(script: &'static str, patience: Patience) -> Record {
    let registry = TestRegistry::start();
    // More than a pipe holds.
    let large = Layer::default().file("big", &noise(300_000)).tar();
    let image = registry.image(&[large]);
    let other = registry.image(&[Layer::default().file("other", b"").tar()]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let mut node = Node::new();
        let packer = Arc::new(Astray {
            script,
            began: AtomicU32::new(0),
            then: KeepTar::default(),
        });
        let pools = vec![node.pool.clone()];
        let means = Means {
            patience,
            ..means(packer.clone(), anywhere())
        };
        node.images = Images::with(Arc::new(move || pools.clone()), means, node.changes.clone());
        node.images.ensure(image.clone().into());
        while packer.began.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let built = async {
            node.ready(&other).await;
            node.failed(&image).await;
        };
        tokio::time::timeout(Duration::from_secs(20), built).await?;
        node.delete(&other).await;
        let build = fs::read_dir(node.pool.images().join("build")).unwrap();
        assert_eq!(build.count(), 0);
        let Some(Attempt::Failed(failure)) =
            node.images.lock().attempts.remove(&image.clone().into())
        else {
            panic!("it did not fail");
        };
        assert_eq!(node.taken(), 0);
        Ok::<_, tokio::time::error::Elapsed>(failure.record)
    });
    // Not dropped: that would wait for what hangs.
    runtime.shutdown_background();
    outcome.expect("it holds up all others")
}

const SHORT: Duration = Duration::from_millis(300);

const IDLE: Patience = Patience {
    idle: SHORT,
    ..Patience::USUAL
};

#[test]
fn a_builder_that_does_nothing_is_ended_and_the_next_image_built() {
    for script in [
        // It never reads, reads all and then sleeps, or reads no more and sleeps.
        "exec sleep 1000",
        "cat >/dev/null; exec sleep 1000",
        "exec <&-; exec sleep 1000",
    ] {
        let Record {
            why,
            deaths,
            failures,
            ..
        } = fails_alone(script, IDLE);
        assert!(why.unwrap().contains("got no further for 300ms"));
        assert_eq!((deaths, failures), (1, 0));
    }
}

#[test]
fn a_builder_that_gets_on_without_end_is_ended() {
    let patience = Patience {
        pack: SHORT,
        ..Patience::USUAL
    };
    let script = "while dd bs=1000 count=1 of=/dev/null 2>/dev/null; do sleep 0.05; done";
    let record = fails_alone(script, patience);
    assert!(record.why.unwrap().contains("was not done after 300ms"));
    assert_eq!(record.deaths, 1);
}

/// As by its limits of memory and of processor time.
#[test]
fn a_builder_that_its_limits_kill_has_a_death() {
    for (script, signal) in [("kill -KILL $$", "SIGKILL"), ("kill -XCPU $$", "SIGXCPU")] {
        let record = fails_alone(script, Patience::USUAL);
        let why = record.why.unwrap();
        assert!(
            why.contains("sh was killed") && why.contains(signal),
            "{why}"
        );
        assert_eq!((record.deaths, record.failures), (1, 0));
    }
}

/// It may be taken over, and the pool has no room for what it likes to write.
#[test]
fn a_builder_that_writes_more_than_its_image_can_take_is_ended() {
    let script = "exec dd if=/dev/zero bs=1M of=\"$0\" 2>/dev/null";
    let record = fails_alone(script, Patience::USUAL);
    let why = record.why.unwrap();
    assert!(why.contains("cannot take so much"), "{why}");
    assert_eq!(record.deaths, 1);
}

/// As by a flaw in how its folder is closed to it.
#[test]
fn what_a_builder_left_beside_its_file_goes_with_it() {
    let script =
        "echo x >\"$0.beside\"; mkdir -p \"${0}folder/a\"; echo x >\"${0}folder/a/b\"; exit 3";
    let record = fails_alone(script, Patience::USUAL);
    assert!(record.why.unwrap().contains("exit status: 3"));
}

/// A disk that is full in a while.
#[derive(Debug)]
struct Filling(AtomicU32);

impl Room for Filling {
    fn left(&self) -> Option<Bytes> {
        let looks = self.0.fetch_add(1, Ordering::Relaxed);
        Some(Bytes(u64::from(looks <= 1)))
    }
}

#[test]
fn a_builder_whose_disk_gets_short_is_ended_whether_it_reads_or_not() {
    for script in [
        "cat >/dev/null; exec sleep 1000",
        "exec sleep 1000",
        "while dd bs=1000 count=1 of=/dev/null 2>/dev/null; do sleep 0.05; done",
    ] {
        let mut builder = program::command("sh", None).unwrap();
        builder.args(["-c", script]);
        let output = tempfile::tempfile().unwrap();
        let data = noise(300_000);
        let mut stream = |out: &mut dyn Write| {
            out.write_all(&data)
                .map_err(crate::image::merged::MergedError::Write)
        };
        let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1))
            .on(Arc::new(Filling(AtomicU32::new(0))));
        let error = feed(builder, &output, &mut stream, &mut watch, |_| {
            Ok(Confined::default())
        })
        .unwrap_err();
        assert!(matches!(error, PackError::Ended(Ended::Short)), "{error:?}");
        assert!(FetchError::from(error).is_death());
    }
}

fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(stat.rsplit_once(") "), Some((_, state)) if !state.starts_with('Z'))
}

/// As while gigabytes are unpacked that a later layer hides.
#[test]
fn a_builder_is_watched_while_it_is_given_nothing() {
    let daemons = tempfile::tempdir().unwrap();
    let group = Group::below(daemons.path());
    let kill = daemons.path().join("image-builder/cgroup.kill");
    let mut builder = program::command("sh", None).unwrap();
    builder.args(["-c", "cat >/dev/null; exec sleep 1000"]);
    let output = tempfile::tempfile().unwrap();
    let pid = Cell::new(0);
    let (mut seen, mut ended) = (false, false);
    let mut stream = |out: &mut dyn Write| {
        let written = out.write_all(&noise(300_000));
        seen = !has_ended(pid.get());
        let mut waits = 0..200;
        // What it started ends with it: whoever it is fed by may take minutes.
        ended = waits.any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            has_ended(pid.get()) && kill.exists()
        });
        written.map_err(crate::image::merged::MergedError::Write)
    };
    let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1))
        .on(Arc::new(Filling(AtomicU32::new(0))));
    let confine = |id| {
        pid.set(id);
        group.take_in(id, 1 << 30)
    };
    let error = feed(builder, &output, &mut stream, &mut watch, confine).unwrap_err();
    assert!(matches!(error, PackError::Ended(Ended::Short)), "{error:?}");
    assert!(seen && ended);
}

#[test]
fn a_builder_that_waits_for_input_is_not_idle() {
    let mut builder = program::command("sh", None).unwrap();
    builder.args(["-c", "exec cat >/dev/null"]);
    let output = tempfile::tempfile().unwrap();
    let mut stream = |out: &mut dyn Write| {
        for _ in 0..2 {
            out.write_all(&noise(300_000))
                .and_then(|()| out.flush())
                .map_err(crate::image::merged::MergedError::Write)?;
            std::thread::sleep(4 * SHORT);
        }
        Ok(())
    };
    let mut watch = Watch::new(&Stop::default(), &IDLE, Bytes::gib(1));
    let confine = |_| Ok(Confined::default());
    feed(builder, &output, &mut stream, &mut watch, confine).unwrap();
}

/// Has what an image's builder is ended for, of its own doing or of another's.
#[derive(Debug)]
struct Shortened {
    pool: Arc<Pool>,
    by_another: bool,
}

impl Pack for Shortened {
    fn pack(&self, _: &Path, _: Stream<'_>, watch: &mut Watch) -> Result<(), PackError> {
        if self.by_another {
            // More than any disk has, of which nothing is written.
            let spec = VolumeSpec {
                size: Bytes::gib(8 << 10),
                media: Media::Any,
                filesystem: Filesystem::Raw,
            };
            let key = VolumeKey::Data("1.large".parse().unwrap());
            let volumes = self.pool.volumes();
            volumes.create(&key, &spec, Version(1)).unwrap();
        }
        assert_eq!(watch.has_room_for(watch.space()), !self.by_another);
        Err(Ended::Short.into())
    }
}

#[tokio::test]
async fn a_build_whose_disk_another_has_filled_has_no_death() {
    let registry = TestRegistry::start();
    let image = registry.image(&[Layer::default().file("a", b"x").tar()]);
    for (by_another, expected) in [(true, (0, 1)), (false, (1, 0))] {
        let mut node = Node::new();
        let pool = node.pool.clone();
        let packer = Arc::new(Shortened {
            pool: pool.clone(),
            by_another,
        });
        node.images = Images::with(
            Arc::new(move || vec![pool.clone()]),
            means(packer, anywhere()),
            node.changes.clone(),
        );
        let why = node.failed(&image).await;
        assert_eq!(why.contains("no disk has room"), by_another, "{why}");
        let Some(Attempt::Failed(failure)) =
            node.images.lock().attempts.remove(&image.clone().into())
        else {
            panic!("it did not fail");
        };
        let Record {
            deaths, failures, ..
        } = failure.record;
        assert_eq!((deaths, failures), expected);
    }
}

/// As btrfs, which counts what was removed a while later.
#[derive(Debug)]
struct Freed(AtomicU32);

impl Room for Freed {
    fn left(&self) -> Option<Bytes> {
        Some(Bytes::mib(self.0.fetch_add(1, Ordering::Relaxed).into()))
    }
}

#[test]
fn a_builder_whose_space_is_free_again_had_filled_its_disk() {
    let short = || FetchError::from(PackError::Ended(Ended::Short));
    let judged = |error: FetchError, most| error.judged(&Freed(AtomicU32::new(0)), most);
    assert!(judged(short(), Bytes::mib(1)).is_death());
    let full = judged(short(), Bytes::mib(100));
    assert!(matches!(full, FetchError::NoSpace(_)), "{full:?}");
    let other = FetchError::from(PackError::Ended(Ended::TooMuch(Bytes(1))));
    assert!(judged(other, Bytes::mib(100)).is_death());
}

#[test]
fn what_a_builder_started_does_not_hold_what_it_left() {
    let record = fails_alone("exec 3<&0; sleep 25 & exit 3", Patience::USUAL);
    assert!(record.why.unwrap().contains("exit status: 3"));
    assert_eq!((record.deaths, record.failures), (0, 1));
}

/// As on a node whose control groups are not what they should be.
#[test]
fn a_builder_without_limits_does_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut builder = program::command("sh", None).unwrap();
    builder.args(["-c", "exec cat >/dev/null"]);
    let output = fs::File::create_new(folder.path().join("output")).unwrap();
    let mut handed = false;
    let mut stream = |_: &mut dyn Write| {
        handed = true;
        Ok(())
    };
    let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
    let refused = |_| Err::<Confined<'_>, _>(std::io::Error::other("memory.max of its cgroup"));
    let error = feed(builder, &output, &mut stream, &mut watch, refused).unwrap_err();
    assert!(
        error.to_string().contains("does not run without"),
        "{error}"
    );
    assert!(!handed);
}

/// Also in small pieces, and through a pipe that is full more often than not.
#[test]
fn a_builder_that_reads_to_the_end_has_all_and_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("output");
    let output = fs::File::create_new(&target).unwrap();
    let mut builder = program::command("sh", None).unwrap();
    builder.args(["-c", "sleep 0.3; cat >\"$0\"; sleep 0.3; echo end >>\"$0\""]);
    builder.arg(&target);
    let data = noise(1_000_000);
    let mut stream = |out: &mut dyn Write| {
        data.chunks(1000)
            .try_for_each(|part| out.write_all(part))
            .and_then(|()| out.flush())
            .map_err(crate::image::merged::MergedError::Write)
    };
    let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
    feed(builder, &output, &mut stream, &mut watch, |_| {
        Ok(Confined::default())
    })
    .unwrap();
    let mut expected = data;
    expected.extend(b"end\n");
    assert!(fs::read(&target).unwrap() == expected);
}
