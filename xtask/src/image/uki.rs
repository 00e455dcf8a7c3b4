//! The unified kernel image: systemd's EFI stub with the kernel, its initrd and its command line
//! as sections (UAPI specification "Unified Kernel Image").

use std::ops::Range;

use anyhow::{Context, Result, bail, ensure};

/// Offsets in a PE32+ file (Microsoft's "PE Format"): of the COFF header, counted from `PE\0\0`.
const SECTION_COUNT: usize = 6;
const OPTIONAL_SIZE: usize = 20;
const OPTIONAL: usize = 24;
/// Offsets in the optional header.
const CODE_SIZE: usize = 4;
const DATA_SIZE: usize = 8;
const SECTION_ALIGNMENT: usize = 32;
const FILE_ALIGNMENT: usize = 36;
const IMAGE_SIZE: usize = 56;
const HEADERS_SIZE: usize = 60;
const CHECKSUM: usize = 64;
/// The entry for signatures in the data directories.
const CERTIFICATES: usize = 112 + 4 * 8;
const SECTION_HEADER: usize = 40;

const CODE: u32 = 0x20;
const INITIALIZED_DATA: u32 = 0x40;
const EXECUTE: u32 = 0x2000_0000;
const READ: u32 = 0x4000_0000;

/// Sections begin here in the file: at a sector of a CD, so that a medium can name kernel and initrd by where they
/// lie, and needs no second copy of them for machines without UEFI.
pub const ALIGNMENT: usize = 2048;

pub const OS_RELEASE: &str = ".osrel";
pub const COMMAND_LINE: &str = ".cmdline";
pub const UNAME: &str = ".uname";
pub const INITRD: &str = ".initrd";
pub const LINUX: &str = ".linux";

/// What goes into the stub.
#[derive(Debug)]
pub struct Contents<'a> {
    pub os_release: &'a str,
    pub command_line: &'a str,
    /// The kernel's release.
    pub uname: &'a str,
    pub initrd: &'a [u8],
    /// A bzImage with its own EFI header.
    pub linux: &'a [u8],
}

/// Appends the sections to `stub`.
pub fn assemble(stub: &[u8], contents: &Contents<'_>) -> Result<Vec<u8>> {
    let mut image = stub.to_vec();
    let mut add = |name, data, room| add(&mut image, name, data, room);
    add(OS_RELEASE, contents.os_release.as_bytes(), None)?;
    add(COMMAND_LINE, contents.command_line.as_bytes(), None)?;
    add(UNAME, contents.uname.as_bytes(), None)?;
    add(INITRD, contents.initrd, None)?;
    // The stub runs the kernel where the firmware has put it, so there must be room for what the
    // kernel's own header asks beyond its file.
    let room = Pe::parse(contents.linux)
        .context("the kernel")?
        .image_size()?;
    add(LINUX, contents.linux, Some(room))?;
    Ok(image)
}

/// Where in the file the section of this name is, without what is there for the next one's alignment alone.
pub fn section(image: &[u8], name: &str) -> Result<Range<usize>> {
    let pe = Pe::parse(image)?;
    let (table, count) = pe.table()?;
    let mut headers = (0..count).map(|section| table + section * SECTION_HEADER);
    let header = headers
        .find(|header| {
            let field = image.get(*header..header + 8).unwrap_or_default();
            field
                .strip_prefix(name.as_bytes())
                .is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
        })
        .with_context(|| format!("no section {name}"))?;
    let (memory, length) = (pe.u32(header + 8)?, pe.u32(header + 16)?);
    let start = pe.u32(header + 20)? as usize;
    let section = start..start + length.min(memory) as usize;
    ensure!(section.end <= image.len(), "{name} is cut off");
    Ok(section)
}

/// The section's text.
pub fn text<'a>(image: &'a [u8], name: &str) -> Result<&'a str> {
    str::from_utf8(&image[section(image, name)?]).with_context(|| format!("{name} is no text"))
}

/// Adds a section behind the last one; in memory it gets `room` bytes if that is more.
fn add(image: &mut Vec<u8>, name: &str, data: &[u8], room: Option<u32>) -> Result<()> {
    ensure!(name.len() <= 8, "a section's name has eight bytes at most");
    let pe = Pe::parse(&image[..]).context("the EFI stub")?;
    ensure!(
        pe.optional(CERTIFICATES)? == 0,
        "the file is signed already"
    );
    let (table, count) = pe.table()?;
    let header = table + count * SECTION_HEADER;
    if header + SECTION_HEADER > pe.optional(HEADERS_SIZE)? as usize {
        bail!("no room for the header of {name}");
    }
    let memory = u32::try_from(data.len()).context("a section of 4 GiB or more")?;
    let memory = memory.max(room.unwrap_or(0));
    let section_alignment = pe.optional(SECTION_ALIGNMENT)?;
    let file_alignment = pe.optional(FILE_ALIGNMENT)? as usize;
    let code = name == LINUX;
    let kind = if code {
        CODE | EXECUTE | READ
    } else {
        INITIALIZED_DATA | READ
    };
    let total_at = if code { CODE_SIZE } else { DATA_SIZE };
    let total = pe.optional(total_at)?;
    let address = pe
        .end_in_memory(table, count)?
        .next_multiple_of(section_alignment);
    let end = address
        .checked_add(memory)
        .context("an image of 4 GiB or more")?;
    let start = pe.start;

    let offset = image.len().next_multiple_of(file_alignment.max(ALIGNMENT));
    let length = data.len().next_multiple_of(file_alignment);
    image.resize(offset, 0);
    image.extend_from_slice(data);
    image.resize(offset + length, 0);
    let length = u32::try_from(length)?;

    image[header..header + SECTION_HEADER].fill(0);
    image[header..header + name.len()].copy_from_slice(name.as_bytes());
    for (at, value) in [
        (header + 8, memory),
        (header + 12, address),
        (header + 16, length),
        (header + 20, u32::try_from(offset)?),
        (header + 36, kind),
        (start + OPTIONAL + total_at, total + length),
        (
            start + OPTIONAL + IMAGE_SIZE,
            end.next_multiple_of(section_alignment),
        ),
        // No firmware checks it for applications; a stale one would be wrong, none is not.
        (start + OPTIONAL + CHECKSUM, 0),
    ] {
        image[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }
    let count = u16::try_from(count + 1)?.to_le_bytes();
    let at = start + SECTION_COUNT;
    image[at..at + 2].copy_from_slice(&count);
    Ok(())
}

struct Pe<'a> {
    bytes: &'a [u8],
    /// Where `PE\0\0` is.
    start: usize,
}

impl<'a> Pe<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        ensure!(bytes.starts_with(b"MZ"), "this is no PE file");
        let mut pe = Self { bytes, start: 0 };
        pe.start = pe.u32(0x3c)? as usize;
        ensure!(
            pe.bytes.get(pe.start..pe.start + 4) == Some(b"PE\0\0"),
            "no PE header"
        );
        ensure!(pe.u16(pe.start + 4)? == 0x8664, "this is not for x86-64");
        ensure!(pe.u16(pe.start + OPTIONAL)? == 0x20b, "no PE32+ header");
        Ok(pe)
    }

    fn image_size(&self) -> Result<u32> {
        self.optional(IMAGE_SIZE)
    }

    /// Where the sections' headers are, and how many.
    fn table(&self) -> Result<(usize, usize)> {
        let count = usize::from(self.u16(self.start + SECTION_COUNT)?);
        let optional = usize::from(self.u16(self.start + OPTIONAL_SIZE)?);
        Ok((self.start + OPTIONAL + optional, count))
    }

    fn end_in_memory(&self, table: usize, count: usize) -> Result<u32> {
        let mut end = 0;
        for section in 0..count {
            let header = table + section * SECTION_HEADER;
            end = end.max(self.u32(header + 12)? + self.u32(header + 8)?);
        }
        Ok(end)
    }

    fn optional(&self, at: usize) -> Result<u32> {
        self.u32(self.start + OPTIONAL + at)
    }

    fn u16(&self, at: usize) -> Result<u16> {
        let bytes = self.bytes.get(at..at + 2).context("a cut PE file")?;
        Ok(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&self, at: usize) -> Result<u32> {
        let bytes = self.bytes.get(at..at + 4).context("a cut PE file")?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }
}

#[cfg(test)]
pub mod testing {
    use super::*;

    /// The least PE32+ file that has one section.
    pub fn pe(image_size: u32) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x40;
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0x40, b"PE\0\0");
        put(0x44, &0x8664_u16.to_le_bytes());
        put(0x40 + SECTION_COUNT, &1_u16.to_le_bytes());
        put(0x40 + OPTIONAL_SIZE, &240_u16.to_le_bytes());
        let optional = 0x40 + OPTIONAL;
        put(optional, &0x20b_u16.to_le_bytes());
        put(optional + SECTION_ALIGNMENT, &0x1000_u32.to_le_bytes());
        put(optional + FILE_ALIGNMENT, &0x200_u32.to_le_bytes());
        put(optional + IMAGE_SIZE, &image_size.to_le_bytes());
        put(optional + HEADERS_SIZE, &0x400_u32.to_le_bytes());
        put(optional + 240, b".text\0\0\0");
        put(optional + 240 + 8, &0x10_u32.to_le_bytes());
        put(optional + 240 + 12, &0x1000_u32.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::pe;
    use super::*;

    #[test]
    fn places_sections_where_the_stub_finds_them() {
        let kernel = pe(0x9000);
        let contents = Contents {
            os_release: "ID=loam\n",
            command_line: "quiet",
            uname: "6.12",
            initrd: &[7; 0x1800],
            linux: &kernel,
        };
        let image = assemble(&pe(0x2000), &contents).unwrap();
        assert_eq!(text(&image, COMMAND_LINE).unwrap(), "quiet");
        assert_eq!(image[section(&image, INITRD).unwrap()], [7; 0x1800]);
        assert!(image[section(&image, LINUX).unwrap()] == kernel);
        let pe = Pe::parse(&image).unwrap();
        let (table, count) = pe.table().unwrap();
        assert_eq!(count, 6);
        let mut next_address = 0;
        let mut names = Vec::new();
        for section in 0..6 {
            let header = table + section * SECTION_HEADER;
            let name = pe.bytes[header..header + 8].to_vec();
            names.push(
                String::from_utf8(name)
                    .unwrap()
                    .trim_end_matches('\0')
                    .to_owned(),
            );
            let field = |at| pe.u32(header + at).unwrap();
            assert_eq!(field(12) % 0x1000, 0);
            assert!(field(12) >= next_address, "sections do not overlap");
            next_address = field(12) + field(8);
            let (start, length) = (field(20) as usize, field(16) as usize);
            assert!(start.is_multiple_of(0x200) && start + length <= pe.bytes.len());
            if section > 0 {
                assert!(start.is_multiple_of(ALIGNMENT));
            }
        }
        assert_eq!(
            names,
            [".text", ".osrel", ".cmdline", ".uname", ".initrd", ".linux"]
        );
        assert!(pe.image_size().unwrap() >= next_address);
        assert!(
            next_address >= 0x9000,
            "the kernel has the room that its header asks for"
        );
    }

    #[test]
    fn refuses_what_is_no_kernel() {
        let contents = Contents {
            os_release: "",
            command_line: "",
            uname: "",
            initrd: &[],
            linux: b"ELF",
        };
        assert!(assemble(&pe(0x2000), &contents).is_err());
    }

    #[test]
    fn says_what_a_uki_lacks() {
        let stub = pe(0x2000);
        let lacks = |image: &[u8], name| section(image, name).unwrap_err().to_string();
        assert_eq!(lacks(&stub, LINUX), "no section .linux");
        assert_eq!(lacks(&stub, ".tex"), "no section .tex");
        assert!(lacks(b"\x7fELF", LINUX).contains("no PE file"));
        let mut image = stub;
        add(&mut image, INITRD, &[7; 0x400], None).unwrap();
        let cut = image.len() - 1;
        assert_eq!(lacks(&image[..cut], INITRD), ".initrd is cut off");
        add(&mut image, OS_RELEASE, b"\xff", None).unwrap();
        assert!(
            text(&image, OS_RELEASE)
                .unwrap_err()
                .to_string()
                .contains("no text")
        );
    }
}
