//! `image/image.toml` becomes one file that boots: `loam.efi`, a unified kernel image, and
//! `loam.img`, a disk that holds it. Each stage is a file here, named after what it makes.
//!
//! The initramfs is several archives behind each other, which the kernel unpacks in turn: a change
//! in one daemon packs that daemon again and nothing else.

pub mod base;
pub mod cpio;
pub mod daemons;
pub mod disk;
pub mod guest_kernel;
pub mod kernel;
pub mod module;
pub mod packages;
pub mod programs;
pub mod relock;
pub mod sizes;
pub mod spec;
pub mod stage;
pub mod tree;
pub mod uki;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Context, Result};

use crate::debian::deb::{self, Entry};
use crate::debian::lock::{self, Lock, Locked};
use crate::{phase, workspace};
use packages::Gone;
use spec::Spec;
use stage::{Kept, Key, Size, Stages};
use tree::{DATA, EXECUTABLE, Tree};

/// Which kernel OCI machines boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestKernel {
    Ours,
    /// A stock one, which must go on working, and to which ours is compared.
    Debian,
}

impl GuestKernel {
    /// What the image's files are called.
    fn image(self) -> &'static str {
        match self {
            Self::Ours => "loam",
            Self::Debian => "loam-debian-guest",
        }
    }
}

/// zstd levels: what comes from Debian is packed once and kept, ours at every change.
const LEVEL_ONCE: i32 = 15;
const LEVEL_OFTEN: i32 = 9;

/// The finished image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The UKI, to boot over the network or from `/EFI/BOOT/BOOTX64.EFI`.
    pub uki: PathBuf,
    /// The same on a disk.
    pub disk: PathBuf,
    /// Size by part.
    pub parts: Vec<(String, Size)>,
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
            .map(|stage| stages.join(stage::archive_name(stage)))
            .to_vec(),
    })
}

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

/// Runs every stage whose inputs have changed, for work here.
pub fn build() -> Result<Image> {
    build_from(Gone::Replace, GuestKernel::Ours)
}

/// The same image with a stock kernel for machines.
pub fn build_with_stock_guest() -> Result<Image> {
    build_from(Gone::Replace, GuestKernel::Debian)
}

/// Runs every stage whose inputs have changed. Debian's part is fetched and unpacked while cargo
/// compiles ours: one waits for the network, the other for processors.
pub fn build_from(gone: Gone, guest: GuestKernel) -> Result<Image> {
    let (spec_file, lock_file) = inputs();
    let spec = Spec::read(&spec_file)?;
    let lock = Lock::read(&lock_file)?;
    for debian in &spec.debian {
        lock.get(&debian.package)?;
    }
    let stages = Stages::new(folder().join("stages"))?;
    // Whether the other is not needed any more, as one has failed.
    let (ours_failed, debian_failed) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let ours = scope.spawn(|| {
            let ours = phase::run("our programs", |phase| {
                Ok::<_, anyhow::Error>((build_ours(&spec, phase, &debian_failed)?, String::new()))
            });
            ours_failed.store(ours.is_err(), Ordering::Relaxed);
            ours
        });
        let debian = scope.spawn(|| {
            let debian = from_debian(&spec, lock, gone, guest, &stages, &ours_failed);
            debian_failed.store(debian.is_err(), Ordering::Relaxed);
            debian
        });
        let (debian, ours) = (joined_thread(debian), joined_thread(ours));
        let (builder, debian) = debian?;
        builder.build(debian, &ours?)
    })
}

fn from_debian<'a>(
    spec: &'a Spec,
    lock: Lock,
    gone: Gone,
    guest: GuestKernel,
    stages: &'a Stages,
    in_vain: &AtomicBool,
) -> Result<(Builder<'a>, Debian)> {
    let needed = |package: &Locked| match guest {
        GuestKernel::Ours => !package.is(&spec.guest.debian.package),
        GuestKernel::Debian => !package.is(&spec.guest.source),
    };
    let lock = phase::run("packages", |phase| {
        packages::ready(spec, lock, gone, needed, phase)
    })?;
    let builder = Builder {
        spec,
        lock,
        stages,
        guest,
    };
    let debian = builder.debian(in_vain)?;
    Ok((builder, debian))
}

struct Builder<'a> {
    spec: &'a Spec,
    lock: Lock,
    stages: &'a Stages,
    guest: GuestKernel,
}

/// What comes from Debian.
struct Debian {
    linux: Kept,
    modules: Kept,
    programs: Kept,
    guest: Guest,
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
            guest: self.guest_kernel(in_vain)?,
        })
    }

    fn build(&self, debian: Debian, binaries: &Path) -> Result<Image> {
        let release = kernel::release(self.lock.get(&self.spec.kernel.package)?)?;
        let guest_init = self.guest_init(binaries)?;
        let guest = phase::run("guests' kernel and initrd", |_| {
            remark(self.guest(&debian.guest, guest_init)?)
        })?;

        let linux = debian.linux;
        let mut parts = vec![("kernel".to_owned(), linux.clone())];
        let mut initrd = vec![
            ("folders and settings".to_owned(), self.base()?),
            ("kernel modules".to_owned(), debian.modules),
            (
                "Debian's programs and libraries".to_owned(),
                debian.programs,
            ),
            ("guests' kernel, initrd".to_owned(), guest),
        ];
        for ours in &self.spec.ours {
            let bytes = daemons::read_static(binaries, &ours.binary)?;
            initrd.push((ours.binary.clone(), self.our_program(ours, bytes)?));
        }
        let image = phase::run("unified kernel image", |_| {
            self.uki(release, &linux, &initrd)
        })?;
        parts.append(&mut initrd);
        let parts = parts
            .into_iter()
            .map(|(name, kept)| (name, kept.size))
            .collect();
        Ok(Image { parts, ..image })
    }

    fn linux(&self, package: &Locked, name: &str) -> Result<Kept> {
        let key = Key::new(include_str!("kernel.rs")).with(&package.sha256);
        self.stages.plain(name, &key, || {
            kernel::image(&lock::verified(package)?, kernel::release(package)?)
        })
    }

    fn node_modules(&self, package: &Locked) -> Result<Kept> {
        let key = Key::new(include_str!("kernel.rs"))
            .with(include_str!("module.rs"))
            .with(&package.sha256)
            .with(format!("{:?}", self.spec.kernel));
        self.stages.archive("modules", &key, LEVEL_ONCE, || {
            let release = kernel::release(package)?;
            let catalog = kernel::catalog(&lock::verified(package)?, release)?;
            kernel::node_modules(&catalog, release, &self.spec.kernel)
        })
    }

    fn programs(&self) -> Result<Kept> {
        let packages = program_packages(self.spec, &self.lock);
        let key = programs::key(&self.spec.debian, &packages);
        self.stages.archive("programs", &key, LEVEL_ONCE, || {
            programs::tree(&self.spec.debian, &packages)
        })
    }

    fn our_program(&self, ours: &spec::Ours, bytes: Vec<u8>) -> Result<Kept> {
        let key = Key::new(include_str!("tree.rs"))
            .with(&ours.path)
            .with(&bytes);
        self.stages.archive(&ours.binary, &key, LEVEL_OFTEN, || {
            let mut tree = Tree::default();
            tree.file(&ours.path, EXECUTABLE, bytes);
            Ok(tree)
        })
    }

    fn guest_kernel(&self, in_vain: &AtomicBool) -> Result<Guest> {
        match self.guest {
            GuestKernel::Ours => phase::run("guests' kernel", |phase| {
                let guest = self.our_guest(phase, in_vain)?;
                let remark = remark(guest.linux.clone())?.1;
                Ok((guest, remark))
            }),
            GuestKernel::Debian => {
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
        let config = std::fs::read_to_string(&config)
            .with_context(|| format!("reading {}", config.display()))?;
        let key = guest_kernel::key(source, &config)?;
        let made = || guest_kernel::made(source, &config, &key, phase, in_vain);
        let linux = self.stages.plain(GUEST_LINUX, &key, || made()?.image())?;
        let modules = self.stages.archive(GUEST_BUILTIN, &key, LEVEL_ONCE, || {
            let mut tree = Tree::default();
            for (path, bytes) in made()?.modules()? {
                tree.file(&format!("lib/modules/{path}"), DATA, bytes);
            }
            Ok(tree)
        })?;
        Ok(Guest { linux, modules })
    }

    fn guest_modules(&self, package: &Locked) -> Result<Kept> {
        let key = Key::new(include_str!("kernel.rs"))
            .with(include_str!("module.rs"))
            .with(&package.sha256)
            .with(format!("{:?}", self.spec.guest.debian));
        self.stages
            .archive(STOCK_GUEST_MODULES, &key, LEVEL_ONCE, || {
                let release = kernel::release(package)?;
                let catalog = kernel::catalog(&lock::verified(package)?, release)?;
                kernel::guest_modules(&catalog, release, &self.spec.guest.debian)
            })
    }

    fn guest_init(&self, binaries: &Path) -> Result<Kept> {
        let bytes = daemons::read_static(binaries, &self.spec.guest.init)?;
        let ours = spec::Ours {
            package: String::new(),
            binary: self.spec.guest.init.clone(),
            path: "/init".to_owned(),
        };
        self.our_program(&ours, bytes)
    }

    /// The guests' kernel and initrd as files of the node.
    fn guest(&self, guest: &Guest, init: Kept) -> Result<Kept> {
        let initrd = [&guest.modules, &init];
        let mut key = Key::new(include_str!("mod.rs")).with(&guest.linux.key);
        for part in initrd {
            key = key.with(&part.key);
        }
        let name = format!("{}-guest", self.guest.image());
        self.stages.archive(&name, &key, LEVEL_ONCE, || {
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
        let key = Key::new(include_str!("base.rs"))
            .with(base::os_release())
            .with(format!(
                "{:?} {:?} {:?} {} {}",
                self.spec.grid,
                self.spec.time,
                self.spec.mirrors,
                base::built(),
                self.spec.allow_grid_override
            ));
        self.stages
            .archive("base", &key, LEVEL_OFTEN, || base::tree(self.spec))
    }

    fn uki(
        &self,
        release: &str,
        linux: &Kept,
        parts: &[(String, Kept)],
    ) -> Result<(Image, String)> {
        let stub = self.lock.get(&self.spec.stub.package)?;
        let mut key = Key::new(include_str!("uki.rs"))
            .with(&stub.sha256)
            .with(&self.spec.stub.file)
            .with(&self.spec.command_line)
            .with(release)
            .with(&linux.key);
        for (_, part) in parts {
            key = key.with(&part.key);
        }
        let name = self.guest.image();
        let uki = self.stages.plain(&format!("{name}.efi"), &key, || {
            let contents = uki::Contents {
                os_release: &base::os_release(),
                command_line: &self.spec.command_line,
                uname: release,
                initrd: &joined(parts.iter().map(|(_, part)| part))?,
                linux: &linux.read()?,
            };
            uki::assemble(&self.stub(stub)?, &contents)
        })?;
        let uki_file = folder().join(format!("{name}.efi"));
        let disk_file = folder().join(format!("{name}.img"));
        if uki.made || !uki_file.exists() || !disk_file.exists() {
            let bytes = uki.read()?;
            std::fs::write(&uki_file, &bytes)
                .with_context(|| format!("writing {}", uki_file.display()))?;
            disk::write(&disk_file, &bytes)?;
        }
        let remark = format!("{}{}", sizes::mebibytes(uki.size.packed), kept(&uki));
        Ok((
            Image {
                uki: uki_file,
                disk: disk_file,
                parts: Vec::new(),
            },
            remark,
        ))
    }

    fn stub(&self, package: &Locked) -> Result<Vec<u8>> {
        let path = self.spec.stub.file.trim_start_matches('/');
        let mut stub = None;
        deb::read(
            &lock::verified(package)?,
            |file| file == path,
            |_, entry| {
                if let Entry::File(bytes) = entry {
                    stub = Some(bytes);
                }
                Ok(())
            },
        )?;
        stub.with_context(|| format!("no /{path} in {}", package.name))
    }
}

fn build_ours(spec: &Spec, phase: &phase::Phase, in_vain: &AtomicBool) -> Result<PathBuf> {
    daemons::build_telling(&spec.packages(), |line| phase.note(line), in_vain)
}

/// What a thread gave; its panic becomes ours.
fn joined_thread<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// All but the kernels and the stub.
fn program_packages<'a>(spec: &Spec, lock: &'a Lock) -> Vec<&'a Locked> {
    let others = [
        &spec.kernel.package,
        &spec.guest.source,
        &spec.guest.debian.package,
        &spec.stub.package,
    ];
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
