//! What an image takes of its pool, and its builder.

use std::{
    fs::{self, File, Permissions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    sync::Arc,
};

use loam_deployment::{Bytes, Version, payload::Media};
use loam_storaged::{
    cgroup::Confined,
    image::{
        copy::copy,
        erofs::{BUILDER_ID, PackError},
        failure::FetchError,
        feed::feed,
        pace::Patience,
        stop::Stop,
        watch::{Ended, Watch},
    },
    placement::Placement,
    pool::Pool,
    program::{self, Confinement},
};
use rustix::fs::copy_file_range;

use crate::{
    loops::{Loop, Mounts, sparse},
    node::SIZE,
    pools::{free, key, open, wish},
};

/// Runs a script as an image's builder, which an image has taken over. Its file, and how it ended.
fn build(pool: &Arc<Pool>, script: &str, most: Bytes) -> (PathBuf, Result<(), PackError>) {
    let packed = pool.images().join("build/x.packed");
    let output = File::create_new(&packed).unwrap();
    chown(&packed, Some(BUILDER_ID), Some(BUILDER_ID)).unwrap();
    let confinement = Confinement {
        id: BUILDER_ID,
        cpu_seconds: 3600,
        address_space: 4 << 30,
    };
    let mut builder = program::command("sh", Some(confinement)).unwrap();
    builder.args(["-c", script]).arg(&packed);
    let mut watch = Watch::new(&Stop::default(), &Patience::USUAL, most).on(pool.clone());
    let mut nothing = |_: &mut dyn Write| Ok(());
    let ended = feed(builder, &output, &mut nothing, &mut watch, |_| {
        Ok(Confined::default())
    });
    (packed, ended)
}

/// Lets a builder walk into it.
fn open_up(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o711)).unwrap();
}

#[test]
fn a_builder_makes_nothing_but_what_is_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    open_up(folder.path());
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "builder");
    let (pool, _) = open(&disk, folder.path());
    // As older pools have it.
    let place = pool.images().join("build");
    chown(&place, Some(BUILDER_ID), Some(BUILDER_ID)).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o700)).unwrap();
    let (root, uuid) = (pool.root().to_owned(), pool.uuid());
    drop(pool);
    let pool = Arc::new(Pool::open(root, uuid, Media::Ssd).unwrap());
    assert_eq!(fs::metadata(&place).unwrap().uid(), 0);

    let script = r#"
        exec 2>/dev/null
        (: >"$0.beside") && exit 11
        mkdir "$0.folder" && exit 12
        ln "$0" "$0.link" && exit 13
        mv "$0" "$0.moved" && exit 14
        rm "$0" && exit 15
        ln -s /tmp "$0.symlink" && exit 16
        btrfs subvolume create "$0.subvolume" && exit 17
        (: >"${0%/build/*}/beside") && exit 18
        echo built >"$0""#;
    let (packed, ended) = build(&pool, script, Bytes::mib(1));
    ended.unwrap();
    assert_eq!(fs::read(&packed).unwrap(), b"built\n");
    assert_eq!(fs::read_dir(&place).unwrap().count(), 1);
}

/// Of each extent that it writes it keeps a block, and so the whole, whatever its file is said to take.
#[test]
fn a_builder_that_holds_more_than_its_file_shows_costs_no_volume_its_space() {
    let folder = tempfile::tempdir().unwrap();
    open_up(folder.path());
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "extents");
    let (pool, _) = open(&disk, folder.path());
    let before = pool.spare().unwrap();
    let pools = [pool.clone()];
    let volume = Placement::default()
        .ensure(&pools, &key("a"), &wish(300), Version(1))
        .unwrap();
    let promised = before.get() - pool.spare().unwrap().get();
    assert!(promised > 299 << 20, "{promised}");

    let script = r#"
        n=0
        while :; do
            dd if=/dev/zero of="$0" bs=1M count=32 seek=$((n * 32)) conv=notrunc,fsync || exit
            truncate --size $((n * 32 * 1048576 + 4096)) "$0" || exit
            n=$((n + 1))
        done"#;
    let (packed, ended) = build(&pool, script, Bytes::mib(100));
    assert!(
        matches!(ended, Err(PackError::Ended(Ended::Short))),
        "{ended:?}"
    );
    let shown = fs::metadata(&packed).unwrap().blocks() * 512;
    assert!(shown < 100 << 20, "{shown}");
    // It was ended in time, and what it took goes with its file: nobody else had taken it.
    let left = free(&File::open(pool.root()).unwrap());
    assert!(left > 200 << 20, "{left}");
    fs::remove_file(packed).unwrap();
    let error = FetchError::from(ended.unwrap_err());
    let judged = error.judged(&*pool, Bytes::mib(100));
    assert!(judged.is_death(), "{judged:?}");
    let data = File::options()
        .write(true)
        .open(volume.path.unwrap())
        .unwrap();
    let piece = vec![7; 1 << 20];
    (0..300).for_each(|n| data.write_all_at(&piece, n << 20).unwrap());
    data.sync_all().unwrap();
}

/// It would hold hundreds of gibibytes between two looks at the disk: what is only allocated takes no time.
#[test]
fn a_builder_allocates_nothing_that_it_does_not_write() {
    let folder = tempfile::tempdir().unwrap();
    open_up(folder.path());
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "allocates");
    let (pool, _) = open(&disk, folder.path());
    // `FS_IOC_RESVSP64` with a `struct space_resv` (linux/falloc.h).
    let reserve = r#"perl -e '$space = pack("s s x4 q q x24", 0, 0, 0, 1 << 20);
        open(F, "+<", $ARGV[0]) or exit 2; exit !ioctl(F, 0x4030582a, $space)' "$0""#;
    let works = [
        r#"fallocate --length 1M "$0""#,
        r#"fallocate --keep-size --length 1M "$0""#,
        r#"fallocate --zero-range --length 1M "$0""#,
        reserve,
    ];
    // `io_uring_setup`, and `fallocate` by its number for x32, which are not on every machine.
    let may_work = [
        r#"perl -e '$none = "\0" x 120; exit(syscall(425, 1, $none) < 0)'"#,
        r#"perl -e 'exit(syscall(0x40000000 + 285, 1, 0, 0, 1 << 20) < 0)' 1<>"$0""#,
    ];
    for call in works {
        let file = pool.images().join("unconfined");
        File::create(&file).unwrap();
        let mut sh = program::command("sh", None).unwrap();
        sh.args(["-c", call]).arg(&file);
        program::run(sh).unwrap();
        assert!(fs::metadata(&file).unwrap().blocks() >= 2048, "{call}");
    }
    for call in works.into_iter().chain(may_work) {
        let script = format!("{call} && exit 9; echo built >\"$0\"");
        let (packed, ended) = build(&pool, &script, Bytes::gib(1));
        ended.unwrap_or_else(|error| panic!("{call}: {error}"));
        assert_eq!(fs::read(&packed).unwrap(), b"built\n");
        fs::remove_file(packed).unwrap();
    }
}

/// As `mkfs.erofs` makes one of many short files and a few of a block.
#[test]
fn an_image_holds_no_more_than_its_file_is_long() {
    const MIB: u64 = 1 << 20;
    const ASIDE: u64 = 1 << 40;
    const BLOCK: u64 = 4096;
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let disk = Loop::attach(&sparse(folder.path(), "disk", SIZE), "image");
    let (pool, _) = open(&disk, folder.path());
    let images = pool.images();
    let root = File::open(&images).unwrap();
    let before = free(&root);

    let packed = images.join("packed");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&packed)
        .unwrap();
    let piece = vec![7; MIB as usize];
    (0..64).for_each(|n| file.write_all_at(&piece, ASIDE + n * MIB).unwrap());
    file.sync_all().unwrap();
    for n in 0..64 {
        let (mut from, mut to) = (ASIDE + n * MIB, n * BLOCK);
        let shared = copy_file_range(&file, Some(&mut from), &file, Some(&mut to), BLOCK as usize);
        assert_eq!(shared.unwrap(), BLOCK as usize);
    }
    file.set_len(64 * BLOCK).unwrap();
    let held = before - free(&root);
    assert!(held > 60 * MIB, "nothing is shared here: {held}");

    let watch = Watch::new(&Stop::default(), &Patience::USUAL, Bytes::gib(1));
    copy(&file, &images.join("image"), &watch).unwrap();
    drop(file);
    std::fs::remove_file(packed).unwrap();
    let held = before - free(&root);
    assert!(held < 4 * MIB, "{held}");
}
