//! Deployments as people write them: what is read, and what is said about mistakes.

use std::collections::BTreeMap;

use loam_deployment::{
    Bytes, ChainContext, ContractId, FarmId, ImageDigest, NodeKey, Version, cbor,
    payload::{Body, ImageSource, Machine, Target, Workload},
    seal::{self, SealContext, SealedField},
    validate,
    written::{self, Draft, Recipient, WrittenError},
};

/// The design's own example; lines below count from its first.
const HELLO: &str = r#"# hello.toml
kind = "workload"
description = "hello from a farm"

[volume.data]
size = "1GiB"

[network.private]
ipv4 = "10.20.0.0/24"
nat = true

[machine.web]
image = "registry.example/hello@sha256:abababababababababababababababababababababababababababababababab"
cpus = 1
memory = "256MiB"
command = ["/hello", "--port", "80"]
volumes = { data = "/data" }
networks = ["private"]
publish = ["tcp:8080:80"]
sealed_env = { TOKEN = "${env:TOKEN}" }
"#;

fn read(text: &str) -> Result<Draft, WrittenError> {
    let lookup = |name: &str| match name {
        "TOKEN" => Some("hunter2".to_owned()),
        "PORT" => Some("80".to_owned()),
        _ => None,
    };
    written::read("hello.toml", text, &lookup)?.pinned(&BTreeMap::new())
}

fn machine<'a>(body: &'a Body, name: &str) -> &'a Machine {
    match body {
        Body::Workload(workloads) => match &workloads[&name.parse().expect("a name")] {
            Workload::Machine(machine) => machine,
            other => panic!("{name} is {other:?}"),
        },
        Body::Node(policy) => panic!("{policy:?}"),
    }
}

fn recipient(hpke_public: [u8; 32]) -> Recipient {
    Recipient {
        chain: ChainContext {
            chain_id: 31337,
            contract: [1; 20],
        },
        node: NodeKey([2; 32]),
        hpke_public,
        contract: ContractId(3),
        version: Version(4),
    }
}

#[test]
fn the_secret_of_the_example_opens_at_its_node_and_shows_nowhere() {
    let draft = read(HELLO).expect("the example is valid");
    assert_eq!(
        (draft.kind(), draft.description()),
        ("workload", "hello from a farm")
    );
    let shown = format!("{draft:?}");
    assert!(
        shown.contains("hello from a farm") && !shown.contains("hunter2"),
        "{shown}"
    );

    let keys = seal::derive_keypair(&[5; 32]);
    let recipient = recipient(keys.public);
    let payload = draft.for_node(&recipient).expect("seals");
    assert_eq!(validate::payload(&payload), Ok(()));
    assert_eq!(payload.target, Target::Node(recipient.node));
    assert!(
        draft
            .for_farm(FarmId(1), ContractId(3), Version(1))
            .is_none()
    );

    let web = machine(&payload.body, "web");
    assert_eq!(web.root, Bytes::gib(1), "the default");
    let context = SealContext {
        chain: recipient.chain,
        node: recipient.node,
        contract: recipient.contract,
        workload: &"web".parse().expect("a name"),
        field: SealedField::Env("TOKEN"),
    };
    let opened = seal::open(&web.sealed_env["TOKEN"], &keys.private, &context).expect("opens");
    assert_eq!(opened.as_slice(), b"hunter2");
    let bytes = cbor::encode(&payload);
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(cbor::decode(&bytes), Ok(payload));
}

#[test]
fn sealed_passwords_of_object_stores() {
    let text = "kind = \"workload\"\n[object-store.s]\nsize = \"1GiB\"\nmode = \"user\"\n\
                sealed_password = \"${env:TOKEN}\"\n";
    let keys = seal::derive_keypair(&[5; 32]);
    let recipient = recipient(keys.public);
    let payload = read(text)
        .expect("valid")
        .for_node(&recipient)
        .expect("seals");
    let Body::Workload(workloads) = &payload.body else {
        panic!("{payload:?}")
    };
    let name = "s".parse().expect("a name");
    let Workload::ObjectStore(store) = &workloads[&name] else {
        panic!("{payload:?}")
    };
    let context = SealContext {
        chain: recipient.chain,
        node: recipient.node,
        contract: recipient.contract,
        workload: &name,
        field: SealedField::Password,
    };
    let opened = seal::open(&store.sealed_password, &keys.private, &context).expect("opens");
    assert_eq!(opened.as_slice(), b"hunter2");
}

#[test]
fn the_environment_fills_any_text() {
    let text = HELLO.replace(
        "\"--port\", \"80\"",
        "\"--port=${env:PORT}\", \"$${env:PORT}\"",
    );
    let draft = read(&text).expect("valid");
    assert_eq!(
        machine(draft.body(), "web").command,
        ["/hello", "--port=80", "${env:PORT}"]
    );
}

#[test]
fn peers_and_fixed_addresses() {
    let text = HELLO.replace(
        "networks = [\"private\"]",
        "networks = [\"private=10.20.0.9\"]",
    ) + "[[network.private.peers]]\n\
           public_key = \"AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\"\n\
           allowed = [\"10.30.0.0/24\"]\n\
           endpoint = \"203.0.113.7:51820\"\n";
    let draft = read(&text).expect("valid");
    let attachment = &machine(draft.body(), "web").networks[0];
    assert_eq!(
        attachment.address,
        Some("10.20.0.9".parse().expect("an address"))
    );
    let Body::Workload(workloads) = draft.body() else {
        panic!("{draft:?}")
    };
    let Workload::Network(network) = &workloads[&"private".parse().expect("a name")] else {
        panic!("{draft:?}")
    };
    assert_eq!(network.peers[0].public_key, [1; 32]);
}

#[test]
fn a_policy_for_a_farm() {
    let draft = read("kind = \"node\"\nwipe_disks = [\"a b\"]\n").expect("valid");
    assert_eq!(draft.kind(), "node");
    let payload = draft
        .for_farm(FarmId(1), ContractId(3), Version(1))
        .expect("a policy");
    assert_eq!(validate::payload(&payload), Ok(()));
    assert_eq!(payload.target, Target::Farm(FarmId(1)));
}

/// Replaces a part of the example and expects this to be said.
fn said(old: &str, new: &str, expected: &str) {
    assert_eq!(
        HELLO.matches(old).count(),
        1,
        "`{old}` is in the example once"
    );
    match read(&HELLO.replace(old, new)) {
        Ok(_) => panic!("accepted `{new}` for `{old}`"),
        Err(error) => assert_eq!(error.to_string(), expected),
    }
}

#[test]
fn mistakes_are_named_with_line_and_field() {
    said(
        "memory = \"256MiB\"",
        "memory = \"255MiB\"",
        "hello.toml:15: machine.web.memory: 255MiB is not a multiple of 2MiB",
    );
    said(
        "memory = \"256MiB\"",
        "memory = \"256MB\"",
        "hello.toml:15: machine.web.memory: `256MB` is not a size; write a number of bytes or a \
         number with KiB, MiB, GiB or TiB",
    );
    said(
        "cpus = 1",
        "cpus = 65",
        "hello.toml:14: machine.web.cpus: must be 1 to 64",
    );
    said(
        "cpus = 1",
        "cpus = \"1\"",
        "hello.toml:14: machine.web.cpus: must be a number, not a string",
    );
    said(
        "cpus = 1",
        "cpus = -1",
        "hello.toml:14: machine.web.cpus: -1 is out of range",
    );
    said(
        "cpus = 1\n",
        "",
        "hello.toml:12: machine.web: `cpus` is missing",
    );
    said(
        "cpus = 1",
        "cpu = 1",
        "hello.toml:12: machine.web: `cpus` is missing",
    );
    said(
        "cpus = 1",
        "cpus = 1\ngpus = 1",
        "hello.toml:15: machine.web.gpus: there is no such key; known here: command, cpus, \
         devices, disk, env, image, image_login, memory, mesh, networks, publish, restart, root, \
         sealed_env, ssh_keys, volumes",
    );
    said(
        "[volume.data]",
        "[volumes.data]",
        "hello.toml:5: volumes: there is no such key; known here: description, gateway, kind, \
         machine, network, object-store, public-ip, valid_until, volume",
    );
    said(
        "networks = [\"private\"]",
        "networks = [\n  \"private=10.20.0.1\",\n]",
        "hello.toml:19: machine.web.networks[0].address: is reserved: a subnet's first address, \
         its second (the gateway) and an IPv4 subnet's last (broadcast) are not for machines",
    );
    said(
        "networks = [\"private\"]",
        "networks = [\"public\"]",
        "hello.toml:18: machine.web.networks[0].network: there is no network `public` in this \
         deployment",
    );
    said(
        "volumes = { data = \"/data\" }",
        "volumes = { data = \"data\" }",
        "hello.toml:17: machine.web.volumes.data: `data` is not an absolute path below `/` \
         without `.`, `..` or empty parts",
    );
    said(
        "publish = [\"tcp:8080:80\"]",
        "publish = [\"tcp:8080\"]",
        "hello.toml:19: machine.web.publish[0]: `tcp:8080` is not of the form protocol:port of \
         the node:port of the machine, as tcp:8080:80",
    );
    said(
        "${env:TOKEN}",
        "${env:NOT_SET}",
        "hello.toml:20: machine.web.sealed_env.TOKEN: the environment variable NOT_SET is not \
         set (or is not UTF-8)",
    );
    said(
        "${env:TOKEN}",
        "a\\u0000b",
        "hello.toml:20: machine.web.sealed_env.TOKEN: must not hold a NUL character",
    );
    said(
        "\"10.20.0.0/24\"",
        "\"10.20.0.1/24\"",
        "hello.toml:9: network.private.ipv4: 10.20.0.1/24 has bits behind its prefix; write \
         10.20.0.0/24",
    );
    said(
        "[machine.web]",
        "[machine.data]",
        "hello.toml:5: volume.data: there is another workload `data`; names must differ",
    );
    said(
        "[machine.web]",
        "[machine.Web]",
        "hello.toml:12: machine.Web: `Web` is not a name; use 1 to 36 of a-z, 0-9 and -, starting \
         with a letter",
    );
    said(
        "kind = \"workload\"",
        "kind = \"release\"",
        "hello.toml:2: kind: `release` is not one of `workload`, `node`",
    );
    said(
        "cpus = 1",
        "cpus = 1\ncpus = 2",
        "hello.toml:15: duplicate key",
    );
}

#[test]
fn mistakes_have_columns_too() {
    let error = read("kind = \"node\"\npower = \"on\"\ngateway = true x\n").expect_err("no TOML");
    assert_eq!((error.line, error.column), (3, 11));
    let error = read("kind = \"node\"\nwipe_disks = [\"é\", 3]\n").expect_err("a number");
    assert_eq!((error.line, error.column), (2, 20));
}

#[test]
fn a_file_that_is_too_long_is_not_parsed() {
    let error = read(&"#".repeat(300 * 1024)).expect_err("too long");
    assert_eq!(
        error.message,
        "has 307200 bytes; at most 262144 are allowed"
    );
}

/// The example with another image.
fn with_image(image: &str) -> Result<written::Written, WrittenError> {
    let digest = format!("registry.example/hello@sha256:{}", "ab".repeat(32));
    let text = HELLO.replace("${env:TOKEN}", "x").replace(&digest, image);
    written::read("hello.toml", &text, &|_| None)
}

#[test]
fn a_tag_is_asked_for_and_signed_with_its_digest() {
    for (written, asked, signed) in [
        (
            "nginx",
            "docker.io/library/nginx:latest",
            "docker.io/library/nginx:latest",
        ),
        (
            "user/name:1",
            "docker.io/user/name:1",
            "docker.io/user/name:1",
        ),
        (
            "localhost:5000/x",
            "localhost:5000/x:latest",
            "localhost:5000/x:latest",
        ),
    ] {
        let read = with_image(written).expect("valid");
        let [unpinned] = read.unpinned() else {
            panic!("{:?}", read.unpinned());
        };
        assert_eq!(unpinned.machine.as_str(), "web");
        assert_eq!(unpinned.image.to_string(), asked);
        let error = unpinned.error("why").to_string();
        assert_eq!(error, "hello.toml:13: machine.web.image: why");
        let digests = [(unpinned.machine.clone(), ImageDigest([0xab; 32]))].into();
        let draft = read.pinned(&digests).expect("all is known");
        let ImageSource::Oci(image) = &machine(draft.body(), "web").image else {
            panic!("{draft:?}");
        };
        assert_eq!(
            image.to_string(),
            format!("{signed}@sha256:{}", "ab".repeat(32))
        );
    }
}

#[test]
fn without_its_digest_nothing_is_signed() {
    let error = with_image("nginx").expect("valid").pinned(&BTreeMap::new());
    assert_eq!(
        error.expect_err("nobody was asked").to_string(),
        "hello.toml:13: machine.web.image: it is not known which image \
         docker.io/library/nginx:latest names"
    );
}

#[test]
fn an_image_with_its_digest_is_asked_of_nobody_and_named_with_its_host() {
    let digest = format!("@sha256:{}", "cd".repeat(32));
    for (written, host, repository) in [
        ("user/name", "docker.io", "user/name"),
        ("nginx:1.29", "docker.io", "library/nginx"),
        ("ghcr.io/x/y:tag", "ghcr.io", "x/y"),
        ("registry.example/x", "registry.example", "x"),
    ] {
        let read = with_image(&format!("{written}{digest}")).expect("valid");
        assert!(read.unpinned().is_empty());
        let draft = read.pinned(&BTreeMap::new()).expect("nothing is missing");
        let ImageSource::Oci(image) = &machine(draft.body(), "web").image else {
            panic!("{draft:?}");
        };
        assert_eq!((image.registry(), image.repository()), (host, repository));
    }
}

#[test]
fn a_disk_is_named_with_its_digest() {
    let text = HELLO
        .replace("image =", "disk =")
        .replace("${env:TOKEN}", "x");
    let disk = |text: &str| written::read("hello.toml", text, &|_| None).map(|_| ());
    assert_eq!(disk(&text), Ok(()));
    let digest = format!("@sha256:{}", "ab".repeat(32));
    let error = disk(&text.replace(&digest, "")).expect_err("a tag");
    assert_eq!(
        error.to_string(),
        "hello.toml:13: machine.web.disk: a disk must be named with its digest"
    );
}

const LOGIN: &str = "image_login = { registry = \"registry.example\", sealed_user = \"alice\", \
                     sealed_password = \"${env:TOKEN}\" }";

fn with_login(login: &str) -> Result<written::Written, WrittenError> {
    let lookup = |name: &str| (name == "TOKEN").then(|| "hunter2".to_owned());
    let text = HELLO.replace("cpus = 1", &format!("cpus = 1\n{login}"));
    written::read("hello.toml", &text, &lookup)
}

#[test]
fn a_login_is_told_to_who_asks_the_registry_and_sealed_for_the_node() {
    let read = with_login(LOGIN).expect("valid");
    let web = "web".parse().expect("a name");
    assert_eq!(read.login(&web), Some(("alice", "hunter2")));
    assert_eq!(read.login(&"data".parse().expect("a name")), None);
    assert!(!format!("{read:?}").contains("hunter2"));

    let draft = read.pinned(&BTreeMap::new()).expect("nothing is missing");
    let keys = seal::derive_keypair(&[5; 32]);
    let recipient = recipient(keys.public);
    let payload = draft.for_node(&recipient).expect("seals");
    assert_eq!(validate::payload(&payload), Ok(()));
    let login = machine(&payload.body, "web").image_login.as_ref();
    let login = login.expect("there is one");
    let context = |field| SealContext {
        chain: recipient.chain,
        node: recipient.node,
        contract: recipient.contract,
        workload: &web,
        field,
    };
    let user = seal::open(
        &login.sealed_user,
        &keys.private,
        &context(SealedField::ImageUser),
    );
    assert_eq!(user.expect("opens").as_slice(), b"alice");
    let context = context(SealedField::ImagePassword);
    let password = seal::open(&login.sealed_password, &keys.private, &context);
    assert_eq!(password.expect("opens").as_slice(), b"hunter2");
    let bytes = cbor::encode(&payload);
    assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
    assert_eq!(cbor::decode(&bytes), Ok(payload));
}

#[test]
fn mistakes_in_a_login_are_named() {
    for (old, new, expected) in [
        (
            "registry.example",
            "other.example",
            "registry: must be the image's, `registry.example`",
        ),
        (
            "alice",
            "a:b",
            "sealed_user: must not hold a colon or control characters",
        ),
        ("alice", "", "sealed_user: must not be empty"),
        (
            "${env:TOKEN}",
            "a\\nb",
            "sealed_password: must not hold control characters",
        ),
        ("sealed_user = \"alice\", ", "", "`sealed_user` is missing"),
    ] {
        let error = with_login(&LOGIN.replace(old, new))
            .expect_err(new)
            .to_string();
        assert!(
            error.starts_with("hello.toml:15: machine.web.image_login"),
            "{error}"
        );
        assert!(error.ends_with(expected), "{error}");
    }
    let long = LOGIN.replace("alice", &"x".repeat(257));
    let error = with_login(&long).expect_err("too long").to_string();
    assert!(
        error.ends_with("has 257 bytes; at most 256 are allowed"),
        "{error}"
    );
}

#[test]
fn docker_hub_s_registry_has_its_names_in_a_login_too() {
    let digest = format!("registry.example/hello@sha256:{}", "ab".repeat(32));
    for registry in ["docker.io", "index.docker.io"] {
        let login = LOGIN.replace("registry.example", registry);
        let text = HELLO
            .replace(&digest, "user/name")
            .replace("${env:TOKEN}", "x");
        let login = login.replace("${env:TOKEN}", "x");
        let text = text.replace("cpus = 1", &format!("cpus = 1\n{login}"));
        written::read("hello.toml", &text, &|_| None).expect(registry);
    }
}
