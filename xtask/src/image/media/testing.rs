//! What the tests of media are made of.

use super::grub::Grub;
use crate::image::tree::{DATA, Tree};
use crate::image::{cpio, uki};

pub const COMMAND_LINE: &str = "console=tty0 console=ttyS0,115200 panic=10";

/// A small UKI, of 1.5 MB.
pub fn uki() -> Vec<u8> {
    uki_with(COMMAND_LINE)
}

pub fn uki_with(command_line: &str) -> Vec<u8> {
    let stub = uki::testing::pe(0x2000);
    let mut linux = uki::testing::pe(0x9000);
    linux.extend((0..500_001_u32).map(|n| (n / 3) as u8));
    linux[0x202..0x206].copy_from_slice(b"HdrS");
    let mut tree = Tree::default();
    let file = (0..1_000_000_u32).map(|n| (n / 7) as u8).collect();
    tree.file("etc/file", DATA, file);
    let contents = uki::Contents {
        os_release: "ID=loam\nBUILD_ID=0.1.0+g1234567\n",
        command_line,
        uname: "6.12",
        initrd: &cpio::archive(&tree),
        linux: &linux,
    };
    uki::assemble(&stub, &contents).unwrap()
}

/// Code that does nothing, of the sizes that GRUB's has.
pub fn grub() -> Grub {
    let core = |byte: u8| vec![byte; 150_001];
    Grub {
        boot: vec![1; 512],
        disk: core(2),
        stick: core(3),
        cd: core(4),
    }
}

/// Follows the block lists of GRUB's script in what it is read from.
#[track_caller]
pub fn assert_reads(script: &str, medium: &[u8], image: &[u8]) {
    for (command, section) in [("linux", uki::LINUX), ("initrd", uki::INITRD)] {
        let words: Vec<&str> = script.split_whitespace().collect();
        let at = words.iter().position(|word| *word == command).unwrap();
        let blocks = words[at + 1].strip_prefix("($root)").unwrap();
        let (first, count) = blocks.trim_end_matches(';').split_once('+').unwrap();
        let [first, count] = [first, count].map(|number| number.parse::<usize>().unwrap());
        let read = &medium[first * 512..(first + count) * 512];
        let section = &image[uki::section(image, section).unwrap()];
        assert!(read.starts_with(section), "{command}");
        // Behind it is nothing but what aligns the next one.
        assert!(read.len() - section.len() < 512);
        assert!(read[section.len()..].iter().all(|byte| *byte == 0));
    }
}
