//! [`Plan`]: where everything of an image is, before any of it is written.

use super::{
    TooLarge, directory,
    format::{BLOCK, INODE, Kind, ROOT, SLOT},
    live::Live,
    slots::Slots,
    stored::{Shape, Stored},
    xattrs,
};
use crate::image::tree::{Content, Inode, LayerIndex, Node, Tree};

/// Holds of each inode a few numbers and no names: those of deep trees are together many times larger than the
/// tree.
#[derive(Debug)]
pub struct Plan<'a> {
    pub(super) tree: &'a Tree,
    /// By the tree's numbers of inodes. Those that no name leads to any more have none.
    pub(super) places: Vec<Place<'a>>,
    /// The tree's numbers of inodes, in the order in which they are in the image.
    pub(super) order: Vec<u32>,
    /// Those of which the data is in blocks behind all inodes, in the order of these.
    pub(super) apart: Vec<u32>,
    /// The first of these blocks.
    pub(super) first_apart: u32,
    /// The first block of files' data.
    first_data: u32,
    /// By layer.
    live: Vec<Live>,
    blocks: u32,
    pub(super) has_chunks: bool,
}

/// Of one inode.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Place<'a> {
    /// In the image; 0 if it is not there.
    pub number: u32,
    pub links: u32,
    /// Of its data, if that is apart; counted from the first such.
    pub block: u32,
    pub folder: Option<Folder<'a>>,
}

/// What is in a folder, and which inode of the tree it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Folder<'a> {
    pub node: &'a Node,
    pub parent: usize,
}

/// What an inode has beside itself and its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing, or the blocks of a file.
    None,
    /// So many bytes behind it, and the whole blocks of a file.
    Inline(u64),
    /// So many bytes in blocks of its own.
    Apart(u64),
    /// A map of so many chunks behind it.
    Map(u64),
}

impl<'a> Plan<'a> {
    /// `layers`: how many blocks of data were put aside of each.
    pub fn new(tree: &'a Tree, layers: &[u32]) -> Result<Self, TooLarge> {
        let mut draft = Draft {
            tree,
            places: vec![Place::default(); tree.inodes()],
            order: Vec::new(),
            apart: Vec::new(),
            blocks_apart: 0,
            slots: Slots::from(1),
            files: vec![Vec::new(); layers.len()],
            has_chunks: false,
        };
        let root = tree.root();
        draft.place(root, root.inode)?;
        draft.walk(root)?;
        debug_assert_eq!(draft.places[root.inode].number, ROOT);
        let Draft {
            places,
            mut order,
            apart,
            files,
            has_chunks,
            ..
        } = draft;
        order.sort_unstable_by_key(|inode| places[*inode as usize].number);
        let block = |number: u64| u32::try_from(number).map_err(|_| TooLarge("blocks"));
        let first_apart = block(draft.slots.blocks())?;
        let first_data = block(draft.slots.blocks() + draft.blocks_apart)?;
        let mut end = first_data;
        let mut live = Vec::with_capacity(layers.len());
        for (files, all) in files.into_iter().zip(layers) {
            let layer = Live::new(files, *all, end)?;
            end = block(u64::from(end) + layer.blocks())?;
            live.push(layer);
        }
        Ok(Self {
            tree,
            places,
            order,
            apart,
            first_apart,
            first_data,
            live,
            blocks: end,
            has_chunks,
        })
    }

    /// Bytes of all that is before the files' data.
    pub fn metadata(&self) -> u64 {
        u64::from(self.first_data) * BLOCK
    }

    /// Of the whole image.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Which of the layers' data is in it, by layer.
    pub fn live(&self) -> &[Live] {
        &self.live
    }

    /// Where the image has a block of a layer.
    pub(super) fn data(&self, layer: LayerIndex, block: u32) -> u32 {
        self.live[usize::from(layer)].in_image(block)
    }
}

struct Draft<'a> {
    tree: &'a Tree,
    places: Vec<Place<'a>>,
    order: Vec<u32>,
    apart: Vec<u32>,
    blocks_apart: u64,
    slots: Slots,
    /// By layer: first block and number of blocks of each.
    files: Vec<Vec<(u32, u32)>>,
    has_chunks: bool,
}

impl<'a> Draft<'a> {
    /// All below a folder that has its place. What is in one folder is near together.
    fn walk(&mut self, folder: &'a Node) -> Result<(), TooLarge> {
        for node in folder.children.values() {
            self.place(node, folder.inode)?;
        }
        let is_folder = |node: &&Node| self.tree.inode(node.inode).content == Content::Folder;
        let folders: Vec<&Node> = folder.children.values().filter(is_folder).collect();
        folders.into_iter().try_for_each(|node| self.walk(node))
    }

    /// The inode of a name in `parent`. Its first name gives it its place.
    fn place(&mut self, node: &'a Node, parent: usize) -> Result<(), TooLarge> {
        let inode = self.tree.inode(node.inode);
        let place = &mut self.places[node.inode];
        place.links += 1;
        if place.number > 0 {
            return Ok(());
        }
        if inode.content == Content::Folder {
            // Its own `.`; and its `..` is a name of the folder that it is in, which the root is itself.
            place.links = 2;
            place.folder = Some(Folder { node, parent });
            if node.inode != parent {
                self.places[parent].links += 1;
            }
        }
        let body = body(inode, self.places[node.inode].folder);
        let size = match body {
            Body::None | Body::Apart(_) => head(inode),
            Body::Inline(bytes) => head(inode) + bytes,
            Body::Map(chunks) => head(inode) + chunks * 4,
        };
        self.has_chunks |= matches!(body, Body::Map(_));
        let number = |at: u64| u32::try_from(at / SLOT).map_err(|_| TooLarge("inodes"));
        let number = number(self.slots.place(size))?;
        let place = &mut self.places[node.inode];
        place.number = number;
        // As many as the tree has: far below.
        let index = u32::try_from(node.inode).map_err(|_| TooLarge("inodes"))?;
        self.order.push(index);
        if let Body::Apart(bytes) = body {
            place.block =
                u32::try_from(self.blocks_apart).map_err(|_| TooLarge("blocks of folders"))?;
            self.blocks_apart += bytes.div_ceil(BLOCK);
            self.apart.push(index);
        }
        let Content::File { layer, data, .. } = inode.content else {
            return Ok(());
        };
        if let Stored {
            first,
            blocks: blocks @ 1..,
            ..
        } = data
        {
            self.files[usize::from(layer)].push((first, blocks));
        }
        Ok(())
    }
}

/// Bytes of an inode and its attributes.
pub(super) fn head(inode: &Inode) -> u64 {
    INODE + xattrs::size(&inode.attributes.xattrs)
}

pub(super) fn body(inode: &Inode, folder: Option<Folder<'_>>) -> Body {
    let short_or_apart = |bytes: u64| {
        if head(inode) + bytes <= BLOCK {
            Body::Inline(bytes)
        } else {
            Body::Apart(bytes)
        }
    };
    match &inode.content {
        Content::Folder => short_or_apart(folder.map_or(0, |folder| {
            let names = folder.node.children.keys().map(|name| (&**name, ()));
            directory::size(directory::in_order((), (), names).map(|(name, ())| name.len()))
        })),
        Content::Symlink(target) => short_or_apart(target.len() as u64),
        Content::File { size, data, .. } => match data.shape {
            Shape::Plain => Body::None,
            Shape::Tail { .. } => Body::Inline(size % BLOCK),
            Shape::Holes(holes) => Body::Map(size.div_ceil(BLOCK << holes.chunk)),
        },
        Content::Character(..) | Content::Block(..) | Content::Fifo => Body::None,
    }
}

pub(super) fn kind(content: &Content) -> Kind {
    match content {
        Content::Folder => Kind::Folder,
        Content::File { .. } => Kind::File,
        Content::Symlink(_) => Kind::Symlink,
        Content::Character(..) => Kind::Character,
        Content::Block(..) => Kind::Block,
        Content::Fifo => Kind::Fifo,
    }
}
