//! kill -9 of storaged between any two system calls that change a disk.
//!
//! The test starts itself as storaged, under ptrace, and kills it before the first such call, then
//! another before the second, and so on. What it left must be whole or absent, counted, and good
//! enough for a successor to finish.

use std::{
    collections::HashSet,
    env,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use nix::{
    sys::{
        ptrace,
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use uuid::Uuid;

use super::*;

const ROOT: &str = "LOAM_TEST_POOL";
const IMAGE: &str = "LOAM_TEST_IMAGE";

/// So many cuts are enough to notice that something has come undone.
#[test]
fn killed_anywhere_nothing_half_is_ready_and_claims_are_right() {
    if env::var_os(ROOT).is_some() {
        return live();
    }
    cut_every(9);
}

#[test]
#[ignore = "slow: some hundred lives of storaged"]
fn killed_everywhere() {
    cut_every(1);
}

fn cut_every(stride: usize) {
    let registry = TestRegistry::start();
    let image = registry.image(&layers());
    let expected = in_runtime(async {
        let node = Node::new();
        fs::read(node.ready(&image).await).unwrap()
    });
    let mut cuts = 0;
    for at in (1..).step_by(stride) {
        let folder = tempfile::tempdir().unwrap();
        let pool = pool(folder.path(), Media::Ssd);
        let was_killed = kill_before(at, folder.path(), pool.uuid(), &image);
        in_runtime(succeed(pool.uuid(), folder, &image, &expected));
        if !was_killed {
            break;
        }
        cuts += 1;
    }
    // Downloads, a build, a publication and a removal are in between.
    assert!(cuts * stride > 30, "only {cuts} cuts");
}

/// What a successor makes of it.
async fn succeed(uuid: Uuid, folder: tempfile::TempDir, image: &OciReference, expected: &[u8]) {
    let pool = Pool::open(folder.path().to_owned(), uuid, Media::Ssd).unwrap();
    let node = Node::of(folder, pool, Builds::default(), Patience::USUAL);
    for status in node.images.list() {
        if let ImageState::Ready { path } = status.state {
            assert_eq!(fs::read(path).unwrap(), expected);
        }
    }
    node.quiet().await;
    node.assert_true_claims();
    node.forgive();
    assert_eq!(fs::read(node.ready(image).await).unwrap(), expected);
    node.quiet().await;
    node.assert_true_claims();
    node.delete(image).await;
    node.assert_empty();
    for folder in ["", "attempts", "fetch", "build"] {
        let left = fs::read_dir(node.pool.images().join(folder)).unwrap();
        let files = left.filter(|entry| entry.as_ref().unwrap().path().is_file());
        assert_eq!(files.count(), 0, "in {folder}");
    }
}

/// As storaged: takes over the pool, fetches the image and removes it again.
fn live() {
    let root = PathBuf::from(env::var_os(ROOT).unwrap());
    let image: OciReference = env::var(IMAGE).unwrap().parse().unwrap();
    let uuid = root.file_name().unwrap().to_str().unwrap().parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = Pool::open(root, uuid, Media::Ssd).unwrap();
    in_runtime(async {
        let node = Node::of(folder, pool, Builds::default(), Patience::USUAL);
        node.ready(&image).await;
        node.delete(&image).await;
    });
}

fn in_runtime<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// False if it ended by itself before.
fn kill_before(at: usize, root: &Path, uuid: Uuid, image: &OciReference) -> bool {
    // The child learns the pool's identity from the name of a link to it.
    let links = tempfile::tempdir().unwrap();
    let link = links.path().join(uuid.to_string());
    std::os::unix::fs::symlink(root, &link).unwrap();
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args(["--exact", "--test-threads=1"])
        .arg("image::store::tests::crash::killed_anywhere_nothing_half_is_ready_and_claims_are_right")
        .env(ROOT, &link)
        .env(IMAGE, image.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: only a system call between fork and exec.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut process = command.spawn().unwrap();
    let child = Pid::from_raw(process.id() as i32);
    let own = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    waitpid(child, Some(own)).unwrap();
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
        | ptrace::Options::PTRACE_O_TRACECLONE
        | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(child, options).unwrap();
    ptrace::syscall(child, None).unwrap();

    let (mut inside, mut calls) = (HashSet::new(), 0);
    let mut was_killed = false;
    // Until all its threads are gone. One that is being killed can no longer be told anything.
    while let Ok(status) = waitpid(None, Some(own)) {
        match status {
            WaitStatus::PtraceSyscall(thread) => {
                let enters = inside.insert(thread);
                if !enters {
                    inside.remove(&thread);
                } else if !was_killed && changes_disk(thread) {
                    calls += 1;
                    if calls == at {
                        kill(child, Signal::SIGKILL).unwrap();
                        was_killed = true;
                        continue;
                    }
                }
                let _ = ptrace::syscall(thread, None);
            }
            // How a new thread begins.
            WaitStatus::Stopped(thread, Signal::SIGSTOP) => {
                let _ = ptrace::syscall(thread, None);
            }
            WaitStatus::Stopped(thread, signal) => {
                let _ = ptrace::syscall(thread, signal);
            }
            WaitStatus::PtraceEvent(thread, ..) => {
                let _ = ptrace::syscall(thread, None);
            }
            WaitStatus::Exited(ended, code) if ended == child => assert_eq!(code, 0),
            _ => {}
        }
    }
    // Its end has been heard of above.
    let _ = process.wait();
    was_killed
}

/// Whether the call that a thread is about to make may change a file system.
fn changes_disk(thread: Pid) -> bool {
    let Ok(registers) = ptrace::getregs(thread) else {
        return false;
    };
    match registers.orig_rax as i64 {
        // Eight bytes only wake another thread.
        nix::libc::SYS_write => registers.rdx > 8,
        nix::libc::SYS_openat => {
            let unnamed = nix::libc::O_TMPFILE & !nix::libc::O_DIRECTORY;
            let makes = nix::libc::O_CREAT | unnamed;
            registers.rdx & makes as u64 != 0
        }
        nix::libc::SYS_pwrite64
        | nix::libc::SYS_ioctl
        | nix::libc::SYS_fsync
        | nix::libc::SYS_fdatasync
        | nix::libc::SYS_ftruncate
        | nix::libc::SYS_rename
        | nix::libc::SYS_renameat
        | nix::libc::SYS_renameat2
        | nix::libc::SYS_mkdir
        | nix::libc::SYS_mkdirat
        | nix::libc::SYS_rmdir
        | nix::libc::SYS_unlink
        | nix::libc::SYS_unlinkat => true,
        _ => false,
    }
}
