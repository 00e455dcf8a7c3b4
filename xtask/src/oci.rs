//! OCI images made in memory, for tests and the demo.
//!
//! The same files give the same bytes and so the same digests on every machine, so that a second
//! run of the demo finds its image on the node already.

use std::{
    collections::BTreeMap,
    fmt, fs,
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// SHA-256 of a manifest or blob. Written `sha256:<64 hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A whole image: its manifest, its configuration and its layers.
#[derive(Clone, Debug)]
pub struct Image {
    manifest: Digest,
    /// From the lowest up.
    layers: Vec<Digest>,
    /// The manifest too.
    blobs: BTreeMap<Digest, Arc<[u8]>>,
}

impl Image {
    /// Digest of the manifest: what a reference to the image is pinned to.
    pub fn digest(&self) -> Digest {
        self.manifest
    }

    /// Digests of the compressed layers, from the lowest up.
    pub fn layers(&self) -> &[Digest] {
        &self.layers
    }

    /// Manifest, configuration and layers.
    pub fn blobs(&self) -> &BTreeMap<Digest, Arc<[u8]>> {
        &self.blobs
    }

    /// As a deployment writes it. `registry` is host and port.
    pub fn reference(&self, registry: &str, repository: &str) -> String {
        format!("{registry}/{repository}@{}", self.manifest)
    }

    fn add(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes.into());
        digest
    }
}

/// How to run an image, in the words of the OCI image specification.
#[derive(Clone, Debug, Default)]
pub struct RunConfig {
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: String,
    pub user: String,
}

impl RunConfig {
    /// From an image's configuration.
    fn read(config: &[u8]) -> Result<Self> {
        let config: Value =
            serde_json::from_slice(config).context("the configuration is no JSON")?;
        let run = &config["config"];
        let list = |name: &str| -> Result<Vec<String>> {
            let list = serde_json::from_value::<Option<_>>(run[name].clone());
            Ok(list
                .with_context(|| format!("{name} is no list"))?
                .unwrap_or_default())
        };
        let text = |name: &str| run[name].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            entrypoint: list("Entrypoint")?,
            cmd: list("Cmd")?,
            env: list("Env")?,
            working_dir: text("WorkingDir"),
            user: text("User"),
        })
    }
}

/// One thing in a layer. Paths are relative to the root; folders come before what is in them.
#[derive(Clone, Debug)]
pub enum Entry {
    Folder {
        path: String,
        mode: u32,
        /// The number of the user, and of its group.
        owner: u32,
    },
    File {
        path: String,
        mode: u32,
        bytes: Vec<u8>,
        /// Names and values of extended attributes.
        attributes: Vec<(String, Vec<u8>)>,
    },
    Symlink {
        path: String,
        target: String,
    },
}

impl Entry {
    pub fn folder(path: &str) -> Self {
        Self::owned_folder(path, 0, 0o755)
    }

    /// Of this user and the group of the same number.
    pub fn owned_folder(path: &str, owner: u32, mode: u32) -> Self {
        Self::Folder {
            path: path.to_owned(),
            mode,
            owner,
        }
    }

    pub fn file(path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        Self::File {
            path: path.to_owned(),
            mode,
            bytes: bytes.into(),
            attributes: Vec::new(),
        }
    }

    /// A file with an extended attribute more. Folders and links have none here.
    pub fn with_attribute(mut self, name: &str, value: &[u8]) -> Self {
        if let Self::File { attributes, .. } = &mut self {
            attributes.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    pub fn symlink(path: &str, target: &str) -> Self {
        Self::Symlink {
            path: path.to_owned(),
            target: target.to_owned(),
        }
    }
}

/// The demo's image: one static binary, and the two files by which users are known. What runs when
/// a deployment names no command is for tests; the example names its own.
pub fn hello_image(binary: &Path) -> Result<Image> {
    let bytes = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let layer = [
        Entry::folder("data"),
        Entry::folder("etc"),
        Entry::file("etc/group", 0o644, *b"root:x:0:\nnogroup:x:65534:\n"),
        Entry::file(
            "etc/passwd",
            0o644,
            *b"root:x:0:0:root:/root:/hello\nnobody:x:65534:65534:nobody:/:/hello\n",
        ),
        Entry::file("hello", 0o755, bytes),
    ];
    let run = RunConfig {
        entrypoint: vec!["/hello".into()],
        cmd: vec!["--port".into(), "80".into(), "--probes".into()],
        env: vec!["PATH=/usr/sbin:/usr/bin:/sbin:/bin".into()],
        ..RunConfig::default()
    };
    image(&[&layer], &run)
}

/// Makes an image from its layers, the lowest first.
pub fn image(layers: &[&[Entry]], run: &RunConfig) -> Result<Image> {
    let mut image = Image {
        manifest: Digest([0; 32]),
        layers: Vec::new(),
        blobs: BTreeMap::new(),
    };
    let mut diff_ids = Vec::new();
    let mut descriptors = Vec::new();
    for entries in layers {
        let tar = tar(entries)?;
        diff_ids.push(Digest::of(&tar).to_string());
        let layer = gzip(&tar)?;
        let size = layer.len();
        let digest = image.add(layer);
        image.layers.push(digest);
        descriptors.push(descriptor(LAYER_TYPE, digest, size));
    }

    let config = to_bytes(&json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": run.entrypoint,
            "Cmd": run.cmd,
            "Env": run.env,
            "WorkingDir": run.working_dir,
            "User": run.user,
        },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    }))?;
    let size = config.len();
    let config = descriptor(CONFIG_TYPE, image.add(config), size);
    let manifest = to_bytes(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": config,
        "layers": descriptors,
    }))?;
    image.manifest = image.add(manifest);
    Ok(image)
}

/// A folder in the OCI image layout, with one image. What is asked for is read and its digest compared.
#[derive(Clone, Debug)]
pub struct Layout {
    blobs: PathBuf,
    digest: Digest,
    bytes: Vec<u8>,
    manifest: Value,
}

impl Layout {
    pub fn open(folder: &Path) -> Result<Self> {
        let blobs = folder.join("blobs/sha256");
        let index = fs::read(folder.join("index.json"))
            .with_context(|| format!("cannot read index.json of {}", folder.display()))?;
        let index: Value = serde_json::from_slice(&index).context("index.json is no JSON")?;
        let (digest, bytes) = blob(&blobs, &index["manifests"][0])?;
        let manifest = serde_json::from_slice(&bytes).context("the manifest is no JSON")?;
        Ok(Self {
            blobs,
            digest,
            bytes,
            manifest,
        })
    }

    /// What the image's configuration says of running it.
    pub fn run(&self) -> Result<RunConfig> {
        RunConfig::read(&blob(&self.blobs, &self.manifest["config"])?.1)
    }

    pub fn image(&self) -> Result<Image> {
        let mut image = Image {
            manifest: self.digest,
            layers: Vec::new(),
            blobs: BTreeMap::from([(self.digest, self.bytes.clone().into())]),
        };
        let (config, bytes) = blob(&self.blobs, &self.manifest["config"])?;
        image.blobs.insert(config, bytes.into());
        for layer in self.manifest["layers"].as_array().into_iter().flatten() {
            let (layer, bytes) = blob(&self.blobs, layer)?;
            image.blobs.insert(layer, bytes.into());
            image.layers.push(layer);
        }
        Ok(image)
    }
}

/// What a descriptor stands for.
fn blob(blobs: &Path, descriptor: &Value) -> Result<(Digest, Vec<u8>)> {
    let digest = descriptor["digest"].as_str();
    let digest = digest.context("a descriptor has no digest")?;
    let name = digest.strip_prefix("sha256:").context("not a SHA-256")?;
    let file = blobs.join(name);
    let bytes = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = Digest::of(&bytes);
    anyhow::ensure!(found.to_string() == digest, "{} is damaged", file.display());
    Ok((found, bytes))
}

fn descriptor(media_type: &str, digest: Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size })
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).context("cannot write JSON")
}

/// Owned by root but for folders that say otherwise, and from 1970, so that only paths, modes and contents count.
pub fn tar(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_ustar();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let path = match entry {
            Entry::Folder { path, mode, owner } => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                header.set_uid(u64::from(*owner));
                header.set_gid(u64::from(*owner));
                header.set_size(0);
                tar.append_data(&mut header, path, &[][..]).map(|()| path)
            }
            Entry::File {
                path,
                mode,
                bytes,
                attributes,
            } => {
                add_attributes(&mut tar, attributes)?;
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, path, &bytes[..])
                    .map(|()| path)
            }
            Entry::Symlink { path, target } => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                tar.append_link(&mut header, path, target).map(|()| path)
            }
        };
        path.with_context(|| format!("cannot add {entry:?} to a layer"))?;
    }
    tar.into_inner().context("cannot finish a layer")
}

/// To the entry that follows.
fn add_attributes(tar: &mut tar::Builder<Vec<u8>>, attributes: &[(String, Vec<u8>)]) -> Result<()> {
    let records: Vec<_> = attributes
        .iter()
        .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value))
        .collect();
    let records = records
        .iter()
        .map(|(name, value)| (name.as_str(), &value[..]));
    // None at all where there are none.
    tar.append_pax_extensions(records)
        .context("cannot add attributes to a layer")
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // No time and no name of a system in the header: they would change the digest.
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .operating_system(255)
        .write(Vec::new(), Compression::default());
    gzip.write_all(bytes)
        .and_then(|()| gzip.finish())
        .context("cannot compress a layer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn sample() -> Image {
        let lower = [Entry::folder("etc"), Entry::file("etc/motd", 0o644, *b"hi")];
        let upper = [Entry::symlink("motd", "etc/motd")];
        let run = RunConfig {
            entrypoint: vec!["/x".into()],
            ..RunConfig::default()
        };
        image(&[&lower, &upper], &run).unwrap()
    }

    fn json_of(image: &Image, digest: Digest) -> Value {
        serde_json::from_slice(&image.blobs()[&digest]).unwrap()
    }

    fn digest_in(value: &Value) -> Digest {
        let text = value["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        Digest(hex::decode(text).unwrap().try_into().unwrap())
    }

    #[test]
    fn the_same_files_give_the_same_image() {
        assert_eq!(sample().digest(), sample().digest());
    }

    #[test]
    fn every_digest_and_size_is_true() {
        let image = sample();
        for (digest, bytes) in image.blobs() {
            assert_eq!(*digest, Digest::of(bytes));
        }
        let manifest = json_of(&image, image.digest());
        let config = json_of(&image, digest_in(&manifest["config"]));
        assert_eq!(config["config"]["Entrypoint"], json!(["/x"]));
        let layers = manifest["layers"].as_array().unwrap();
        assert_eq!(layers.len(), 2);
        for (n, layer) in layers.iter().enumerate() {
            assert_eq!(digest_in(layer), image.layers()[n]);
            let bytes = &image.blobs()[&digest_in(layer)];
            assert_eq!(layer["size"], json!(bytes.len()));
            let mut plain = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..])
                .read_to_end(&mut plain)
                .unwrap();
            assert_eq!(
                config["rootfs"]["diff_ids"][n],
                json!(Digest::of(&plain).to_string())
            );
        }
    }

    #[test]
    fn layers_hold_what_was_put_in() {
        let image = sample();
        let layer = &image.blobs()[&image.layers()[0]];
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&layer[..]));
        let mut seen = Vec::new();
        for entry in tar.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut text = String::new();
            entry.read_to_string(&mut text).unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().display().to_string();
            seen.push((path, header.mode().unwrap(), text));
        }
        let expected = [
            ("etc".into(), 0o755, String::new()),
            ("etc/motd".into(), 0o644, "hi".into()),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn the_demo_runs_its_binary() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "binary").unwrap();
        let image = hello_image(file.path()).unwrap();
        assert_eq!(
            image.reference("10.0.2.2:5000", "hello"),
            format!("10.0.2.2:5000/hello@{}", image.digest())
        );
        hello_image(Path::new("/nonexistent")).unwrap_err();
    }
}
