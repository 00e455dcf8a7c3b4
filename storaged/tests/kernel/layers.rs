//! Random trees, packed by each program that writes layers, against what the programs that unpack
//! layers make of them. Root's, for owners, devices and the attributes that only root may set.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File, Permissions},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink},
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use loam_storaged::image::pack::pack;
use proptest::{prelude::*, test_runner::TestCaseResult};
use rustix::{
    fs::{AtFlags, FileType, Mode, Timestamps, XattrFlags},
    io::Errno,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::loops::Mounts;

/// One thing, in a folder that was made before it.
#[derive(Clone, Debug)]
struct Thing {
    what: What,
    name: Vec<u8>,
    /// Which of the folders (or, for a further name, of the files) that are there.
    place: prop::sample::Index,
    mode: u32,
    uid: u32,
    gid: u32,
    seconds: i64,
    nanoseconds: u32,
    note: Option<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum What {
    Folder,
    File(Vec<u8>),
    /// Blocks of holes and of data.
    Holes(Vec<(u8, u8)>),
    Symlink(Vec<u8>),
    HardLink(prop::sample::Index),
    Fifo,
    Device(u32, u32),
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd = prop::collection::vec(any::<u8>(), 1..12);
    let name = prop_oneof![
        4 => "[a-z]{1,8}".prop_map(String::into_bytes),
        2 => odd,
        1 => "[a-z]{90,160}".prop_map(String::into_bytes),
    ];
    name.prop_filter("a name", |name| {
        let reserved = name.starts_with(b".wh.") || matches!(&name[..], b"." | b"..");
        !reserved && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
    })
}

fn what() -> impl Strategy<Value = What> {
    let target = prop::collection::vec(1u8.., 1..150);
    prop_oneof![
        4 => Just(What::Folder),
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(What::File),
        2 => prop::collection::vec((0u8..20, 0u8..5), 1..9).prop_map(What::Holes),
        1 => target.prop_map(What::Symlink),
        2 => any::<prop::sample::Index>().prop_map(What::HardLink),
        1 => Just(What::Fifo),
        1 => (1u32..4096, 0u32..1 << 20).prop_map(|(major, minor)| What::Device(major, minor)),
    ]
}

fn thing() -> impl Strategy<Value = Thing> {
    let mode = prop_oneof![0u32..0o1000, 0u32..0o10000];
    let id = || prop_oneof![0u32..70_000, 0u32..u32::MAX];
    // bsdtar takes 0 for a time that is not known; umoci knows none that needs more bits on ext4.
    let time = prop_oneof![1i64..1 << 31, Just(9_000_000_000)];
    let fraction = prop_oneof![Just(0), 0u32..1_000_000_000];
    let note = prop::option::of(prop::collection::vec(any::<u8>(), 1..40));
    let place = any::<prop::sample::Index>();
    (
        what(),
        name(),
        place,
        mode,
        (id(), id()),
        time,
        fraction,
        note,
    )
        .prop_map(
            |(what, name, place, mode, (uid, gid), seconds, nanoseconds, note)| Thing {
                what,
                name,
                place,
                mode,
                uid,
                gid,
                seconds,
                nanoseconds,
                note,
            },
        )
}

/// Makes the things below `root`, each over what has its name already.
fn make(root: &Path, things: &[Thing]) {
    for thing in things {
        let folders = paths(root, |kind| kind.is_dir());
        let folder = thing.place.get(&folders);
        let path = folder.join(OsStr::from_bytes(&thing.name));
        if thing.what.make(root, &path) {
            thing.describe(&path);
        }
    }
    // What is made in a folder changes its time.
    for (at, path) in paths(root, |kind| kind.is_dir()).iter().enumerate() {
        set_times(path, 1_500_000_000 + at as i64, 500);
    }
}

impl What {
    fn make(&self, root: &Path, path: &Path) -> bool {
        let is_folder = |path: &Path| path.symlink_metadata().is_ok_and(|found| found.is_dir());
        if matches!(self, Self::Folder) && is_folder(path) {
            return true;
        }
        if let Self::HardLink(of) = self {
            let files = paths(root, |kind| !kind.is_dir());
            let Some(target) = (!files.is_empty()).then(|| of.get(&files)) else {
                return false;
            };
            return fs::hard_link(target, path).is_ok();
        }
        remove(path);
        let node = |kind, device| {
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, Mode::empty(), device).unwrap();
        };
        match self {
            Self::Folder => fs::create_dir(path).unwrap(),
            Self::File(data) => fs::write(path, data).unwrap(),
            Self::Holes(blocks) => {
                let file = File::create_new(path).unwrap();
                let mut at = 0;
                for (hole, data) in blocks {
                    at += u64::from(*hole) << 12;
                    let bytes = vec![at as u8 | 1; usize::from(*data) << 12];
                    file.write_all_at(&bytes, at).unwrap();
                    at += bytes.len() as u64;
                }
                // A hole at the end, if the last has no data; in the middle of a block, if it has.
                file.set_len(at + 77).unwrap();
            }
            Self::Symlink(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
            Self::HardLink(_) => {}
            Self::Fifo => node(FileType::Fifo, 0),
            Self::Device(major, minor) => {
                node(
                    FileType::CharacterDevice,
                    rustix::fs::makedev(*major, *minor),
                );
            }
        }
        true
    }
}

impl Thing {
    fn describe(&self, path: &Path) {
        lchown(path, Some(self.uid), Some(self.gid)).unwrap();
        let found = path.symlink_metadata().unwrap();
        if !found.is_symlink() {
            fs::set_permissions(path, Permissions::from_mode(self.mode)).unwrap();
        }
        if let Some(note) = &self.note
            && (found.is_dir() || found.is_file())
        {
            for name in ["user.note", "security.capability"] {
                let capability = [&[1, 0, 0, 2][..], &[7; 16]].concat();
                let value = match name {
                    "user.note" => note,
                    _ if found.is_file() => &capability,
                    _ => continue,
                };
                match rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
                    // Where the file system has none.
                    Ok(()) | Err(Errno::NOTSUP) => {}
                    Err(error) => panic!("{name}: {error}"),
                }
            }
        }
        set_times(path, self.seconds, self.nanoseconds);
    }
}

fn set_times(path: &Path, seconds: i64, nanoseconds: u32) {
    let time = rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// All below a folder, sorted, folders before what is in them, itself first.
fn paths(root: &Path, wanted: fn(&fs::FileType) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let kind = path.symlink_metadata().unwrap().file_type();
        if kind.is_dir() {
            let entries = fs::read_dir(&path).unwrap();
            ahead.extend(entries.map(|entry| entry.unwrap().path()));
        }
        if wanted(&kind) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What can be seen of a name.
#[derive(Clone, PartialEq, Eq)]
struct Seen {
    kind: String,
    mode: u32,
    owner: (u32, u32),
    seconds: i64,
    nanoseconds: u32,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Of a file.
    data: Option<(u64, String)>,
    /// The first name of the same.
    first: Vec<u8>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            kind, mode, owner, ..
        } = self;
        let first = self.first.escape_ascii();
        write!(
            f,
            "{kind} {mode:o} {owner:?} {}.{:09}",
            self.seconds, self.nanoseconds
        )?;
        write!(f, " {:?} {:?} {first}", self.attributes, self.data)
    }
}

/// By name, without the root.
type Names = BTreeMap<Vec<u8>, Seen>;

fn hash(bytes: &[u8]) -> Option<(u64, String)> {
    Some((bytes.len() as u64, hex::encode(&Sha256::digest(bytes)[..8])))
}

/// What an unpacked tree has.
fn on_disk(root: &Path) -> Names {
    let mut firsts = BTreeMap::new();
    let mut names = Names::new();
    for path in paths(root, |_| true).into_iter().skip(1) {
        let found = path.symlink_metadata().unwrap();
        let kind = found.file_type();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let first = firsts.entry(found.ino()).or_insert(name.to_owned());
        let device = found.rdev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let attributes = match kind.is_file() || kind.is_dir() {
            true => attributes(&path),
            false => Vec::new(),
        };
        let data = kind.is_file().then(|| hash(&fs::read(&path).unwrap()));
        let seen = Seen {
            kind: match () {
                () if kind.is_dir() => "folder".to_owned(),
                () if kind.is_file() => "file".to_owned(),
                () if kind.is_fifo() => "fifo".to_owned(),
                () if kind.is_symlink() => {
                    let target = fs::read_link(&path).unwrap();
                    format!("link to {}", target.as_os_str().as_bytes().escape_ascii())
                }
                () => format!("device {device:?}"),
            },
            mode: found.mode() & 0o7777,
            owner: (found.uid(), found.gid()),
            seconds: found.mtime(),
            nanoseconds: found.mtime_nsec() as u32,
            attributes,
            data: data.flatten(),
            first: first.clone(),
        };
        names.insert(name.to_owned(), seen);
    }
    names
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let get = |name: &str| {
        let mut value = vec![0; 4000];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
        value.truncate(length);
        Some((name.as_bytes().to_vec(), value))
    };
    ["security.capability", "user.note"]
        .into_iter()
        .filter_map(get)
        .collect()
}

/// What a kernel shows of the image that storaged makes of layers, the lowest first.
fn merged(layers: &[PathBuf]) -> Names {
    let folder = tempfile::tempdir().unwrap();
    let _mounts = Mounts(folder.path().to_owned());
    let (image, root) = (folder.path().join("image"), folder.path().join("root"));
    pack(layers, &image).unwrap();
    fs::create_dir(&root).unwrap();
    let options = ["-t", "erofs", "-o", "loop,ro"].map(OsStr::new);
    let paths = [image.as_os_str(), root.as_os_str()];
    must("mount", "mount", &[&options[..], &paths].concat());
    on_disk(&root)
}

fn same(ours: &Names, theirs: &Names, who: &str) -> TestCaseResult {
    for name in ours.keys().chain(theirs.keys()) {
        let (ours, theirs) = (ours.get(name), theirs.get(name));
        prop_assert_eq!(ours, theirs, "{}: `{}`", who, name.escape_ascii());
    }
    Ok(())
}

fn run(program: &str, package: &str, arguments: &[&OsStr]) -> Output {
    Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|_| panic!("install {package}: this test runs {program}"))
}

fn must(program: &str, package: &str, arguments: &[&OsStr]) {
    let output = run(program, package, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn words<'a>(words: &[&'a str], path: &'a Path, more: &[&'a str]) -> Vec<&'a OsStr> {
    let words = words.iter().map(|word| OsStr::new(*word));
    let more = more.iter().map(|word| OsStr::new(*word));
    words.chain([path.as_os_str()]).chain(more).collect()
}

/// How a tree is packed.
struct Form {
    program: &'static str,
    package: &'static str,
    arguments: &'static [&'static str],
    /// Holds every tree. Others do not have all names, numbers or kinds; `tar` says so and fails.
    any: bool,
    /// Go's reader, and so `umoci`, takes it.
    umoci: bool,
}

const fn tar(arguments: &'static [&'static str], any: bool, umoci: bool) -> Form {
    Form {
        program: "tar",
        package: "tar",
        arguments,
        any,
        umoci,
    }
}

const fn bsdtar(arguments: &'static [&'static str], any: bool, umoci: bool) -> Form {
    Form {
        program: "bsdtar",
        package: "libarchive-tools",
        arguments,
        any,
        umoci,
    }
}

const FORMS: &[Form] = &[
    tar(&["--format=v7"], false, true),
    tar(&["--format=ustar"], false, true),
    tar(&["--format=gnu"], true, true),
    tar(&["--format=oldgnu"], true, true),
    tar(&["--format=gnu", "--sparse"], true, false),
    tar(
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        true,
        true,
    ),
    tar(
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        true,
        true,
    ),
    tar(
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        true,
        true,
    ),
    tar(
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        true,
        true,
    ),
    // It cuts the names of files with holes at 100 bytes (3.6.2), and then does not find them itself.
    bsdtar(&["--format=pax", "--no-read-sparse"], true, true),
    bsdtar(&["--format=ustar"], false, true),
    bsdtar(&["--format=gnutar"], false, true),
];

impl Form {
    /// `None` if the tree does not fit.
    fn pack(&self, tree: &Path, target: &Path) -> Option<()> {
        let mut arguments: Vec<&OsStr> = self.arguments.iter().map(OsStr::new).collect();
        arguments.extend(words(&["--numeric-owner", "-cf"], target, &["-C"]));
        arguments.extend([tree.as_os_str(), OsStr::new(".")]);
        let output = run(self.program, self.package, &arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        // bsdtar leaves out what does not fit, and says so alone.
        let fits = output.status.success() && (self.any || said.is_empty());
        assert!(
            fits || !self.any,
            "{} {:?}: {said}",
            self.program,
            self.arguments
        );
        fits.then_some(())
    }

    /// What is in `tree`, by these names and in this order.
    fn pack_in_order(tree: &Path, names: &[Vec<u8>], target: &Path) {
        let list = target.with_extension("list");
        fs::write(&list, names.join(&0)).unwrap();
        let mut arguments = words(
            &["--format=posix", "--numeric-owner", "-cf"],
            target,
            &["-C"],
        );
        arguments.push(tree.as_os_str());
        let verbatim = ["--no-recursion", "--null", "--verbatim-files-from", "-T"];
        arguments.extend(words(&verbatim, &list, &[]));
        must("tar", "tar", &arguments);
    }

    fn unpack(&self, archive: &Path, root: &Path) {
        let mut arguments = words(&["--numeric-owner", "--xattrs", "-xpf"], archive, &["-C"]);
        if self.program == "tar" {
            arguments.insert(0, OsStr::new("--xattrs-include=*"));
        }
        arguments.push(root.as_os_str());
        fs::create_dir(root).unwrap();
        must(self.program, self.package, &arguments);
    }
}

/// An image on a disk, as OCI's image layout has it.
fn layout(at: &Path, layers: &[PathBuf]) {
    let blobs = at.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let add = |bytes: &[u8]| {
        let digest = hex::encode(Sha256::digest(bytes));
        fs::write(blobs.join(&digest), bytes).unwrap();
        json!({"digest": format!("sha256:{digest}"), "size": bytes.len()})
    };
    let kind = |mut descriptor: Value, kind: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        descriptor
    };
    let added: Vec<Value> = layers
        .iter()
        .map(|layer| add(&fs::read(layer).unwrap()))
        .collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {
            "type": "layers",
            "diff_ids": added.iter().map(|layer| layer["digest"].clone()).collect::<Vec<_>>(),
        },
    });
    let config = kind(add(config.to_string().as_bytes()), "config.v1+json");
    let layers: Vec<Value> = added
        .into_iter()
        .map(|layer| kind(layer, "layer.v1.tar"))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
    let mut manifest = kind(add(manifest.to_string().as_bytes()), "manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "x"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(at.join("index.json"), index.to_string()).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn umoci(arguments: &[&OsStr]) {
    must("umoci", "umoci", arguments);
}

/// As `umoci` names an image in a layout.
fn tagged(image: &Path) -> OsString {
    let mut tagged = image.as_os_str().to_owned();
    tagged.push(":x");
    tagged
}

/// The tree that `umoci` makes of an image's layers.
fn unpacked_by_umoci(image: &Path) -> Names {
    let root = image.with_extension("unpacked");
    let unpack = ["raw", "unpack", "--image"].map(OsStr::new);
    umoci(&[&unpack[..], &[&tagged(image), root.as_os_str()]].concat());
    let names = on_disk(&root);
    fs::remove_dir_all(root).unwrap();
    names
}

/// The files of an image's layers, the lowest first.
fn layers_of(image: &Path) -> Vec<PathBuf> {
    let read =
        |file: PathBuf| -> Value { serde_json::from_slice(&fs::read(file).unwrap()).unwrap() };
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        image.join("blobs").join(digest.replace(':', "/"))
    };
    let index = read(image.join("index.json"));
    let manifest = read(blob(&index["manifests"][0]));
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(blob).collect()
}

fn packed_and_unpacked(things: &[Thing]) -> TestCaseResult {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir(&tree).unwrap();
    make(&tree, things);
    for form in FORMS {
        let who = format!("{} {:?}", form.program, form.arguments);
        let archive = folder.path().join("layer.tar");
        if form.pack(&tree, &archive).is_none() {
            continue;
        }
        let layers = [archive];
        let ours = merged(&layers);
        let root = folder.path().join("unpacked");
        form.unpack(&layers[0], &root);
        same(&ours, &on_disk(&root), &who)?;
        fs::remove_dir_all(root).unwrap();
        if form.umoci {
            let image = folder.path().join("image");
            layout(&image, &layers);
            let theirs = unpacked_by_umoci(&image);
            same(&ours, &theirs, &format!("umoci of {who}"))?;
            fs::remove_dir_all(image).unwrap();
        }
    }
    Ok(())
}

/// What changes from one layer to the next.
#[derive(Clone, Debug)]
struct Change {
    removed: Vec<prop::sample::Index>,
    made: Vec<Thing>,
}

fn change() -> impl Strategy<Value = Change> {
    let removed = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let made = prop::collection::vec(thing(), 0..8);
    (removed, made).prop_map(|(removed, made)| Change { removed, made })
}

/// Without the times of folders, which whoever unpacks the next layer changes.
fn without_folders_times(mut names: Names) -> Names {
    for seen in names.values_mut().filter(|seen| seen.kind == "folder") {
        (seen.seconds, seen.nanoseconds) = (0, 0);
    }
    names
}

fn layers_by_umoci(things: &[Thing], changes: &[Change]) -> TestCaseResult {
    let folder = tempfile::tempdir().unwrap();
    let (tree, base) = (folder.path().join("tree"), folder.path().join("base.tar"));
    fs::create_dir(&tree).unwrap();
    make(&tree, things);
    tar(&["--format=posix"], true, true).pack(&tree, &base);
    let (image, bundle) = (folder.path().join("image"), folder.path().join("bundle"));
    layout(&image, &[base]);
    let step = |words: &[&str]| {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        umoci(&[&words[..], &[&tagged(&image), bundle.as_os_str()]].concat());
    };
    step(&["unpack", "--image"]);
    let root = bundle.join("rootfs");
    for change in changes {
        for removed in &change.removed {
            let all = paths(&root, |_| true);
            let path = removed.get(&all);
            if *path != root {
                remove(path);
            }
        }
        make(&root, &change.made);
        step(&["repack", "--refresh-bundle", "--image"]);
    }
    let layers = layers_of(&image);
    // What changes nothing gives no layer.
    prop_assert!((1..=1 + changes.len()).contains(&layers.len()));
    let ours = without_folders_times(merged(&layers));
    let theirs = without_folders_times(unpacked_by_umoci(&image));
    same(&ours, &theirs, "umoci's layers")
}

/// Two trees of few names, and what the upper hides of the lower.
fn hidden(
    lower: &[Thing],
    upper: &[Thing],
    marks: &[(prop::sample::Index, bool)],
    places: &[prop::sample::Index],
) -> TestCaseResult {
    let folder = tempfile::tempdir().unwrap();
    let few = |thing: &Thing| Thing {
        name: vec![b'a' + thing.name[0] % 4],
        // Where a link leads depends on when one asks.
        what: match &thing.what {
            What::Symlink(_) | What::HardLink(_) => What::Folder,
            what => what.clone(),
        },
        ..thing.clone()
    };
    let [below, above] = ["below", "above"].map(|name| folder.path().join(name));
    for (root, things) in [(&below, lower), (&above, upper)] {
        fs::create_dir(root).unwrap();
        make(root, &things.iter().map(few).collect::<Vec<_>>());
    }
    let name_in = |root: &Path, path: &Path| {
        let name = path.strip_prefix(root).unwrap();
        Path::new(".").join(name)
    };
    let named = |path: &Path| path.as_os_str().as_bytes().to_vec();
    let plain: Vec<_> = paths(&above, |_| true)
        .iter()
        .map(|path| named(&name_in(&above, path)))
        .collect();
    let mut whiteouts = Vec::new();
    for (at, opaque) in marks {
        let all = paths(&below, |_| true);
        let hidden = name_in(&below, at.get(&all).as_path());
        let mark = match (hidden.parent(), hidden.file_name()) {
            (Some(parent), Some(name)) if !opaque && hidden != Path::new(".") => {
                parent.join([OsStr::new(".wh."), name].join(OsStr::new("")))
            }
            _ => hidden.join(".wh..wh..opq"),
        };
        // What the upper layer has no folder for, a whiteout of the folder hides.
        if above.join(&mark).parent().is_some_and(Path::is_dir) {
            File::create(above.join(&mark)).unwrap();
            whiteouts.push(named(&mark));
        }
    }
    whiteouts.sort();
    whiteouts.dedup();
    let lowest = folder.path().join("lower.tar");
    tar(&["--format=posix"], true, true).pack(&below, &lowest);
    let pack = |names: &[Vec<u8>], name: &str| {
        let target = folder.path().join(name);
        Form::pack_in_order(&above, names, &target);
        vec![lowest.clone(), target]
    };

    // As the specification advises: before what is beside them.
    let mut first = plain.clone();
    for whiteout in &whiteouts {
        let parent = Path::new(OsStr::from_bytes(whiteout)).parent().map(named);
        let at = first.iter().position(|name| Some(name) == parent.as_ref());
        let at = at.map_or(0, |at| at + 1);
        first.insert(at, whiteout.clone());
    }
    let first = pack(&first, "first.tar");
    let ours = without_folders_times(merged(&first));
    let image = folder.path().join("image");
    layout(&image, &first);
    same(
        &ours,
        &without_folders_times(unpacked_by_umoci(&image)),
        "umoci",
    )?;

    let mut anywhere = plain;
    for (whiteout, place) in whiteouts.iter().zip(places) {
        anywhere.insert(place.index(anywhere.len() + 1), whiteout.clone());
    }
    let anywhere = without_folders_times(merged(&pack(&anywhere, "anywhere.tar")));
    same(&anywhere, &ours, "whiteouts anywhere")
}

/// What random trees rarely have: where blocks end, and times that few programs write.
#[test]
fn what_is_at_the_ends_of_blocks_is_what_was_packed() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, layer) = (folder.path().join("tree"), folder.path().join("layer.tar"));
    fs::create_dir_all(tree.join("large")).unwrap();
    for n in 0..300 {
        let name = format!("large/{n:0>length$}", length = 1 + n * 7 % 255);
        fs::write(tree.join(name), format!("{n}")).unwrap();
    }
    for length in [1, 4031, 4032, 4033, 4095, 4096, 4097, 8191, 8192, 12_289] {
        fs::write(tree.join(format!("file{length}")), vec![b'f'; length]).unwrap();
    }
    for length in [1, 3900, 4031, 4032, 4033, 4095] {
        symlink("t".repeat(length), tree.join(format!("link{length}"))).unwrap();
    }
    let holes = File::create(tree.join("holes")).unwrap();
    holes.set_len((16 << 20) + 5).unwrap();
    for at in [0, 1 << 20, (3 << 20) - 4096, (16 << 20) + 4] {
        holes.write_all_at(b"x", at).unwrap();
    }
    File::create(tree.join("hole"))
        .unwrap()
        .set_len(1 << 24)
        .unwrap();
    for (name, length) in [("few", 20), ("many", 3000)] {
        let path = tree.join(name);
        fs::write(&path, vec![b'a'; 5000]).unwrap();
        match rustix::fs::lsetxattr(&path, "user.note", &vec![7; length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::NOTSUP) => {}
            Err(error) => panic!("{error}"),
        }
    }
    let times = [
        (-1, 250_000_000),
        (-2_000_000_000, 1),
        (9_000_000_000, 999_999_999),
    ];
    for (n, (seconds, nanoseconds)) in times.into_iter().enumerate() {
        let path = tree.join(format!("time{n}"));
        fs::write(&path, b"").unwrap();
        set_times(&path, seconds, nanoseconds);
    }
    let form = &[
        "--format=posix",
        "--sparse",
        "--xattrs",
        "--xattrs-include=*",
    ];
    tar(form, true, false).pack(&tree, &layer);
    let (ours, theirs) = (merged(&[layer]), on_disk(&tree));
    assert!(theirs.len() > 320 && ours[&b"time0"[..]].seconds == -1);
    same(&ours, &theirs, &format!("tar {form:?}")).unwrap();
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        // Each takes a second.
        max_shrink_iters: 60,
        ..ProptestConfig::default()
    }
}

fn things() -> impl Strategy<Value = Vec<Thing>> {
    prop::collection::vec(thing(), 0..25)
}

fn marks() -> impl Strategy<Value = Vec<(prop::sample::Index, bool)>> {
    prop::collection::vec(any::<(prop::sample::Index, bool)>(), 1..5)
}

proptest! {
    // A dozen archives each.
    #![proptest_config(cases(2))]

    #[test]
    fn what_is_packed_is_what_tar_bsdtar_and_umoci_unpack(things in things()) {
        packed_and_unpacked(&things)?;
    }
}

proptest! {
    #![proptest_config(cases(4))]

    #[test]
    fn layers_that_umoci_writes_are_what_it_unpacks(
        things in things(),
        changes in prop::collection::vec(change(), 1..4),
    ) {
        layers_by_umoci(&things, &changes)?;
    }

    #[test]
    fn whiteouts_hide_what_umoci_hides_wherever_they_are(
        lower in things(),
        upper in things(),
        marks in marks(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 5),
    ) {
        hidden(&lower, &upper, &marks, &places)?;
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    #[ignore = "slow: sixty trees"]
    fn many_trees_are_what_others_unpack(
        things in things(),
        upper in things(),
        changes in prop::collection::vec(change(), 1..4),
        marks in marks(),
        places in prop::collection::vec(any::<prop::sample::Index>(), 5),
    ) {
        packed_and_unpacked(&things)?;
        layers_by_umoci(&things, &changes)?;
        hidden(&things, &upper, &marks, &places)?;
    }
}
