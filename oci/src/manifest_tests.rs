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
    for kind in [GZIP, "application/vnd.docker.image.rootfs.diff.tar.gzip"] {
        let Document::Manifest(manifest) = parse(&manifest(kind, 3, 7)).unwrap() else {
            panic!("not a manifest")
        };
        assert_eq!((manifest.layers.len(), manifest.compressed()), (3, 21));
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
        (
            "[]".to_owned(),
            "the manifest cannot be read: invalid length",
        ),
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
