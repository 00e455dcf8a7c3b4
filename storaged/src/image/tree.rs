//! Layers, one over another, as a tree of names (OCI image specification, `layer.md`).
//!
//! Whiteouts hide what lower layers put there, never what their own layer adds, in whatever order
//! the archive has them. Names whose folders are symbolic links are followed inside the tree, as
//! `containerd` does; nothing outside of the tree exists for them.

use std::collections::{BTreeMap, VecDeque};

use super::{
    limits,
    tarball::{Attributes, Entry, ImagePath, Kind, show},
};

/// Linux's own limit on symbolic links in one name (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// Steps from a folder to one in it, over the whole merge, whether to find a name or to hide what is
/// below it. A large image takes some millions; a hostile one could take days of them with few
/// bytes.
const MAX_STEPS: u64 = 1 << 28;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What aufs kept for itself; never part of an image.
const AUFS: &[u8] = b".wh..wh.";

#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    #[error("`{name}`: {why}")]
    Entry { name: String, why: &'static str },
    #[error("the layers have more than {limit} entries", limit = limits::ENTRIES)]
    Entries,
    #[error("the layers' names and attributes take more than {limit} bytes", limit = limits::METADATA)]
    Metadata,
    #[error("the layers' names take too long to follow")]
    Steps,
}

/// Counts from the lowest, 0.
pub type LayerIndex = u16;

type Name = Box<[u8]>;

#[derive(Debug)]
pub struct Tree {
    root: Node,
    inodes: Vec<Inode>,
    entries: u64,
    metadata: u64,
    steps_left: u64,
}

#[derive(Debug)]
pub struct Node {
    pub inode: usize,
    /// Which layer put it here, or said something about it last.
    layer: LayerIndex,
    /// Empty for all but folders.
    pub children: BTreeMap<Name, Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub content: Content,
    pub attributes: Attributes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Folder,
    /// Where its data is: the entry with this index of that layer.
    File {
        layer: LayerIndex,
        entry: u32,
        size: u64,
    },
    Symlink(Vec<u8>),
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

impl Default for Tree {
    fn default() -> Self {
        let root = Node {
            inode: 0,
            layer: 0,
            children: BTreeMap::new(),
        };
        Self {
            root,
            inodes: vec![plain_folder()],
            entries: 0,
            metadata: 0,
            steps_left: MAX_STEPS,
        }
    }
}

impl Tree {
    pub fn root(&self) -> &Node {
        &self.root
    }

    pub fn inode(&self, index: usize) -> &Inode {
        &self.inodes[index]
    }

    pub fn inodes(&self) -> usize {
        self.inodes.len()
    }

    #[cfg(test)]
    pub fn with_steps(steps: u64) -> Self {
        Self {
            steps_left: steps,
            ..Self::default()
        }
    }

    /// Puts one entry of `layer` over what is there. Layers come lowest first.
    pub fn apply(&mut self, layer: LayerIndex, entry: Entry) -> Result<(), TreeError> {
        self.account(&entry)?;
        let refuse = |why| TreeError::Entry {
            name: name_of(&entry.path),
            why,
        };
        let Some((name, parents)) = entry.path.components().split_last() else {
            if entry.kind != Kind::Folder {
                return Err(refuse("the root can only be a folder"));
            }
            self.inodes[0].attributes = entry.attributes;
            return Ok(());
        };
        if name.starts_with(WHITEOUT) {
            return self.hide(layer, parents, name, &entry.path);
        }
        let inode = match &entry.kind {
            Kind::HardLink(target) => self.linked(target)?,
            _ => self.add_inode(layer, &entry),
        };
        let folder = self
            .resolve(parents, Some(layer))?
            .ok_or_else(|| refuse("its folder cannot be made"))?;
        if folder.len() >= limits::DEPTH {
            return Err(refuse("it is more than 256 folders deep"));
        }
        // A short name may lead far through symbolic links.
        let true_name: usize = folder.iter().map(|part| part.len() + 1).sum();
        if true_name + name.len() > limits::PATH {
            return Err(refuse(
                "the name that it really has is longer than 4096 bytes",
            ));
        }
        let is_folder = entry.kind == Kind::Folder;
        let was_folder =
            |inodes: &[Inode], node: &Node| inodes[node.inode].content == Content::Folder;
        let (parent, inodes) = self.folder(&folder);
        match parent.children.get_mut(name) {
            // A folder over a folder keeps what is in it.
            Some(node) if is_folder && was_folder(inodes, node) => {
                (node.inode, node.layer) = (inode, layer);
            }
            _ => {
                let node = Node {
                    inode,
                    layer,
                    children: BTreeMap::new(),
                };
                parent.children.insert(name.clone(), node);
            }
        }
        Ok(())
    }

    fn account(&mut self, entry: &Entry) -> Result<(), TreeError> {
        self.entries += 1;
        if self.entries > limits::ENTRIES {
            return Err(TreeError::Entries);
        }
        let path: usize = entry.path.components().iter().map(|part| part.len()).sum();
        let link = match &entry.kind {
            Kind::Symlink(target) => target.len(),
            _ => 0,
        };
        let xattrs: usize = entry
            .attributes
            .xattrs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        self.metadata += (path + link + xattrs) as u64;
        if self.metadata > limits::METADATA {
            return Err(TreeError::Metadata);
        }
        Ok(())
    }

    fn hide(
        &mut self,
        layer: LayerIndex,
        parents: &[Name],
        name: &Name,
        path: &ImagePath,
    ) -> Result<(), TreeError> {
        let hidden = &name[WHITEOUT.len()..];
        if &**name != OPAQUE && name.starts_with(AUFS) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(TreeError::Entry {
                name: name_of(path),
                why: "it hides nothing that can be",
            });
        }
        let Some(folder) = self.resolve(parents, None)? else {
            return Ok(());
        };
        let mut steps = 0;
        let (parent, _) = self.folder(&folder);
        if &**name == OPAQUE {
            keep_only(&mut parent.children, layer, &mut steps);
        } else if let Some(node) = parent.children.get_mut(hidden) {
            keep_only(&mut node.children, layer, &mut steps);
            if node.layer != layer && node.children.is_empty() {
                parent.children.remove(hidden);
            }
        }
        self.walk(steps)
    }

    /// The inode that a hard link names. It may be of a lower layer.
    fn linked(&mut self, target: &ImagePath) -> Result<usize, TreeError> {
        let refuse = |why| TreeError::Entry {
            name: name_of(target),
            why,
        };
        let (name, parents) = target
            .components()
            .split_last()
            .ok_or_else(|| refuse("a hard link cannot name the root"))?;
        let absent = || refuse("a hard link names it, and it is not there");
        let folder = self.resolve(parents, None)?.ok_or_else(absent)?;
        let (parent, inodes) = self.folder(&folder);
        let inode = parent.children.get(name).ok_or_else(absent)?.inode;
        if inodes[inode].content == Content::Folder {
            return Err(refuse("a hard link names it, and it is a folder"));
        }
        Ok(inode)
    }

    fn add_inode(&mut self, layer: LayerIndex, entry: &Entry) -> usize {
        let content = match &entry.kind {
            Kind::File => Content::File {
                layer,
                entry: entry.index,
                size: entry.size,
            },
            Kind::Symlink(target) => Content::Symlink(target.clone()),
            Kind::Character(major, minor) => Content::Character(*major, *minor),
            Kind::Block(major, minor) => Content::Block(*major, *minor),
            Kind::Fifo => Content::Fifo,
            Kind::Folder | Kind::HardLink(_) => Content::Folder,
        };
        self.inodes.push(Inode {
            content,
            attributes: entry.attributes.clone(),
        });
        self.inodes.len() - 1
    }

    /// Follows `parents` to the true name of a folder. With `make`, folders that are not there are
    /// made for that layer; else they give `None`.
    fn resolve(
        &mut self,
        parents: &[Name],
        make: Option<LayerIndex>,
    ) -> Result<Option<Vec<Name>>, TreeError> {
        let mut ahead: VecDeque<Name> = parents.iter().cloned().collect();
        let mut at: Vec<Name> = Vec::new();
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            self.walk(1 + at.len() as u64)?;
            match &*name {
                b"" | b"." => continue,
                // Above the root is the root.
                b".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let refuse = |why| TreeError::Entry {
                name: show(&name),
                why,
            };
            let (folder, inodes) = self.folder(&at);
            match folder
                .children
                .get(&name)
                .map(|node| &inodes[node.inode].content)
            {
                Some(Content::Folder) => at.push(name),
                Some(Content::Symlink(target)) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(refuse("its symbolic links lead to too many others"));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    for part in target.split(|b| *b == b'/').rev() {
                        ahead.push_front(part.into());
                    }
                }
                Some(_) => return Err(refuse("it is no folder, and something is to be in it")),
                None => {
                    let Some(layer) = make else { return Ok(None) };
                    if at.len() >= limits::DEPTH || name.len() > limits::NAME {
                        return Err(refuse("it is too deep, or its name too long"));
                    }
                    self.make_folder(&at, name.clone(), layer)?;
                    at.push(name);
                }
            }
        }
        Ok(Some(at))
    }

    fn make_folder(&mut self, at: &[Name], name: Name, layer: LayerIndex) -> Result<(), TreeError> {
        // Counts like an entry: a deep name makes many.
        self.entries += 1;
        if self.entries > limits::ENTRIES {
            return Err(TreeError::Entries);
        }
        self.inodes.push(plain_folder());
        let inode = self.inodes.len() - 1;
        let (folder, _) = self.folder(at);
        folder.children.insert(
            name,
            Node {
                inode,
                layer,
                children: BTreeMap::new(),
            },
        );
        Ok(())
    }

    fn walk(&mut self, steps: u64) -> Result<(), TreeError> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(TreeError::Steps)?;
        Ok(())
    }

    /// The folder of a true name that [`Self::resolve`] gave.
    fn folder(&mut self, at: &[Name]) -> (&mut Node, &[Inode]) {
        let mut node = &mut self.root;
        for name in at {
            node = node
                .children
                .get_mut(name)
                .expect("resolve gives names that are there");
        }
        (node, &self.inodes)
    }
}

/// Drops what layers other than `layer` put here, except for folders that hold something of it.
fn keep_only(children: &mut BTreeMap<Name, Node>, layer: LayerIndex, steps: &mut u64) {
    children.retain(|_, node| {
        *steps += 1;
        keep_only(&mut node.children, layer, steps);
        node.layer == layer || !node.children.is_empty()
    });
}

fn plain_folder() -> Inode {
    Inode {
        content: Content::Folder,
        attributes: Attributes {
            mode: 0o755,
            ..Attributes::default()
        },
    }
}

fn name_of(path: &ImagePath) -> String {
    show(&path.components().join(&b'/'))
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
