use std::{collections::BTreeMap, sync::Mutex};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Documents by their digests, and which were asked for.
#[derive(Default)]
struct Documents {
    all: BTreeMap<Digest, Vec<u8>>,
    asked: Mutex<Vec<Digest>>,
}

impl Documents {
    fn add(&mut self, text: &str) -> Digest {
        let digest = Digest::of(text.as_bytes());
        self.all.insert(digest, text.into());
        digest
    }

    /// A manifest that differs from others by its configuration's size.
    fn image(&mut self, n: u64) -> Digest {
        let config = Digest::of(b"{}");
        self.add(&format!(
            r#"{{"config":{{"digest":"{config}","size":{n}}},"layers":[]}}"#
        ))
    }

    fn index(&mut self, entries: &[String]) -> Digest {
        self.add(&format!(r#"{{"manifests":[{}]}}"#, entries.join(",")))
    }

    /// Which image a node of this level runs, and what level that needs.
    fn resolve(&self, digest: Digest, level: Level) -> Result<(u64, Level), String> {
        let mut search = Search::new(digest, level);
        loop {
            self.asked.lock().unwrap().push(search.wanted());
            let Some(document) = self.all.get(&search.wanted()) else {
                let gone = DocumentError::Kind("is not there".to_owned());
                search.pass_over(gone).map_err(|error| error.to_string())?;
                continue;
            };
            match search.take_in(document) {
                Ok(None) => {}
                Ok(Some(found)) => return Ok((found.manifest.config.size, found.level)),
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}

fn entry(digest: Digest, more: &str) -> String {
    typed(MANIFEST, digest, more)
}

fn typed(kind: &str, digest: Digest, more: &str) -> String {
    format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":500{more}}}"#)
}

fn platform(architecture: &str, more: &str) -> String {
    format!(r#","platform":{{"os":"linux","architecture":"{architecture}"{more}}}"#)
}

#[test]
fn as_much_of_the_processor_is_used_as_there_is_an_image_for() {
    let mut documents = Documents::default();
    let variants = ["v3", "", "v2", "v3", "v9", "v1"];
    let entries: Vec<_> = (0..)
        .zip(variants)
        .map(|(n, variant)| {
            let variant = format!(r#","variant":"{variant}""#);
            entry(documents.image(n), &platform("amd64", &variant))
        })
        .collect();
    let index = documents.index(&entries);
    for (level, image) in [
        (Level::V1, (1, Level::V1)),
        (Level::V2, (2, Level::V2)),
        (Level::V3, (0, Level::V3)),
        (Level::V4, (0, Level::V3)),
    ] {
        assert_eq!(documents.resolve(index, level), Ok(image), "{level:?}");
    }
    // Nothing for this processor is nothing.
    let index = documents.index(&entries[3..5]);
    let error = documents.resolve(index, Level::V2).unwrap_err();
    assert!(
        error.contains("it has linux/amd64/v3, linux/amd64/v9"),
        "{error}"
    );
}

#[test]
fn what_needs_features_that_no_node_has_is_passed_over() {
    let mut documents = Documents::default();
    let nydus = r#","os.features":["nydus.remoteimage.v1"]"#;
    let nydus = entry(documents.image(1), &platform("amd64", nydus));
    let none = r#","os.features":[],"variant":null"#;
    let plain = entry(documents.image(2), &platform("amd64", none));
    let index = documents.index(&[nydus.clone(), plain]);
    assert_eq!(documents.resolve(index, Level::V4), Ok((2, Level::V1)));
    let index = documents.index(&[nydus]);
    let error = documents.resolve(index, Level::V4).unwrap_err();
    assert!(
        error.contains("linux/amd64 with nydus.remoteimage.v1"),
        "{error}"
    );
}

#[test]
fn an_image_without_platform_is_taken_where_there_is_none_for_the_platform() {
    let mut documents = Documents::default();
    let bare = entry(documents.image(1), "");
    let other = entry(documents.image(2), "");
    let arm = entry(documents.image(3), &platform("arm64", ""));
    let amd = entry(documents.image(4), &platform("amd64", ""));
    let untyped = bare.replace(MANIFEST, "");
    for (entries, image) in [
        (vec![bare.clone()], 1),
        (vec![untyped], 1),
        (vec![bare.clone(), other.clone()], 1),
        (vec![arm.clone(), other.clone(), bare.clone()], 2),
        (vec![bare, arm.clone(), amd], 4),
    ] {
        let index = documents.index(&entries);
        assert_eq!(
            documents.resolve(index, Level::V1),
            Ok((image, Level::V1)),
            "{entries:?}"
        );
    }
    let foreign = typed("application/vnd.in-toto+json", Digest::of(b"x"), "");
    let index = documents.index(&[foreign, arm]);
    let error = documents.resolve(index, Level::V1).unwrap_err();
    assert!(error.contains("it has linux/arm64"), "{error}");
    let empty = documents.index(&[]);
    let error = documents.resolve(empty, Level::V1).unwrap_err();
    assert!(error.contains("none whose platform"), "{error}");
}

#[test]
fn what_cannot_be_read_in_an_index_spoils_nothing_beside_it() {
    let mut documents = Documents::default();
    let amd = entry(documents.image(7), &platform("amd64", ""));
    let sha512 = amd.replace("sha256:", "sha512:");
    let negative = amd.replace("500", "-1");
    let attestation =
        entry(documents.image(1), &platform("unknown", "")).replace("linux", "unknown");
    let unread = ["null", "7", "[]", "{}", r#"{"platform":[]}"#].map(str::to_owned);
    let mut entries = unread.to_vec();
    entries.extend([sha512, negative, attestation, amd]);
    let index = documents.index(&entries);
    assert_eq!(documents.resolve(index, Level::V1), Ok((7, Level::V1)));
    assert_eq!(documents.asked.lock().unwrap().len(), 2);
}

#[test]
fn indexes_in_indexes_are_followed_until_there_are_too_many() {
    let mut documents = Documents::default();
    let arm = entry(documents.image(1), &platform("arm64", ""));
    let amd = entry(documents.image(2), &platform("amd64", ""));
    let arm = typed(INDEX, documents.index(&[arm]), "");
    let v3 = platform("amd64", r#","variant":"v3""#);
    let v3 = typed(INDEX, documents.index(std::slice::from_ref(&amd)), &v3);
    let amd = typed(INDEX, documents.index(&[amd]), &platform("amd64", ""));
    let index = documents.index(std::slice::from_ref(&amd));
    assert_eq!(documents.resolve(index, Level::V1), Ok((2, Level::V1)));
    // What an index needs, all in it need.
    let index = documents.index(&[v3]);
    assert_eq!(documents.resolve(index, Level::V3), Ok((2, Level::V3)));
    documents.resolve(index, Level::V2).unwrap_err();
    // The first says nothing of its platform, and turns out to be for another.
    let index = documents.index(&[arm.clone(), amd.replace("amd64", "arm64"), arm.clone()]);
    let error = documents.resolve(index, Level::V1).unwrap_err();
    assert!(error.contains("it has linux/arm64, linux/arm64"), "{error}");
    let bare = amd.replace(&platform("amd64", ""), "");
    let index = documents.index(&[arm, bare]);
    assert_eq!(documents.resolve(index, Level::V1), Ok((2, Level::V1)));

    let mut deep = documents.image(3);
    for _ in 0..limits::INDEXES {
        deep = documents.index(&[entry(deep, "")]);
    }
    assert_eq!(documents.resolve(deep, Level::V1), Ok((3, Level::V1)));
    let deep = documents.index(&[entry(deep, "")]);
    let error = documents.resolve(deep, Level::V1).unwrap_err();
    assert!(error.contains("more than 8"), "{error}");
    // As are those beside one another.
    let wide: Vec<_> = (0..100)
        .map(|n| {
            let other = platform(&format!("other{n}"), "");
            let other = entry(documents.image(4), &other);
            entry(documents.index(&[other]), "")
        })
        .collect();
    let wide = documents.index(&wide);
    documents.asked.lock().unwrap().clear();
    documents.resolve(wide, Level::V1).unwrap_err();
    assert_eq!(documents.asked.lock().unwrap().len(), limits::INDEXES + 1);
}

#[test]
fn a_document_that_is_too_large_to_be_read_is_not_asked_for() {
    let mut documents = Documents::default();
    let amd = entry(documents.image(1), &platform("amd64", ""));
    let size = (limits::MANIFEST + 1).to_string();
    let index = documents.index(&[amd.replace("500", &size)]);
    let error = documents.resolve(index, Level::V1).unwrap_err();
    assert!(error.contains("at most"), "{error}");
    assert_eq!(*documents.asked.lock().unwrap(), [index]);
    // Nor does it spoil what is beside it, before or behind it.
    for entries in [
        [amd.clone(), amd.replace("500", &size)],
        [amd.replace("500", &size), amd.clone()],
    ] {
        let index = documents.index(&entries);
        assert_eq!(documents.resolve(index, Level::V1), Ok((1, Level::V1)));
    }
}

#[test]
fn what_an_index_names_best_and_cannot_be_had_gives_way_to_the_next() {
    let mut documents = Documents::default();
    let plain = documents.image(1);
    let broken = documents.add("{}");
    let gone = Digest::of(b"thrown away");
    let v3 = platform("amd64", r#","variant":"v3""#);
    for best in [broken, gone] {
        let index = documents.index(&[entry(best, &v3), entry(plain, &platform("amd64", ""))]);
        assert_eq!(documents.resolve(index, Level::V3), Ok((1, Level::V1)));
        // Alone, it is what is told of.
        let index = documents.index(&[entry(best, &v3)]);
        let told = documents.resolve(index, Level::V3).unwrap_err();
        let expected = match best == broken {
            true => "not an image's manifest",
            false => "is not there",
        };
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn of_what_cannot_be_had_only_so_much_is_asked_for() {
    let mut documents = Documents::default();
    let gone = |n: usize| entry(Digest::of(n.to_string().as_bytes()), "");
    let image = entry(documents.image(1), "");
    let with_gone = |count: usize| {
        let mut entries: Vec<_> = (0..count).map(gone).collect();
        entries.push(image.clone());
        entries
    };
    let index = documents.index(&with_gone(limits::PASSED_OVER));
    assert_eq!(documents.resolve(index, Level::V1), Ok((1, Level::V1)));
    let index = documents.index(&with_gone(20_000));
    documents.asked.lock().unwrap().clear();
    let error = documents.resolve(index, Level::V1).unwrap_err();
    assert!(error.contains("is not there"), "{error}");
    let asked = documents.asked.lock().unwrap().len();
    assert_eq!(asked, limits::PASSED_OVER + 2);
}

/// What is behind a digest.
#[derive(Clone, Debug)]
enum Behind {
    Image,
    Index(Vec<(&'static str, Behind)>),
    /// Which cannot be read.
    Text(&'static str),
    Nothing,
}

/// Each part of an entry that follows its size, and the level that it needs.
const ENTRIES: [(&str, Option<Level>); 8] = [
    ("", Some(Level::V1)),
    (
        r#","platform":{"architecture":"amd64","os":"linux"}"#,
        Some(Level::V1),
    ),
    (
        r#","platform":{"architecture":"amd64","os":"linux","variant":"v2"}"#,
        Some(Level::V2),
    ),
    (
        r#","platform":{"architecture":"amd64","os":"linux","variant":"v4"}"#,
        Some(Level::V4),
    ),
    (
        r#","platform":{"architecture":"amd64","os":"linux","os.features":["x"]}"#,
        None,
    ),
    (
        r#","platform":{"architecture":"arm64","os":"linux","variant":"v8"}"#,
        None,
    ),
    (
        r#","platform":{"architecture":"amd64","os":"windows"}"#,
        None,
    ),
    (r#","platform":5"#, None),
];

fn behind(indexes: u32, entries: u32) -> impl Strategy<Value = Behind> {
    let leaf = prop_oneof![
        3 => Just(Behind::Image),
        1 => select(vec!["{}", "[]", "", r#"{"manifests":5}"#, r#"{"config":{}}"#])
            .prop_map(Behind::Text),
        1 => Just(Behind::Nothing),
    ];
    leaf.prop_recursive(3, indexes, entries, move |inner| {
        let more = select(ENTRIES.map(|(more, _)| more).to_vec());
        vec((more, inner), 0..=entries as usize).prop_map(Behind::Index)
    })
}

impl Behind {
    fn add(&self, documents: &mut Documents, count: &mut u64) -> Digest {
        *count += 1;
        match self {
            Self::Image => documents.image(*count),
            Self::Text(text) => documents.add(text),
            Self::Nothing => Digest::of(&count.to_le_bytes()),
            Self::Index(entries) => {
                let entries: Vec<_> = entries
                    .iter()
                    .map(|(more, behind)| entry(behind.add(documents, count), more))
                    .collect();
                documents.index(&entries)
            }
        }
    }

    /// Whether a node of this level finds an image here.
    fn leads_to_one(&self, level: Level) -> bool {
        match self {
            Self::Image => true,
            Self::Text(_) | Self::Nothing => false,
            Self::Index(entries) => entries.iter().any(|(more, behind)| {
                let needs = ENTRIES.iter().find(|(other, _)| other == more).unwrap().1;
                needs.is_some_and(|needs| needs <= level) && behind.leads_to_one(level)
            }),
        }
    }
}

fn levels() -> impl Strategy<Value = Level> {
    select(vec![Level::V1, Level::V2, Level::V3, Level::V4])
}

proptest! {
    #[test]
    fn an_image_that_is_there_is_found_whatever_is_beside_it(behind in behind(6, 3), level in levels()) {
        let mut documents = Documents::default();
        let digest = behind.add(&mut documents, &mut 0);
        let found = documents.resolve(digest, level);
        prop_assert_eq!(found.is_ok(), behind.leads_to_one(level), "{:?}", found);
        if let Ok((_, needs)) = found {
            prop_assert!(needs <= level);
        }
    }

    #[test]
    fn whatever_is_there_few_documents_are_asked_for(behind in behind(200, 40), level in levels()) {
        let mut documents = Documents::default();
        let digest = behind.add(&mut documents, &mut 0);
        let _ = documents.resolve(digest, level);
        let asked = documents.asked.lock().unwrap().len();
        prop_assert!(asked <= limits::INDEXES + limits::PASSED_OVER + 2, "{}", asked);
    }
}
