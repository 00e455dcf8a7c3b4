use std::{path::Path, time::Duration};

use futures::FutureExt as _;
use loam_deployment::{
    Bytes,
    payload::{Filesystem, Media, OciReference},
};
use loam_node_api::{
    clock::Clock,
    page::{Changes, MAX_ITEMS},
    tls,
};
use loam_oci::{
    address::{Outside, Reach},
    mirror::Mirrors,
    platform::Level,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use tarpc::context;
use tokio::time::timeout;

use super::*;
use crate::{
    image::kept::Kept,
    inventory::Places,
    pool::{Pool, testing::pool},
};

/// storaged of a node without disks, whose images are nevertheless on `pools`. Nobody looks for disks
/// yet.
fn service(folder: &Path, pools: Vec<Arc<Pool>>) -> (Arc<Inventory>, Storaged) {
    let places = Places {
        sys_block: folder.to_owned(),
        pools: folder.to_owned(),
        boot: folder.join("boot.json"),
    };
    let inventory = Arc::new(Inventory::new(places, None, Changes::new()));
    let outside = Outside {
        reach: Reach::Network,
        tls: tls::client_config(tls::public_roots(), Arc::new(Clock::default)).unwrap(),
    };
    let images = Images::new(
        Arc::new(move || pools.clone()),
        outside,
        Mirrors::default(),
        Level::V1,
        inventory.changes().clone(),
    );
    (inventory.clone(), Storaged::new(inventory, images))
}

#[test]
fn no_list_of_what_is_on_disks_is_given_before_all_were_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let (_, service) = service(folder.path(), Vec::new());
    let now = context::current;
    assert_eq!(service.clone().disks(now()).now_or_never(), Some(vec![]));
    assert_eq!(service.clone().pools(now()).now_or_never(), None);
    let volumes = service.clone().volumes(now(), None);
    assert!(volumes.now_or_never().is_none());
    assert!(service.images(now(), None).now_or_never().is_none());
}

#[test]
fn pages_together_are_the_list() {
    let all: Vec<usize> = (0..2 * MAX_ITEMS + 7).collect();
    let (mut got, mut after) = (Vec::new(), None);
    loop {
        let page = page(all.clone(), |n| n, after.as_ref());
        got.extend(page.items);
        after = got.last().copied();
        if !page.more {
            break;
        }
    }
    assert_eq!(got, all);
    // What it went on behind may be gone by then.
    assert_eq!(page(vec![1, 4, 5], |n| n, Some(&3)).items, [4, 5]);
    assert!(page(vec![1], |n| n, Some(&1)).items.is_empty());
}

/// A thread that reads from a disk which hangs cannot be ended, and there are 512 for all calls.
#[test]
fn questions_about_an_image_on_a_disk_that_hangs_leave_other_calls_their_threads() {
    let folder = tempfile::tempdir().unwrap();
    let image = format!("a.org/x@sha256:{}", "ab".repeat(32));
    let image = Image::from(image.parse::<OciReference>().unwrap());
    let root = folder.path().join("pool");
    std::fs::create_dir(&root).unwrap();
    let before = Arc::new(pool(&root, Media::Ssd));
    let built = before.images().join("build/x");
    std::fs::write(&built, b"an image").unwrap();
    let kept = Kept::create(&before, &image, &built, ImageConfig::default(), Level::V1).unwrap();
    let again = Arc::new(Pool::open(root, before.uuid(), Media::Ssd).unwrap());
    // Whoever opens it waits for ever.
    let record = kept.path().with_extension("json");
    std::fs::remove_file(&record).unwrap();
    mknodat(CWD, &record, FileType::Fifo, Mode::RUSR, 0).unwrap();

    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let answered = runtime.block_on(async {
        let (inventory, storaged) = service(&empty, vec![again]);
        std::thread::spawn(move || inventory.watch());
        storaged.inventory.settled().await;
        for _ in 0..600 {
            let asked = storaged
                .clone()
                .image_config(context::current(), image.clone());
            let asked = timeout(Duration::from_millis(1), asked).await;
            assert!(!matches!(asked, Ok(Ok(_))), "{asked:?}");
        }
        let spec = VolumeSpec {
            size: Bytes(1 << 20),
            media: Media::Any,
            filesystem: Filesystem::Raw,
        };
        let key = VolumeKey::Data("1.data".parse().unwrap());
        let other = storaged.volume_ensure(context::current(), key, spec, Version(1));
        timeout(Duration::from_secs(20), other).await
    });
    // Not dropped: that would wait for the threads.
    runtime.shutdown_background();
    assert_eq!(answered.unwrap(), Err(StorageError::NoPool));
}
