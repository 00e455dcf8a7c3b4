//! The kernel that OCI machines boot: Debian's source with `image/guest-kernel.config`, all of it
//! built in, as an ELF file that needs no unpacking in the guest, and the lists by which programs
//! learn what is built in.
//!
//! To compile it takes minutes, so both are kept outside the clone, by the hash of all that they are
//! made from.

use std::fs::{self, DirBuilder};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use liblzma::read::XzDecoder;
use rustix::process::{Pid, Signal};

use super::stage::Key;
use crate::cache::{self, Shelf};
use crate::debian::deb::{self, Entry};
use crate::debian::lock::{self, Locked};
use crate::phase::Phase;
use crate::program;
use crate::workspace;

/// Folders of the source from which nothing is compiled here: nine tenths of its bytes. What
/// describes the configuration is read all the same.
const LEFT_OUT: [&str; 9] = [
    "Documentation",
    "drivers/gpu",
    "drivers/media",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/staging",
    "samples",
    "sound",
    "tools/testing",
];

/// Of `arch`, what is needed to compile for x86-64. User-mode Linux shares files with it.
const ARCHITECTURES: [&str; 2] = ["x86", "um"];

/// What the kernel would take from this machine and this moment otherwise. The date is of no
/// meaning; it is shown by `uname -v`.
const SAME_EVERYWHERE: [(&str, &str); 3] = [
    ("KBUILD_BUILD_TIMESTAMP", "1970-01-01"),
    ("KBUILD_BUILD_USER", "loam"),
    ("KBUILD_BUILD_HOST", "loam"),
];

/// Folders whose static tracepoints are left out. At each start the kernel goes over the format of every
/// tracepoint, once for every name of a number that its folder knows, and makes init wait for it: for these,
/// whose tracepoints are two thirds of all, a fifth of the time to a machine's command. What they do is still
/// seen by kprobes, and the tracepoints of scheduler, memory, blocks and network are there.
const UNTRACED: [&str; 8] = [
    "fs/btrfs",
    "fs/ext4",
    "fs/jbd2",
    "fs/lockd",
    "fs/nfs",
    "fs/smb/client",
    "fs/xfs",
    "net/sunrpc",
];

/// To be raised with every change of this file that changes the result. Other stages have their whole file
/// in their key; here that would cost ten minutes for a comment.
const RECIPE: &str = "3";

/// What it is made from: the source, the configuration, how, and the compiler and linker.
pub fn key(source: &Locked, config: &str) -> Result<Key> {
    // What is needed last is missed first, not after ten minutes. It changes nothing in the result.
    version("depmod")?;
    Ok(Key::new(RECIPE)
        .with(format!("{SAME_EVERYWHERE:?}"))
        .with(format!("{UNTRACED:?}"))
        .with(&source.sha256)
        .with(config)
        .with(version("gcc")?)
        .with(version("ld")?))
}

/// A kernel and the lists of what it has built in, in a folder of the cache.
#[derive(Debug, Clone)]
pub struct Made {
    folder: PathBuf,
}

/// The ELF file in the folder of a kernel.
const IMAGE: &str = "vmlinux";

/// The folder beside it, in which is what belongs to `/lib/modules`.
const MODULES: &str = "modules";

impl Made {
    pub fn image(&self) -> Result<Vec<u8>> {
        let file = self.folder.join(IMAGE);
        fs::read(&file).with_context(|| format!("reading {}", file.display()))
    }

    /// By its path below `/lib/modules`, whose first part is the kernel's release.
    pub fn modules(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = self.folder.join(MODULES);
        let mut files = Vec::new();
        for release in entries(&folder)? {
            for file in entries(&release)? {
                let path = file.strip_prefix(&folder)?.to_string_lossy().into_owned();
                let bytes = fs::read(&file);
                files.push((
                    path,
                    bytes.with_context(|| format!("reading {}", file.display()))?,
                ));
            }
        }
        ensure!(!files.is_empty(), "{} is empty", folder.display());
        Ok(files)
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let paths: io::Result<Vec<PathBuf>> =
        fs::read_dir(folder).and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut paths = paths.with_context(|| format!("reading {}", folder.display()))?;
    paths.sort();
    Ok(paths)
}

/// The kernel of this key: the one that was made before, or made now. `in_vain` ends that early.
pub fn made(
    source: &Locked,
    config: &str,
    key: &Key,
    phase: &Phase,
    in_vain: &AtomicBool,
) -> Result<Made> {
    let shelf = Shelf::new(cache::root()?.join("guest-kernel"))?;
    let waits = || phase.note("another build makes a kernel");
    let folder = shelf.get_after(key, waits, |folder| {
        // All that is needed on the way is in a folder that goes.
        let place = plain(folder.join("build"));
        begin_in(&place)?;
        phase.note("unpacking the source");
        let sources = place.join("source");
        unpack(&lock::verified(source)?, &sources)?;
        for folder in UNTRACED {
            leave_tracepoints_out(&sources.join(folder))?;
        }
        compile(&place, config, phase, in_vain)?;
        keep(&place, folder)?;
        fs::remove_dir_all(&place).with_context(|| format!("removing {}", place.display()))
    })?;
    Ok(Made { folder })
}

/// Copies what was made in `place` to `folder`, which may be on another file system.
fn keep(place: &Path, folder: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .args([IMAGE, MODULES].map(|part| place.join(part)));
    program::run(copy.arg(folder)).map(drop)
}

/// `program`, also where only root has its folder in the path.
fn command(program: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// Its first line says which it is.
fn version(program: &str) -> Result<String> {
    let output = command(program).arg("--version").output();
    let output = output.with_context(|| {
        format!(
            "running {program}, which compiles the guests' kernel; `cargo xtask setup` installs it"
        )
    })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// This place, or where the kernel's makefiles cannot be in it, since its name has a space or a colon, one that
/// is the same in every run, which clears it away.
fn plain(place: PathBuf) -> PathBuf {
    let path = place.to_string_lossy();
    if !path.contains([' ', ':', '\t']) {
        return place;
    }
    let name = Key::new(&path).hex();
    PathBuf::from(format!("/var/tmp/loam-guest-kernel-{}", &name[..16]))
}

/// Makes it, for us alone, without what an interrupted run left there.
fn begin_in(place: &Path) -> Result<()> {
    workspace::remove(place)?;
    let made = DirBuilder::new().mode(0o700).create(place);
    made.with_context(|| format!("making {}", place.display()))
}

fn unpack(package: &Path, to: &Path) -> Result<()> {
    let is_source =
        |file: &str| file.starts_with("usr/src/linux-source-") && file.ends_with(".tar.xz");
    let mut found = false;
    deb::read(package, is_source, |_, entry| {
        let Entry::File(packed) = entry else {
            return Ok(());
        };
        found = true;
        let mut tar = tar::Archive::new(XzDecoder::new(&packed[..]));
        tar.set_preserve_mtime(false);
        for entry in tar.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            // All of it is below one folder, named after the version.
            let below: PathBuf = path.components().skip(1).collect();
            let is_folder = entry.header().entry_type().is_dir();
            if is_folder || !is_needed(&below) {
                continue;
            }
            ensure!(
                below
                    .components()
                    .all(|part| matches!(part, Component::Normal(_))),
                "{} is no path of a kernel's source",
                path.display()
            );
            let to = to.join(&below);
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            entry
                .unpack(&to)
                .with_context(|| format!("unpacking {}", to.display()))?;
        }
        Ok(())
    })?;
    ensure!(found, "{} has no source of a kernel", package.display());
    Ok(())
}

fn is_needed(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let describes = name.starts_with("Kconfig") || name == "Makefile" || name == "Kbuild";
    let mut parts = file.iter();
    let is_ours = match (parts.next(), parts.next()) {
        (Some(first), Some(second)) if first == "arch" => {
            ARCHITECTURES.iter().any(|ours| second == *ours) || second == "Kconfig"
        }
        _ => true,
    };
    describes || is_ours && !LEFT_OUT.iter().any(|folder| file.starts_with(folder))
}

/// Of all that is compiled in this folder and below, by what `linux/tracepoint.h` asks for.
fn leave_tracepoints_out(folder: &Path) -> Result<()> {
    let makefile = folder.join("Makefile");
    let mut lines =
        fs::read_to_string(&makefile).with_context(|| format!("reading {}", makefile.display()))?;
    lines.push_str("\nsubdir-ccflags-y += -DNOTRACE\n");
    fs::write(&makefile, lines).with_context(|| format!("writing {}", makefile.display()))
}

/// Makes the image and the folder of lists in `place`.
fn compile(place: &Path, config: &str, phase: &Phase, in_vain: &AtomicBool) -> Result<()> {
    let fragment = place.join("fragment");
    fs::write(&fragment, config)?;
    let out = place.join("out");
    let make = || {
        let mut make = Command::new("make");
        make.arg("-C")
            .arg(place.join("source"))
            .arg(format!("O={}", out.display()))
            .arg("ARCH=x86_64")
            .envs(SAME_EVERYWHERE)
            // These would be added to the kernel's own.
            .env_remove("MAKEFLAGS")
            .env_remove("KCFLAGS")
            .env_remove("CFLAGS");
        make
    };
    let mut configure = make();
    configure
        .arg("allnoconfig")
        .env("KCONFIG_ALLCONFIG", &fragment);
    told(&mut configure, in_vain, |_| phase.note("configuring"))?;
    let taken = fs::read_to_string(out.join(".config")).context("reading the configuration")?;
    let refused = not_taken(config, &taken);
    ensure!(
        refused.is_empty(),
        "the kernel does not take these lines of image/guest-kernel.config: {}. Either it has no such \
         option any more, or one that the option needs is not set",
        refused.join(", ")
    );
    let mut compiled = 0;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    told(
        make().arg(format!("-j{processors}")).arg("vmlinux"),
        in_vain,
        |line| {
            if let Some(file) = compiled_file(line) {
                compiled += 1;
                phase.note(format!("{compiled} files compiled: {file}"));
            }
        },
    )?;
    let mut strip = Command::new("strip");
    strip.args(["--strip-all", "--remove-section=.comment", "-o"]);
    strip.arg(place.join(IMAGE)).arg(out.join("vmlinux"));
    told(&mut strip, in_vain, |_| ())?;
    list_what_is_built_in(place, &out, in_vain)
}

/// What `modprobe` needs to know that a module is built in, and so to succeed.
fn list_what_is_built_in(place: &Path, out: &Path, in_vain: &AtomicBool) -> Result<()> {
    // What depmod would be told of a kernel that has modules.
    const NO_MODULES: &str = "modules.order";
    let release = fs::read_to_string(out.join("include/config/kernel.release"))
        .context("reading the kernel's release")?;
    let release = release.trim();
    let root = place.join("root");
    let lists = root.join("lib/modules").join(release);
    fs::create_dir_all(&lists)?;
    for list in ["modules.builtin", "modules.builtin.modinfo"] {
        fs::copy(out.join(list), lists.join(list)).with_context(|| format!("copying {list}"))?;
    }
    fs::write(lists.join(NO_MODULES), "")?;
    let mut depmod = command("depmod");
    depmod.arg("--basedir").arg(&root).arg(release);
    told(&mut depmod, in_vain, |_| ())?;
    fs::rename(root.join("lib/modules"), place.join(MODULES))?;
    Ok(())
}

/// `  CC      mm/slab.o` says `mm/slab.o`.
fn compiled_file(line: &str) -> Option<&str> {
    let (verb, file) = line.trim().split_once(' ')?;
    matches!(verb, "CC" | "AS").then(|| file.trim())
}

/// Runs it, and gives `take` each line that it says. Its error has the last of them.
fn told(command: &mut Command, in_vain: &AtomicBool, mut take: impl FnMut(&str)) -> Result<()> {
    const LAST: usize = 20;
    let name = command.get_program().to_string_lossy().into_owned();
    let (from, to) = std::io::pipe()?;
    command
        .stdin(Stdio::null())
        .stdout(to.try_clone()?)
        .stderr(to);
    let mut child = command.spawn().with_context(|| {
        format!("running {name}, which the guests' kernel is compiled with; `cargo xtask setup` installs it")
    })?;
    // Ours would keep the pipe open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut said: Vec<String> = Vec::new();
    for line in BufReader::new(from).lines() {
        let line = line.with_context(|| format!("reading what {name} says"))?;
        if in_vain.load(Ordering::Relaxed) {
            rustix::process::kill_process(Pid::from_child(&child), Signal::TERM)?;
            child.wait()?;
            bail!("stopped, since another part of the image failed");
        }
        take(&line);
        if said.len() == LAST {
            said.remove(0);
        }
        said.push(line);
    }
    ensure!(
        child.wait()?.success(),
        "{name} failed. It said last:\n{}",
        said.join("\n")
    );
    Ok(())
}

/// The lines of the fragment that the configuration does not have.
fn not_taken(fragment: &str, config: &str) -> Vec<String> {
    let has = |line: &str| config.lines().any(|found| found == line);
    let names = |name: &str| {
        let start = format!("{name}=");
        config.lines().any(|found| found.starts_with(&start))
    };
    fragment
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter(|line| match line.split_once('=') {
            // An option that is off is not in the configuration, or is there as a comment.
            Some((name, "n")) => names(name),
            _ => !has(line),
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_line_that_is_not_taken_is_named() {
        let config = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=n_and_more\nCONFIG_D=64\n";
        let lines = "# why\n\nCONFIG_A=y\nCONFIG_B=n\nCONFIG_E=n\nCONFIG_D=64\n";
        assert_eq!(not_taken(lines, config), [""; 0]);
        let refused = "CONFIG_A=n\nCONFIG_B=y\nCONFIG_D=6\nnonsense\n";
        assert_eq!(
            not_taken(refused, config),
            ["CONFIG_A=n", "CONFIG_B=y", "CONFIG_D=6", "nonsense"]
        );
    }

    #[test]
    fn a_place_with_spaces_has_one_without() {
        let same = PathBuf::from("/root/.cache/loam/build");
        assert_eq!(plain(same.clone()), same);
        let [one, other] =
            ["/home/a b/build", "/home/a:b/build"].map(|place| plain(PathBuf::from(place)));
        assert!(
            one.starts_with("/var/tmp") && one != other,
            "{one:?} {other:?}"
        );
        assert_eq!(plain(PathBuf::from("/home/a b/build")), one);
    }

    #[test]
    fn what_was_made_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let [place, kept] = ["made here", "kept"].map(|name| folder.path().join(name));
        fs::create_dir_all(place.join("modules/6.1-loam")).unwrap();
        fs::create_dir(&kept).unwrap();
        fs::write(place.join("modules/6.1-loam/modules.builtin"), "a").unwrap();
        fs::write(place.join("vmlinux"), "elf").unwrap();
        fs::write(place.join("fragment"), "").unwrap();
        keep(&place, &kept).unwrap();
        let made = Made { folder: kept };
        assert_eq!(made.image().unwrap(), b"elf");
        let modules = made.modules().unwrap();
        assert_eq!(
            modules,
            [("6.1-loam/modules.builtin".to_owned(), b"a".to_vec())]
        );
        assert_eq!(fs::read_dir(&made.folder).unwrap().count(), 2);
        fs::remove_file(place.join("vmlinux")).unwrap();
        assert!(keep(&place, &made.folder).is_err());
    }

    #[test]
    fn what_an_interrupted_run_left_is_cleared_away() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("build");
        begin_in(&place).unwrap();
        fs::write(place.join("half"), "").unwrap();
        begin_in(&place).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0);
        let mode = fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn what_is_compiled_and_what_describes_is_unpacked() {
        for needed in [
            "Makefile",
            "Documentation/Kconfig",
            "arch/Kconfig",
            "arch/x86/boot/header.S",
            "arch/arm/Kconfig",
            "drivers/gpu/drm/Kconfig",
            "drivers/net/veth.c",
            "net/core/dev.c",
            "sound/Makefile",
        ] {
            assert!(is_needed(Path::new(needed)), "{needed}");
        }
        for left in [
            "Documentation/index.rst",
            "arch/arm/mm/fault.c",
            "drivers/gpu/drm/drm_drv.c",
            "drivers/net/ethernet/intel/e1000.c",
            "sound/core/init.c",
        ] {
            assert!(!is_needed(Path::new(left)), "{left}");
        }
    }

    #[test]
    fn what_make_says_of_files_is_progress() {
        assert_eq!(compiled_file("  CC      mm/slab.o"), Some("mm/slab.o"));
        assert_eq!(
            compiled_file("  AS      lib/memcpy.o"),
            Some("lib/memcpy.o")
        );
        assert_eq!(compiled_file("  LD      vmlinux"), None);
        assert_eq!(compiled_file("make[1]: Entering"), None);
    }

    #[test]
    fn a_command_that_fails_says_why() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let mut lines = Vec::new();
        let never = AtomicBool::new(false);
        let error = told(&mut shell, &never, |line| lines.push(line.to_owned())).unwrap_err();
        assert!(error.to_string().contains("the reason"), "{error}");
        assert_eq!(lines, ["first", "the reason"]);
    }

    #[test]
    fn what_is_in_vain_is_ended() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo on; exec sleep 1000"]);
        let error = told(&mut shell, &AtomicBool::new(true), |_| ()).unwrap_err();
        assert!(error.to_string().contains("stopped"), "{error}");
    }
}
