//! Layers as hostile as one likes, and what a merged stream says.

use std::{collections::BTreeMap, io::Read};

use super::{
    layer::{Allowance, Unpacked},
    merged::Merged,
    tarball::{Entry, Kind, Tarball},
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

pub fn merge(layers: &[Vec<u8>]) -> Result<Tree, TreeError> {
    let mut tree = Tree::default();
    for (index, layer) in layers.iter().enumerate() {
        for (entry, _) in entries(layer).unwrap() {
            tree.apply(index as u16, entry)?;
        }
        tree.finish_layer(index as u16)?;
    }
    Ok(tree)
}

pub fn stream(layers: &[Vec<u8>]) -> Vec<u8> {
    let tree = merge(layers).unwrap();
    let mut out = Vec::new();
    Merged::new(&tree)
        .write(&mut out, |layer| Ok(layers[usize::from(layer)].as_slice()))
        .unwrap();
    out
}

/// What a merged stream holds, by name, as short text: `file:hello`, `folder`, `link to a`.
pub fn contents(stream: &[u8]) -> BTreeMap<String, String> {
    let show = |path: &super::tarball::ImagePath| {
        let parts: Vec<_> = path
            .components()
            .iter()
            .map(|part| String::from_utf8_lossy(part))
            .collect();
        parts.join("/")
    };
    let mut contents = BTreeMap::new();
    for (entry, data) in entries(stream).unwrap() {
        let text = match &entry.kind {
            Kind::File => format!("file:{}", String::from_utf8_lossy(&data)),
            Kind::Folder => "folder".to_owned(),
            Kind::HardLink(target) => format!("link to {}", show(target)),
            Kind::Symlink(target) => format!("symlink to {}", String::from_utf8_lossy(target)),
            other => format!("{other:?}"),
        };
        let name = show(&entry.path);
        if name.is_empty() {
            assert_eq!(text, "folder");
            continue;
        }
        assert!(
            contents.insert(name.clone(), text).is_none(),
            "{name} is there twice"
        );
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
