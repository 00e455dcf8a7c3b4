//! Who unpacks the image, and how each is run.

use std::{
    env, fmt,
    fs::{self, File},
    path::PathBuf,
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::{
    ground::Ground,
    usage::{Usage, Watched},
};

/// Where the image is.
#[derive(Debug)]
pub struct Source {
    /// In a registry on loopback.
    pub reference: String,
    /// Its layers as files, from the lowest up.
    pub layers: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Each layer to a file, one after the other: by whom all others are measured.
    Gunzip,
    Storaged,
    Containerd,
    SkopeoUmoci,
}

/// What `fetch_image` of storaged says.
#[derive(Deserialize)]
struct Fetched {
    seconds: f64,
    peak_kib: u64,
    path: PathBuf,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gunzip => "gunzip, from files",
            Self::Storaged => "storaged",
            Self::Containerd => "containerd",
            Self::SkopeoUmoci => "skopeo and umoci",
        })
    }
}

impl Contender {
    pub const ALL: [Self; 4] = [
        Self::Gunzip,
        Self::Storaged,
        Self::Containerd,
        Self::SkopeoUmoci,
    ];

    /// A program that it needs and this machine has not.
    pub fn lacks(self) -> Option<&'static str> {
        let needed: &[&'static str] = match self {
            Self::Gunzip => &["gunzip"],
            Self::Storaged => &[],
            Self::Containerd => &["containerd", "ctr"],
            Self::SkopeoUmoci => &["skopeo", "umoci"],
        };
        needed
            .iter()
            .copied()
            .find(|program| !is_installed(program))
    }

    /// Runs it to its end, on an empty pool.
    pub fn measure(self, source: &Source, ground: &Ground) -> Result<Usage> {
        match self {
            Self::Gunzip => gunzip(source, ground),
            Self::Storaged => storaged(source, ground),
            Self::Containerd => containerd(source, ground),
            Self::SkopeoUmoci => skopeo_umoci(source, ground),
        }
    }
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn gunzip(source: &Source, ground: &Ground) -> Result<Usage> {
    let mut watched = Watched::default();
    let began = Instant::now();
    for (index, layer) in source.layers.iter().enumerate() {
        let mut gunzip = Command::new("gunzip");
        gunzip
            .arg("-c")
            .stdin(File::open(layer)?)
            .stdout(File::create(ground.pool().join(index.to_string()))?);
        watched.run(gunzip)?;
    }
    Ok(watched.usage(began.elapsed().as_secs_f64()))
}

fn storaged(source: &Source, ground: &Ground) -> Result<Usage> {
    let mut fetch_image = Command::new(super::program());
    fetch_image
        .arg(&source.reference)
        .arg(ground.pool())
        .stdout(Stdio::piped());
    let mut watched = Watched::default();
    let said = watched.run(fetch_image)?;
    let fetched: Fetched =
        serde_json::from_str(&said).with_context(|| format!("fetch_image said {said:?}"))?;
    let file = &fetched.path;
    let size = fs::metadata(file).with_context(|| format!("looking at {}", file.display()))?;
    let packed: u64 = source
        .layers
        .iter()
        .map(|layer| Ok(fs::metadata(layer)?.len()))
        .sum::<Result<u64>>()?;
    ensure!(
        size.len() > packed,
        "the image that storaged made has {} bytes, and its layers {packed}",
        size.len()
    );
    Ok(Usage {
        own_peak_kib: fetched.peak_kib,
        ..watched.usage(fetched.seconds)
    })
}

/// A daemon of one's own, which is there before the time counts, and gone when the shell is.
const CONTAINERD: &str = r#"
cd "$1"
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >config.toml
containerd --config config.toml --root "$PWD/root" --state "$PWD/state" \
    --address "$PWD/socket" --log-level error >&2 &
trap 'kill $!; wait $!' EXIT
for look in $(seq 300); do
    ctr --address "$PWD/socket" version >/dev/null 2>&1 && break
    sleep 0.1
done
began=$(date +%s%N)
if ! ctr --address "$PWD/socket" images pull --plain-http "$2" >said 2>&1; then
    cat said >&2
    exit 1
fi
echo $(($(date +%s%N) - began))
"#;

fn containerd(source: &Source, ground: &Ground) -> Result<Usage> {
    let folder = ground.pool().join("containerd");
    fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut shell = Command::new("sh");
    shell
        .args(["-c", CONTAINERD, "sh"])
        .arg(&folder)
        .arg(&source.reference)
        .stdout(Stdio::piped());
    let mut watched = Watched::default();
    let said = watched.run(shell)?;
    let nanoseconds: f64 = said
        .trim()
        .parse()
        .with_context(|| format!("containerd's shell said {said:?}"))?;
    Ok(watched.usage(nanoseconds / 1e9))
}

fn skopeo_umoci(source: &Source, ground: &Ground) -> Result<Usage> {
    let layout = format!("{}:bench", ground.pool().join("layout").display());
    let mut skopeo = Command::new("skopeo");
    skopeo
        .args(["--insecure-policy", "copy", "--quiet"])
        .args(["--src-tls-verify=false"])
        .arg(format!("docker://{}", source.reference))
        .arg(format!("oci:{layout}"));
    let mut umoci = Command::new("umoci");
    umoci
        .args(["unpack", "--image", &layout])
        .arg(ground.pool().join("bundle"));
    let mut watched = Watched::default();
    let began = Instant::now();
    watched.run(skopeo)?;
    watched.run(umoci)?;
    Ok(watched.usage(began.elapsed().as_secs_f64()))
}
