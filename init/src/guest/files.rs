//! The few files that container engines put into every machine, and reading the image's own.
//!
//! The image may have anything at these paths: links, folders, pipes. A link in place of a file is
//! replaced; one in place of a folder leads where it leads in the machine; what cannot be written is
//! left as it is.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt, symlink},
    path::Path,
};

use loam_node_api::guest::GuestConfig;
use rustix::fs::OFlags;

use crate::{
    folder::{self, ImageFolders},
    identity::Identity,
};

/// Makes the folders that the image wants to be there, also below what is mounted by now. What lies in them
/// stays. One that cannot be made, as in `/proc`, is told and passed over: the command may do without.
pub fn make_volumes(root: &Path, volumes: &[String], image: &ImageFolders) {
    for volume in volumes {
        if let Err(error) = image.make(root, Path::new(volume)) {
            say!("the image's volume {volume} cannot be made and is passed over: {error}");
        }
    }
}

/// The first line of a file of keys that is ours.
const OURS: &str = "# The deployment's `ssh_keys`, written anew at each start of the machine.\n";

/// Below the root folder `root`; `/` but in tests. Over whatever is mounted there, as container
/// engines do.
pub fn write_all(root: &Path, config: &GuestConfig) {
    let etc = |name: &str| Path::new("etc").join(name);
    put(
        root,
        &etc("hostname"),
        0o644,
        &format!("{}\n", config.hostname),
    );
    put(root, &etc("hosts"), 0o644, &hosts(config));
    if !config.dns.is_empty() {
        put(root, &etc("resolv.conf"), 0o644, &resolv_conf(&config.dns));
    }
    // What `df` and `mount` read in older images.
    if fs::symlink_metadata(root.join("etc/mtab")).is_err() {
        let _ = symlink("/proc/self/mounts", root.join("etc/mtab"));
    }
    write_keys(root, &config.ssh_keys);
}

/// A machine without the file is still the tenant's machine, and its log says what is missing.
fn put(root: &Path, path: &Path, mode: u32, text: &str) {
    if let Err(error) = replace(root, path, mode, text.as_bytes()) {
        say!("/{} stays as it is: {error}", path.display());
    }
}

/// The keys by which one may log in as root. A key that the deployment names no more lets nobody in.
fn write_keys(root: &Path, keys: &[String]) {
    let passwd = read_text(&root.join("etc/passwd")).unwrap_or_default();
    let file = Path::new(&home_of_root(&passwd)).join(".ssh/authorized_keys");
    let file = file.strip_prefix("/").unwrap_or(&file);
    if !keys.is_empty() {
        let lines = keys.iter().map(|key| format!("{key}\n"));
        let text: String = std::iter::once(OURS.to_owned()).chain(lines).collect();
        return put(root, file, 0o600, &text);
    }
    let there = root.join(file);
    // The image's own stay.
    if read_text(&there).is_ok_and(|text| text.starts_with(OURS))
        && let Err(error) = fs::remove_file(&there)
    {
        say!(
            "/{} still lets in who has its keys: {error}",
            file.display()
        );
    }
}

fn home_of_root(passwd: &str) -> String {
    Identity::resolve("0", passwd, "")
        .map(|root| root.home)
        .ok()
        // Of an image without users.
        .filter(|home| home != "/")
        .unwrap_or_else(|| "/root".to_owned())
}

fn hosts(config: &GuestConfig) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    let mut named = false;
    for address in config
        .interfaces
        .iter()
        .flat_map(|interface| &interface.addresses)
    {
        text += &format!("{}\t{}\n", address.addr(), config.hostname);
        named = true;
    }
    if !named {
        // As Debian has it: a program that asks who it is shall not wait for a network.
        text += &format!("127.0.1.1\t{}\n", config.hostname);
    }
    text
}

fn resolv_conf(dns: &[IpAddr]) -> String {
    dns.iter()
        .map(|server| format!("nameserver {server}\n"))
        .collect()
}

/// Puts a file at `path`, whole or not at all.
fn replace(root: &Path, path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    // A folder for secret files is closed to others, as sshd demands.
    let folder_mode = if mode & 0o077 == 0 { 0o700 } else { 0o755 };
    let folder = path.parent().unwrap_or(Path::new(""));
    let folder = folder::make(root, folder, folder_mode)?;
    let path = &folder.join(path.file_name().unwrap_or_default());
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
        let text = fs::read_to_string(&keys).unwrap();
        assert_eq!(text, format!("{OURS}ssh-ed25519 AAAA a@b\n"));
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
    fn a_withdrawn_key_lets_nobody_in_and_the_image_s_own_stay() {
        let root = tempfile::tempdir().unwrap();
        let keys = root.path().join("root/.ssh/authorized_keys");
        let without = GuestConfig {
            ssh_keys: Vec::new(),
            ..config()
        };
        write_all(root.path(), &config());
        assert!(keys.exists());
        write_all(root.path(), &without);
        assert!(!keys.exists());
        fs::write(&keys, "ssh-ed25519 BBBB own\n").unwrap();
        write_all(root.path(), &without);
        assert_eq!(
            read(root.path(), "root/.ssh/authorized_keys"),
            "ssh-ed25519 BBBB own\n"
        );
    }

    #[test]
    fn links_in_place_of_folders_lead_where_they_lead() {
        let root = tempfile::tempdir().unwrap();
        symlink("usr/etc", root.path().join("etc")).unwrap();
        symlink("/var/roothome", root.path().join("root")).unwrap();
        write_all(root.path(), &config());
        assert_eq!(read(root.path(), "usr/etc/hostname"), "web\n");
        let keys = read(root.path(), "var/roothome/.ssh/authorized_keys");
        assert!(keys.ends_with("a@b\n"));
    }

    #[test]
    fn keys_are_where_root_is_at_home() {
        assert_eq!(home_of_root(""), "/root");
        assert_eq!(home_of_root("root:x:0:0::/:"), "/root");
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(
            root.path().join("etc/passwd"),
            "root:x:0:0:root:/home/boss:/bin/sh\n",
        )
        .unwrap();
        write_all(root.path(), &config());
        assert!(root.path().join("home/boss/.ssh/authorized_keys").exists());
        assert!(!root.path().join("root").exists());
    }

    #[test]
    fn a_machine_knows_its_own_name_without_a_network() {
        let alone = GuestConfig {
            interfaces: Vec::new(),
            ..config()
        };
        assert!(hosts(&alone).ends_with("\n127.0.1.1\tweb\n"));
        assert!(!hosts(&config()).contains("127.0.1.1"));
    }

    #[test]
    fn mounts_are_listed_where_old_programs_look_unless_the_image_has_a_list() {
        let root = tempfile::tempdir().unwrap();
        write_all(root.path(), &config());
        let mtab = root.path().join("etc/mtab");
        assert_eq!(
            fs::read_link(&mtab).unwrap(),
            Path::new("/proc/self/mounts")
        );
        fs::remove_file(&mtab).unwrap();
        fs::write(&mtab, "own").unwrap();
        write_all(root.path(), &config());
        assert_eq!(fs::read(&mtab).unwrap(), b"own");
    }

    #[test]
    fn volumes_are_made_and_what_lies_in_them_stays() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("data")).unwrap();
        fs::write(root.path().join("data/file"), "kept").unwrap();
        symlink("/var/there", root.path().join("link")).unwrap();
        // The second can be no folder, which is nothing to those behind it.
        let volumes = [
            "/prometheus",
            "/data/file",
            "/data",
            "/link",
            "relative",
            "/../up",
            "",
        ];
        make_volumes(
            root.path(),
            &volumes.map(str::to_owned),
            &ImageFolders::default(),
        );
        for made in ["prometheus", "data", "var/there", "relative", "up"] {
            assert!(root.path().join(made).is_dir(), "{made}");
        }
        assert_eq!(read(root.path(), "data/file"), "kept");
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
