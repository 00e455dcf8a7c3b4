//! [`Surroundings`]: as whom, with what and where the machine's programs start.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Error, Result};
use loam_node_api::guest::GuestConfig;
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{Resource, Rlimit},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::{
    command, files,
    folder::ImageFolders,
    identity::{Identity, IdentityError},
};

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
    pub fn of(config: &GuestConfig, image: &ImageFolders) -> Result<Self> {
        let identity = identity(Path::new("/"), &config.user)
            .map_err(|unknown| with_what_hides_users(unknown, config))?;
        let (environment, odd) =
            command::environment(&config.env, &config.hostname, &identity.home);
        for entry in odd {
            say!("`{entry}` is no environment variable (NAME=value) and is passed over");
        }
        let working_dir = Path::new("/").join(&config.working_dir);
        image
            .make(Path::new("/"), &working_dir)
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

/// By the files of the image, whose root is `root`. One that cannot be read, as it is a folder or too large, says
/// nothing: that ends the machine only if a name is to be found in it.
fn identity(root: &Path, user: &str) -> Result<Identity> {
    let read = |path: &str| {
        let text = files::read_text(&root.join(path));
        text.inspect_err(|error| say!("the image's /{path} is passed over: {error}"))
    };
    let (passwd, group) = (read("etc/passwd"), read("etc/group"));
    let [users, groups] = [&passwd, &group].map(|file| file.as_deref().unwrap_or_default());
    Identity::resolve(user, users, groups).map_err(|unknown| {
        let unread = match unknown {
            IdentityError::NoUser(_) => passwd.err(),
            IdentityError::NoGroup(_) => group.err(),
        };
        match unread {
            Some(why) => Error::new(why).context(unknown),
            None => unknown.into(),
        }
    })
}

/// A volume may hide the files in which the image names its users.
fn with_what_hides_users(unknown: Error, config: &GuestConfig) -> Error {
    let users = Path::new("/etc/passwd");
    let mut paths = config.mounts.iter().map(|mount| &mount.path);
    match paths.find(|path| users.starts_with(path)) {
        Some(path) => unknown.context(format!("the volume at {path} hides the image's users")),
        None => unknown,
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

#[cfg(test)]
mod tests {
    use super::*;
    use loam_node_api::guest::GuestMount;
    use std::fs;

    #[test]
    fn a_volume_that_hides_the_users_is_named() {
        let said = |path: &str| {
            let mut config = GuestConfig::bare("web", "image", "root", &["/bin/true"]);
            config.mounts.push(GuestMount {
                disk: "data".to_owned(),
                path: path.to_owned(),
                filesystem: None,
            });
            let unknown = IdentityError::NoUser("app".to_owned());
            format!("{:#}", with_what_hides_users(unknown.into(), &config))
        };
        for path in ["/etc", "/etc/", "/etc/passwd"] {
            let hidden = format!(
                "the volume at {path} hides the image's users: there is no user `app` in /etc/passwd"
            );
            assert_eq!(said(path), hidden);
        }
        for path in ["/data", "/etc/pass", "/etc/group"] {
            assert_eq!(
                said(path),
                "there is no user `app` in /etc/passwd",
                "{path}"
            );
        }
    }

    #[test]
    fn files_that_cannot_be_read_are_nothing_to_a_number() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir_all(etc.join("passwd")).unwrap();
        fs::write(etc.join("group"), vec![b'x'; (1 << 20) + 1]).unwrap();
        for (user, ids) in [("", (0, 0)), ("1000", (1000, 0)), ("1000:7", (1000, 7))] {
            let found = identity(root.path(), user).unwrap();
            assert_eq!((found.uid, found.gid), ids, "{user}");
        }
        for (user, why) in [
            ("app", "no user `app` in /etc/passwd: not an ordinary file"),
            ("5:staff", "no group `staff` in /etc/group: larger than"),
        ] {
            let error = format!("{:#}", identity(root.path(), user).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        // Of a user whose file can be read, those groups that cannot are none.
        fs::remove_dir(etc.join("passwd")).unwrap();
        fs::write(etc.join("passwd"), "app:x:5:6\n").unwrap();
        let found = identity(root.path(), "app").unwrap();
        assert_eq!((found.uid, found.gid), (5, 6));
        let error = format!("{:#}", identity(root.path(), "nobody").unwrap_err());
        assert!(error.ends_with("in /etc/passwd"), "{error}");
    }
}
