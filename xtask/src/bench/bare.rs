//! The rival: the node's own kernel in the same virtual machine, with an init that does nothing.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{machine, probe::Probed};
use crate::image::{
    self, cpio,
    spec::Spec,
    tree::{EXECUTABLE, Tree},
};

/// Far above what the boot of a kernel takes on a loaded machine in software emulation.
const PATIENCE: Duration = Duration::from_secs(300);

/// One boot may meet a busy moment; the median of three seldom does.
const BOOTS: usize = 3;

/// Boots it a few times, and gives the median by time of what its init says.
pub fn measure(folder: &Path, init: &Path) -> Result<Probed> {
    let boots = (0..BOOTS).map(|number| boot(&folder.join(number.to_string()), init));
    let mut boots = boots.collect::<Result<Vec<_>>>()?;
    boots.sort_by(|a, b| a.uptime_seconds.total_cmp(&b.uptime_seconds));
    Ok(boots.swap_remove(BOOTS / 2))
}

fn boot(folder: &Path, init: &Path) -> Result<Probed> {
    fs::create_dir_all(folder)?;
    // Its name tells [`crate::qemu::NodeConfig`] that the firmware starts it directly: a kernel is
    // an EFI program too.
    let kernel = folder.join("linux.efi");
    let linux = image::linux();
    fs::copy(&linux, &kernel).with_context(|| format!("copying {}", linux.display()))?;

    let mut tree = Tree::default();
    tree.file("init", EXECUTABLE, fs::read(init)?);
    tree.folder("proc");
    let initrd = folder.join("initrd");
    fs::write(&initrd, cpio::archive(&tree))?;

    let command_line = Spec::read(&image::inputs().0)?.command_line;
    let node = machine(folder, &kernel)
        .arguments([
            "-initrd".into(),
            initrd.into_os_string(),
            "-append".into(),
            command_line.into(),
        ])
        .start()?;
    let console = node.console();
    let line = console.wait_after(0, super::probe::MARK, PATIENCE)?;
    console.wait_after(line, "\n", PATIENCE)?;
    Probed::find(&console.text()).context("the bare kernel's init said nothing")?
}
