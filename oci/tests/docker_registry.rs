//! The registry that most others are made from, as Debian has it: without TLS and with it, for anybody
//! and for those who log in. What is pushed to it is pulled as a node and the tool do.

// What fails in a test shall end it; clippy does not take the parts beside `#[test]` for tests.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use loam_node_api::{clock::Clock, tls};
use loam_oci::{
    address::{Outside, Reach},
    digest::Digest,
    gate::Gate,
    login::Credentials,
    manifest::{Descriptor, Document},
    platform::Level,
    registry::{Registry, RegistryError},
    tag::{self, TagError},
    test_target::Memory,
    transfer::transfer,
};
use loam_test_authority::Authority;
use reqwest::{Client, RequestBuilder, StatusCode, Url, header};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

/// Names the program, as `cargo xtask test` does.
const VARIABLE: &str = "LOAM_DOCKER_REGISTRY";
const MINUTE: Duration = Duration::from_secs(60);

const USER: &str = "web";
const PASSWORD: &str = "secret: word";
/// Of the user and the password, by bcrypt, the only one that it knows.
const HTPASSWD: &str = "web:$2b$04$GFzUOFCy7xiB.wXmCfa7h.jk4DlhNaFbnxNAcAogho8M08WZ5dutm\n";

const REPOSITORY: &str = "team/app";
const TAG: &str = "1.0";

/// Runs until it is dropped.
struct DockerRegistry {
    _folder: tempfile::TempDir,
    process: Child,
    /// As it is named in a reference.
    name: String,
    tls: ClientConfig,
    with_tls: bool,
    with_login: bool,
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DockerRegistry {
    fn start(with_tls: bool, with_login: bool) -> Self {
        let program = std::env::var_os(VARIABLE).unwrap_or_else(|| "docker-registry".into());
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let roots = certify(folder.path());
        let mut http = json!({ "addr": format!("127.0.0.1:{port}") });
        if with_tls {
            http["tls"] = json!({
                "certificate": folder.path().join("certificate.pem"),
                "key": folder.path().join("key.pem"),
            });
        }
        let mut configuration = json!({
            "version": 0.1,
            "log": { "accesslog": { "disabled": true }, "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") } },
            "http": http,
        });
        if with_login {
            let htpasswd = folder.path().join("htpasswd");
            fs::write(&htpasswd, HTPASSWD).unwrap();
            configuration["auth"] = json!({ "htpasswd": { "realm": "ours", "path": htpasswd } });
        }
        // JSON is YAML, too.
        let file = folder.path().join("configuration.yml");
        fs::write(&file, configuration.to_string()).unwrap();
        // It ends with us, however we end.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&program)
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!(
                    "{} cannot be run ({error}); `cargo xtask test` brings Debian's and names it in ${VARIABLE}",
                    program.display()
                )
            });
        let registry = Self {
            _folder: folder,
            process,
            name: match with_tls {
                true => format!("registry.localhost:{port}"),
                false => format!("127.0.0.1:{port}"),
            },
            tls: tls::client_config(roots, Arc::new(Clock::default)).unwrap(),
            with_tls,
            with_login,
        };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < MINUTE, "docker-registry does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    fn outside(&self) -> Outside {
        Outside {
            reach: Reach::Anywhere,
            tls: self.tls.clone(),
        }
    }

    /// To one repository of it, by the client of nodes and of the tool.
    fn client(&self, account: Option<(&str, &str)>) -> Registry {
        let credentials = account.map(|(user, password)| Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
        });
        Registry::new(&self.name, REPOSITORY, &self.outside(), credentials).unwrap()
    }

    fn url(&self, path: &str) -> String {
        let scheme = if self.with_tls { "https" } else { "http" };
        format!("{scheme}://{}/v2/{REPOSITORY}/{path}", self.name)
    }

    fn logged_in(&self, request: RequestBuilder) -> RequestBuilder {
        match self.with_login {
            true => request.basic_auth(USER, Some(PASSWORD)),
            false => request,
        }
    }

    /// Puts an image of these layers there, as tools that push do.
    async fn push(&self, layers: &[Vec<u8>]) -> Digest {
        let client = Client::builder()
            .use_preconfigured_tls(self.tls.clone())
            .build()
            .unwrap();
        let configuration = json!({
            "architecture": "amd64", "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let configuration = configuration.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
            "layers": layers
                .iter()
                .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar", layer))
                .collect::<Vec<_>>(),
        });
        for blob in layers.iter().chain([&configuration]) {
            let begun = self.logged_in(client.post(self.url("blobs/uploads/")));
            let begun = begun.send().await.unwrap();
            assert_eq!(begun.status(), StatusCode::ACCEPTED);
            let location = begun.headers()[header::LOCATION].to_str().unwrap();
            let mut location = Url::parse(location).unwrap();
            let digest = Digest::of(blob).to_string();
            location.query_pairs_mut().append_pair("digest", &digest);
            let put = client.put(location);
            let put = self.logged_in(put).body(blob.clone()).send().await.unwrap();
            assert_eq!(put.status(), StatusCode::CREATED);
        }
        let manifest = manifest.to_string();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let put = client
            .put(self.url(&format!("manifests/{TAG}")))
            .header(header::CONTENT_TYPE, kind)
            .body(manifest.clone());
        let put = self.logged_in(put).send().await.unwrap();
        assert_eq!(put.status(), StatusCode::CREATED);
        Digest::of(manifest.as_bytes())
    }
}

fn descriptor(kind: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len() })
}

/// Writes a certificate for the registry and its key, and gives who vouches for it.
fn certify(folder: &Path) -> RootCertStore {
    let authority = Authority::generate();
    let now = SystemTime::now();
    let certified = authority.certify("registry.localhost", now - MINUTE..now + 60 * MINUTE);
    fs::write(folder.join("certificate.pem"), certified.pem()).unwrap();
    fs::write(folder.join("key.pem"), certified.key_pem()).unwrap();
    authority.roots()
}

/// The blob, of which a part is here; only the rest may come.
async fn pull(client: &Registry, blob: &Descriptor, part: &[u8]) -> Vec<u8> {
    let mut memory = Memory::with(part);
    transfer(client, &Gate::default(), blob, &mut memory)
        .await
        .unwrap();
    assert_eq!(memory.came, memory.bytes.len() - part.len());
    memory.bytes
}

async fn pushed_is_pulled(with_tls: bool, with_login: bool) {
    let registry = DockerRegistry::start(with_tls, with_login);
    let layers: Vec<Vec<u8>> = [70_000, 3_000_000]
        .map(|length: usize| (0..length).map(|n| (n * n % 251) as u8).collect())
        .to_vec();
    let digest = registry.push(&layers).await;

    let account = with_login.then_some((USER, PASSWORD));
    let client = registry.client(account);
    let tagged = tag::look_up(&client, TAG).await.unwrap();
    assert_eq!((tagged.digest, tagged.needs), (digest, Level::V1));
    let manifest = client.manifest(digest).await.unwrap();
    let Document::Manifest(manifest) = Document::parse(&manifest).unwrap() else {
        panic!("it is an index");
    };
    for (blob, layer) in manifest.layers.iter().zip(&layers) {
        assert!(pull(&client, blob, &[]).await == *layer);
        // As after a cut.
        assert!(pull(&client, blob, &layer[..layer.len() / 3]).await == *layer);
    }

    let absent = client.manifest(Digest::of(b"none")).await.unwrap_err();
    assert!(matches!(absent, RegistryError::Absent(_)), "{absent:?}");
    let absent = tag::look_up(&client, "2.0").await.unwrap_err();
    let is_absent = matches!(absent, TagError::Registry(RegistryError::Absent(_)));
    assert!(is_absent, "{absent:?}");
    if with_login {
        let error = registry.client(None).manifest(digest).await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied(_)), "{error:?}");
        let wrong = registry.client(Some((USER, "another")));
        let error = wrong.manifest(digest).await.unwrap_err();
        assert!(matches!(error, RegistryError::LoginDenied(_)), "{error:?}");
    }
}

#[tokio::test]
async fn anybody_pulls_from_one_without_tls() {
    pushed_is_pulled(false, false).await;
}

#[tokio::test]
async fn who_logs_in_pulls_from_one_without_tls() {
    pushed_is_pulled(false, true).await;
}

#[tokio::test]
async fn anybody_pulls_from_one_with_tls() {
    pushed_is_pulled(true, false).await;
}

#[tokio::test]
async fn who_logs_in_pulls_from_one_with_tls() {
    pushed_is_pulled(true, true).await;
}

/// Runs skopeo as whoever has the account, and gives what it prints.
fn skopeo(arguments: &[&str]) -> String {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(arguments)
        .output()
        .expect("skopeo cannot be run; `cargo xtask setup` installs it");
    assert!(
        output.status.success(),
        "skopeo {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// An image of one layer, in a folder as the image specification lays it out.
fn lay_out(folder: &Path, layer: &[u8]) {
    let configuration = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Digest::of(layer).to_string()] },
        "history": [{ "created_by": "a test" }],
    });
    let configuration = configuration.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &configuration),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": TAG });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for blob in [layer, &configuration, &manifest] {
        fs::write(blobs.join(hex_of(Digest::of(blob))), blob).unwrap();
    }
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
    fs::write(
        folder.join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
}

fn hex_of(digest: Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").to_owned()
}

#[tokio::test]
async fn what_skopeo_pushes_it_sees_as_we_do() {
    let registry = DockerRegistry::start(false, true);
    let folder = tempfile::tempdir().unwrap();
    let [source, there] = ["source", "there"].map(|name| folder.path().join(name));
    let layer: Vec<u8> = (0..300_000).map(|n: usize| (n * n % 251) as u8).collect();
    lay_out(&source, &layer);
    let source = format!("oci:{}:{TAG}", source.display());
    let image = format!("docker://{}/{REPOSITORY}:{TAG}", registry.name);
    let account = format!("{USER}:{PASSWORD}");
    let client = registry.client(Some((USER, PASSWORD)));

    let zstd = ["--format=oci", "--dest-compress-format=zstd"];
    for how in [&["--format=oci"][..], &["--format=v2s2"], &zstd] {
        let mut copy = vec!["copy", "--dest-tls-verify=false", "--dest-creds", &account];
        copy.extend(how);
        copy.extend([&*source, &*image]);
        skopeo(&copy);
        let inspect = ["inspect", "--tls-verify=false", "--creds", &account];
        let seen = skopeo(&[&inspect[..], &["--format={{.Digest}}", &image]].concat());
        let tagged = tag::look_up(&client, TAG).await.unwrap();
        assert_eq!(tagged.digest.to_string(), seen, "{how:?}");

        let to = format!("dir:{}", there.display());
        let back = [
            "copy",
            "--src-tls-verify=false",
            "--src-creds",
            &account,
            &image,
            &to,
        ];
        skopeo(&back);
        let manifest = client.manifest(tagged.digest).await.unwrap();
        assert_eq!(manifest, fs::read(there.join("manifest.json")).unwrap());
        let Document::Manifest(manifest) = Document::parse(&manifest).unwrap() else {
            panic!("it is an index");
        };
        let [blob] = manifest.layers.as_slice() else {
            panic!("{} layers", manifest.layers.len());
        };
        let pulled = pull(&client, blob, &[]).await;
        assert!(pulled == fs::read(there.join(hex_of(blob.digest))).unwrap());
        // It has packed it on the way.
        assert!(pulled != layer, "{how:?}");
        fs::remove_dir_all(&there).unwrap();
    }
}

/// Whose certificate nobody vouches for that we know.
#[tokio::test]
async fn one_that_is_not_the_one_of_its_name_is_told_nothing() {
    let registry = DockerRegistry::start(true, true);
    let roots = tls::public_roots();
    let outside = Outside {
        tls: tls::client_config(roots, Arc::new(Clock::default)).unwrap(),
        ..registry.outside()
    };
    let account = Credentials {
        user: USER.to_owned(),
        password: PASSWORD.to_owned(),
    };
    let client = Registry::new(&registry.name, REPOSITORY, &outside, Some(account)).unwrap();
    let error = client.manifest(Digest::of(b"none")).await.unwrap_err();
    assert!(matches!(error, RegistryError::Http(_)), "{error:?}");
    assert!(error.to_string().contains("certificate"), "{error}");
}
