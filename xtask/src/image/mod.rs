//! `image/image.toml` becomes one file that boots: `loam.efi`, a unified kernel image, and
//! `loam.img`, a disk that holds it. Each stage is a file here, named after what it makes.
//!
//! The initramfs is several archives behind each other, which the kernel unpacks in turn: a change
//! in one daemon packs that daemon again and nothing else.

pub mod base;
pub mod cpio;
pub mod daemons;
pub mod firmware;
pub mod guest_kernel;
pub mod initrd;
pub mod kernel;
pub mod manifest;
pub mod media;
pub mod microcode;
pub mod module;
pub mod packages;
pub mod programs;
pub mod relock;
pub mod same;
pub mod sizes;
pub mod sources;
pub mod spec;
pub mod stage;
pub mod tree;
pub mod uki;
pub mod version;

use std::cell::LazyCell;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Error, Result, anyhow, ensure};
use loam_chain::GridConfig;

use crate::debian::deb;
use crate::debian::lock::{Lock, Locked, verified};
use crate::{lock, phase, workspace};
use media::grub::Grub;
use media::{network, sums};
use packages::Gone;
use sizes::{Part, Sizes};
use spec::Spec;
use stage::{Kept, Key, Packing, Stages};
use tree::{DATA, EXECUTABLE, Tree};

/// Whom an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Work here: QEMU may name the grid and open the debug port, each part is packed by itself, and
    /// packages that are gone are replaced by newer ones.
    Development,
    /// The same with a stock kernel for machines, which must go on working, and to which ours is compared.
    StockGuest,
    /// Farmers of this grid, which nothing can change: made of the locked packages alone, and packed as
    /// small as it gets.
    Release(GridConfig),
}

impl Purpose {
    /// What the image's files are called.
    fn image(&self, non_free: NonFree) -> String {
        let name = match self {
            Self::Development => "loam",
            Self::StockGuest => "loam-debian-guest",
            Self::Release(_) => RELEASE,
        };
        non_free.mark(name, '-')
    }

    pub fn gone(&self) -> Gone {
        match self {
            Self::Development | Self::StockGuest => Gone::Replace,
            Self::Release(_) => Gone::Refuse,
        }
    }
}

/// What a released image's files are called.
const RELEASE: &str = "loam-release";

/// Whether files without source go in, too: microcode, and what cards load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonFree {
    Without,
    With,
}

impl NonFree {
    /// The name of something, which says it.
    fn mark(self, name: &str, before: char) -> String {
        match self {
            Self::Without => name.to_owned(),
            Self::With => format!("{name}{before}firmware"),
        }
    }
}

/// What comes from Debian is packed once and kept, ours at every change.
const ONCE: Packing = Packing::Zstd(15);
const OFTEN: Packing = Packing::Zstd(9);

/// Which media to make of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// What QEMU boots here: the UKI, and a disk with it.
    Here,
    /// All that a farmer may boot.
    All,
}

/// The finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The UKI, to boot over the network or from `/EFI/BOOT/BOOTX64.EFI`.
    pub uki: PathBuf,
    /// The same on a disk.
    pub disk: PathBuf,
    pub more: Option<More>,
    pub sizes: Sizes,
}

impl Image {
    /// All that was made of it, by name.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = vec![self.uki.clone(), self.disk.clone()];
        if let Some(more) = &self.more {
            files.extend([more.iso.clone(), more.manifest.clone()]);
            files.extend(network::NAMES.map(|name| more.network.join(name)));
        }
        files
    }
}

/// The media that are made of an image for farmers alone.
#[derive(Debug, Clone)]
pub struct More {
    pub iso: PathBuf,
    /// A folder, to boot over a network from.
    pub network: PathBuf,
    /// What the image is made of.
    pub manifest: PathBuf,
}

/// Where images go.
pub fn folder() -> PathBuf {
    workspace::target().join("image")
}

/// The node's kernel alone, once an image has been made.
pub fn linux() -> PathBuf {
    folder().join("stages/linux")
}

/// What OCI machines boot, as files of this machine.
#[derive(Debug, Clone)]
pub struct GuestFiles {
    pub kernel: PathBuf,
    /// Archives, to be put behind each other.
    pub initrd: Vec<PathBuf>,
}

/// Once an image has been made.
pub fn guest() -> Result<GuestFiles> {
    guest_files(GUEST_LINUX, GUEST_BUILTIN)
}

/// The stock kernel's, once an image has been made with it.
pub fn stock_guest() -> Result<GuestFiles> {
    guest_files(STOCK_GUEST_LINUX, STOCK_GUEST_MODULES)
}

fn guest_files(kernel: &str, modules: &str) -> Result<GuestFiles> {
    let stages = folder().join("stages");
    let init = Spec::read(&inputs().0)?.guest.init;
    Ok(GuestFiles {
        kernel: stages.join(kernel),
        initrd: [modules, &init]
            .map(|stage| stages.join(GUEST_PACKING.archive_name(stage)))
            .to_vec(),
    })
}

/// A machine's initrd is not packed by itself: it starts sooner without, and in the image it is packed with
/// all else.
const GUEST_PACKING: Packing = Packing::Stored;

/// Stages that are read as files, too.
const GUEST_LINUX: &str = "guest-linux";
const GUEST_BUILTIN: &str = "guest-builtin";
const STOCK_GUEST_LINUX: &str = "debian-guest-linux";
const STOCK_GUEST_MODULES: &str = "guest-modules";

/// `image/image.toml` and `image/packages.lock` of this repository.
pub fn inputs() -> (PathBuf, PathBuf) {
    let folder = workspace::root().join("image");
    (folder.join("image.toml"), folder.join("packages.lock"))
}

/// A grid to release an image for.
pub fn grid(file: &Path) -> Result<GridConfig> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    toml::from_str(&text).with_context(|| file.display().to_string())
}

/// Runs every stage whose inputs have changed, for work here.
pub fn build() -> Result<Image> {
    build_for(&Purpose::Development)
}

/// The same, with all media.
pub fn build_all() -> Result<(Image, More)> {
    let purpose = Purpose::Development;
    let image = build_from(&purpose, NonFree::Without, purpose.gone(), Media::All)?;
    let more = image.more.clone().context("all media were asked for")?;
    Ok((image, more))
}

/// Runs every stage whose inputs have changed.
pub fn build_for(purpose: &Purpose) -> Result<Image> {
    build_from(purpose, NonFree::Without, purpose.gone(), Media::Here)
}

/// The same; `gone` says what to do about packages that the archive does not have any more. Debian's part is
/// fetched and unpacked while cargo compiles ours: one waits for the network, the other for processors.
pub fn build_from(purpose: &Purpose, non_free: NonFree, gone: Gone, media: Media) -> Result<Image> {
    build_in(&folder(), purpose, non_free, gone, media)
}

/// The image packed once more, from the programs and the kernels that there are: every medium must have the same bytes.
pub fn pack_again(image: &Image) -> Result<()> {
    let out = folder().join("again");
    // What a killed run left would not be made anew.
    workspace::remove(&out)?;
    let purpose = Purpose::Development;
    let again = build_in(&out, &purpose, NonFree::Without, purpose.gone(), Media::All)?;
    for (first, second) in std::iter::zip(image.files(), again.files()) {
        same::compare(&first, &second)?;
    }
    workspace::remove(&out)
}

fn build_in(
    out: &Path,
    purpose: &Purpose,
    non_free: NonFree,
    gone: Gone,
    media: Media,
) -> Result<Image> {
    let (mut spec, lock) = chosen(non_free)?;
    if let Purpose::Release(grid) = purpose {
        spec.grid = Some(grid.clone());
        spec.allow_grid_override = false;
    }
    for debian in &spec.debian {
        lock.get(&debian.package)?;
    }
    let release = match purpose {
        // Of the locked packages alone, so that its name is known before they are here.
        Purpose::Release(_) => Some(version::of(
            &workspace::root(),
            purpose,
            non_free,
            &lock,
            &lock,
        )?),
        Purpose::Development | Purpose::StockGuest => None,
    };
    let _alone = alone()?;
    let stages = Stages::new(out.join("stages"))?;
    // Whether the other is not needed any more, as one has failed.
    let (ours_failed, debian_failed) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let ours = scope.spawn(|| {
            let ours = phase::run("our programs", |phase| {
                let built = build_ours(&spec, release.as_deref(), phase, &debian_failed)?;
                Ok::<_, anyhow::Error>((built, String::new()))
            });
            ours_failed.store(ours.is_err(), Ordering::Relaxed);
            ours
        });
        let debian = scope.spawn(|| {
            let wanted = (purpose, non_free);
            let debian = from_debian(&spec, lock, gone, wanted, out, &stages, &ours_failed);
            debian_failed.store(debian.is_err(), Ordering::Relaxed);
            debian
        });
        let (debian, ours) = (joined_thread(debian), joined_thread(ours));
        let (builder, debian) = debian?;
        builder.build(debian, &ours?, media)
    })
}

/// `image.toml` and `packages.lock`, with nothing that the option leaves out.
fn chosen(non_free: NonFree) -> Result<(Spec, Lock)> {
    let (spec_file, lock_file) = inputs();
    let (mut spec, mut lock) = (Spec::read(&spec_file)?, Lock::read(&lock_file)?);
    spec.choose(&mut lock, non_free)?;
    Ok((spec, lock))
}

/// Two commands in one clone make the same files, one after the other. Held until it is dropped.
fn alone() -> Result<File> {
    let folder = folder();
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    lock::exclusive(&folder.join("lock"), || {
        eprintln!("another command makes an image in this clone: waiting for it");
    })
}

fn from_debian<'a>(
    spec: &'a Spec,
    lock: Lock,
    gone: Gone,
    (purpose, non_free): (&'a Purpose, NonFree),
    out: &'a Path,
    stages: &'a Stages,
    in_vain: &AtomicBool,
) -> Result<(Builder<'a>, Debian)> {
    let needed = |package: &Locked| match purpose {
        Purpose::StockGuest => !package.is(&spec.guest.source),
        Purpose::Development | Purpose::Release(_) => !package.is(&spec.guest.debian.package),
    };
    let locked = lock.clone();
    let lock = phase::run("packages", |phase| {
        packages::ready(spec, lock, gone, needed, phase)
    })?;
    let builder = Builder {
        version: version::of(&workspace::root(), purpose, non_free, &locked, &lock)?,
        name: purpose.image(non_free),
        spec,
        lock,
        out,
        stages,
        purpose,
    };
    let debian = builder.debian(in_vain)?;
    Ok((builder, debian))
}

struct Builder<'a> {
    /// What the image is called.
    version: String,
    /// What its files are called.
    name: String,
    spec: &'a Spec,
    lock: Lock,
    /// Where media go.
    out: &'a Path,
    stages: &'a Stages,
    purpose: &'a Purpose,
}

/// What comes from Debian.
struct Debian {
    linux: Kept,
    modules: Kept,
    programs: Kept,
    firmware: Option<Firmware>,
    guest: Guest,
}

/// What processors and cards load.
struct Firmware {
    microcode: Kept,
    /// By name.
    archives: Vec<(String, Kept)>,
}

/// What OCI machines boot, but for their init.
struct Guest {
    linux: Kept,
    /// Those of a stock kernel, or the lists of what ours has built in.
    modules: Kept,
}

impl Builder<'_> {
    fn debian(&self, in_vain: &AtomicBool) -> Result<Debian> {
        let node = self.lock.get(&self.spec.kernel.package)?;
        Ok(Debian {
            linux: phase::run("kernel", |_| remark(self.linux(node, "linux")?))?,
            modules: phase::run("kernel modules", |_| remark(self.node_modules(node)?))?,
            programs: phase::run("Debian's programs", |_| remark(self.programs()?))?,
            firmware: self.firmware()?,
            guest: self.guest_kernel(in_vain)?,
        })
    }

    fn build(&self, debian: Debian, binaries: &Path, media: Media) -> Result<Image> {
        let release = kernel::release(self.lock.get(&self.spec.kernel.package)?)?;
        let guest_init = self.guest_init(binaries)?;
        let guest = phase::run("guests' kernel and initrd", |_| {
            remark(self.guest(&debian.guest, guest_init)?)
        })?;

        let linux = debian.linux;
        let modules = debian.modules;
        let (microcode, firmware) = match debian.firmware {
            Some(firmware) => (Some(firmware.microcode), firmware.archives),
            None => (None, Vec::new()),
        };
        let mut packed = vec![
            ("folders and settings".to_owned(), self.base()?),
            (
                "Debian's programs and libraries".to_owned(),
                debian.programs,
            ),
            ("guests' kernel, initrd".to_owned(), guest),
        ];
        packed.extend(firmware);
        for ours in &self.spec.ours {
            let bytes = daemons::read_static(binaries, &ours.binary)?;
            let program = self.program(&ours.binary, ours.path.as_str(), bytes, OFTEN)?;
            packed.push((ours.binary.clone(), program));
        }
        let mut parts = vec![
            Part::of("kernel", &linux),
            Part::of("kernel modules", &modules),
        ];
        // The node does not unpack it.
        parts.extend(microcode.as_ref().map(|kept| Part {
            unpacked: 0,
            ..Part::of("microcode", kept)
        }));
        let mut initrd: Vec<Kept> = microcode.into_iter().collect();
        initrd.push(modules);
        match self.purpose {
            Purpose::Development | Purpose::StockGuest => {
                parts.extend(packed.iter().map(|(name, kept)| Part::of(name, kept)));
                initrd.extend(packed.into_iter().map(|(_, kept)| kept));
            }
            Purpose::Release(_) => {
                let together = phase::run("packed together", |_| remark(self.together(&packed)?))?;
                parts.extend(packed.iter().map(|(name, kept)| Part {
                    packed: None,
                    ..Part::of(name, kept)
                }));
                parts.push(Part {
                    unpacked: 0,
                    ..Part::of("what has no size of its own, packed together", &together)
                });
                initrd.push(together);
            }
        }
        let uki = phase::run("unified kernel image", |_| {
            remark(self.uki(release, &linux, &initrd)?)
        })?;
        let image = phase::run("media", |_| self.media(&uki, media))?;
        let record = self.out.join(format!(".{}.sizes", self.name));
        let sizes = Sizes::record(&record, parts)?;
        Ok(Image { sizes, ..image })
    }

    /// Several archives as one, in which each repeats nothing of the others: our programs have the same
    /// libraries in them.
    fn together(&self, archives: &[(String, Kept)]) -> Result<Kept> {
        let mut key = Key::of_pipeline();
        for (_, archive) in archives {
            key = key.with(&archive.key);
        }
        self.stages.packed("together", &key, Packing::Smallest, || {
            let mut whole = Vec::new();
            for (_, archive) in archives {
                // Behind the frame is what aligns the archive after it.
                zstd::Decoder::new(&archive.read()?[..])?
                    .single_frame()
                    .read_to_end(&mut whole)
                    .with_context(|| format!("unpacking {}", archive.file.display()))?;
                cpio::align(&mut whole);
            }
            Ok(whole)
        })
    }

    fn linux(&self, package: &Locked, name: &str) -> Result<Kept> {
        let key = Key::of_pipeline().with(&package.sha256);
        self.stages.plain(name, &key, || {
            kernel::image(&verified(package)?, kernel::release(package)?)
        })
    }

    fn node_modules(&self, package: &Locked) -> Result<Kept> {
        let key = Key::of_pipeline()
            .with(&package.sha256)
            .with(format!("{:?}", self.spec.kernel));
        self.stages.archive("modules", &key, Packing::Stored, || {
            let release = kernel::release(package)?;
            let catalog = kernel::catalog(&verified(package)?, release)?;
            kernel::node_modules(&catalog, release, &self.spec.kernel)
        })
    }

    fn programs(&self) -> Result<Kept> {
        let packages = program_packages(self.spec, &self.lock);
        let key = programs::key(&self.spec.debian, &packages);
        self.stages.archive("programs", &key, ONCE, || {
            programs::tree(&self.spec.debian, &packages)
        })
    }

    fn firmware(&self) -> Result<Option<Firmware>> {
        let Some(firmware) = &self.spec.firmware else {
            return Ok(None);
        };
        let microcode = phase::run("microcode", |_| {
            remark(microcode::archive(
                &firmware.microcode,
                &self.lock,
                self.stages,
            )?)
        })?;
        let archives = phase::run("firmware", |phase| {
            let added = firmware::archives(self.spec, firmware, &self.lock, ONCE, self.stages)?;
            for missing in &added.missing {
                phase.say(&format!("no package of [firmware] has {missing}"));
            }
            let bytes = added.archives.iter().map(|(_, kept)| kept.size.packed);
            let remark = sizes::mebibytes(bytes.sum());
            Ok::<_, anyhow::Error>((added.archives, remark))
        })?;
        Ok(Some(Firmware {
            microcode,
            archives,
        }))
    }

    fn program(&self, name: &str, place: &str, bytes: Vec<u8>, packing: Packing) -> Result<Kept> {
        let key = Key::of_pipeline().with(place).with(&bytes);
        self.stages.archive(name, &key, packing, || {
            let mut tree = Tree::default();
            tree.file(place, EXECUTABLE, bytes);
            Ok(tree)
        })
    }

    fn guest_kernel(&self, in_vain: &AtomicBool) -> Result<Guest> {
        match self.purpose {
            Purpose::Development | Purpose::Release(_) => phase::run("guests' kernel", |phase| {
                let guest = self.our_guest(phase, in_vain)?;
                let remark = remark(guest.linux.clone())?.1;
                Ok((guest, remark))
            }),
            Purpose::StockGuest => {
                let package = self.lock.get(&self.spec.guest.debian.package)?;
                let modules = phase::run("stock guest's modules", |_| {
                    remark(self.guest_modules(package)?)
                })?;
                Ok(Guest {
                    linux: self.linux(package, STOCK_GUEST_LINUX)?,
                    modules,
                })
            }
        }
    }

    fn our_guest(&self, phase: &phase::Phase, in_vain: &AtomicBool) -> Result<Guest> {
        let source = self.lock.get(&self.spec.guest.source)?;
        let config = workspace::root()
            .join("image")
            .join(&self.spec.guest.config);
        let config =
            fs::read_to_string(&config).with_context(|| format!("reading {}", config.display()))?;
        let key = guest_kernel::key(source, &config)?;
        let made = || guest_kernel::made(source, &config, &key, phase, in_vain);
        let linux = self.stages.plain(GUEST_LINUX, &key, || made()?.image())?;
        let modules = self
            .stages
            .archive(GUEST_BUILTIN, &key, GUEST_PACKING, || {
                let mut tree = Tree::default();
                for (path, bytes) in made()?.modules()? {
                    tree.file(&format!("lib/modules/{path}"), DATA, bytes);
                }
                Ok(tree)
            })?;
        Ok(Guest { linux, modules })
    }

    fn guest_modules(&self, package: &Locked) -> Result<Kept> {
        let key = Key::of_pipeline()
            .with(&package.sha256)
            .with(format!("{:?}", self.spec.guest.debian));
        self.stages
            .archive(STOCK_GUEST_MODULES, &key, GUEST_PACKING, || {
                let release = kernel::release(package)?;
                let catalog = kernel::catalog(&verified(package)?, release)?;
                kernel::guest_modules(&catalog, release, &self.spec.guest.debian)
            })
    }

    fn guest_init(&self, binaries: &Path) -> Result<Kept> {
        let bytes = daemons::read_static(binaries, &self.spec.guest.init)?;
        self.program(&self.spec.guest.init, "/init", bytes, GUEST_PACKING)
    }

    /// The guests' kernel and initrd as files of the node.
    fn guest(&self, guest: &Guest, init: Kept) -> Result<Kept> {
        let initrd = [&guest.modules, &init];
        let mut key = Key::of_pipeline().with(&guest.linux.key);
        for part in initrd {
            key = key.with(&part.key);
        }
        let name = match self.purpose {
            Purpose::StockGuest => "debian-guest",
            Purpose::Development | Purpose::Release(_) => "guest",
        };
        self.stages.archive(name, &key, ONCE, || {
            let mut tree = Tree::default();
            tree.file("usr/lib/loam/guest/vmlinux", DATA, guest.linux.read()?);
            tree.file(
                "usr/lib/loam/guest/initrd",
                DATA,
                joined(initrd.into_iter())?,
            );
            Ok(tree)
        })
    }

    fn base(&self) -> Result<Kept> {
        let key = Key::of_pipeline()
            .with(base::os_release(&self.version))
            .with(format!(
                "{:?} {:?} {:?} {} {}",
                self.spec.grid,
                self.spec.time,
                self.spec.mirrors,
                version::built(&workspace::root()),
                self.spec.allow_grid_override
            ));
        self.stages
            .archive("base", &key, OFTEN, || base::tree(self.spec, &self.version))
    }

    fn uki(&self, release: &str, linux: &Kept, initrd: &[Kept]) -> Result<Kept> {
        let stub = self.lock.get(&self.spec.stub.package)?;
        let mut key = Key::of_pipeline()
            .with(&stub.sha256)
            .with(&self.spec.stub.file)
            .with(&self.spec.command_line)
            .with(release)
            .with(&linux.key);
        for part in initrd {
            key = key.with(&part.key);
        }
        let name = &self.name;
        Stages::new(self.out.to_owned())?.plain(&format!("{name}.efi"), &key, || {
            let initrd = joined(initrd.iter())?;
            ensure!(
                self.spec.firmware.is_none() || microcode::is_first(&initrd),
                "microcode is not the first of the initrd, where alone the kernel finds it"
            );
            let contents = uki::Contents {
                os_release: &base::os_release(&self.version),
                command_line: &self.spec.command_line,
                uname: release,
                initrd: &initrd,
                linux: &linux.read()?,
            };
            uki::assemble(&self.stub(stub)?, &contents)
        })
    }

    fn media(&self, uki: &Kept, media: Media) -> Result<(Image, String)> {
        let name = &self.name;
        let bios = &self.spec.bios;
        let mut key = Key::of_pipeline().with(&uki.key).with(format!("{bios:?}"));
        for package in [&bios.grub.package, &bios.ipxe.package] {
            key = key.with(&self.lock.get(package)?.sha256);
        }
        let grub = LazyCell::new(|| Grub::of(self.spec, &self.lock, self.stages));
        let grub = || grub.as_ref().map_err(|error| anyhow!("GRUB: {error:#}"));
        let out = Stages::new(self.out.to_owned())?;
        let disk = out.plain(&format!("{name}.img"), &key, || {
            media::disk::image(&uki.read()?, grub()?)
        })?;
        let mut made = vec!["disk"];
        let more = match media {
            Media::Here => None,
            Media::All => {
                let iso = out.plain(&format!("{name}.iso"), &key, || {
                    media::iso::image(&uki.read()?, grub()?)
                })?;
                made.extend(["CD", "network"]);
                let manifest = format!("{name}.{}", manifest::EXTENSION);
                let manifest = out.plain(&manifest, &key, || {
                    manifest::of(self.spec, &self.lock, &self.version, &uki.read()?)
                })?;
                let more = More {
                    iso: iso.file,
                    network: self.network(uki, &key)?,
                    manifest: manifest.file,
                };
                let files = network::NAMES.map(|name| more.network.join(name));
                let media = [&uki.file, &disk.file, &more.iso, &more.manifest];
                out.plain(&sums::name(name), &key, || {
                    sums::of(self.out, media.into_iter().chain(&files))
                })?;
                Some(more)
            }
        };
        let image = Image {
            uki: uki.file.clone(),
            disk: disk.file.clone(),
            more,
            sizes: Sizes::default(),
        };
        Ok((image, format!("{}{}", made.join(", "), kept(&disk))))
    }

    /// The folder of what a server gives to machines that boot over a network.
    fn network(&self, uki: &Kept, key: &Key) -> Result<PathBuf> {
        let folder = self.out.join(format!("{}-network", self.name));
        let stages = Stages::new(folder.clone())?;
        let files = LazyCell::new(|| network::files(&uki.read()?, self.spec, &self.lock));
        for name in network::NAMES {
            stages.plain(name, key, || {
                let files = files
                    .as_ref()
                    .map_err(|error: &Error| anyhow!("{error:#}"))?;
                let file = files.iter().find(|(file, _)| *file == name);
                Ok(file.context("a file of the folder")?.1.clone())
            })?;
        }
        Ok(folder)
    }

    fn stub(&self, package: &Locked) -> Result<Vec<u8>> {
        let path = self.spec.stub.file.trim_start_matches('/');
        deb::file(&verified(package)?, path)
    }
}

fn build_ours(
    spec: &Spec,
    release: Option<&str>,
    phase: &phase::Phase,
    in_vain: &AtomicBool,
) -> Result<PathBuf> {
    daemons::build_telling(&spec.packages(), release, |line| phase.note(line), in_vain)
}

/// What a thread gave; its panic becomes ours.
fn joined_thread<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// All but the kernels, the stub and firmware.
fn program_packages<'a>(spec: &Spec, lock: &'a Lock) -> Vec<&'a Locked> {
    let mut others = vec![
        spec.kernel.package.as_str(),
        &spec.guest.source,
        &spec.guest.debian.package,
        &spec.stub.package,
        &spec.bios.grub.package,
        &spec.bios.ipxe.package,
    ];
    others.extend(spec.firmware.iter().flat_map(|of| of.all_packages()));
    let packages = lock.packages.iter();
    packages
        .filter(|package| !others.iter().any(|name| package.is(name)))
        .collect()
}

/// Archives behind each other, each padded already.
fn joined<'a>(parts: impl Iterator<Item = &'a Kept>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.append(&mut part.read()?);
    }
    Ok(bytes)
}

fn remark(result: Kept) -> Result<(Kept, String)> {
    let remark = format!("{}{}", sizes::mebibytes(result.size.packed), kept(&result));
    Ok((result, remark))
}

fn kept(result: &Kept) -> &'static str {
    if result.made { "" } else { ", kept" }
}
