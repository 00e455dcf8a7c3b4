//! The command line of the pipeline: `cargo xtask COMMAND`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use loam_deployment::FarmId;
use loam_node_api::farm::number;
use xtask::check::Wanted;
use xtask::image::packages::Gone;
use xtask::image::{NonFree, Purpose};
use xtask::qemu::accel::{Choice, VARIABLE};
use xtask::qemu::{Disk, Medium, NodeConfig};
use xtask::{bench, check, image, interrupt, mutants, setup, up, workspace, write_usb};

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
    /// Check what this machine lacks (QEMU, its firmware, anvil), and install it.
    ///
    /// Debian packages are installed by apt-get as root or by passwordless sudo; for another
    /// account the command to run is printed, and nothing is changed.
    Setup,
    /// Make the image: in target/image loam.efi (a unified kernel image), loam.img (a USB disk), loam.iso (a CD,
    /// or a stick) and loam-network (what a server gives to machines that boot over a network).
    ///
    /// image/image.toml says what goes in. Packages come from the Debian archive that this machine's
    /// apt uses, by the hashes in image/packages.lock.
    Image {
        /// Choose the newest packages, write image/packages.lock, and stop.
        #[arg(long)]
        update_lock: bool,
        /// Let --update-lock choose packages that are older than those in image/packages.lock.
        #[arg(long, requires = "update_lock")]
        allow_older: bool,
        /// Use the packages of image/packages.lock alone, for an image that others boot.
        ///
        /// Without this, when the archive does not have one of them any more, the suite's newest
        /// take their place.
        #[arg(long, conflicts_with = "update_lock")]
        locked: bool,
        /// Make loam-release.efi and .img instead, for farmers: of the locked packages alone, packed as
        /// small as it gets, without a debug port, and for the grid of --grid, which nothing changes. With it
        /// comes all that it is made of, as one archive.
        #[arg(long, requires = "grid", conflicts_with = "update_lock")]
        release: bool,
        /// The grid that a released image joins: a file like /etc/loam/grid.toml.
        #[arg(long, value_name = "FILE", requires = "release")]
        grid: Option<PathBuf>,
        /// Add what processors (errata) and network cards load, and drivers that do nothing without it: files
        /// that nobody has the source of, from Debian's non-free-firmware, under their makers' terms. The image's
        /// files are called loam-firmware then, or loam-release-firmware.
        #[arg(long, conflicts_with = "update_lock")]
        firmware: bool,
        /// Say what is wrong with a finished medium instead: a .efi, .img or .iso, the folder for a network, or a
        /// stick's device.
        #[arg(long, value_name = "MEDIUM", exclusive = true)]
        check: Option<PathBuf>,
    },
    /// Write the image to a USB stick, and read back what was written.
    ///
    /// Asks for the stick's serial number, refuses whatever is no stick or is in use, and leaves nothing that
    /// boots where it is interrupted. As root.
    WriteUsb {
        /// The stick, such as /dev/sdb [default: list the sticks that are plugged in].
        device: Option<PathBuf>,
        /// The disk (.img) or ISO to write [default: the image of this workspace, built anew where something
        /// changed].
        #[arg(long, value_name = "FILE")]
        image: Option<PathBuf>,
        /// The farm that nodes join which start from the stick; of an image for many farmers each stick names one.
        ///
        /// A node that a farm has accepted goes to another by such a stick alone.
        #[arg(long, value_name = "NUMBER", requires = "device", value_parser = farm)]
        farm: Option<FarmId>,
    },
    /// Boot the image in QEMU, its console in this terminal.
    ///
    /// Ctrl-A X switches the node off, Ctrl-A H shows more keys. The node's disks, its firmware's
    /// settings and its logs (logs.jsonl) stay in target/run.
    Run(Run),
    /// The demo: a chain, a node in QEMU, and a web server in a machine on that node.
    ///
    /// Installs what this machine lacks, builds what has changed, and ends everything on Ctrl-C.
    /// What the demo writes (keys, configuration, consoles) is in target/up.
    Up {
        /// Leave it running in the background; `cargo xtask down` ends it.
        #[arg(long)]
        keep: bool,
        /// Hold a demo for `up --keep`.
        #[arg(long, hide = true)]
        hold: bool,
    },
    /// End the demo, wherever it was brought up.
    Down,
    /// Measure what docs/promises.md states: sizes, memory, and times as ratios to a bare kernel.
    Bench {
        #[command(subcommand)]
        only: Option<Bench>,
    },
    /// Break the product on purpose, and see whether a test notices.
    ///
    /// Runs `cargo mutants` over FILES [default: the files whose functions only compute] and fails
    /// for each survivor that docs/contributor.md does not accept with a reason.
    Mutants {
        /// Files and folders of the workspace.
        files: Vec<String>,
        /// Apply the patches of qemu-tests/mutants instead, one by one, and expect each one's case
        /// to go red; or only the patch, or those of the case, of this name.
        #[arg(long, value_name = "NAME", conflicts_with = "files")]
        cases: Option<Option<String>>,
    },
    /// Check format and lints, run the unit tests, make the image, and run the tests that boot it.
    Test {
        /// Run one step alone.
        #[arg(long, value_name = "STEP", value_parser = PossibleValuesParser::new(check::KEYS))]
        only: Option<String>,
        /// Run the cases with NAME in their names alone, each on a node of its own.
        #[arg(long, value_name = "NAME", conflicts_with_all = ["only", "all"])]
        case: Option<String>,
        /// Run the slow tests too, but nothing that has passed with the same bytes before.
        ///
        /// It ends after 100 minutes at the latest; the same command goes on where it ended.
        #[arg(long)]
        all: bool,
        /// Print the names of the cases.
        #[arg(long, conflicts_with_all = ["only", "case", "all"])]
        list: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Fetch an image of 200 MB from a registry on loopback to a pool, beside gunzip and, where they are
    /// installed, skopeo and umoci. As root.
    Image {
        /// Measure, in the mount namespace that was made for it.
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Start a machine on the guests' kernel, beside Debian's cloud kernel.
    Guest,
}

#[derive(Debug, Args)]
struct Run {
    /// A disk (.img), a CD (.iso), a unified kernel image (.efi), or a folder to boot over the network
    /// from [default: the image of this workspace, built anew where something changed].
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    #[command(flatten)]
    medium: RunMedium,
    /// Start it by a BIOS, as machines without UEFI have.
    #[arg(long)]
    bios: bool,
    /// The node's memory in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory: u32,
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// How many data disks of 16 GiB (sparse) it has.
    #[arg(long, value_name = "N", default_value_t = 2)]
    disks: u8,
    /// What runs the node: software emulation (tcg), kvm, or auto, which takes kvm if a kernel
    /// boots on it in time.
    #[arg(long, value_name = "NAME", env = VARIABLE, default_value = "tcg")]
    accel: Choice,
    /// The grid to join: a file like /etc/loam/grid.toml.
    #[arg(long, value_name = "FILE")]
    grid: Option<PathBuf>,
    /// Let a port of 127.0.0.1 reach a port of the node. May be repeated.
    #[arg(long, value_name = "HOST:NODE", value_parser = forward)]
    forward: Vec<(u16, u16)>,
}

/// As what the node finds the image.
#[derive(Debug, Args)]
#[group(multiple = false)]
struct RunMedium {
    /// As a disk at its USB port, also an .iso [default].
    #[arg(long)]
    usb: bool,
    /// As a CD.
    #[arg(long)]
    iso: bool,
    /// Over its network, by TFTP.
    #[arg(long)]
    pxe: bool,
}

impl RunMedium {
    fn asked(&self) -> Option<Medium> {
        match (self.usb, self.iso, self.pxe) {
            (true, ..) => Some(Medium::Stick),
            (_, true, _) => Some(Medium::Cd),
            (.., true) => Some(Medium::Network),
            _ => None,
        }
    }
}

fn forward(text: &str) -> Result<(u16, u16)> {
    let (host, node) = text.split_once(':').context("not of the form HOST:NODE")?;
    Ok((host.parse()?, node.parse()?))
}

fn farm(text: &str) -> Result<FarmId> {
    number(text.as_bytes()).context("not the number of a farm, as `loam farm create` gives it")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let ended = interrupt::install().and_then(|()| run(arguments));
    interrupt::stay_while_ending();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<()> {
    match arguments.command {
        Command::Setup => setup::for_tests(),
        Command::Image {
            update_lock: true,
            allow_older,
            ..
        } => image::relock::update(allow_older),
        Command::Image {
            check: Some(medium),
            ..
        } => check_medium(&medium),
        Command::WriteUsb {
            device,
            image,
            farm,
        } => write_usb::run(device.as_deref(), farm, || match image {
            Some(image) => Ok(image),
            None => Ok(image::build()?.disk),
        }),
        Command::Image {
            locked,
            grid,
            firmware,
            ..
        } => {
            let non_free = match firmware {
                true => NonFree::With,
                false => NonFree::Without,
            };
            let purpose = match &grid {
                Some(file) => Purpose::Release(image::grid(file)?),
                None => Purpose::Development,
            };
            let gone = if locked { Gone::Refuse } else { purpose.gone() };
            let image = image::build_from(&purpose, non_free, gone, image::Media::All)?;
            println!("{}", image.sizes.table());
            println!("{}\n{}", image.uki.display(), image.disk.display());
            if let Some(more) = image.more {
                for medium in [more.iso, more.network, more.manifest] {
                    println!("{}", medium.display());
                }
            }
            if let Some(grid) = grid {
                let (archive, hash) = image::sources::write(&grid, non_free)?;
                println!("{} (sha256 {hash})", archive.display());
            }
            Ok(())
        }
        Command::Run(run) => run.run(),
        Command::Up { hold: true, .. } => up::hold(),
        Command::Up { keep, .. } => up::run(keep),
        Command::Down => up::down(),
        Command::Bench { only: None } => bench::run(),
        Command::Bench {
            only: Some(Bench::Image { inside: false }),
        } => bench::fetch::run(),
        Command::Bench {
            only: Some(Bench::Image { inside: true }),
        } => bench::fetch::run_inside(),
        Command::Bench {
            only: Some(Bench::Guest),
        } => bench::guest::run(),
        Command::Mutants {
            cases: Some(only), ..
        } => mutants::cases::run(only.as_deref()),
        Command::Mutants { files, cases: None } => mutants::survivors::run(&files),
        Command::Test {
            only,
            case,
            all,
            list,
        } => check::run(&Wanted {
            only,
            case,
            all,
            list,
        }),
    }
}

fn check_medium(medium: &Path) -> Result<()> {
    let checked = image::media::check::check(medium)?;
    let version = checked.version.as_deref().unwrap_or("of no known version");
    println!("{}: {}, Loam {version}", medium.display(), checked.what);
    if let Some(farm) = checked.farm {
        println!("it names farm {farm}");
    }
    for line in &checked.wrong {
        println!("wrong: {line}");
    }
    if !checked.wrong.is_empty() {
        bail!("{} is not as it was made", medium.display());
    }
    println!("it is whole");
    Ok(())
}

impl Run {
    fn run(self) -> Result<()> {
        let medium = self.medium.asked();
        let image = match (self.image, medium) {
            (Some(image), _) => image,
            (None, Some(Medium::Cd)) => image::build_all()?.1.iso,
            (None, Some(Medium::Network)) => image::build_all()?.1.network,
            (None, _) => image::build()?.disk,
        };
        let accel = self.accel.decide(&image::linux());
        let mut node = NodeConfig::new(workspace::target().join("run"), image)
            .memory_mib(self.memory)
            .cpus(self.cpus)
            .accel(accel);
        if let Some(medium) = medium {
            node = node.medium(medium);
        }
        if self.bios {
            node = node.bios();
        }
        for number in 0..self.disks {
            node = node.disk(Disk::new(format!("data{number}"), 16 << 30));
        }
        for (host, port) in self.forward {
            node = node.forward(host, port);
        }
        if let Some(file) = self.grid {
            let grid = std::fs::read_to_string(&file)
                .with_context(|| format!("reading {}", file.display()))?;
            node = node.grid(grid);
        }
        let status = node.run_in_terminal()?;
        if !status.success() {
            bail!("QEMU ended with {status}");
        }
        Ok(())
    }
}
