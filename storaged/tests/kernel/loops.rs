//! Disks that are loop devices over sparse files. Needs root, and btrfs in the machine's kernel.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use loam_deployment::{Bytes, payload::Media};
use loam_storaged::disk::SysDisk;

/// Runs a program and returns what it says; the test fails if the machine lacks it.
pub fn run(program: &str, arguments: &[&str], package: &str) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|_| panic!("install {package}: this test runs {program}"));
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A disk that is there for as long as this lives.
pub struct Loop {
    pub sys: SysDisk,
    loop_device: String,
}

impl Loop {
    /// Attaches a file under a name of its own in `/dev`.
    pub fn attach(file: &Path, id: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = file.to_str().unwrap();
        let loop_device = run("losetup", &["--find", "--show", path], "util-linux");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("loamtest{}x{number}", std::process::id());
        let device = PathBuf::from("/dev").join(&name);
        let numbers = fs::metadata(&loop_device).unwrap().rdev();
        let (major, minor) = (rustix::fs::major(numbers), rustix::fs::minor(numbers));
        let (node, major, minor) = (
            device.to_str().unwrap(),
            major.to_string(),
            minor.to_string(),
        );
        run("mknod", &[node, "b", &major, &minor], "coreutils");
        let size = fs::metadata(file).unwrap().len();
        Self {
            sys: SysDisk {
                name,
                device,
                seq: u64::from(number) + 1,
                id: id.to_owned(),
                named: true,
                size: Bytes(size),
                media: Media::Ssd,
                unfit: None,
                in_use: None,
            },
            loop_device,
        }
    }

    /// Shows the disk in a folder that stands for `/sys/block`, as the kernel would.
    pub fn plug(&self, sys_block: &Path) {
        let hidden = sys_block.with_extension(&self.sys.name);
        let folder = hidden.as_path();
        fs::create_dir_all(sys_block).unwrap();
        fs::create_dir_all(folder.join("queue")).unwrap();
        for (file, text) in [
            ("size", (self.sys.size.get() / 512).to_string()),
            ("queue/rotational", "0".to_owned()),
            ("wwid", self.sys.id.clone()),
            ("diskseq", self.sys.seq.to_string()),
        ] {
            fs::write(folder.join(file), text).unwrap();
        }
        // In one step, as the kernel does it.
        fs::rename(folder, sys_block.join(&self.sys.name)).unwrap();
        self.tell();
    }

    pub fn unplug(&self, sys_block: &Path) {
        let hidden = sys_block.with_extension(&self.sys.name);
        fs::rename(sys_block.join(&self.sys.name), &hidden).unwrap();
        fs::remove_dir_all(hidden).unwrap();
        self.tell();
    }

    /// Has the kernel say that something happened to a block device.
    fn tell(&self) {
        let name = Path::new(&self.loop_device).file_name().unwrap();
        fs::write(Path::new("/sys/block").join(name).join("uevent"), "change").unwrap();
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.sys.device);
        let _ = Command::new("/usr/sbin/losetup")
            .args(["--detach", &self.loop_device])
            .status();
    }
}

/// A sparse file of this size.
pub fn sparse(folder: &Path, name: &str, size: u64) -> PathBuf {
    let path = folder.join(name);
    File::create_new(&path).unwrap().set_len(size).unwrap();
    path
}

/// Unmounts what is mounted below a folder when it goes.
pub struct Mounts(pub PathBuf);

impl Drop for Mounts {
    fn drop(&mut self) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in text.lines() {
            if let Some(at) = line
                .split(' ')
                .nth(4)
                .filter(|at| Path::new(at).starts_with(&self.0))
            {
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
    }
}
