use std::fs::File;

use loam_deployment::{Bytes, payload::Media};
use loam_node_api::storage::StorageError;
use uuid::Uuid;

use super::*;
use crate::{
    header::{DiskTag, Found, Header, State},
    time,
};

#[test]
fn a_marked_pool_without_its_secret_makes_no_new_node() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("pool");
    std::fs::create_dir(&root).unwrap();
    let node = NodeKey([1; 32]);
    let header = Header {
        node: Some(node),
        ..Header::for_disk(64 << 20, Uuid::nil(), DiskTag::of("a"))
    };
    let sys = SysDisk {
        name: "sda".to_owned(),
        device: folder.path().join("disk"),
        seq: 1,
        id: "a".to_owned(),
        named: true,
        size: Bytes(64 << 20),
        media: Media::Ssd,
        unfit: None,
        in_use: None,
    };
    let pool = crate::pool::testing::pool(&root, Media::Ssd).on(sys.device.clone(), header, None);
    let stage = Stage::InUse(Arc::new(pool));
    let places = Places {
        sys_block: folder.path().join("sys"),
        pools: folder.path().join("pools"),
        boot: folder.path().join("boot.json"),
    };
    let inventory = Inventory::new(places, None, Changes::new());
    inventory
        .write()
        .insert("sda".to_owned(), Known::new(sys, stage, None));

    let why = |inventory: &Inventory| match inventory.secret("seed") {
        Err(StorageError::Io(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(why(&inventory).contains("may yet come"));
    inventory.searching.store(false, Ordering::Release);
    assert!(why(&inventory).contains(&node.to_string()));
    // Other secrets may be new to a node that has said who it is.
    inventory.node_is(node).unwrap();
    assert_eq!(inventory.secret("seed"), Ok(None));
}

const SIZE: u64 = 1 << 30;

fn sys(name: &str, id: &str) -> SysDisk {
    SysDisk {
        name: name.to_owned(),
        device: Path::new("/nowhere").join(name),
        seq: 1,
        id: id.to_owned(),
        named: true,
        size: Bytes(SIZE),
        media: Media::Ssd,
        unfit: None,
        in_use: None,
    }
}

fn inventory(folder: &Path) -> Arc<Inventory> {
    let places = Places {
        sys_block: folder.join("sys"),
        pools: folder.join("pools"),
        boot: folder.join("boot.json"),
    };
    let inventory = Inventory::new(places, None, Changes::new());
    inventory.searching.store(false, Ordering::Release);
    Arc::new(inventory)
}

fn insert(inventory: &Inventory, disk: SysDisk, stage: Stage) {
    let known = Known::new(disk.clone(), stage, None);
    inventory.write().insert(disk.name, known);
}

fn seen(header: Header) -> Stage {
    let generation = 7;
    Stage::Seen(Finding::Pool { header, generation }, None)
}

#[test]
fn a_pool_on_two_disks_of_one_id_may_have_the_seed() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    // Without any pool, nobody is told that there is no seed.
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let other = Stage::InUse(Arc::new(crate::pool::testing::pool(&other, Media::Ssd)));
    insert(&inventory, sys("sdc", "c"), other);
    assert_eq!(inventory.secret("seed"), Ok(None));
    let header = Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("dock"));
    for name in ["sda", "sdb"] {
        insert(&inventory, sys(name, "dock"), seen(header));
    }
    for _ in 0..2 {
        inventory.decide();
        inventory.secret("seed").unwrap_err();
    }
    // They are looked at again when one of them goes.
    let disks = inventory.read();
    assert_eq!(disks.values().filter(|known| known.is_copy()).count(), 2);
}

#[test]
fn a_pool_that_cannot_be_mounted_is_neither_stamped_nor_bound_to_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    // A copy. A file cannot be mounted.
    let device = folder.path().join("copy");
    let header = Header {
        state: State::Pool,
        used: 7,
        ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("z"))
    };
    File::create_new(&device).unwrap().set_len(SIZE).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(&device)
        .unwrap();
    header.write(&file).unwrap();
    let copy = SysDisk {
        device,
        ..sys("sda", "a")
    };
    insert(&inventory, copy, seen(header));
    inventory.decide();
    while !matches!(inventory.read()["sda"].stage, Stage::Left(..)) {
        thread::yield_now();
    }
    assert_eq!(
        Header::read(&file, header.filesystem_size).unwrap(),
        Found::Header(header)
    );
    while !lock(&inventory.boot).decided().runs_on.is_empty() {
        thread::yield_now();
    }
    assert!(lock(&inventory.boot).decided().mounted.is_empty());
    // It may be all that there is of a pool of this node's.
    let pools = folder.path().join("other");
    std::fs::create_dir(&pools).unwrap();
    let other = Stage::InUse(Arc::new(crate::pool::testing::pool(&pools, Media::Ssd)));
    insert(&inventory, sys("sdc", "c"), other);
    inventory.secret("seed").unwrap_err();

    // Its original is put back.
    insert(&inventory, sys("sdb", "z"), seen(header));
    inventory.decide();
    let is_tried = || {
        matches!(
            &inventory.read()["sdb"].stage,
            Stage::Left(DiskState::Failed(_), _)
        )
    };
    assert!(!inventory.read()["sdb"].is_copy());
    while !is_tried() {
        thread::yield_now();
    }
    // Both are taken out again.
    inventory.write().retain(|name, _| name == "sdc");
    inventory.secret("seed").unwrap_err();
}

/// A disk of this id that the kernel shows, of which there is no device.
fn show(inventory: &Inventory, id: &str) -> SysDisk {
    let name = format!("no-such-disk-{id}");
    let folder = inventory.places.sys_block.join(&name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("size"), (SIZE / 512).to_string()).unwrap();
    std::fs::write(folder.join("wwid"), id).unwrap();
    let disks = disk::scan(&inventory.places.sys_block).unwrap();
    disks.into_iter().find(|disk| disk.name == name).unwrap()
}

#[test]
fn a_disk_in_doubt_that_drops_off_the_bus_may_come_back() {
    let header = Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("z"));
    let at = Duration::from_secs;
    let foreign = || Stage::Left(DiskState::Foreign("ext4".to_owned()), Doubt::None);
    for (stage, waits) in [
        (Stage::Looking, true),
        (known::unread("cannot be read".to_owned()), true),
        (seen(header), true),
        (foreign(), false),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let inventory = inventory(folder.path());
        let copy = show(&inventory, "a");
        insert(&inventory, copy.clone(), seen(header));
        insert(&inventory, sys("sdz", "z"), stage);
        let is_seen = || matches!(inventory.read()[&copy.name].stage, Stage::Seen(..));
        let mut search = Search::new(at(6));
        // Long after the node started, it is gone.
        let phase = inventory.pass(Phase::Settled, &mut search, at(500));
        assert_eq!(is_seen(), waits);
        let phase = inventory.pass(phase, &mut search, at(509));
        assert_eq!(is_seen(), waits);
        inventory.pass(phase, &mut search, at(510));
        assert!(!is_seen());
    }
}

/// Shows that disk `z` holds this node's pool, and that a copy of it was used later and cannot be mounted.
/// Gives the original's header.
fn later_copy_in_doubt(inventory: &Arc<Inventory>, original: &SysDisk, copy: SysDisk) -> Header {
    let header = Header {
        used: 7,
        ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("z"))
    };
    let later = Header { used: 9, ..header };
    lock(&inventory.boot).change(|decided| decided.set = Some(header.set));
    insert(inventory, original.clone(), seen(header));
    let failed = DiskState::Failed("cannot be mounted".to_owned());
    let left = Stage::Left(failed, known::doubt(&later));
    insert(inventory, copy, left);
    inventory.decide();
    header
}

#[test]
fn an_original_waits_for_its_later_copy_whose_link_is_reset() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let original = show(&inventory, "z");
    later_copy_in_doubt(&inventory, &original, sys("sdb", "copy"));
    let waits = || matches!(inventory.read()[&original.name].stage, Stage::Seen(..));
    assert!(waits());
    inventory.secret("seed").unwrap_err();
    // It is gone, and does not come back.
    let at = Duration::from_secs;
    let mut search = Search::new(at(6));
    let phase = inventory.pass(Phase::Settled, &mut search, at(500));
    assert!(waits());
    let phase = inventory.pass(phase, &mut search, at(509));
    assert!(waits());
    inventory.pass(phase, &mut search, at(510));
    assert!(!waits());
}

#[test]
fn an_original_waits_for_its_later_copy_also_when_that_changes_or_cannot_be_read_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let (original, copy) = (show(&inventory, "z"), show(&inventory, "copy"));
    let header = later_copy_in_doubt(&inventory, &original, copy.clone());
    let waits = |inventory: &Inventory| {
        matches!(&inventory.read()[&original.name].stage,
            Stage::Seen(_, Some(waiting)) if waiting.to_string().contains("disk copy"))
    };
    assert!(waits(&inventory));
    // It is worn out: the kernel lets nobody write to it any more, and it is looked at anew.
    let its = inventory.places.sys_block.join(&copy.name);
    std::fs::write(its.join("ro"), "1").unwrap();
    let at = Duration::from_secs;
    let mut search = Search::new(at(6));
    search.found(inventory.fit_disks(), at(6));
    let phase = inventory.pass(Phase::Settled, &mut search, at(500));
    assert!(waits(&inventory));
    assert!(!inventory.searching.load(Ordering::Acquire));
    wait_for(|| matches!(inventory.read()[&copy.name].stage, Stage::Left(..)));
    inventory.pass(phase, &mut search, at(600));
    assert!(waits(&inventory));

    // Storaged is started again.
    let inventory = self::inventory(folder.path());
    insert(&inventory, original.clone(), seen(header));
    let silent = known::unread("cannot be read".to_owned());
    let worn = disk::scan(&inventory.places.sys_block).unwrap();
    let worn = worn.into_iter().find(|disk| disk.id == "copy").unwrap();
    insert(&inventory, worn, silent);
    let mut search = Search::new(at(700));
    search.found(inventory.fit_disks(), at(700));
    let phase = inventory.pass(Phase::Settled, &mut search, at(800));
    assert!(waits(&inventory));
    // The farmer takes it out.
    std::fs::remove_dir_all(&its).unwrap();
    let is_seen = || matches!(inventory.read()[&original.name].stage, Stage::Seen(..));
    let phase = inventory.pass(phase, &mut search, at(900));
    assert!(is_seen());
    inventory.pass(phase, &mut search, at(910));
    assert!(!is_seen());
}

#[test]
fn what_could_not_be_stamped_is_owed() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let header = Header {
        state: State::Pool,
        ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("z"))
    };
    let disk = SysDisk {
        device: folder.path().join("disk"),
        ..sys("sda", "a")
    };
    // There is no such disk.
    let (kept, owed) = inventory.stamp(&disk, header);
    assert_eq!(kept, header);
    assert_eq!(owed.map(|using| using.disk), Some(DiskTag::of("a")));
    let file = File::create_new(&disk.device).unwrap();
    file.set_len(SIZE).unwrap();
    header.write(&file).unwrap();
    let (stamped, owed) = inventory.stamp(&disk, header);
    assert!(owed.is_none());
    let file = File::open(&disk.device).unwrap();
    let found = Header::read(&file, header.filesystem_size).unwrap();
    assert_eq!(found, Found::Header(stamped));
    assert_eq!(stamped.disk, DiskTag::of("a"));
}

#[test]
fn what_is_used_in_place_of_a_later_one_is_the_later_one_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let header = Header {
        state: State::Pool,
        used: 7,
        ..Header::for_disk(SIZE, Uuid::new_v4(), DiskTag::of("z"))
    };
    let disk = SysDisk {
        device: folder.path().join("disk"),
        ..sys("sda", "z")
    };
    let file = File::create_new(&disk.device).unwrap();
    file.set_len(SIZE).unwrap();
    header.write(&file).unwrap();
    // By a clock that was far ahead.
    let ahead = time::now().0 * 2;
    lock(&inventory.boot).change(|decided| decided.could_not_use(header.uuid, "copy", ahead));
    let (stamped, _) = inventory.stamp(&disk, header);
    assert_eq!(stamped.used, ahead + 1);
    let file = File::open(&disk.device).unwrap();
    let found = Header::read(&file, header.filesystem_size).unwrap();
    assert_eq!(found, Found::Header(stamped));
}

/// A virtio disk that the kernel shows, of which there is no device.
fn show_virtio(inventory: &Inventory) -> PathBuf {
    let folder = inventory.places.sys_block.join("vd-no-such-disk");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("size"), (SIZE / 512).to_string()).unwrap();
    std::fs::write(folder.join("diskseq"), "5").unwrap();
    folder.join("serial")
}

fn wait_for(what: impl Fn() -> bool) {
    let began = Instant::now();
    while !what() {
        assert!(began.elapsed() < Duration::from_secs(60));
        thread::yield_now();
    }
}

#[test]
fn a_disk_that_does_not_say_its_name_holds_up_no_look_at_others() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let blank = show(&inventory, "blank");
    let serial = show_virtio(&inventory);
    let made = std::process::Command::new("mkfifo").arg(&serial).status();
    assert!(made.unwrap().success());
    insert(&inventory, blank.clone(), Stage::Seen(Finding::Empty, None));
    let (tell, told) = std::sync::mpsc::channel();
    let this = inventory.clone();
    thread::spawn(move || {
        let at = Duration::from_secs;
        let mut search = Search::new(at(6));
        let phase = this.pass(Phase::Settled, &mut search, at(500));
        this.pass(phase, &mut search, at(600));
        tell.send(()).unwrap();
    });
    told.recv_timeout(Duration::from_secs(60)).unwrap();
    let is = |disk: &str, ok: fn(&Known) -> bool| ok(&inventory.read()[disk]);
    // It may be this node's.
    let silent = "vd-no-such-disk";
    assert!(is(silent, |known| matches!(known.stage, Stage::Looking)));
    assert!(is(silent, |known| known.sys.id == "path-vd-no-such-disk"));
    let waits = |known: &Known| matches!(known.stage, Stage::Seen(_, Some(Waiting::Unknown)));
    assert!(is(&blank.name, waits));
    assert_eq!(inventory.fit_disks(), ["blank"]);

    // At last.
    std::fs::write(&serial, "S 1\n").unwrap();
    wait_for(|| is(silent, |known| matches!(known.stage, Stage::Left(..))));
    std::fs::remove_file(&serial).unwrap();
    std::fs::write(&serial, "").unwrap();
    inventory.look().unwrap();
    assert!(is(silent, |known| known.sys.id == "virtio-S_1"));
    assert!(is(silent, |known| matches!(known.stage, Stage::Left(..))));
    // The kernel has a closer look at its size.
    let size = serial.with_file_name("size");
    std::fs::write(size, (SIZE / 256).to_string()).unwrap();
    inventory.look().unwrap();
    assert!(is(silent, |known| known.sys.id == "virtio-S_1"));
    // Pulled, and another is put in.
    std::fs::write(serial.with_file_name("diskseq"), "6").unwrap();
    inventory.look().unwrap();
    wait_for(|| is(silent, |known| known.sys.named));
    assert!(is(silent, |known| known.sys.id == "path-vd-no-such-disk"));
}

#[test]
fn a_pool_whose_disk_does_not_say_its_name_again_stays_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let inventory = inventory(folder.path());
    let serial = show_virtio(&inventory);
    std::fs::write(&serial, "S1").unwrap();
    let sata = inventory.places.sys_block.join("no-such-disk-a");
    show(&inventory, "a");
    std::fs::write(sata.join("diskseq"), "7").unwrap();
    let mut disks = disk::scan(&inventory.places.sys_block).unwrap();
    for disk in &mut disks {
        if !disk.named {
            *disk = disk::ask_name(&inventory.places.sys_block, disk).unwrap();
        }
        let root = folder.path().join(&disk.name);
        std::fs::create_dir(&root).unwrap();
        let pool = crate::pool::testing::pool(&root, Media::Ssd);
        insert(&inventory, disk.clone(), Stage::InUse(Arc::new(pool)));
    }
    std::fs::write(&serial, "").unwrap();
    std::fs::remove_file(sata.join("wwid")).unwrap();
    inventory.look().unwrap();
    assert_eq!(inventory.pools().len(), 2);
    // Another disk of the same name is another.
    std::fs::write(sata.join("diskseq"), "8").unwrap();
    inventory.look().unwrap();
    assert_eq!(inventory.pools().len(), 1);
}
