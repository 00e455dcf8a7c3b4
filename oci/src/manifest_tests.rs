use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
};

use super::*;

fn digest(n: u8) -> String {
    Digest::new([n; 32]).to_string()
}

fn manifest(layer_type: &str, layers: usize, size: u64) -> String {
    let layer = format!(
        r#"{{"mediaType":"{layer_type}","digest":"{}","size":{size}}}"#,
        digest(2)
    );
    format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{}","size":10}},"layers":[{}]}}"#,
        digest(1),
        vec![layer; layers].join(",")
    )
}

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn parse(text: &str) -> Result<Document, String> {
    Document::parse(text.as_bytes()).map_err(|error| error.to_string())
}

#[test]
fn reads_manifests_of_oci_and_docker() {
    for kind in [
        GZIP,
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ] {
        let Document::Manifest(manifest) = parse(&manifest(kind, 3, 7)).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!((manifest.layers.len(), manifest.compressed()), (3, 21));
    }
}

#[test]
fn a_type_that_is_null_is_as_one_that_is_absent() {
    for none in ["", r#""mediaType":null,"#] {
        let text = manifest(GZIP, 1, 7).replace(r#""mediaType":"x","#, none);
        assert!(parse(&text).is_ok(), "{text}");
        let index = format!(
            r#"{{"manifests":[{{{none}"digest":"{}","size":9}}]}}"#,
            digest(3)
        );
        let Document::Index(index) = parse(&index).unwrap() else {
            panic!("not an index")
        };
        assert_eq!(index.candidates(Level::V1).len(), 1);
    }
}

#[test]
fn refuses_what_is_too_much_or_something_else() {
    for (text, reason) in [
        (manifest(GZIP, limits::LAYERS + 1, 1), "129 layers"),
        (manifest(GZIP, 2, limits::COMPRESSED), "at most"),
        (manifest(GZIP, 128, u64::MAX), "at most"),
        (
            manifest("application/vnd.oci.image.layer.v1.tar+bzip3", 1, 1),
            "bzip3",
        ),
        (manifest("application/wasm", 1, 1), "wasm"),
        (
            r#"{"mediaType":"application/vnd.oci.empty.v1+json"}"#.to_owned(),
            "empty.v1",
        ),
        (r#"{"manifests":[],"config":{}}"#.to_owned(), "no type"),
        ("[]".to_owned(), "the manifest cannot be read: it is a list"),
        (
            r#"{"config": 5}"#.to_owned(),
            "cannot be read: `config`: invalid type",
        ),
        (
            manifest(GZIP, 1, 1).replace("\"layers\"", "\"layer\""),
            "cannot be read: missing field `layers`",
        ),
        (
            manifest(GZIP, 2, 1).replace("sha256", "md5"),
            "cannot be read: `config.digest`: ",
        ),
        (
            manifest(GZIP, 2, 1).replace("\"size\":1}", "\"size\":\"1\"}"),
            "cannot be read: `layers[0].size`: invalid type",
        ),
        (
            manifest(GZIP, 1, 1).replace(":10}", ":9999999}"),
            "configuration has 9999999",
        ),
    ] {
        let error = parse(&text).unwrap_err();
        assert!(error.contains(reason), "{error}; expected {reason}");
    }
}

/// A manifest, or an index, with some of its bytes changed, taken away or put in.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let index = format!(
        r#"{{"mediaType":"{GZIP}","manifests":[{{"mediaType":"","digest":"{0}","size":9}},
        {{"digest":"{0}","size":9,"platform":{{"architecture":"amd64","os":"linux","variant":"v2"}}}}]}}"#,
        digest(3)
    );
    let whole = select(vec![
        manifest(GZIP, 1, 7),
        manifest(GZIP, 3, 1 << 30),
        index,
    ]);
    let odd = select(vec![
        &b"\""[..],
        b"{",
        b"]",
        b",",
        b":",
        b"null",
        b"-1",
        b"1e99",
        b"9",
        b"\\u0000",
        b"\xff",
    ]);
    let change = (any::<Index>(), 0usize..30, odd);
    (whole, vec(change, 1..4)).prop_map(|(whole, changes)| {
        let mut bytes = whole.into_bytes();
        for (at, taken, put) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + taken).min(bytes.len());
            bytes.splice(at..end, put.iter().copied());
        }
        bytes
    })
}

/// Of what is taken, nothing is beyond its limit; what is refused is told in a line.
fn is_taken_or_refused(bytes: &[u8]) -> bool {
    match Document::parse(bytes) {
        Ok(Document::Manifest(manifest)) => {
            manifest.layers.len() <= limits::LAYERS
                && manifest.config.size <= limits::CONFIG
                && manifest.compressed() <= limits::COMPRESSED
        }
        Ok(Document::Index(index)) => index
            .candidates(Level::V1)
            .iter()
            .all(|(_, needs)| *needs <= Level::V1),
        Err(error) => error.to_string().len() < 500,
    }
}

proptest! {
    #[test]
    fn any_damaged_document_is_taken_within_its_limits_or_refused(bytes in damaged()) {
        prop_assert!(is_taken_or_refused(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    #[ignore = "slow: a hundred thousand documents"]
    fn any_of_very_many_damaged_documents_is_taken_within_its_limits_or_refused(bytes in damaged()) {
        prop_assert!(is_taken_or_refused(&bytes));
    }
}
