//! The archive format of an initramfs: cpio "newc"
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel).

use super::tree::{DATA, Entry, Tree};

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Of a member, before its name.
pub const HEADER: usize = 110;
pub const MAGIC: &[u8] = b"070701";
const TRAILER: &str = "TRAILER!!!";

/// The same tree gives the same bytes: everything belongs to root and dates from 1970.
pub fn archive(tree: &Tree) -> Vec<u8> {
    let mut out = Vec::new();
    for (inode, (path, entry)) in (1..).zip(tree.entries()) {
        match entry {
            Entry::Folder => member(&mut out, inode, S_IFDIR | 0o755, 2, path, &[]),
            Entry::File { mode, bytes } => member(&mut out, inode, S_IFREG | mode, 1, path, bytes),
            Entry::Symlink(target) => {
                member(&mut out, inode, S_IFLNK | 0o777, 1, path, target.as_bytes());
            }
        }
    }
    member(&mut out, 0, 0, 1, TRAILER, &[]);
    out
}

/// Of files alone, without the folders that hold them: the kernel reads them where they lie (`lib/earlycpio.c`), and
/// cannot unpack them, so that they take no memory of the node. Each file's bytes begin at a multiple of 16, as Intel's
/// processors want their updates; for that, names end in zeroes.
pub fn early(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const ALIGNMENT: usize = 16;
    let mut out = Vec::new();
    for (inode, (path, bytes)) in (1..).zip(files) {
        let start = (out.len() + HEADER + path.len() + 1).next_multiple_of(ALIGNMENT);
        let path = format!("{path:\0<width$}", width = start - 1 - HEADER - out.len());
        member(&mut out, inode, S_IFREG | DATA, 1, &path, bytes);
    }
    member(&mut out, 0, 0, 1, TRAILER, &[]);
    out
}

/// Pads to where the kernel may find the next archive of an initrd made of several.
pub fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn member(out: &mut Vec<u8>, inode: u32, mode: u32, links: u32, path: &str, data: &[u8]) {
    let fields = [
        inode,
        mode,
        0, // user
        0, // group
        links,
        0, // time
        // A newc member cannot exceed 4 GiB, and an image that nears it is wrong anyway.
        u32::try_from(data.len()).unwrap_or(u32::MAX),
        0, // device numbers, four fields
        0,
        0,
        0,
        path.len() as u32 + 1,
        0, // checksum, unused in this variant
    ];
    out.extend_from_slice(MAGIC);
    for field in fields {
        out.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    align(out);
    out.extend_from_slice(data);
    align(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The least of a reader: (path, mode, data).
    fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut members = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let hex = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
                u32::from_str_radix(hex, 16).unwrap() as usize
            };
            let (mode, size, name) = (field(1), field(6), field(11));
            let path = String::from_utf8(bytes[110..110 + name - 1].to_vec()).unwrap();
            let start = (110 + name).next_multiple_of(4);
            if path == "TRAILER!!!" {
                return members;
            }
            members.push((path, mode as u32, bytes[start..start + size].to_vec()));
            bytes = &bytes[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn early_files_lie_aligned_in_no_folder() {
        let (one, two) = (b"\x01one".repeat(1000), b"\x02two".to_vec());
        let bytes = early(&[("kernel/x86/one", one.clone()), ("k", two.clone())]);
        assert_eq!(bytes.len() % 4, 0);
        for data in [&one, &two] {
            let at = bytes.windows(data.len()).position(|part| part == data);
            assert_eq!(at.unwrap() % 16, 0);
        }
        let expected = [("kernel/x86/one", one), ("k", two)];
        let members = read(&bytes);
        assert_eq!(members.len(), 2);
        for ((path, mode, data), (name, bytes)) in members.into_iter().zip(expected) {
            assert_eq!((path.trim_end_matches('\0'), data), (name, bytes));
            assert_eq!(mode, 0o100_644);
        }
    }

    #[test]
    fn writes_what_a_reader_reads() {
        let mut tree = Tree::default();
        tree.file("/etc/a", 0o644, b"hello".to_vec());
        tree.symlink("/bin", "usr/bin");
        let bytes = archive(&tree);
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(
            read(&bytes),
            [
                ("bin".to_owned(), 0o120_777, b"usr/bin".to_vec()),
                ("etc".to_owned(), 0o040_755, vec![]),
                ("etc/a".to_owned(), 0o100_644, b"hello".to_vec()),
            ]
        );
    }
}
