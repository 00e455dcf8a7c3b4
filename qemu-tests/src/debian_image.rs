//! Images of ordinary software, made of Debian's packages as people make them: `mmdebstrap` makes the
//! root, `umoci` the image. Kept outside the clone, by all that they are made from but the packages'
//! versions.

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use xtask::{
    cache::{self, Shelf},
    image::stage::Key,
    oci::{Image, Layout, RunConfig},
    program,
};

/// To be raised with every change of this file that changes the images.
const RECIPE: &str = "1";

/// What nobody reads in a test; a quarter of all files. Without folders for manual pages Java's packages fail.
const LEFT_OUT: [&str; 2] = ["/usr/share/doc/*", "/usr/share/locale/*"];

#[derive(Debug, Default)]
pub struct DebianImage {
    /// Besides those that apt needs.
    pub packages: &'static [&'static str],
    /// Paths without a leading slash, and what is in them. Programs if they begin with `#!`.
    pub files: &'static [(&'static str, &'static str)],
    /// Run in the finished root, by its own shell.
    pub setup: &'static str,
    /// Arguments of `umoci config`.
    pub config: &'static [&'static str],
}

impl DebianImage {
    /// The image, made now if it is not kept.
    pub fn make(&self) -> anyhow::Result<Image> {
        self.layout()?.image()
    }

    /// The root as one layer.
    pub fn layer(&self) -> anyhow::Result<PathBuf> {
        Ok(self.kept()?.join("root.tar"))
    }

    /// How it is run: what `umoci` has written of it.
    pub fn run(&self) -> anyhow::Result<RunConfig> {
        self.layout()?.run()
    }

    fn layout(&self) -> anyhow::Result<Layout> {
        Layout::open(&self.kept()?.join("layout"))
    }

    fn kept(&self) -> anyhow::Result<PathBuf> {
        let suite = suite()?;
        let key = Key::new(RECIPE).with(&suite).with(format!("{self:?}"));
        Shelf::new(cache::root()?.join("software"))?.get(&key, |folder| {
            println!("making an image of {}", self.packages.join(", "));
            self.bootstrap(&suite, folder)?;
            self.pack(folder)
        })
    }

    fn bootstrap(&self, suite: &str, folder: &Path) -> anyhow::Result<()> {
        let files = folder.join("files");
        for (path, text) in self.files {
            let path = files.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&path, text)?;
            if text.starts_with("#!") {
                let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
                fs::set_permissions(&path, executable)?;
            }
        }
        fs::create_dir_all(&files)?;
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap
            .args(["--quiet", "--variant=apt", "--dpkgopt=force-unsafe-io"])
            .args(LEFT_OUT.map(|path| format!("--dpkgopt=path-exclude={path}")))
            .arg(format!("--include={}", self.packages.join(",")))
            .arg(format!(
                "--customize-hook=sync-in {} /",
                quoted(&files.to_string_lossy())
            ));
        if !self.setup.is_empty() {
            mmdebstrap.arg(format!(
                "--customize-hook=chroot \"$1\" /bin/sh -ec {}",
                quoted(self.setup)
            ));
        }
        mmdebstrap
            .arg("--customize-hook=rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin")
            .arg(suite)
            .arg(folder.join("root.tar"))
            // The sources come on its standard input, so that they are this machine's.
            .arg("-");
        program::feed(&mut mmdebstrap, &sources()?).map(drop)
    }

    fn pack(&self, folder: &Path) -> anyhow::Result<()> {
        let layout = folder.join("layout");
        let image = format!("{}:latest", layout.display());
        let umoci = |arguments: &[&dyn AsRef<OsStr>]| {
            let mut umoci = Command::new("umoci");
            umoci.args(arguments.iter().map(|argument| argument.as_ref()));
            program::run(&mut umoci).map(drop)
        };
        umoci(&[&"init", &"--layout", &layout])?;
        umoci(&[&"new", &"--image", &image])?;
        umoci(&[
            &"raw",
            &"add-layer",
            &"--image",
            &image,
            &folder.join("root.tar"),
        ])?;
        let mut config: Vec<&dyn AsRef<OsStr>> = vec![&"config", &"--image", &image];
        for argument in self.config {
            config.push(argument);
        }
        umoci(&config)?;
        umoci(&[&"gc", &"--layout", &layout])
    }
}

/// This machine's own: its keys are those by which the packages can be checked.
fn suite() -> anyhow::Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("/etc/os-release names no suite of Debian's")?;
    Ok(name.trim_matches('"').to_owned())
}

/// Where this machine's apt has its packages from.
fn sources() -> anyhow::Result<Vec<u8>> {
    let folder = Path::new("/etc/apt/sources.list.d");
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let listed = fs::read_dir(folder).into_iter().flatten().flatten();
    files.extend(listed.map(|entry| entry.path()));
    let mut sources = Vec::new();
    for file in files {
        // Others are of programs, and say nothing of the suite.
        let is_debian = file.ends_with("sources.list") || file.ends_with("debian.sources");
        if is_debian && let Ok(mut text) = fs::read(&file) {
            sources.append(&mut text);
            sources.extend(b"\n\n");
        }
    }
    ensure!(
        !sources.is_empty(),
        "neither /etc/apt/sources.list nor {}/debian.sources says where packages come from",
        folder.display()
    );
    Ok(sources)
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
