//! The unified kernel image: systemd's EFI stub with the kernel, its initrd and its command line
//! as sections (UAPI specification "Unified Kernel Image").

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
    let mut image = Pe::parse(stub.to_vec()).context("the EFI stub")?;
    image.add(".osrel", contents.os_release.as_bytes(), None)?;
    image.add(".cmdline", contents.command_line.as_bytes(), None)?;
    image.add(".uname", contents.uname.as_bytes(), None)?;
    image.add(".initrd", contents.initrd, None)?;
    // The stub runs the kernel where the firmware has put it, so there must be room for what the
    // kernel's own header asks beyond its file.
    let room = Pe::parse(contents.linux.to_vec())
        .context("the kernel")?
        .image_size()?;
    image.add(".linux", contents.linux, Some(room))?;
    Ok(image.bytes)
}

struct Pe {
    bytes: Vec<u8>,
    /// Where `PE\0\0` is.
    start: usize,
}

impl Pe {
    fn parse(bytes: Vec<u8>) -> Result<Self> {
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

    /// Adds a section behind the last one; in memory it gets `room` bytes if that is more.
    fn add(&mut self, name: &str, data: &[u8], room: Option<u32>) -> Result<()> {
        ensure!(name.len() <= 8, "a section's name has eight bytes at most");
        ensure!(
            self.optional(CERTIFICATES)? == 0,
            "the file is signed already"
        );
        let count = usize::from(self.u16(self.start + SECTION_COUNT)?);
        let table = self.start + OPTIONAL + usize::from(self.u16(self.start + OPTIONAL_SIZE)?);
        let header = table + count * SECTION_HEADER;
        if header + SECTION_HEADER > self.optional(HEADERS_SIZE)? as usize {
            bail!("no room for the header of {name}");
        }
        let memory = u32::try_from(data.len()).context("a section of 4 GiB or more")?;
        let memory = memory.max(room.unwrap_or(0));
        let section_alignment = self.optional(SECTION_ALIGNMENT)?;
        let file_alignment = self.optional(FILE_ALIGNMENT)? as usize;

        let address = self
            .end_in_memory(table, count)?
            .next_multiple_of(section_alignment);
        let offset = self.bytes.len().next_multiple_of(file_alignment);
        let length = data.len().next_multiple_of(file_alignment);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(data);
        self.bytes.resize(offset + length, 0);

        let mut fields = [0; SECTION_HEADER];
        fields[..name.len()].copy_from_slice(name.as_bytes());
        let code = name == ".linux";
        let kind = if code {
            CODE | EXECUTE | READ
        } else {
            INITIALIZED_DATA | READ
        };
        for (at, value) in [
            (8, memory),
            (12, address),
            (16, u32::try_from(length)?),
            (20, u32::try_from(offset)?),
            (36, kind),
        ] {
            fields[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        self.bytes[header..header + SECTION_HEADER].copy_from_slice(&fields);

        let count = u16::try_from(count + 1)?;
        let at = self.start + SECTION_COUNT;
        self.bytes[at..at + 2].copy_from_slice(&count.to_le_bytes());
        let total = if code { CODE_SIZE } else { DATA_SIZE };
        self.set_optional(total, self.optional(total)? + u32::try_from(length)?);
        let end = address
            .checked_add(memory)
            .context("an image of 4 GiB or more")?;
        self.set_optional(IMAGE_SIZE, end.next_multiple_of(section_alignment));
        // No firmware checks it for applications; a stale one would be wrong, none is not.
        self.set_optional(CHECKSUM, 0);
        Ok(())
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

    fn set_optional(&mut self, at: usize, value: u32) {
        let at = self.start + OPTIONAL + at;
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
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
mod tests {
    use super::*;

    /// The least PE32+ file that has one section.
    fn pe(image_size: u32) -> Vec<u8> {
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
        let pe = Pe::parse(image).unwrap();
        let table = pe.start + OPTIONAL + 240;
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
            if names[section] == ".cmdline" {
                assert_eq!((&pe.bytes[start..start + 5], field(8)), (&b"quiet"[..], 5));
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
}
