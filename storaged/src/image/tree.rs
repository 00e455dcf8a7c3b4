//! Layers, one over another, as a tree of names (OCI image specification, `layer.md`).
//!
//! Whiteouts hide what lower layers put there, never what their own layer adds, in whatever order
//! the archive has them. Names whose folders are symbolic links are followed inside the tree, as
//! `containerd` does; nothing outside of the tree exists for them.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::{
    erofs::stored::Stored,
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
/// What aufs kept for itself; never part of an image. But hard links may name what is in it, as its
/// files with several names were in a folder of its own (`.wh..wh.plnk`).
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
    #[error("`{0}`: with it, the layers' files are longer than {limit} bytes in all, holes included", limit = limits::UNPACKED)]
    Data(String),
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
    /// Bytes of files.
    data: u64,
    steps_left: u64,
    /// Of the layer that is being applied: whiteouts in what is a symbolic link of a lower layer, until
    /// it shows whether this layer has a folder in the link's place.
    through_links: Vec<ImagePath>,
    /// Of the same layer: what aufs kept for itself.
    aufs: HashMap<ImagePath, usize>,
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
    File {
        layer: LayerIndex,
        size: u64,
        /// Where it is of what the layer has.
        data: Stored,
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
            data: 0,
            steps_left: MAX_STEPS,
            through_links: Vec::new(),
            aufs: HashMap::new(),
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

    /// Puts one entry of `layer` over what is there; `data` is a file's. Layers come lowest first, each ended
    /// by [`Self::finish_layer`].
    pub fn apply(
        &mut self,
        layer: LayerIndex,
        entry: Entry,
        data: Stored,
    ) -> Result<(), TreeError> {
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
        if is_aufs(&entry.path) {
            return self.keep_for_links(layer, entry, data);
        }
        if name.starts_with(WHITEOUT) {
            return self.hide(layer, entry.path);
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(refuse("a folder cannot have a whiteout's name"));
        }
        let inode = match &entry.kind {
            Kind::HardLink(target) => self.linked(layer, target)?,
            _ => self.add_inode(layer, &entry, data),
        };
        let folder = match self.resolve(parents, layer, Absent::Made)? {
            Resolved::Folder { name, .. } => name,
            Resolved::Absent => return Err(refuse("its folder cannot be made")),
            Resolved::NoFolder(why) => return Err(why),
        };
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

    /// After the last entry of `layer`.
    pub fn finish_layer(&mut self, layer: LayerIndex) -> Result<(), TreeError> {
        self.aufs = HashMap::new();
        for whiteout in std::mem::take(&mut self.through_links) {
            if let Some((folder, _)) = self.hidden_in(layer, &whiteout)? {
                self.hide_in(layer, &folder, &whiteout)?;
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
        // What a file with holes claims is no more than a number in the archive.
        self.data = self.data.saturating_add(entry.size);
        if self.data > limits::UNPACKED {
            return Err(TreeError::Data(name_of(&entry.path)));
        }
        Ok(())
    }

    fn keep_for_links(
        &mut self,
        layer: LayerIndex,
        entry: Entry,
        data: Stored,
    ) -> Result<(), TreeError> {
        let inode = match &entry.kind {
            Kind::Folder => return Ok(()),
            Kind::HardLink(target) => self.linked(layer, target)?,
            _ => self.add_inode(layer, &entry, data),
        };
        self.aufs.insert(entry.path, inode);
        Ok(())
    }

    fn hide(&mut self, layer: LayerIndex, whiteout: ImagePath) -> Result<(), TreeError> {
        let name = whiteout.components().last();
        let hidden = name.map_or(&b""[..], |name| &name[WHITEOUT.len()..]);
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(TreeError::Entry {
                name: name_of(&whiteout),
                why: "it hides nothing that can be",
            });
        }
        match self.hidden_in(layer, &whiteout)? {
            Some((_, true)) => self.through_links.push(whiteout),
            Some((folder, false)) => self.hide_in(layer, &folder, &whiteout)?,
            None => {}
        }
        Ok(())
    }

    /// The true name of the folder that a whiteout is about, if there is one, and whether a symbolic
    /// link of a lower layer leads there.
    fn hidden_in(
        &mut self,
        layer: LayerIndex,
        whiteout: &ImagePath,
    ) -> Result<Option<(Vec<Name>, bool)>, TreeError> {
        let parents = whiteout
            .components()
            .split_last()
            .map(|(_, parents)| parents);
        let found = self.resolve(parents.unwrap_or_default(), layer, Absent::Left)?;
        Ok(match found {
            Resolved::Folder {
                name,
                through_lower,
            } => Some((name, through_lower)),
            // There is nothing in it to hide.
            Resolved::Absent | Resolved::NoFolder(_) => None,
        })
    }

    fn hide_in(
        &mut self,
        layer: LayerIndex,
        folder: &[Name],
        whiteout: &ImagePath,
    ) -> Result<(), TreeError> {
        let Some(name) = whiteout.components().last() else {
            return Ok(());
        };
        let mut steps = 0;
        let (parent, inodes) = self.folder(folder);
        if &**name == OPAQUE {
            keep_only(&mut parent.children, inodes, layer, &mut steps);
        } else if let Some(node) = parent.children.get_mut(&name[WHITEOUT.len()..])
            && !keep(node, inodes, layer, &mut steps)
        {
            parent.children.remove(&name[WHITEOUT.len()..]);
        }
        self.walk(steps)
    }

    /// The inode that a hard link names. It may be of a lower layer.
    fn linked(&mut self, layer: LayerIndex, target: &ImagePath) -> Result<usize, TreeError> {
        let refuse = |why| TreeError::Entry {
            name: name_of(target),
            why,
        };
        let (name, parents) = target
            .components()
            .split_last()
            .ok_or_else(|| refuse("a hard link cannot name the root"))?;
        let absent = || {
            refuse(
                "a hard link names it, and it is not there; a file comes before its further names",
            )
        };
        if is_aufs(target) {
            return self.aufs.get(target).copied().ok_or_else(absent);
        }
        let Resolved::Folder { name: folder, .. } = self.resolve(parents, layer, Absent::Left)?
        else {
            return Err(absent());
        };
        let (parent, inodes) = self.folder(&folder);
        let inode = parent.children.get(name).ok_or_else(absent)?.inode;
        if inodes[inode].content == Content::Folder {
            return Err(refuse("a hard link names it, and it is a folder"));
        }
        Ok(inode)
    }

    fn add_inode(&mut self, layer: LayerIndex, entry: &Entry, data: Stored) -> usize {
        let content = match &entry.kind {
            Kind::File => Content::File {
                layer,
                size: entry.size,
                data,
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

    /// Follows `parents` to the true name of a folder, for an entry of `layer`.
    fn resolve(
        &mut self,
        parents: &[Name],
        layer: LayerIndex,
        absent: Absent,
    ) -> Result<Resolved, TreeError> {
        let mut ahead: VecDeque<Name> = parents.iter().cloned().collect();
        let mut at: Vec<Name> = Vec::new();
        let mut through_lower = false;
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
                .map(|node| (node, &inodes[node.inode].content))
            {
                Some((_, Content::Folder)) => at.push(name),
                Some((node, Content::Symlink(target))) => {
                    through_lower |= node.layer != layer;
                    links += 1;
                    if links > MAX_LINKS {
                        let why = refuse("its symbolic links lead to too many others");
                        return Ok(Resolved::NoFolder(why));
                    }
                    if target.starts_with(b"/") {
                        at.clear();
                    }
                    for part in target.split(|b| *b == b'/').rev() {
                        ahead.push_front(part.into());
                    }
                }
                Some(_) => {
                    let why = refuse("it is no folder, and something is to be in it");
                    return Ok(Resolved::NoFolder(why));
                }
                None if absent == Absent::Left => return Ok(Resolved::Absent),
                None => {
                    if at.len() >= limits::DEPTH || name.len() > limits::NAME {
                        return Err(refuse("it is too deep, or its name too long"));
                    }
                    self.make_folder(&at, name.clone(), layer)?;
                    at.push(name);
                }
            }
        }
        Ok(Resolved::Folder {
            name: at,
            through_lower,
        })
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
    fn folder(&mut self, at: &[Name]) -> (&mut Node, &mut [Inode]) {
        let mut node = &mut self.root;
        for name in at {
            node = node
                .children
                .get_mut(name)
                .expect("resolve gives names that are there");
        }
        (node, &mut self.inodes)
    }
}

/// What becomes of folders that a name leads through and that are not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    Left,
    Made,
}

enum Resolved {
    Folder {
        name: Vec<Name>,
        /// A symbolic link that a lower layer has put there leads to it.
        through_lower: bool,
    },
    Absent,
    /// Something else is in its place, or links without an end: why that is wrong if the folder must be
    /// there.
    NoFolder(TreeError),
}

/// Drops what layers other than `layer` put here, except for folders that hold something of it.
fn keep_only(
    children: &mut BTreeMap<Name, Node>,
    inodes: &mut [Inode],
    layer: LayerIndex,
    steps: &mut u64,
) {
    children.retain(|_, node| keep(node, inodes, layer, steps));
}

/// Whether something hidden stays, as its own layer put it here or something in it.
fn keep(node: &mut Node, inodes: &mut [Inode], layer: LayerIndex, steps: &mut u64) -> bool {
    *steps += 1;
    keep_only(&mut node.children, inodes, layer, steps);
    if node.layer != layer && !node.children.is_empty() {
        // The folder itself is hidden, and made anew for what its own layer has in it, as it would have
        // been had the whiteout come first.
        inodes[node.inode] = plain_folder();
        node.layer = layer;
    }
    node.layer == layer
}

fn is_aufs(path: &ImagePath) -> bool {
    let is_aufs = |part: &Name| part.starts_with(AUFS) && **part != *OPAQUE;
    path.components().iter().any(is_aufs)
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
