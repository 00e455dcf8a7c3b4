//! The command line of the pipeline: `cargo xtask COMMAND`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use xtask::image;

/// Builds Loam's image, boots it in QEMU, and tests it.
///
/// Everything that is fetched is kept in $LOAM_CACHE, else $XDG_CACHE_HOME/loam, else
/// ~/.cache/loam. What is built goes to target/.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the image: target/image/loam.efi (a unified kernel image) and loam.img (a USB disk).
    ///
    /// image/image.toml says what goes in. Packages come from the Debian archive that this machine's
    /// apt uses, by the hashes in image/packages.lock.
    Image {
        /// Choose the newest packages, write image/packages.lock, and stop.
        #[arg(long)]
        update_lock: bool,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Image { update_lock: true } => image::relock::update(),
        Command::Image { update_lock: false } => {
            let image = image::build()?;
            println!("{}", image::sizes::table(&image.parts));
            println!("{}\n{}", image.uki.display(), image.disk.display());
            Ok(())
        }
    }
}
