//! What the kernel runs when it needs a module itself (a file system, a cipher, an nftables
//! expression): `/init -q -- <name>`, set in `kernel.modprobe`. There is no other modprobe here.

use std::{path::Path, process::ExitCode};

use loam_init::module::{Loader, ModuleIndex};

use crate::coldplug::modules_folder;

/// Loads what is named after `--`. Quiet: whoever asked the kernel gets its answer.
pub fn run(arguments: impl Iterator<Item = String>) -> ExitCode {
    let Some(name) = arguments.skip_while(|argument| argument != "--").nth(1) else {
        eprintln!("loam-init is the node's PID 1; it is of no use in a terminal");
        return ExitCode::FAILURE;
    };
    let Ok(index) = ModuleIndex::read(Path::new(&modules_folder())) else {
        return ExitCode::FAILURE;
    };
    let (_, errors) = Loader::new(index).load(&name);
    if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
