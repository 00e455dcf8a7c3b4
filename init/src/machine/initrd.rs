//! The initramfs archive that a machine gets beside the guest's own: its configuration.
//!
//! Format `newc` of cpio, as `Documentation/driver-api/early-userspace/buffer-format.rst` has it.

/// What stands in an archive.
#[derive(Clone, Copy, Debug)]
enum Entry<'a> {
    Folder,
    /// Readable by root alone: it holds the tenant's secrets.
    File(&'a [u8]),
}

const FOLDER_MODE: u32 = 0o040_755;
const FILE_MODE: u32 = 0o100_600;
const TRAILER: &str = "TRAILER!!!";

/// An archive with one file at an absolute path, and the folders above it.
pub fn archive_of_file(path: &str, content: &[u8]) -> Vec<u8> {
    let path = path.trim_start_matches('/');
    let mut archive = Vec::with_capacity(content.len() + 1024);
    let mut inode = 1;
    for (end, _) in path.match_indices('/') {
        append(&mut archive, inode, &path[..end], Entry::Folder);
        inode += 1;
    }
    append(&mut archive, inode, path, Entry::File(content));
    append(&mut archive, 0, TRAILER, Entry::File(&[]));
    archive
}

fn append(archive: &mut Vec<u8>, inode: u32, name: &str, entry: Entry) {
    let trailer = name == TRAILER;
    let (mode, links, content) = match entry {
        Entry::Folder => (FOLDER_MODE, 2, &[][..]),
        Entry::File(_) if trailer => (0, 1, &[][..]),
        Entry::File(content) => (FILE_MODE, 1, content),
    };
    let fields = [
        inode,
        mode,
        0, // user
        0, // group
        links,
        0, // modified
        content.len() as u32,
        0, // device, major and minor
        0,
        0, // device that it stands for, major and minor
        0,
        name.len() as u32 + 1,
        0, // checksum: none in this format
    ];
    archive.extend_from_slice(b"070701");
    for field in fields {
        archive.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

/// Headers and contents start at multiples of 4.
fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_what_the_kernel_reads() {
        let archive = archive_of_file("/loam/guest.json", b"{}x");
        let text = String::from_utf8_lossy(&archive);
        assert_eq!(archive.len() % 4, 0);
        assert!(
            text.starts_with(
                "070701\
             00000001000041ED0000000000000000000000020000000000000000\
             00000000000000000000000000000000000000050000000\
             0loam\0"
            ),
            "{text}"
        );
        let file = "070701\
             00000002000081800000000000000000000000010000000000000003\
             0000000000000000000000000000000000000010\
             00000000loam/guest.json\0\0\0{}x\0";
        assert!(text.contains(file), "{text}");
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }

    #[test]
    fn every_part_is_aligned() {
        for length in 0..9 {
            let content = vec![b'x'; length];
            let archive = archive_of_file("/a/b/c", &content);
            let text = String::from_utf8_lossy(&archive);
            let starts: Vec<_> = text.match_indices("070701").map(|(at, _)| at % 4).collect();
            assert_eq!(starts, [0, 0, 0, 0]);
        }
    }
}
