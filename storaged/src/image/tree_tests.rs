use proptest::prelude::*;

use super::*;
use crate::image::testing::{Layer, contents, entries, image, merge};

fn merged(layers: &[Layer]) -> Vec<String> {
    let tars: Vec<_> = layers.iter().map(|layer| layer.clone().tar()).collect();
    contents(&image(&tars))
        .into_iter()
        .map(|(name, what)| format!("{name} {what}"))
        .collect()
}

fn refused(layers: &[Layer]) -> String {
    let tars: Vec<_> = layers.iter().map(|layer| layer.clone().tar()).collect();
    merge(&tars).unwrap_err().to_string()
}

fn layer() -> Layer {
    Layer::default()
}

#[test]
fn upper_layers_hide_and_replace() {
    let lower = layer()
        .folder("etc/")
        .file("etc/a", b"1")
        .file("etc/b", b"1")
        .file("keep", b"1");
    let upper = layer()
        .file("etc/a", b"2")
        .file("etc/.wh.b", b"")
        .file("new", b"2");
    assert_eq!(
        merged(&[lower, upper]),
        ["etc folder", "etc/a file:2", "keep file:1", "new file:2"]
    );
}

/// aufs made them by linking. What one is linked to is nothing to it, and need not be there.
#[test]
fn a_whiteout_may_be_a_hard_link() {
    let lower = layer()
        .folder("tmp/")
        .file("tmp/gone", b"g")
        .file("tmp/keep", b"k");
    for target in ["tmp/keep", ".wh..wh.aufs", "absent"] {
        let upper = layer().hard_link("tmp/.wh.gone", target);
        assert_eq!(
            merged(&[lower.clone(), upper]),
            ["tmp folder", "tmp/keep file:k"]
        );
        let opaque = layer().hard_link("tmp/.wh..wh..opq", target);
        assert_eq!(merged(&[lower.clone(), opaque]), ["tmp folder"]);
    }
}

#[test]
fn a_whiteout_spares_its_own_layer_in_any_order() {
    let lower = layer()
        .folder("d/")
        .file("d/old", b"")
        .folder("d/sub/")
        .file("d/sub/old", b"");
    for upper in [
        layer().file(".wh.d", b"").folder("d/").file("d/new", b"n"),
        layer().folder("d/").file("d/new", b"n").file(".wh.d", b""),
        layer().file("d/new", b"n").file(".wh.d", b""),
        layer()
            .folder("d/")
            .file("d/.wh..wh..opq", b"")
            .file("d/new", b"n"),
        layer().file("d/new", b"n").file("d/.wh..wh..opq", b""),
    ] {
        assert_eq!(
            merged(&[lower.clone(), upper]),
            ["d folder", "d/new file:n"]
        );
    }
    let gone = layer().file(".wh.d", b"");
    assert_eq!(merged(&[lower.clone(), gone]), Vec::<String>::new());
    let nothing = layer()
        .file(".wh.absent", b"")
        .file("x/y/.wh.z", b"")
        .file(".wh..wh.plnk", b"");
    assert_eq!(merged(&[lower, nothing]).len(), 4);
}

/// What a link of a lower layer leads to is another folder than the one that takes the link's place.
#[test]
fn a_whiteout_in_a_folder_that_replaces_a_link_hides_nothing_where_the_link_led() {
    let lower = layer()
        .folder("target/")
        .file("target/keep", b"k")
        .symlink("link", "/target");
    let marks = [
        layer().file("link/.wh..wh..opq", b""),
        layer().file("link/.wh.keep", b""),
    ];
    let (folder, new) = (layer().folder("link/"), layer().file("link/new", b"n"));
    for mark in marks {
        for upper in [
            [&mark, &folder, &new],
            [&folder, &mark, &new],
            [&folder, &new, &mark],
        ] {
            let upper = upper.into_iter().cloned().reduce(Layer::then).unwrap();
            assert_eq!(
                merged(&[lower.clone(), upper]),
                [
                    "link folder",
                    "link/new file:n",
                    "target folder",
                    "target/keep file:k"
                ]
            );
        }
        // Where the link stays, it is followed.
        assert_eq!(
            merged(&[lower.clone(), mark]),
            ["link symlink to /target", "target folder"]
        );
    }
}

/// Builders write a whiteout first, and the folder again; some leave the folder out.
#[test]
fn a_folder_that_is_hidden_and_made_again_is_as_if_it_were_new() {
    let lower = layer()
        .header(|header| {
            header.set_path("d/").unwrap();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o700);
        })
        .file("d/old", b"")
        .file("d/sub/old", b"");
    let new = layer().file("d/sub/new", b"");
    for (mark, folders) in [
        (".wh.d", ["d", "d/sub"].as_slice()),
        ("d/.wh..wh..opq", &["d/sub"]),
        (".wh..wh..opq", &["d", "d/sub"]),
    ] {
        let mark = layer().file(mark, b"");
        for upper in [mark.clone().then(new.clone()), new.clone().then(mark)] {
            let tars = [lower.clone().tar(), upper.tar()];
            let tree = merge(&tars).unwrap();
            for folder in folders {
                let node = folder
                    .split('/')
                    .fold(tree.root(), |node, name| &node.children[name.as_bytes()]);
                assert_eq!(tree.inode(node.inode), &plain_folder(), "{folder}");
            }
            let found = contents(&image(&tars));
            let names: Vec<_> = found.keys().map(String::as_str).collect();
            assert_eq!(names, ["d", "d/sub", "d/sub/new"]);
        }
    }
    // What is not hidden keeps what it has.
    let tree = merge(&[lower.tar(), new.tar()]).unwrap();
    let folder = &tree.root().children[b"d".as_slice()];
    assert_eq!(tree.inode(folder.inode).attributes.mode, 0o700);
}

#[test]
fn a_file_that_is_hidden_may_become_a_folder_that_nobody_names() {
    let lower = layer().file("x", b"").symlink("l", "elsewhere");
    let upper = layer().file(".wh.x", b"").file(".wh.l", b"");
    let upper = upper.file("x/in", b"").file("l/in", b"");
    assert_eq!(
        merged(&[lower.clone(), upper]),
        ["l folder", "l/in file:", "x folder", "x/in file:"]
    );
    // In what is no folder, nothing is hidden.
    assert_eq!(
        merged(&[lower.clone(), layer().file("x/.wh.y", b"")]),
        ["l symlink to elsewhere", "x file:"]
    );
    assert!(refused(&[lower, layer().file("x/in", b"")]).contains("it is no folder"));
}

/// aufs had files with several names in a folder of its own, and layers of its day have it too.
#[test]
fn what_aufs_kept_is_there_for_links_alone() {
    let aufs = layer()
        .folder(".wh..wh.plnk/")
        .file(".wh..wh.plnk/12.34", b"data")
        .hard_link("a", ".wh..wh.plnk/12.34")
        .hard_link("d/b", "/.wh..wh.plnk/12.34")
        .file(".wh..wh.aufs", b"");
    assert_eq!(
        merged(std::slice::from_ref(&aufs)),
        ["a file:data", "d folder", "d/b link to a"]
    );
    // Links among them lead to files, and none to a folder.
    let twice = layer()
        .file(".wh..wh.plnk/1", b"data")
        .hard_link(".wh..wh.plnk/2", ".wh..wh.plnk/1")
        .hard_link("a", ".wh..wh.plnk/2");
    assert_eq!(merged(&[twice]), ["a file:data"]);
    let to_folder = layer()
        .folder(".wh..wh.plnk/")
        .hard_link("a", ".wh..wh.plnk");
    assert!(refused(&[to_folder]).contains("not there"));
    // For those of its own layer.
    let later = layer().hard_link("c", ".wh..wh.plnk/12.34");
    assert!(refused(&[aufs, later]).contains("not there"));
    let folder = layer().file(".wh.d/x", b"");
    assert!(refused(&[folder]).contains("`.wh.d/x`: a folder cannot have a whiteout's name"));
}

#[test]
fn opaque_at_the_root_hides_all_below() {
    let lower = layer().file("a", b"").folder("d/").file("d/b", b"");
    assert_eq!(
        merged(&[lower, layer().file(".wh..wh..opq", b"").file("c", b"")]),
        ["c file:"]
    );
}

#[test]
fn a_file_over_a_folder_and_back() {
    let folder = layer().folder("x/").file("x/a", b"");
    let file = layer().file("x", b"f");
    assert_eq!(merged(&[folder.clone(), file.clone()]), ["x file:f"]);
    assert_eq!(merged(&[file, folder]), ["x folder", "x/a file:"]);
}

/// One name as two kinds in one layer: the last counts.
#[test]
fn what_a_layer_has_twice_is_what_came_last() {
    let one = layer()
        .folder("d/")
        .file("d/f", b"first")
        .pax(&[("uid", b"9")])
        .folder("d/")
        .file("d/f", b"second")
        .file("was-file", b"x")
        .folder("was-file/")
        .file("was-file/in", b"y")
        .folder("was-folder/")
        .file("was-folder/in", b"x")
        .file("was-folder", b"file")
        .symlink("was-link", "d")
        .file("was-link", b"file");
    let expected = [
        "d folder",
        "d/f file:second",
        "was-file folder",
        "was-file/in file:y",
        "was-folder file:file",
        "was-link file:file",
    ];
    assert_eq!(merged(std::slice::from_ref(&one)), expected);
    let tree = merge(&[one.tar()]).unwrap();
    let folder = &tree.root().children[b"d".as_slice()];
    assert_eq!(tree.inode(folder.inode).attributes.uid, 9);
}

#[test]
fn a_folder_over_a_folder_keeps_what_is_in_it() {
    let lower = layer().folder("x/").file("x/a", b"");
    let upper = layer().pax(&[("uid", b"7")]).folder("x/").file("x/b", b"");
    assert_eq!(
        merged(&[lower.clone(), upper.clone()]),
        ["x folder", "x/a file:", "x/b file:"]
    );
    let tree = merge(&[lower.clone().tar(), upper.clone().tar()]).unwrap();
    let folder = &tree.root().children[b"x".as_slice()];
    assert_eq!(tree.inode(folder.inode).attributes.uid, 7);
    // One that nobody described is for all to enter.
    let tree = merge(&[layer().file("made/x", b"").tar()]).unwrap();
    let folder = &tree.root().children[b"made".as_slice()];
    assert_eq!(tree.inode(folder.inode).attributes.mode, 0o755);
    // Nothing shines through a file between them.
    assert_eq!(
        merged(&[lower, layer().file("x", b""), upper]),
        ["x folder", "x/b file:"]
    );
}

#[test]
fn hard_links_keep_the_data_when_one_name_goes() {
    let lower = layer().file("a", b"data").hard_link("b", "a");
    assert_eq!(
        merged(std::slice::from_ref(&lower)),
        ["a file:data", "b link to a"]
    );
    assert_eq!(
        merged(&[lower.clone(), layer().file(".wh.a", b"")]),
        ["b file:data"]
    );
    assert_eq!(
        merged(&[lower.clone(), layer().file("a", b"new")]),
        ["a file:new", "b file:data"]
    );
    // Across layers.
    let across = layer()
        .hard_link("c", "b")
        .file(".wh.a", b"")
        .file(".wh.b", b"");
    assert_eq!(merged(&[lower, across]), ["c file:data"]);

    assert!(refused(&[layer().hard_link("a", "a")]).contains("not there"));
    assert!(refused(&[layer().folder("d/").hard_link("a", "d")]).contains("is a folder"));
}

#[test]
fn folders_that_are_symbolic_links_are_followed_inside_the_image() {
    let lower = layer()
        .folder("usr/")
        .folder("usr/lib/")
        .symlink("lib", "usr/lib");
    let upper = layer().file("lib/x.so", b"x");
    assert_eq!(
        merged(&[lower.clone(), upper]),
        [
            "lib symlink to usr/lib",
            "usr folder",
            "usr/lib folder",
            "usr/lib/x.so file:x"
        ]
    );
    // As far up as it may climb, it stays inside.
    let out = layer()
        .symlink("out", "../../../../etc")
        .file("out/passwd", b"x");
    assert_eq!(
        merged(&[out]),
        [
            "etc folder",
            "etc/passwd file:x",
            "out symlink to ../../../../etc"
        ]
    );
    // However the link is written.
    let roundabout = layer().symlink("l", ".//usr/./lib/").file("l/x.so", b"x");
    assert_eq!(
        merged(&[lower.clone(), roundabout]),
        [
            "l symlink to .//usr/./lib/",
            "lib symlink to usr/lib",
            "usr folder",
            "usr/lib folder",
            "usr/lib/x.so file:x"
        ]
    );
    // A folder in the place of the link replaces it.
    let replaced = layer().folder("lib/").file("lib/y.so", b"y");
    assert!(merged(&[lower, replaced]).contains(&"lib/y.so file:y".to_owned()));

    // As many links in a row as Linux follows, and parts as long as it takes.
    let row = |links: u32| {
        let link = |layer: Layer, n| layer.symlink(&format!("l{n}"), &format!("l{}", n + 1));
        let links = (0..links - 1).fold(layer().symlink(&format!("l{}", links - 1), "d"), link);
        merge(&[links.file("l0/x", b"").tar()]).map(drop)
    };
    row(MAX_LINKS).unwrap();
    assert!(
        row(MAX_LINKS + 1)
            .unwrap_err()
            .to_string()
            .contains("too many")
    );
    let wide = |length: usize| {
        let target = "t".repeat(length);
        let link = layer()
            .pax(&[("linkpath", target.as_bytes())])
            .symlink("l", "x");
        merge(&[link.file("l/x", b"").tar()]).map(drop)
    };
    wide(limits::NAME).unwrap();
    assert!(
        wide(limits::NAME + 1)
            .unwrap_err()
            .to_string()
            .contains("too long")
    );

    let round = layer().symlink("a", "b").symlink("b", "a").file("a/x", b"");
    assert!(refused(&[round]).contains("too many"));
    assert!(refused(&[layer().file("f", b"").file("f/x", b"")]).contains("it is no folder"));
}

#[test]
fn limits_hold() {
    assert!(refused(&[layer().file(".", b"")]).contains("root"));
    assert!(refused(&[layer().file("a/.wh..", b"")]).contains("`a/.wh..`: it hides nothing"));
    // Each name is short enough; where the link leads, the second goes on from the first's depth.
    let deep = "d/".repeat(150);
    let through = format!("link/{deep}x");
    let climbing = layer()
        .pax(&[("path", deep.as_bytes())])
        .folder("x")
        .pax(&[("linkpath", deep.as_bytes())])
        .symlink("link", "x")
        .pax(&[("path", through.as_bytes())])
        .file("x", b"");
    assert!(refused(&[climbing]).contains("too deep"));
}

#[test]
fn a_short_name_that_leads_far_is_refused() {
    // Some 2000 bytes, reached by one letter, and as many again below.
    let through = |last: usize| {
        let far = format!("{}{}/", "ddddddddd/".repeat(180), "d".repeat(last));
        let farther = format!("l/{}", format!("{}/", "e".repeat(208)).repeat(10));
        let layer = layer()
            .pax(&[("path", far.as_bytes())])
            .folder("x")
            .pax(&[("linkpath", far.as_bytes())])
            .symlink("l", "x")
            .pax(&[("path", farther.as_bytes())])
            .folder("x");
        merge(&[layer.tar()])
    };
    // 180 times ten, this and a slash; then ten names with nine slashes between them.
    through(4096 - 1800 - 1 - 2089).unwrap();
    let error = through(4096 - 1800 - 2089).unwrap_err().to_string();
    assert!(error.contains("longer than 4096"), "{error}");
}

fn apply(tree: &mut Tree, layer: LayerIndex, tar: &[u8]) -> Result<(), TreeError> {
    let entries = entries(tar).unwrap();
    entries
        .into_iter()
        .try_for_each(|(entry, _)| tree.apply(layer, entry, Stored::default()))
}

#[test]
fn hiding_takes_steps_too() {
    let many = (0..100).fold(layer(), |layer, n| layer.file(&format!("{n}"), b""));
    let hide = |times| (0..times).fold(layer(), |layer, _| layer.file(".wh..wh..opq", b""));
    // Of one layer, so nothing is hidden, and each marker looks at all.
    let of = |times| [many.clone().tar(), hide(times).tar()];
    let run = |steps, times| {
        let mut tree = Tree::with_steps(steps);
        of(times)
            .iter()
            .try_for_each(|tar| apply(&mut tree, 0, tar))
    };
    run(1000, 10).unwrap();
    assert!(matches!(run(999, 10), Err(TreeError::Steps)));
    // In folders as well.
    let folder = (0..100).fold(layer(), |layer, n| layer.file(&format!("d/{n}"), b""));
    let mut tree = Tree::with_steps(201);
    apply(&mut tree, 0, &folder.tar()).unwrap();
    let marker = layer().file(".wh.d", b"").tar();
    apply(&mut tree, 0, &marker).unwrap();
    assert!(matches!(
        apply(&mut tree, 0, &marker),
        Err(TreeError::Steps)
    ));
}

#[test]
fn finding_takes_steps() {
    let deep = layer().file("a/b/c/d", b"").tar();
    // One for each folder, and one for each that it is in.
    apply(&mut Tree::with_steps(6), 0, &deep).unwrap();
    assert!(matches!(
        apply(&mut Tree::with_steps(5), 0, &deep),
        Err(TreeError::Steps)
    ));
}

/// A file with holes has no bytes that say how long it is.
#[test]
fn the_bytes_of_all_files_are_counted() {
    let sized = |name, size| Entry {
        size,
        ..file(name, vec![])
    };
    let mut tree = Tree::default();
    tree.apply(0, sized("a", limits::UNPACKED - 1), Stored::default())
        .unwrap();
    tree.apply(0, sized("a", 1), Stored::default()).unwrap();
    tree.apply(0, sized("a", 0), Stored::default()).unwrap();
    for size in [1, u64::MAX] {
        let error = tree
            .apply(0, sized("b", size), Stored::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("`b`: ") && error.contains("holes included"),
            "{error}"
        );
    }
}

fn file(name: &str, xattrs: Vec<(Vec<u8>, Vec<u8>)>) -> Entry {
    Entry {
        path: ImagePath::parse(name.as_bytes()).unwrap(),
        kind: Kind::File,
        size: 0,
        attributes: Attributes {
            xattrs,
            ..Attributes::default()
        },
    }
}

#[test]
fn names_are_counted_whoever_makes_them() {
    let with_room = |room| Tree {
        entries: limits::ENTRIES - room,
        ..Tree::default()
    };
    // One, and the two folders that it is in.
    let mut tree = with_room(3);
    tree.apply(0, file("a/b/c", vec![]), Stored::default())
        .unwrap();
    assert!(matches!(
        tree.apply(0, file("x", vec![]), Stored::default()),
        Err(TreeError::Entries)
    ));
    assert!(matches!(
        with_room(2).apply(0, file("a/b/c", vec![]), Stored::default()),
        Err(TreeError::Entries)
    ));
    with_room(1)
        .apply(0, file("x", vec![]), Stored::default())
        .unwrap();
}

#[test]
fn bytes_of_names_links_and_attributes_are_counted() {
    let name = "n".repeat(200);
    let long = vec![b'v'; 50_000];
    let entries: [(Entry, u64); 3] = [
        (file(&format!("{name}/{name}"), vec![]), 400),
        (file("x", vec![(b"user.a".to_vec(), long.clone())]), 50_007),
        (
            Entry {
                kind: Kind::Symlink(long),
                ..file("x", vec![])
            },
            50_001,
        ),
    ];
    for (entry, bytes) in entries {
        let mut tree = Tree {
            metadata: limits::METADATA - 2 * bytes,
            ..Tree::default()
        };
        tree.apply(0, entry.clone(), Stored::default()).unwrap();
        tree.apply(0, entry.clone(), Stored::default()).unwrap();
        assert!(matches!(
            tree.apply(0, entry, Stored::default()),
            Err(TreeError::Metadata)
        ));
    }
}

#[derive(Clone, Debug)]
enum Step {
    File(String),
    Folder(String),
    Symlink(String, String),
    HardLink(String, String),
    Whiteout(String),
    Opaque(String),
}

fn step() -> impl Strategy<Value = Step> {
    let name = || {
        prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4)
            .prop_map(|parts| parts.join("/"))
    };
    prop_oneof![
        name().prop_map(Step::File),
        name().prop_map(Step::Folder),
        (name(), name()).prop_map(|(a, b)| Step::Symlink(a, b)),
        (name(), name()).prop_map(|(a, b)| Step::HardLink(a, b)),
        name().prop_map(Step::Whiteout),
        name().prop_map(Step::Opaque),
    ]
}

fn write(layer: Layer, step: &Step) -> Layer {
    match step {
        Step::File(name) => layer.file(name, name.as_bytes()),
        Step::Folder(name) => layer.folder(name),
        Step::Symlink(name, target) => layer.symlink(name, target),
        Step::HardLink(name, target) => layer.hard_link(name, target),
        Step::Whiteout(name) => {
            let (folder, last) = name.rsplit_once('/').unwrap_or((".", name));
            layer.file(&format!("{folder}/.wh.{last}"), b"")
        }
        Step::Opaque(name) => layer.file(&format!("{name}/.wh..wh..opq"), b""),
    }
}

/// The layers, without the steps that are refused after those before them.
fn accepted(layers: &[Vec<Step>]) -> Vec<Vec<u8>> {
    let mut tars: Vec<Vec<u8>> = Vec::new();
    for steps in layers {
        let mut layer = Layer::default();
        tars.push(layer.clone().tar());
        for step in steps {
            let longer = write(layer.clone(), step);
            let last = tars.pop().unwrap();
            tars.push(longer.clone().tar());
            if merge(&tars).is_ok() {
                layer = longer;
            } else {
                tars.pop();
                tars.push(last);
            }
        }
    }
    tars
}

proptest! {
    /// Any layers that are accepted give an image that reads back, with links only to what is there.
    #[test]
    fn what_is_merged_is_whole(layers in prop::collection::vec(prop::collection::vec(step(), 0..12), 1..4)) {
        let tars = accepted(&layers);
        let found = contents(&image(&tars));
        for (name, what) in &found {
            if let Some((folder, _)) = name.rsplit_once('/') {
                prop_assert_eq!(found.get(folder).map(String::as_str), Some("folder"));
            }
            if let Some(target) = what.strip_prefix("link to ") {
                prop_assert!(!found[target].starts_with("link") && found[target] != "folder");
            }
            prop_assert!(!name.contains(".wh."));
        }
    }

    /// Builders differ in where they write whiteouts. As long as each folder is written before what is in
    /// it, as all do that write whiteouts, it does not matter.
    #[test]
    fn whiteouts_may_be_anywhere(
        lower in prop::collection::vec(step(), 0..12),
        upper in prop::collection::vec(step(), 0..12),
        places in prop::collection::vec(any::<prop::sample::Index>(), 12),
    ) {
        let lower = accepted(&[lower]).remove(0);
        let (mut plain, mut whiteouts) = (Vec::new(), Vec::new());
        for step in upper {
            match &step {
                Step::Whiteout(_) | Step::Opaque(_) => whiteouts.push(step),
                Step::File(name) | Step::Folder(name) => {
                    let ends = name.match_indices('/').map(|(at, _)| at);
                    plain.extend(ends.map(|at| Step::Folder(name[..at].to_owned())));
                    plain.push(step);
                }
                // Where a link of this layer leads depends on when one asks.
                Step::Symlink(..) | Step::HardLink(..) => {}
            }
        }
        let with = |places: &mut dyn FnMut(usize, usize) -> usize| {
            let mut all = plain.clone();
            for (at, whiteout) in whiteouts.iter().enumerate() {
                all.insert(places(at, all.len()), whiteout.clone());
            }
            let upper = all.iter().fold(layer(), write);
            let tars = [lower.clone(), upper.tar()];
            merge(&tars).ok().map(|_| contents(&image(&tars)))
        };
        let first = with(&mut |at, _| at);
        prop_assert!(first.is_some());
        prop_assert_eq!(&with(&mut |_, length| length), &first);
        prop_assert_eq!(&with(&mut |at, length| places[at].index(length + 1)), &first);
    }
}
