use loam_deployment::{
    ContractId,
    payload::{Media, OciReference},
};

use super::*;
use crate::pool::testing::pool;

fn image(registry: &str) -> Image {
    let reference = format!("{registry}/x@sha256:{}", "ab".repeat(32));
    Image::from(reference.parse::<OciReference>().unwrap())
}

struct Disk {
    _folder: tempfile::TempDir,
    pool: Arc<Pool>,
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = Arc::new(pool(folder.path(), Media::Ssd));
        Self {
            _folder: folder,
            pool,
        }
    }

    fn begin(&self, registry: &str, layer: &[u8]) -> Staging {
        let staging = Staging::begin(&self.pool, Record::new(image(registry))).unwrap();
        staging.claim().grow(layer.len() as u64).unwrap();
        fs::write(staging.folder().join("layer"), layer).unwrap();
        staging
    }

    fn claimed(&self) -> u64 {
        self.pool
            .with_ledger(|ledger| ledger.promised_to_images())
            .get()
    }

    fn find(&self) -> Vec<Leftover> {
        let (found, strays) = find(&self.pool.images(), |_| false);
        assert_eq!(strays, 0);
        found
    }

    fn entries(&self, folder: &str) -> usize {
        fs::read_dir(self.pool.images().join(folder))
            .unwrap()
            .count()
    }
}

#[test]
fn two_references_of_one_digest_share_no_files() {
    let disk = Disk::new();
    let one = disk.begin("a.org", b"12345");
    let two = disk.begin("b.org", b"123");
    assert_eq!(disk.claimed(), 8);
    one.remove().unwrap();
    assert_eq!(
        (
            disk.claimed(),
            disk.entries("fetch"),
            disk.entries("attempts")
        ),
        (3, 1, 1)
    );
    assert!(two.folder().join("layer").exists());
    two.clear().unwrap();
    assert_eq!(
        (
            disk.claimed(),
            disk.entries("fetch"),
            disk.entries("attempts")
        ),
        (0, 0, 1)
    );
}

#[test]
fn what_is_not_there_is_not_claimed() {
    let disk = Disk::new();
    let staging = disk.begin("a.org", b"12345");
    staging.claim().grow(1000).unwrap();
    staging.recount();
    assert_eq!((disk.claimed(), staging.claim().bytes()), (5, 5));
    staging.claim().shrink_by(2);
    assert_eq!(disk.claimed(), 3);
    staging.claim().shrink_by(1000);
    assert_eq!((disk.claimed(), staging.claim().bytes()), (0, 0));
    staging.claim().grow(7).unwrap();
    drop(staging);
    assert_eq!(disk.claimed(), 0);
}

#[test]
fn a_build_that_was_cut_counts_as_a_death_once() {
    let disk = Disk::new();
    let staging = disk.begin("a.org", b"12345");
    staging
        .note(|record| (record.building, record.failures) = (true, 2))
        .unwrap();
    for _ in 0..2 {
        let found = disk.find();
        let [Leftover { record, bytes: 5 }] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(
            (record.deaths, record.failures, record.building),
            (1, 2, false)
        );
        assert!(record.why.as_ref().unwrap().contains("while it built"));
    }
    staging.note(|record| record.building = true).unwrap();
    staging.note(|record| record.building = false).unwrap();
    assert_eq!(disk.find()[0].record.deaths, 0);
}

#[test]
fn what_belongs_to_no_attempt_is_removed() {
    let disk = Disk::new();
    let kept = disk.begin("a.org", b"12345");
    let finished = disk.begin("b.org", b"123");
    let images = disk.pool.images();
    // A folder without a record, a file in its place, and records of no use.
    fs::create_dir_all(images.join("fetch/stray/deep")).unwrap();
    fs::write(images.join("fetch/stray/deep/layer"), b"1").unwrap();
    fs::write(images.join("fetch/file"), b"1").unwrap();
    fs::write(images.join("attempts/bad.json"), b"{").unwrap();
    let misnamed = serde_json::to_vec(&Record::new(image("c.org"))).unwrap();
    fs::write(images.join("attempts/other.json"), misnamed).unwrap();

    let (found, strays) = find(&images, |reference| *reference == self::image("b.org"));
    let kept = Leftover {
        record: kept.record(),
        bytes: 5,
    };
    assert_eq!((found, strays), (vec![kept], 0));
    assert_eq!((disk.entries("fetch"), disk.entries("attempts")), (1, 1));
    assert!(!finished.folder().exists());
}

#[test]
fn what_was_begun_for_one_contract_is_nobody_else_s() {
    let disk = Disk::new();
    let shared = disk.begin("a.org", b"12345");
    let image = Image {
        only_for: Some(ContractId(7)),
        ..image("a.org")
    };
    let own = Staging::begin(&disk.pool, Record::new(image.clone())).unwrap();
    assert_ne!(own.folder(), shared.folder());
    let found = |disk: &Disk| {
        let found = disk.find().into_iter();
        let mut images: Vec<_> = found.map(|found| found.record.image).collect();
        images.sort();
        images
    };
    let all = [shared.record().image, image];
    assert_eq!(found(&disk), all);
    // What is written of anybody's is as it was before there were logins, and read so.
    let written = fs::read_to_string(shared.record_path()).unwrap();
    assert!(!written.contains("only_for"), "{written}");
    // One that has lost its owner is nobody's.
    let record = fs::read_to_string(own.record_path()).unwrap();
    let lost = record.replace(r#","only_for":7"#, "");
    assert_ne!(lost, record);
    fs::write(own.record_path(), lost).unwrap();
    assert_eq!(found(&disk), all[..1]);
    assert!(!own.folder().exists() && shared.folder().exists());
}
