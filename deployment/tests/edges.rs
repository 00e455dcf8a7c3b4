//! What stands at the edge of what a deployment may hold: the last that passes, the first that does not.

use std::collections::BTreeMap;

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
    written::read("edge.toml", text, &|_| None)?.pinned(&BTreeMap::new())
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

/// What `lines` in a workload's or a node's file are: taken, or refused in the field that is named.
fn judged(text: &str) -> Result<(), String> {
    read(text).map(drop).map_err(|error| error.field)
}

#[test]
fn ports_begin_with_1() {
    let with = |published: &str| {
        judged(&format!(
            "{MACHINE}networks = [\"n\"]\npublish = [\"{published}\"]\n[network.n]\nipv4 = \"10.1.0.0/24\"\n"
        ))
    };
    let refused = Err("machine.web.publish[0]".to_owned());
    assert_eq!(with("tcp:1:1"), Ok(()));
    assert_eq!(with("tcp:65535:65535"), Ok(()));
    assert_eq!(with("tcp:0:80"), refused);
    assert_eq!(with("tcp:80:0"), refused);
}

#[test]
fn a_device_is_a_whole_pci_address() {
    let with = |device: &str| judged(&format!("{MACHINE}devices = [\"{device}\"]\n"));
    for accepted in ["0000:01:00.0", "ffff:ff:1f.7"] {
        assert_eq!(with(accepted), Ok(()), "{accepted}");
    }
    for refused in [
        "",
        "0000:01:00",
        "0000:01:00.",
        "0000:01:00.00",
        "0000:01:00.8",
        "0000:01:20.0",
        "0000:01:0g.0",
        "000g:01:00.0",
        "0000-01:00.0",
        "0000:01:00:0",
    ] {
        assert_eq!(
            with(refused),
            Err("machine.web.devices[0]".into()),
            "{refused}"
        );
    }
}

#[test]
fn networks_of_one_deployment_do_not_overlap() {
    let with = |a: (&str, &str), b: (&str, &str)| {
        judged(&format!(
            "kind = \"workload\"\n[network.a]\nipv4 = \"{}\"\nipv6 = \"{}\"\n\
             [network.b]\nipv4 = \"{}\"\nipv6 = \"{}\"\n",
            a.0, a.1, b.0, b.1
        ))
    };
    let (one, other) = (
        ("10.1.0.0/24", "fd00:1::/64"),
        ("10.2.0.0/24", "fd00:2::/64"),
    );
    assert_eq!(with(one, other), Ok(()));
    // The larger one first, and last.
    for (a, b) in [
        ("10.1.0.0/16", "10.1.7.0/24"),
        ("10.1.7.0/24", "10.1.0.0/16"),
    ] {
        assert_eq!(with((a, one.1), (b, other.1)), Err("network.b.ipv4".into()));
    }
    for (a, b) in [
        ("fd00:1::/48", "fd00:1:0:7::/64"),
        ("fd00:1:0:7::/64", "fd00:1::/48"),
    ] {
        assert_eq!(with((one.0, a), (other.0, b)), Err("network.b.ipv6".into()));
    }
}

#[test]
fn subnets_are_private_whole_and_neither_too_large_nor_too_small() {
    let ipv4 = |net: &str| {
        judged(&format!(
            "kind = \"workload\"\n[network.n]\nipv4 = \"{net}\"\n"
        ))
    };
    for accepted in [
        "10.0.0.0/8",
        "10.0.0.0/29",
        "172.31.255.0/24",
        "192.168.0.0/16",
    ] {
        assert_eq!(ipv4(accepted), Ok(()), "{accepted}");
    }
    for refused in [
        "10.0.0.0/7",
        "10.0.0.0/30",
        "172.32.0.0/24",
        "10.0.0.1/24",
        "11.0.0.0/24",
    ] {
        assert_eq!(ipv4(refused), Err("network.n.ipv4".into()), "{refused}");
    }
    let ipv6 = |net: &str| {
        judged(&format!(
            "kind = \"workload\"\n[network.n]\nipv4 = \"10.0.0.0/24\"\nipv6 = \"{net}\"\n"
        ))
    };
    assert_eq!(ipv6("fd00::/48"), Ok(()));
    assert_eq!(ipv6("fd00::/112"), Ok(()));
    for refused in ["fd00::/113", "fd00::/47", "fd00::1/64", "2001:db8::/64"] {
        assert_eq!(ipv6(refused), Err("network.n.ipv6".into()), "{refused}");
    }
}

#[test]
fn a_peer_can_be_sent_to_and_has_subnets_of_its_own() {
    const KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let with = |endpoint: &str, allowed: &str| {
        judged(&format!(
            "kind = \"workload\"\n[network.n]\nipv4 = \"10.0.0.0/24\"\n\
             [[network.n.peers]]\npublic_key = \"{KEY}\"\nallowed = [{allowed}]\nendpoint = \"{endpoint}\"\n"
        ))
    };
    let net = "\"10.9.0.0/24\"";
    assert_eq!(with("192.0.2.1:1", net), Ok(()));
    for refused in [
        "192.0.2.1:0",
        "0.0.0.0:51820",
        "224.0.0.1:51820",
        "[::]:51820",
        "[ff02::1]:51820",
    ] {
        let field = with(refused, net).expect_err(refused);
        assert!(field.contains("endpoint"), "{refused}: {field}");
    }
    let field = with("192.0.2.1:1", "").expect_err("no subnet");
    assert!(field.contains("allowed"), "{field}");
    let field = with("192.0.2.1:1", "\"10.9.0.1/24\"").expect_err("bits behind the prefix");
    assert!(field.contains("allowed"), "{field}");
}

#[test]
fn a_farmers_policy_at_its_edges() {
    let with = |line: &str| judged(&format!("kind = \"node\"\n{line}\n"));
    for accepted in [
        "publish_ports = \"1-1\"",
        "publish_ports = \"8000-65535\"",
        "update_window = { start = \"00:00\", minutes = 1 }",
        "update_window = { start = \"23:59\", minutes = 1440 }",
        "public_addresses = [\"192.0.2.0/25\", \"192.0.2.128/25\", \"2001:db8::/64\"]",
        "wipe_disks = [\"ata disk 1\", \"ata disk 2\"]",
    ] {
        assert_eq!(with(accepted), Ok(()), "{accepted}");
    }
    for (refused, field) in [
        ("publish_ports = \"0-5\"", "publish_ports"),
        ("publish_ports = \"9-8\"", "publish_ports"),
        ("publish_ports = \"1-65536\"", "publish_ports"),
        (
            "update_window = { start = \"24:00\", minutes = 1 }",
            "update_window.start",
        ),
        (
            "update_window = { start = \"02:60\", minutes = 1 }",
            "update_window.start",
        ),
        (
            "update_window = { start = \"2:00\", minutes = 1 }",
            "update_window.start",
        ),
        (
            "update_window = { start = \"+2:00\", minutes = 1 }",
            "update_window.start",
        ),
        (
            "update_window = { start = \"002:00\", minutes = 1 }",
            "update_window.start",
        ),
        (
            "update_window = { start = \"02:00\", minutes = 0 }",
            "update_window.minutes",
        ),
        (
            "update_window = { start = \"02:00\", minutes = 1441 }",
            "update_window.minutes",
        ),
        (
            "public_addresses = [\"192.0.2.0/24\", \"192.0.2.128/25\"]",
            "public_addresses[1]",
        ),
        (
            "public_addresses = [\"192.0.2.128/25\", \"192.0.2.0/24\"]",
            "public_addresses[1]",
        ),
        (
            "public_addresses = [\"192.0.2.1/24\"]",
            "public_addresses[0]",
        ),
        ("wipe_disks = [\"a\", \"a\"]", "wipe_disks[1]"),
        ("wipe_disks = [\"  \"]", "wipe_disks[0]"),
        ("wipe_disks = [\"\"]", "wipe_disks[0]"),
        ("wipe_disks = [\"a\\tb\"]", "wipe_disks[0]"),
    ] {
        assert_eq!(with(refused), Err(field.to_owned()), "{refused}");
    }
}

#[test]
fn an_object_store_has_a_size_in_whole_units() {
    let with = |size: &str| {
        judged(&format!(
            "kind = \"workload\"\n[object-store.s]\nsize = \"{size}\"\nmode = \"user\"\n\
             sealed_password = \"secret\"\n"
        ))
    };
    assert_eq!(with("1GiB"), Ok(()));
    for refused in ["1", "1000000001", "1KiB"] {
        assert_eq!(
            with(refused),
            Err("object-store.s.size".into()),
            "{refused}"
        );
    }
}

#[test]
fn a_size_may_be_a_number_of_bytes() {
    let with = |memory: &str| judged(&MACHINE.replace("\"256MiB\"", memory));
    assert_eq!(with("268435456"), Ok(()));
    assert_eq!(with("268435457"), Err("machine.web.memory".into()));
    assert_eq!(with("true"), Err("machine.web.memory".into()));
}

#[test]
fn a_file_of_256_kib_is_read() {
    let filled = |bytes: usize| format!("{MACHINE}#{}", "x".repeat(bytes - MACHINE.len() - 1));
    assert!(read(&filled(256 * 1024)).is_ok());
    assert!(read(&filled(256 * 1024 + 1)).is_err());
}
