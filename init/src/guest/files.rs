//! The few files that container engines put into every machine, and reading the image's own.
//!
//! The image may have anything at these paths: links, folders, pipes. A link is replaced, never
//! followed; what cannot be written is left as it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, Result};
use loam_node_api::guest::GuestConfig;
use rustix::fs::OFlags;

use crate::folder;

/// Makes the folders that the image wants to be there. What lies in them stays.
pub fn make_volumes(root: &Path, volumes: &[String]) -> Result<()> {
    for volume in volumes {
        folder::make(root, Path::new(volume), 0o755)
            .with_context(|| format!("making the image's volume {volume}"))?;
    }
    Ok(())
}

/// Below the root folder `root`; `/` but in tests.
pub fn write_all(root: &Path, config: &GuestConfig) {
    let mut files = vec![
        ("etc/hostname", 0o644, format!("{}\n", config.hostname)),
        ("etc/hosts", 0o644, hosts(config)),
    ];
    if !config.dns.is_empty() {
        files.push(("etc/resolv.conf", 0o644, resolv_conf(&config.dns)));
    }
    if !config.ssh_keys.is_empty() {
        let keys = config
            .ssh_keys
            .iter()
            .map(|key| format!("{key}\n"))
            .collect();
        files.push(("root/.ssh/authorized_keys", 0o600, keys));
    }
    for (path, mode, text) in files {
        // A machine without them is still the tenant's machine, and its log says what is missing.
        if let Err(error) = replace(&root.join(path), mode, text.as_bytes()) {
            say!("/{path} stays as it is: {error}");
        }
    }
}

fn hosts(config: &GuestConfig) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for address in config
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
    {
        text += &format!("{}\t{}\n", address.addr(), config.hostname);
    }
    text
}

fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect()
}

/// Puts a file at `path`, whole or not at all.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder, mode)?;
    }
    let fresh = path.with_extension("loam-new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // create_new neither follows a link nor opens what is there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)?;
    file.write_all(bytes)?;
    fs::rename(&fresh, path)
}

/// A folder for secret files is closed to others, as sshd demands.
fn make_folder(folder: &Path, file_mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mode = if file_mode & 0o077 == 0 { 0o700 } else { 0o755 };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(folder)
}

/// The text of an ordinary file of the image, or nothing where there is none.
pub fn read_text(path: &Path) -> io::Result<String> {
    /// A file of users as large as this has some ten thousand of them.
    const MAX_SIZE: u64 = 1 << 20;
    let opened = OpenOptions::new()
        .read(true)
        // A pipe would make the opening wait forever.
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32)
        .open(path);
    let file: File = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not an ordinary file"));
    }
    let mut bytes = Vec::new();
    if file.take(MAX_SIZE + 1).read_to_end(&mut bytes)? as u64 > MAX_SIZE {
        return Err(io::Error::other("larger than 1 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::config;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn read(root: &Path, path: &str) -> String {
        fs::read_to_string(root.join(path)).unwrap()
    }

    #[test]
    fn writes_what_every_machine_has() {
        let root = tempfile::tempdir().unwrap();
        write_all(root.path(), &config());
        assert_eq!(read(root.path(), "etc/hostname"), "web\n");
        assert!(read(root.path(), "etc/hosts").ends_with("\n10.20.0.2\tweb\n"));
        assert_eq!(
            read(root.path(), "etc/resolv.conf"),
            "nameserver 10.20.0.1\nnameserver fd00::1\n"
        );
        let keys = root.path().join("root/.ssh/authorized_keys");
        assert_eq!(fs::read_to_string(&keys).unwrap(), "ssh-ed25519 AAAA a@b\n");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&keys), 0o600);
        assert_eq!(mode(keys.parent().unwrap()), 0o700);
    }

    #[test]
    fn links_are_replaced_and_folders_left() {
        let root = tempfile::tempdir().unwrap();
        let elsewhere = root.path().join("elsewhere");
        fs::write(&elsewhere, "kept").unwrap();
        fs::create_dir_all(root.path().join("etc/hosts/in")).unwrap();
        symlink(&elsewhere, root.path().join("etc/resolv.conf")).unwrap();
        symlink(&elsewhere, root.path().join("etc/hostname.loam-new")).unwrap();
        write_all(root.path(), &config());
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "kept");
        assert!(read(root.path(), "etc/resolv.conf").starts_with("nameserver"));
        assert_eq!(read(root.path(), "etc/hostname"), "web\n");
        assert!(root.path().join("etc/hosts/in").is_dir());
    }

    #[test]
    fn without_name_servers_and_keys_nothing_is_written_for_them() {
        let root = tempfile::tempdir().unwrap();
        let config = GuestConfig {
            dns: Vec::new(),
            ssh_keys: Vec::new(),
            ..config()
        };
        write_all(root.path(), &config);
        assert!(!root.path().join("etc/resolv.conf").exists());
        assert!(!root.path().join("root").exists());
    }

    #[test]
    fn reads_ordinary_files_of_a_sane_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        assert_eq!(read_text(&path).unwrap(), "");
        fs::write(&path, b"a\xffb").unwrap();
        assert_eq!(read_text(&path).unwrap(), "a\u{fffd}b");
        fs::write(&path, vec![b'x'; (1 << 20) + 1]).unwrap();
        read_text(&path).unwrap_err();
        read_text(folder.path()).unwrap_err();
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        read_text(&path).unwrap_err();
    }
}
