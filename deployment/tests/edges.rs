//! What stands at the edge of what a deployment may hold: the last that passes, the first that does not.

use loam_deployment::{
    ChainContext, ContractId, FieldError, NodeKey, Version,
    payload::{Body, Machine, Payload, Sealed, Target, Workload},
    seal, validate,
    written::{self, WrittenError},
};

const MACHINE: &str = r#"kind = "workload"
[machine.web]
image = "registry.example/hello@sha256:abababababababababababababababababababababababababababababababab"
cpus = 1
memory = "256MiB"
"#;

fn read(text: &str) -> Result<written::Draft, WrittenError> {
    written::read("edge.toml", text, &|_| None)
}

/// The payload of one machine, changed as `change` says.
fn with_machine(change: impl FnOnce(&mut Machine)) -> Result<(), FieldError> {
    let recipient = written::Recipient {
        chain: ChainContext {
            chain_id: 31337,
            contract: [1; 20],
        },
        node: NodeKey([2; 32]),
        hpke_public: seal::derive_keypair(&[5; 32]).public,
        contract: ContractId(3),
        version: Version(4),
    };
    let draft = read(MACHINE).expect("the machine is valid");
    let mut payload: Payload = draft.for_node(&recipient).expect("seals");
    assert_eq!(payload.target, Target::Node(NodeKey([2; 32])));
    let Body::Workload(workloads) = &mut payload.body else {
        panic!("{payload:?}")
    };
    let Some(Workload::Machine(machine)) = workloads.values_mut().next() else {
        panic!("{payload:?}")
    };
    change(machine);
    validate::payload(&payload)
}

#[test]
fn a_sealed_variable_holds_none_to_8192_bytes() {
    let with_ciphertext = |bytes| {
        with_machine(|machine| {
            let sealed = Sealed {
                encapsulated: [7; 32],
                ciphertext: vec![0; bytes],
            };
            machine.sealed_env.insert("TOKEN".to_owned(), sealed);
        })
    };
    assert_eq!(with_ciphertext(16), Ok(()));
    assert_eq!(with_ciphertext(16 + 8192), Ok(()));
    let short = with_ciphertext(15).expect_err("has no tag");
    assert_eq!(short.path, "workloads.web.sealed_env.TOKEN");
    let long = with_ciphertext(16 + 8193).expect_err("is too long");
    assert!(format!("{long:?}").contains("has 8193 bytes"), "{long:?}");
}

#[test]
fn an_ssh_key_is_one_line_of_a_known_kind_with_base64() {
    let with_key = |key: &str| with_machine(|machine| machine.ssh_keys.push(key.to_owned()));
    assert_eq!(with_key("ssh-ed25519 AAAA+/b="), Ok(()));
    assert_eq!(with_key("ssh-ed25519 AAAA who it is"), Ok(()));
    for refused in [
        "",
        "ssh-ed25519",
        "ssh-ed25519 ",
        "ssh-ed25519 AA!A who",
        "ssh-dss AAAA who",
        "ssh-ed25519 AAAA who\nssh-ed25519 BBBB",
    ] {
        let error = with_key(refused).expect_err(refused);
        assert_eq!(error.path, "workloads.web.ssh_keys[0]", "{refused}");
    }
}

#[test]
fn a_gateways_backend_is_a_url_or_an_address() {
    let with_backend = |tls: &str, backend: &str| {
        read(&format!(
            "kind = \"workload\"\n[gateway.shop]\ndomain = \"shop.example\"\ntls = \"{tls}\"\n\
             backends = ['{backend}']\n"
        ))
    };
    for accepted in [
        "http://10.20.0.2",
        "https://shop.example",
        "https://shop.example:8443/a/path%20on",
        "http://[fd00::1]:80/",
        "10.20.0.2:80",
    ] {
        assert!(with_backend("terminate", accepted).is_ok(), "{accepted}");
    }
    for refused in [
        "ftp://shop.example",
        "http://",
        "http:///path",
        "http://user@shop.example",
        "http://shop.example/?q",
        "http://shop.example/#part",
        "http://shop.example/a b",
        "http://not a host/path",
        "10.20.0.2",
    ] {
        let error = with_backend("terminate", refused).expect_err(refused);
        assert_eq!(
            (error.line, error.field.as_str()),
            (5, "gateway.shop.backends[0]"),
            "{refused}"
        );
    }
    assert!(with_backend("passthrough", "10.20.0.2:443").is_ok());
    assert!(with_backend("passthrough", "https://10.20.0.2:443").is_err());
}

#[test]
fn a_file_of_256_kib_is_read() {
    let filled = |bytes: usize| format!("{MACHINE}#{}", "x".repeat(bytes - MACHINE.len() - 1));
    assert!(read(&filled(256 * 1024)).is_ok());
    assert!(read(&filled(256 * 1024 + 1)).is_err());
}
