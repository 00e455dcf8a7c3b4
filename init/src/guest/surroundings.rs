//! [`Surroundings`]: as whom, with what and where the machine's programs start.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use loam_node_api::guest::GuestConfig;
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{Resource, Rlimit},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{command, files, folder, identity::Identity};

/// As container engines have them. Programs that close every possible descriptor look at the first
/// number of the open files only. Processes are limited by the machine's memory, which is its own.
const LIMITS: [(Resource, Option<u64>, Option<u64>); 2] = [
    (Resource::Nofile, Some(1024), Some(524_288)),
    (Resource::Nproc, None, None),
];

/// The command's, and its check's.
#[derive(Clone, Debug)]
pub struct Surroundings {
    pub identity: Identity,
    pub environment: BTreeMap<String, String>,
    pub working_dir: PathBuf,
}

impl Surroundings {
    /// By the image's own files; the working directory is made.
    pub fn of(config: &GuestConfig) -> Result<Self> {
        let passwd =
            files::read_text(Path::new("/etc/passwd")).context("the image's /etc/passwd")?;
        let group = files::read_text(Path::new("/etc/group")).context("the image's /etc/group")?;
        let identity = Identity::resolve(&config.user, &passwd, &group)?;
        let (environment, odd) =
            command::environment(&config.env, &config.hostname, &identity.home);
        for entry in odd {
            say!("`{entry}` is no environment variable (NAME=value) and is passed over");
        }
        let working_dir = Path::new("/").join(&config.working_dir);
        folder::make(Path::new("/"), &working_dir, 0o755)
            .with_context(|| format!("making the working directory {}", working_dir.display()))?;
        Ok(Self {
            identity,
            environment,
            working_dir,
        })
    }

    /// For [`become_user`], made before there is a child.
    pub fn groups(&self) -> Vec<Gid> {
        let groups = self.identity.groups.iter().copied();
        groups.map(Gid::from_raw).collect()
    }
}

/// Runs in the child, between fork and exec.
pub fn become_user(identity: &Identity, groups: &[Gid]) -> io::Result<()> {
    for (resource, current, maximum) in LIMITS {
        set_limit(resource, current, maximum)?;
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    set_thread_groups(groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    Ok(())
}

/// None: without limit. Who may not raise the maximum, as whoever tests this, goes as far as it goes.
fn set_limit(resource: Resource, current: Option<u64>, maximum: Option<u64>) -> io::Result<()> {
    let limit = Rlimit { current, maximum };
    match rustix::process::setrlimit(resource, limit) {
        Err(Errno::PERM) => {
            let maximum = rustix::process::getrlimit(resource).maximum;
            let least = |a: u64| maximum.map_or(a, |b| a.min(b));
            let current = current.map(least).or(maximum);
            rustix::process::setrlimit(resource, Rlimit { current, maximum })?;
            Ok(())
        }
        done => Ok(done?),
    }
}
