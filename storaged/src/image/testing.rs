//! Layers as hostile as one likes, and what an image says.

use std::{collections::BTreeMap, fs::File, io::Read};

use loam_oci::digest::Digest;

use super::{
    aside::Ground,
    build,
    entries::LayerFile,
    erofs::{format::Kind, stored::Stored, testing::Image},
    finish::finish,
    layer::{Allowance, Unpacked},
    space::Unbounded,
    stop::Stop,
    tarball::{Entry, Tarball},
    tree::{Tree, TreeError},
};

/// Writes headers as they are asked for, without any check.
#[derive(Clone, Debug, Default)]
pub struct Layer(Vec<u8>);

impl Layer {
    pub fn raw(self, kind: u8, name: &[u8], link: &[u8], data: &[u8]) -> Self {
        self.header(|header| {
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_size(data.len() as u64);
        })
        .bytes(data)
    }

    /// An empty file's header, changed before its checksum is made.
    pub fn header(mut self, change: impl FnOnce(&mut tar::Header)) -> Self {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(1_600_000_000);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    /// Whole blocks of what follows a header.
    pub fn bytes(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, data: &[u8]) -> Self {
        self.raw(b'0', name.as_bytes(), b"", data)
    }

    pub fn folder(self, name: &str) -> Self {
        self.raw(b'5', name.as_bytes(), b"", b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(b'2', name.as_bytes(), target.as_bytes(), b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.raw(b'1', name.as_bytes(), target.as_bytes(), b"")
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut bytes = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..=5)
                .map(|digits| rest + digits)
                .find(|n| n.to_string().len() + rest == *n);
            bytes.extend_from_slice(format!("{} {key}=", length.unwrap()).as_bytes());
            bytes.extend_from_slice(value);
            bytes.push(b'\n');
        }
        self.raw(b'x', b"pax", b"", &bytes)
    }

    pub fn then(mut self, next: Self) -> Self {
        self.0.extend_from_slice(&next.0);
        self
    }

    pub fn tar(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub fn entries(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, super::tarball::TarError> {
    let mut tarball = Tarball::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = tarball.next_entry()? {
        let mut data = Vec::new();
        tarball.data().read_to_end(&mut data)?;
        entries.push((entry, data));
    }
    Ok(entries)
}

/// Of layers whose data nobody asks for.
pub fn merge(layers: &[Vec<u8>]) -> Result<Tree, TreeError> {
    let mut tree = Tree::default();
    for (index, layer) in layers.iter().enumerate() {
        for (entry, _) in entries(layer).unwrap() {
            tree.apply(index as u16, entry, Stored::default())?;
        }
        tree.finish_layer(index as u16)?;
    }
    Ok(tree)
}

/// The image that comes of layers.
pub fn image(layers: &[Vec<u8>]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let files = layers.iter().enumerate().map(|(number, layer)| {
        let path = folder.path().join(number.to_string());
        std::fs::write(&path, layer).unwrap();
        (path, Digest::of(layer))
    });
    let files: Vec<LayerFile> = files.collect();
    let ground = Ground {
        folder: folder.path(),
        space: &Unbounded,
    };
    let allowance = Allowance::of(1 << 30);
    let (tree, asides) = build::read(&files, ground, &allowance).unwrap();
    let target = folder.path().join("image");
    let image = File::create_new(&target).unwrap();
    finish(&tree, &asides, &image, &Unbounded, &Stop::default()).unwrap();
    std::fs::read(target).unwrap()
}

/// What an image holds, by name, as short text: `file:hello`, `folder`, `link to a`.
pub fn contents(image: &[u8]) -> BTreeMap<String, String> {
    let image = Image::read(image);
    let mut firsts: BTreeMap<u32, String> = BTreeMap::new();
    let mut contents = BTreeMap::new();
    for (name, found) in &image.names {
        let name = String::from_utf8_lossy(name).into_owned();
        let text = || String::from_utf8_lossy(&image.data(found)).into_owned();
        let text = match firsts.get(&found.number) {
            Some(first) => format!("link to {first}"),
            None => match found.kind {
                Kind::File => format!("file:{}", text()),
                Kind::Folder => "folder".to_owned(),
                Kind::Symlink => format!("symlink to {}", text()),
                other => format!("{other:?}"),
            },
        };
        firsts.entry(found.number).or_insert(name.clone());
        contents.insert(name, text);
    }
    contents
}

pub fn unpacked(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), bytes)?;
    let mut out = Vec::new();
    Unpacked::open(file.path(), Allowance::of(1 << 20))?.read_to_end(&mut out)?;
    Ok(out)
}
