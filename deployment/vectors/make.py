"""Makes the test vectors, independently of the Rust code. See README.md."""

import argparse
import ipaddress
import json
import pathlib
import sys
import tomllib

import cbor2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pycose.algorithms import EdDSA
from pycose.headers import KID, Algorithm, ContentType
from pycose.keys import OKPKey
from pycose.keys.curves import Ed25519
from pycose.messages import Sign1Message, SignMessage
from pycose.messages.signer import CoseSignature
from pyhpke import AEADId, CipherSuite, KDFId, KEMId

HERE = pathlib.Path(__file__).parent

# Order of Ed25519's base point.
L = 2**252 + 27742317777372353535851937790883648493


def public(seed):
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def seed(byte):
    return bytes([byte]) * 32


ALICE, ALICE_2, STRANGER, FARMER, NODE = seed(1), seed(2), seed(3), seed(4), seed(5)
OWNER, FARMER_TWIN = 5, 9
CHAIN_ID = 31337
GRID = bytes.fromhex("5fbdb2315678afecb367f032d93f642f64180aa3")

EXPECTED = {
    "chain_id": CHAIN_ID,
    "grid": GRID.hex(),
    "node": public(NODE).hex(),
    "farm": {"id": 2, "twin": FARMER_TWIN},
    "contract": 7,
    "version": 1,
    "owner": OWNER,
    "keys": [[public(ALICE).hex(), 1], [public(ALICE_2).hex(), 1]],
    "threshold": 1,
    "now": 1800000000,
    "running": None,
}
AS_FARMER = {"owner": FARMER_TWIN, "keys": [[public(FARMER).hex(), 1]]}


def dumps(value):
    return cbor2.dumps(value, canonical=True)


def aad(label, chain_id=CHAIN_ID, grid=GRID):
    return label + chain_id.to_bytes(8, "big") + grid


def okp(private):
    return OKPKey(crv=Ed25519, x=public(private), d=private)


def envelope(payload, signers=((OWNER, ALICE),), *, external=None, phdr=None, uhdr=None, signer=None):
    """`signer` changes the headers of each signature."""
    if not isinstance(payload, bytes):
        payload = dumps(payload)
    external = external if external is not None else aad(b"loam-deployment-v1")
    signatures = []
    for twin, private in signers:
        headers = {Algorithm: EdDSA, KID: twin.to_bytes(8, "big")}
        more = dict(signer or {})
        unprotected = more.pop("uhdr", {})
        headers.update(more)
        signatures.append(
            CoseSignature(phdr=headers, uhdr=unprotected, key=okp(private), external_aad=external)
        )
    message = SignMessage(phdr=phdr or {}, uhdr=uhdr or {}, payload=payload, signers=signatures)
    return message.encode(tag=True)


# --- payloads -----------------------------------------------------------------------------------

DIGEST = "sha256:" + "ab" * 32
IMAGE = "registry.example/hello@" + DIGEST


def payload(workloads, **fields):
    return {
        "format": 1,
        "kind": "workload",
        "node": public(NODE),
        "contract": 7,
        "version": 1,
        "workloads": workloads,
    } | fields


def machine(**fields):
    return {
        "type": "machine",
        "image": IMAGE,
        "cpus": 1,
        "memory": 256 << 20,
        "root": 1 << 30,
    } | fields


def policy(fields, **more):
    return {
        "format": 1,
        "kind": "node",
        "node": public(NODE),
        "contract": 7,
        "version": 1,
        "policy": fields,
    } | more


def subnet(text):
    net = ipaddress.ip_network(text)
    return [net.network_address.packed, net.prefixlen]


def address(text):
    return ipaddress.ip_address(text).packed


SEALED = {"encapsulated": bytes(range(32)), "ciphertext": bytes(range(24))}
LOGIN = {"registry": "registry.example", "sealed_user": SEALED, "sealed_password": SEALED}

EVERYTHING = payload(
    {
        "web": machine(
            cpus=64,
            memory=1 << 40,
            root=16 << 20,
            command=["/hello", "--port", "80", ""],
            env={"A": "1", "LONG_NAME": "", "_x9": "ünïcödé\n"},
            sealed_env={"TOKEN": SEALED, "KEY": SEALED},
            ssh_keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== alice@example"],
            volumes={"data": "/data", "big-raw": "/srv/raw"},
            networks=[
                {"network": "private", "address": address("10.20.0.5")},
                {"network": "other"},
            ],
            mesh=True,
            publish=[
                {"protocol": "tcp", "node_port": 8080, "machine_port": 80},
                {"protocol": "udp", "node_port": 8080, "machine_port": 65535},
            ],
            restart="on-failure",
            devices=["0000:01:1f.7"],
        ),
        "db": {
            "type": "machine",
            "disk": "10.0.2.2:5000/team/db-disk@" + DIGEST,
            "cpus": 2,
            "memory": 64 << 20,
            "root": 1 << 40,
            "networks": [{"network": "private", "address": address("fd00:1::5")}],
            "restart": "never",
        },
        "data": {"type": "volume", "size": 1 << 30},
        "big-raw": {
            "type": "volume",
            "size": 1 << 44,
            "media": "hdd",
            "filesystem": "raw",
            "encrypted": False,
        },
        "private": {
            "type": "network",
            "ipv4": subnet("10.20.0.0/24"),
            "ipv6": subnet("fd00:1::/64"),
            "nat": True,
            "peers": [
                {
                    "public_key": bytes(range(1, 33)),
                    "allowed": [subnet("10.30.0.0/24"), subnet("fd00:2::/64")],
                    "endpoint": {"address": address("203.0.113.7"), "port": 51820},
                },
                {"public_key": bytes(range(2, 34)), "allowed": [subnet("10.31.0.9/32")]},
            ],
        },
        "other": {"type": "network", "ipv4": subnet("192.168.7.0/29")},
        "front": {"type": "gateway", "name": "hello", "backends": ["http://10.20.0.5:80/app"]},
        "tls": {
            "type": "gateway",
            "domain": "www.example.org",
            "backends": ["10.20.0.5:443", "[fd00:1::5]:443"],
            "tls": "passthrough",
        },
        "ip": {"type": "public-ip", "v4": True, "v6": True},
        "store": {
            "type": "object-store",
            "size": 1 << 30,
            "mode": "sequential",
            "sealed_password": SEALED,
            "public": True,
        },
    },
    valid_until=1900000000,
    description="everything there is",
)

# What the Rust types say for the same, as serde writes them to JSON.
EVERYTHING_JSON = {
    "target": {"node": public(NODE).hex()},
    "contract": 7,
    "version": 1,
    "valid_until": 1900000000,
    "description": "everything there is",
    "body": {
        "kind": "workload",
        "body": {
            "web": {
                "type": "machine",
                "image": {"oci": IMAGE},
                "image_login": None,
                "cpus": 64,
                "memory": 1 << 40,
                "root": 16 << 20,
                "command": ["/hello", "--port", "80", ""],
                "env": {"A": "1", "LONG_NAME": "", "_x9": "ünïcödé\n"},
                "sealed_env": {
                    name: {"encapsulated": list(range(32)), "ciphertext": list(range(24))}
                    for name in ("KEY", "TOKEN")
                },
                "ssh_keys": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== alice@example"],
                "volumes": {"big-raw": "/srv/raw", "data": "/data"},
                "networks": [
                    {"network": "private", "address": "10.20.0.5"},
                    {"network": "other", "address": None},
                ],
                "mesh": True,
                "publish": [
                    {"protocol": "tcp", "node_port": 8080, "machine_port": 80},
                    {"protocol": "udp", "node_port": 8080, "machine_port": 65535},
                ],
                "restart": "on-failure",
                "devices": ["0000:01:1f.7"],
            },
            "db": {
                "type": "machine",
                "image": {"disk": "10.0.2.2:5000/team/db-disk@" + DIGEST},
                "image_login": None,
                "cpus": 2,
                "memory": 64 << 20,
                "root": 1 << 40,
                "command": [],
                "env": {},
                "sealed_env": {},
                "ssh_keys": [],
                "volumes": {},
                "networks": [{"network": "private", "address": "fd00:1::5"}],
                "mesh": False,
                "publish": [],
                "restart": "never",
                "devices": [],
            },
            "data": {
                "type": "volume",
                "size": 1 << 30,
                "media": "any",
                "filesystem": "ext4",
                "encrypted": True,
            },
            "big-raw": {
                "type": "volume",
                "size": 1 << 44,
                "media": "hdd",
                "filesystem": "raw",
                "encrypted": False,
            },
            "private": {
                "type": "network",
                "ipv4": "10.20.0.0/24",
                "ipv6": "fd00:1::/64",
                "peers": [
                    {
                        "public_key": list(range(1, 33)),
                        "allowed": ["10.30.0.0/24", "fd00:2::/64"],
                        "endpoint": "203.0.113.7:51820",
                    },
                    {
                        "public_key": list(range(2, 34)),
                        "allowed": ["10.31.0.9/32"],
                        "endpoint": None,
                    },
                ],
                "nat": True,
            },
            "other": {
                "type": "network",
                "ipv4": "192.168.7.0/29",
                "ipv6": None,
                "peers": [],
                "nat": False,
            },
            "front": {
                "type": "gateway",
                "host": {"name": "hello"},
                "backends": ["http://10.20.0.5:80/app"],
                "tls": "terminate",
            },
            "tls": {
                "type": "gateway",
                "host": {"domain": "www.example.org"},
                "backends": ["10.20.0.5:443", "[fd00:1::5]:443"],
                "tls": "passthrough",
            },
            "ip": {"type": "public-ip", "v4": True, "v6": True},
            "store": {
                "type": "object-store",
                "size": 1 << 30,
                "mode": "sequential",
                "sealed_password": {
                    "encapsulated": list(range(32)),
                    "ciphertext": list(range(24)),
                },
                "public": True,
            },
        },
    },
}

POLICY = {
    "wipe_disks": ["0x5000c500a1b2c3d4", "QEMU HARDDISK QM00001"],
    "public_addresses": [subnet("203.0.113.0/28"), subnet("2001:db8::/48")],
    "gateway": True,
    "power": "on-demand",
    "update_window": {"start_minute": 1439, "minutes": 1440},
    "publish_ports": {"first": 8000, "last": 8999},
}

POLICY_JSON = {
    "target": {"farm": 2},
    "contract": 7,
    "version": 1,
    "valid_until": None,
    "description": "",
    "body": {
        "kind": "node",
        "body": {
            "wipe_disks": ["0x5000c500a1b2c3d4", "QEMU HARDDISK QM00001"],
            "public_addresses": ["203.0.113.0/28", "2001:db8::/48"],
            "gateway": True,
            "power": "on-demand",
            "update_window": {"start_minute": 1439, "minutes": 1440},
            "publish_ports": [8000, 8999],
        },
    },
}

# --- TOML ---------------------------------------------------------------------------------------

HELLO_TOML = f"""# What the design's page shows, without its secret.
kind = "workload"
description = "hello from a farm"
valid_until = 2027-01-31T12:00:00Z

[volume.data]
size = "1GiB"
encrypted = false

[network.private]
ipv4 = "10.20.0.0/24"
nat = true

[machine.web]
image = "{IMAGE}"
cpus = 1
memory = "256MiB"
command = ["/hello", "--port", "80"]
env = {{ GREETING = "hi" }}
volumes = {{ data = "/data" }}
networks = ["private=10.20.0.5"]
publish = ["tcp:8080:80"]
"""

POLICY_TOML = """kind = "node"
wipe_disks = ["0x5000c500a1b2c3d4"]
public_addresses = ["203.0.113.0/28"]
gateway = true
power = "on-demand"
update_window = { start = "02:30", minutes = 90 }
publish_ports = "8000-8999"
"""


def size(written):
    units = {"KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
    if isinstance(written, int):
        return written
    return int(written[:-3]) << units[written[-3:]]


def from_toml(text):
    """TOML to payload, for the keys that the vectors use."""
    file = tomllib.loads(text)
    common = {}
    if "description" in file:
        common["description"] = file["description"]
    if "valid_until" in file:
        common["valid_until"] = int(file["valid_until"].timestamp())
    if file["kind"] == "node":
        fields = {key: file[key] for key in ("wipe_disks", "gateway", "power")}
        fields["public_addresses"] = [subnet(net) for net in file["public_addresses"]]
        hours, minutes = file["update_window"]["start"].split(":")
        fields["update_window"] = {
            "start_minute": int(hours) * 60 + int(minutes),
            "minutes": file["update_window"]["minutes"],
        }
        first, last = file["publish_ports"].split("-")
        fields["publish_ports"] = {"first": int(first), "last": int(last)}
        return policy(fields, **common)

    workloads = {}
    for name, written in file["volume"].items():
        workloads[name] = {"type": "volume", "size": size(written["size"])}
        if not written.get("encrypted", True):
            workloads[name]["encrypted"] = False
    for name, written in file["network"].items():
        workloads[name] = {"type": "network", "ipv4": subnet(written["ipv4"]), "nat": written["nat"]}
    for name, written in file["machine"].items():
        networks = []
        for text in written["networks"]:
            network, _, fixed = text.partition("=")
            networks.append({"network": network} | ({"address": address(fixed)} if fixed else {}))
        publish = []
        for text in written["publish"]:
            protocol, node_port, machine_port = text.split(":")
            publish.append(
                {
                    "protocol": protocol,
                    "node_port": int(node_port),
                    "machine_port": int(machine_port),
                }
            )
        workloads[name] = {
            "type": "machine",
            "image": written["image"],
            "cpus": written["cpus"],
            "memory": size(written["memory"]),
            "root": size(written.get("root", "1GiB")),
            "command": written["command"],
            "env": written["env"],
            "volumes": written["volumes"],
            "networks": networks,
            "publish": publish,
        }
    return payload(workloads, **common)


# --- valid deployments --------------------------------------------------------------------------


def deployments():
    def vector(name, about, content, signers=((OWNER, ALICE),), expected=None, **more):
        return {
            "name": name,
            "about": about,
            "expected": expected or {},
            "signers": [{"twin": twin, "seed": private.hex()} for twin, private in signers],
            "payload": dumps(content).hex(),
            "envelope": envelope(content, signers).hex(),
        } | more

    farmer = ((FARMER_TWIN, FARMER),)
    vectors = [
        vector("nothing", "the smallest: no workloads", payload({})),
        vector("everything", "every field of every workload", EVERYTHING, json=EVERYTHING_JSON),
        vector(
            "tag",
            "an image whose tag is kept beside its digest",
            payload({"web": machine(image="registry.example:5000/team/hello:1.29-Alpine_3.x@" + DIGEST)}),
        ),
        vector(
            "image login",
            "an account at the image's registry",
            payload({"web": machine(image_login=LOGIN)}),
        ),
        vector("hello", "written in TOML", from_toml(HELLO_TOML), toml=HELLO_TOML),
        vector(
            "two signers",
            "the owner's threshold asks for both keys",
            payload({}),
            ((OWNER, ALICE_2), (OWNER, ALICE)),
            {"threshold": 2},
        ),
        vector(
            "update",
            "version 3 over 2, at the last second of its life",
            payload({"data": {"type": "volume", "size": 16 << 20}}, version=3, valid_until=1800000000),
            expected={"version": 3, "running": 2},
        ),
        vector("policy", "written in TOML", from_toml(POLICY_TOML), farmer, AS_FARMER, toml=POLICY_TOML),
        vector("empty policy", "a node with every default", policy({}), farmer, AS_FARMER),
    ]
    whole_farm = policy(POLICY, farm=2)
    del whole_farm["node"]
    vectors.append(
        vector("farm", "for every node of a farm", whole_farm, farmer, AS_FARMER, json=POLICY_JSON)
    )
    return {"expected": EXPECTED, "vectors": vectors}


# --- refused deployments ------------------------------------------------------------------------


def replaced(data, old, new, count=1):
    """Bytes with one part replaced, which must be there exactly `count` times."""
    assert data.count(old) == count, (data.hex(), old.hex())
    return data.replace(old, new)


def key(text):
    return cbor2.dumps(text)


def without(mapping, *keys):
    return {k: v for k, v in mapping.items() if k not in keys}


def refused():
    vectors = []

    def add(code, name, signed, path=None, **expected):
        vector = {"name": name, "code": code, "envelope": signed.hex(), "expected": expected}
        if path is not None:
            vector["path"] = path
        vectors.append(vector)

    small = payload({})
    web = payload({"web": machine()})

    # Encoding. The signatures are right, so that only the encoding can be why.
    raw = dumps(small)
    good = envelope(small)
    add("truncated", "nothing at all", b"")
    add("truncated", "the envelope without its last byte", good[:-1])
    add("trailing-bytes", "a byte behind the envelope", good + b"\x00")
    add("truncated", "the payload without its last byte", envelope(raw[:-1]))
    add("trailing-bytes", "a byte behind the payload", envelope(raw + b"\x00"))
    add("truncated", "a list of 2^64 - 1 items", envelope(b"\x9b" + b"\xff" * 8))
    add("truncated", "a text of 2^63 bytes", envelope(b"\x7b\x80" + b"\x00" * 7))
    version = key("version") + b"\x01"
    for name, long in [
        ("one byte", b"\x18\x01"),
        ("two bytes", b"\x19\x00\x01"),
        ("four bytes", b"\x1a\x00\x00\x00\x01"),
        ("eight bytes", b"\x1b" + b"\x00" * 7 + b"\x01"),
    ]:
        long_version = envelope(replaced(raw, version, key("version") + long))
        add("not-shortest", "version 1 in " + name, long_version)
    add("not-shortest", "a long key", envelope(replaced(raw, key("kind"), b"\x78\x04kind")))
    add("not-shortest", "tag 98 in two bytes", b"\xd9\x00\x62" + good[2:])
    indefinite = b"\xbf" + raw[1:] + b"\xff"
    add("indefinite-length", "a map of indefinite length", envelope(indefinite))
    no_workloads = key("workloads") + b"\xa0"
    add(
        "indefinite-length",
        "workloads of indefinite length",
        envelope(replaced(raw, no_workloads, key("workloads") + b"\xbf\xff")),
    )
    add("indefinite-length", "an envelope of indefinite length", b"\xd8\x62\x9f" + good[3:] + b"\xff")
    add("unsupported-value", "version 1.0", envelope(replaced(raw, version, key("version") + b"\xf9\x3c\x00")))
    add("unsupported-value", "version null", envelope(replaced(raw, version, key("version") + b"\xf6")))
    add("unsupported-value", "version undefined", envelope(replaced(raw, version, key("version") + b"\xf7")))
    add("not-utf8", "a key that is not UTF-8", envelope(replaced(raw, key("kind"), b"\x64kin\xff")))
    contract = key("contract") + b"\x07"
    pair = version + contract
    assert pair in raw
    add("unsorted-map", "contract before version", envelope(replaced(raw, pair, contract + version)))
    doubled = bytes([raw[0] + 1]) + replaced(raw[1:], version, version + version)
    add("duplicate-key", "version twice", envelope(doubled))
    doubled = bytes([raw[0] + 1]) + replaced(raw[1:], version, version + key("version") + b"\x02")
    add("duplicate-key", "version twice, with other values", envelope(doubled))
    deep = [0]
    for _ in range(16):
        deep = [deep]
    add("too-deep", "17 lists in each other", envelope(deep))
    add("too-deep", "12000 lists in each other", envelope(b"\x81" * 12000 + b"\x00"))
    add("too-large", "more than a data contract holds", envelope(payload({}, description="x" * 24576)))

    # Fields.
    add("wrong-type", "not a map", envelope([1]), "")
    add("wrong-type", "a key that is a number", envelope(small | {1: 1}), "")
    add("unknown-field", "an unknown field", envelope(small | {"owner": 5}), "owner")
    add("unknown-field", "an unknown field of a machine", envelope(payload({"web": machine(gpu=1)})), "workloads.web.gpu")
    attached = machine(networks=[{"network": "lan", "mac": "x"}])
    odd = payload({"web": machine(image_login=LOGIN | {"token": "x"})})
    add("unknown-field", "an unknown field of a login", envelope(odd), "workloads.web.image_login.token")
    bare = payload({"web": machine(image_login=without(LOGIN, "registry"))})
    add("missing-field", "a login without its registry", envelope(bare), "workloads.web.image_login.registry")
    add("unknown-field", "an unknown field in a list", envelope(payload({"web": attached})), "workloads.web.networks[0].mac")
    add("unknown-field", "a policy in a workload deployment", envelope(small | {"policy": {}}), "policy")
    for field in ("format", "kind", "node", "contract", "version", "workloads"):
        add("missing-field", "without " + field, envelope(without(small, field)), field)
    for field in ("image", "cpus", "memory", "root"):
        bare = payload({"web": without(machine(), field)})
        add("missing-field", "a machine without " + field, envelope(bare), "workloads.web." + field)
    add("wrong-type", "format as text", envelope(small | {"format": "1"}), "format")
    add("wrong-type", "a negative version", envelope(small | {"version": -1}), "version")
    add("wrong-type", "a node of 31 bytes", envelope(small | {"node": bytes(31)}), "node")
    add("wrong-type", "a node as text", envelope(small | {"node": "x" * 32}), "node")
    add("wrong-type", "cpus of 2^32", envelope(payload({"web": machine(cpus=1 << 32)})), "workloads.web.cpus")
    add("wrong-type", "mesh as number", envelope(payload({"web": machine(mesh=1)})), "workloads.web.mesh")
    add("wrong-type", "a tagged version", envelope(small | {"version": cbor2.CBORTag(2, b"\x01")}), "version")
    net = {"type": "network", "ipv4": [address("10.0.0.0")]}
    add("wrong-type", "a subnet without prefix", envelope(payload({"lan": net})), "workloads.lan.ipv4")
    net = {"type": "network", "ipv4": subnet("fd00::/64")}
    add("wrong-type", "an IPv6 subnet as ipv4", envelope(payload({"lan": net})), "workloads.lan.ipv4")
    add("not-canonical", "an empty description", envelope(small | {"description": ""}), "description")
    add("not-canonical", "mesh false", envelope(payload({"web": machine(mesh=False)})), "workloads.web.mesh")
    add("not-canonical", "restart always", envelope(payload({"web": machine(restart="always")})), "workloads.web.restart")
    plain = {"type": "volume", "size": 1 << 30, "encrypted": True}
    add("not-canonical", "encrypted true", envelope(payload({"data": plain})), "workloads.data.encrypted")

    # Limits.
    def field(path, value, name=None):
        bad = payload({"web": machine(**{path: value})})
        add("invalid-value", name or f"{path} = {value!r}"[:60], envelope(bad), "workloads.web." + path)

    add("invalid-value", "format 2", envelope(small | {"format": 2}), "format")
    add("invalid-value", "kind release", envelope(small | {"kind": "release"}), "kind")
    add("invalid-value", "version 0", envelope(small | {"version": 0}), "version", version=0)
    add("invalid-value", "contract 0", envelope(small | {"contract": 0}), "contract", contract=0)
    add("invalid-value", "node and farm", envelope(small | {"farm": 2}), "farm")
    add("invalid-value", "workloads for a farm", envelope(without(small, "node") | {"farm": 2}), "farm")
    add("invalid-value", "a description of 257 bytes", envelope(small | {"description": "x" * 257}), "description")
    add("invalid-value", "a description that rings", envelope(small | {"description": "\a"}), "description")
    many = {f"v{n}": {"type": "volume", "size": 16 << 20} for n in range(65)}
    add("invalid-value", "65 workloads", envelope(payload(many)), "workloads")
    for name in ("Web", "1web", "w" * 37, "", "we_b", "web."):
        bad = envelope(payload({name: machine()}))
        add("invalid-value", f"a workload named `{name}`", bad, "workloads")
    odd = payload({"web": machine(type="robot")})
    add("invalid-value", "an unknown type", envelope(odd), "workloads.web.type")
    field("cpus", 0)
    field("cpus", 65)
    field("memory", 62 << 20)
    field("memory", (1 << 40) + (2 << 20))
    field("memory", (256 << 20) + 1)
    field("root", 15 << 20)
    field("root", (1 << 40) + (1 << 20))
    field("image", "hello")
    field("image", "registry.example/hello:latest")
    field("image", "registry.example/Hello@" + DIGEST)
    field("image", "registry.example/hello:@" + DIGEST)
    field("image", "registry.example/hello:.hidden@" + DIGEST)
    field("image", "registry.example/hello:" + "x" * 129 + "@" + DIGEST, "a tag of 129 characters")
    field("image", "registry.example/hello:a:b@" + DIGEST)
    field("restart", "sometimes")
    both = payload({"web": machine(disk=IMAGE)})
    add("invalid-value", "image and disk", envelope(both), "workloads.web.disk")

    def at(path, workloads, name):
        add("invalid-value", name, envelope(payload(workloads)), "workloads." + path)

    at("web.command[0]", {"web": machine(command=[""])}, "an empty program")
    at("web.command", {"web": machine(command=["x"] * 65)}, "65 arguments")
    at("web.env.1A", {"web": machine(env={"1A": ""})}, "a variable that starts with a digit")
    at("web.env.A", {"web": machine(env={"A": "\0"})}, "a variable with NUL")
    two = machine(env={"A": "x"}, sealed_env={"A": SEALED})
    at("web.sealed_env.A", {"web": two}, "a variable plain and sealed")
    short = machine(sealed_env={"A": SEALED | {"ciphertext": bytes(15)}})
    at("web.sealed_env.A", {"web": short}, "a ciphertext without its tag")
    other = machine(image_login=LOGIN | {"registry": "other.example"})
    at("web.image_login.registry", {"web": other}, "a login for another registry than the image's")
    short = machine(image_login=LOGIN | {"sealed_password": SEALED | {"ciphertext": bytes(15)}})
    at("web.image_login.sealed_password", {"web": short}, "a password without its tag")
    long = machine(image_login=LOGIN | {"sealed_user": SEALED | {"ciphertext": bytes(273)}})
    at("web.image_login.sealed_user", {"web": long}, "a user of 257 bytes")
    at("web.ssh_keys[0]", {"web": machine(ssh_keys=["hunter2"])}, "no SSH key")
    two_lines = "ssh-ed25519 AAAA x\nssh-ed25519 AAAA y"
    at("web.ssh_keys[0]", {"web": machine(ssh_keys=[two_lines])}, "an SSH key of two lines")

    data = {"type": "volume", "size": 16 << 20}
    at("web.volumes.data", {"web": machine(volumes={"data": "/data"})}, "a volume that is not there")
    for mount in ("data", "/", "/a/../b", "/a//b", "/a/", "/proc/x", "/sys", "/" + "x" * 255):
        bad = {"web": machine(volumes={"data": mount}), "data": data}
        at("web.volumes.data", bad, f"mounted on `{mount[:20]}`")
    bad = {"web": machine(volumes={"a": "/x", "b": "/x"}), "a": data, "b": data}
    at("web.volumes.b", bad, "two volumes on one path")
    uses = machine(volumes={"data": "/data"})
    at("b.volumes.data", {"a": uses, "b": uses, "data": data}, "a volume of two machines")
    at("data.size", {"data": data | {"size": (16 << 20) + 1}}, "an odd size of a volume")
    at("data.size", {"data": data | {"filesystem": "btrfs"}}, "a btrfs of 16 MiB")

    lan = {"type": "network", "ipv4": subnet("10.20.0.0/24")}
    at("web.networks[0].network", {"web": machine(networks=[{"network": "lan"}])}, "a network that is not there")
    again = machine(networks=[{"network": "lan"}, {"network": "lan"}])
    at("web.networks[1]", {"web": again, "lan": lan}, "the same network twice")
    for fixed in ("10.20.0.0", "10.20.0.1", "10.20.0.255", "10.20.1.5", "fd00::5"):
        bad = machine(networks=[{"network": "lan", "address": address(fixed)}])
        at("web.networks[0].address", {"web": bad, "lan": lan}, "the address " + fixed)
    fixed = machine(networks=[{"network": "lan", "address": address("10.20.0.5")}])
    at("b.networks[0].address", {"a": fixed, "b": fixed, "lan": lan}, "one address for two")
    port = {"protocol": "tcp", "node_port": 8080, "machine_port": 80}
    at("web.publish", {"web": machine(publish=[port])}, "a port without a network")
    shown = machine(networks=[{"network": "lan"}], publish=[port])
    at("b.publish[0]", {"a": shown, "b": shown, "lan": lan}, "one port for two")
    zero = shown | {"publish": [port | {"node_port": 0}]}
    at("web.publish[0]", {"web": zero, "lan": lan}, "port 0")
    sctp = shown | {"publish": [port | {"protocol": "sctp"}]}
    at("web.publish[0].protocol", {"web": sctp, "lan": lan}, "an unknown protocol")
    at("web.devices[0]", {"web": machine(devices=["01:00.0"])}, "a device without its domain")

    for net in ("10.0.0.0/30", "8.8.8.0/24", "172.15.0.0/16", "192.168.0.0/15", "127.0.0.0/8"):
        at("lan.ipv4", {"lan": lan | {"ipv4": subnet(net)}}, "the network " + net)
    at("lan.ipv4", {"lan": lan | {"ipv4": [address("10.20.0.1"), 24]}}, "bits behind the prefix")
    at("lan.ipv4", {"lan": lan | {"ipv4": [address("10.0.0.0"), 33]}}, "a prefix of 33")
    at("lan.ipv6", {"lan": lan | {"ipv6": subnet("2001:db8::/64")}}, "a public IPv6 network")
    at("other.ipv4", {"lan": lan, "other": lan | {"ipv4": subnet("10.20.0.128/25")}}, "networks that overlap")
    peer = {"public_key": bytes(range(32)), "allowed": [subnet("10.9.0.0/24")]}
    at("lan.peers[1].public_key", {"lan": lan | {"peers": [peer, peer]}}, "a peer twice")
    at("lan.peers[0].allowed", {"lan": lan | {"peers": [peer | {"allowed": []}]}}, "a peer without subnets")
    unreachable = peer | {"endpoint": {"address": address("0.0.0.0"), "port": 1}}
    at("lan.peers[0].endpoint", {"lan": lan | {"peers": [unreachable]}}, "a peer at 0.0.0.0")

    gateway = {"type": "gateway", "domain": "www.example.org", "backends": ["http://10.0.0.1"]}
    at("g.domain", {"g": gateway | {"domain": "WWW.example.org"}}, "a domain with capitals")
    at("g.domain", {"g": gateway | {"domain": "localhost"}}, "a domain of one label")
    at("g.backends", {"g": gateway | {"backends": []}}, "no backends")
    at("g.backends[0]", {"g": gateway | {"backends": ["ftp://x.org"]}}, "an ftp backend")
    at("g.backends[0]", {"g": gateway | {"tls": "passthrough"}}, "a URL to pass TLS through to")
    at("ip", {"ip": {"type": "public-ip"}}, "no public address at all")

    def rules(name, fields, path):
        signed = envelope(policy(fields), ((FARMER_TWIN, FARMER),))
        add("invalid-value", name, signed, "policy." + path, **AS_FARMER)

    rules("a disk twice", {"wipe_disks": ["a", "a"]}, "wipe_disks[1]")
    rules("a disk without id", {"wipe_disks": [" "]}, "wipe_disks[0]")
    rules("public bits behind the prefix", {"public_addresses": [[address("203.0.113.1"), 28]]}, "public_addresses[0]")
    window = {"start_minute": 1440, "minutes": 1}
    rules("a window at 24:00", {"update_window": window}, "update_window.start_minute")
    window = {"start_minute": 0, "minutes": 0}
    rules("a window of no length", {"update_window": window}, "update_window.minutes")
    rules("ports in reverse", {"publish_ports": {"first": 2, "last": 1}}, "publish_ports")

    # Envelope.
    def reshaped(change):
        tagged = cbor2.loads(good)
        parts = [*tagged.value]
        signatures = [list(s) for s in parts[3]]
        tag, parts, signatures = change(tagged.tag, parts, signatures)
        if signatures is not None:
            parts[3] = signatures
        return dumps(cbor2.CBORTag(tag, parts))

    add("bad-envelope", "no tag", good[2:])
    add("bad-envelope", "tag 18", reshaped(lambda t, p, s: (18, p, s)))
    add("bad-envelope", "five parts", reshaped(lambda t, p, s: (t, [*p, 0], s)))
    add("bad-envelope", "no signatures", reshaped(lambda t, p, s: (t, p, [])))
    add("bad-envelope", "17 signatures", reshaped(lambda t, p, s: (t, p, s * 17)))
    add("bad-envelope", "a signature of 63 bytes", reshaped(lambda t, p, s: (t, p, [[s[0][0], s[0][1], s[0][2][:63]]])))
    add("bad-envelope", "a signature of four parts", reshaped(lambda t, p, s: (t, p, [[*s[0], 0]])))
    add("bad-envelope", "a protected header of the whole", envelope(small, phdr={ContentType: 60}))
    add("bad-envelope", "an unprotected header of the whole", envelope(small, uhdr={ContentType: 60}))
    add("bad-envelope", "one more protected header", envelope(small, signer={ContentType: 60}))
    add("bad-envelope", "an unprotected header", envelope(small, signer={"uhdr": {ContentType: 60}}))
    empty_map = reshaped(lambda t, p, s: (t, [b"\xa0", *p[1:]], s))
    add("bad-envelope", "an empty header written as a map", empty_map)
    es256 = bytes.fromhex("a20126044800000000000000") + bytes([5])
    add("bad-envelope", "ES256", reshaped(lambda t, p, s: (t, p, [[es256, {}, s[0][2]]])))
    short_kid = bytes.fromhex("a20127044105")
    add("bad-envelope", "a key id of one byte", reshaped(lambda t, p, s: (t, p, [[short_kid, {}, s[0][2]]])))
    no_kid = bytes.fromhex("a10127")
    add("bad-envelope", "no key id", reshaped(lambda t, p, s: (t, p, [[no_kid, {}, s[0][2]]])))

    # Signatures.
    def resigned(change):
        return reshaped(lambda t, p, s: (t, p, [[s[0][0], s[0][1], change(s[0][2])]]))

    add("bad-signature", "all zeros", resigned(lambda s: bytes(64)))
    add("bad-signature", "one bit of R", resigned(lambda s: bytes([s[0] ^ 1]) + s[1:]))
    add("bad-signature", "one bit of S", resigned(lambda s: s[:32] + bytes([s[32] ^ 1]) + s[33:]))
    malleable = resigned(lambda s: s[:32] + (int.from_bytes(s[32:], "little") + L).to_bytes(32, "little"))
    add("bad-signature", "S plus the group's order", malleable)
    neutral = (1).to_bytes(32, "little")
    forged = resigned(lambda s: neutral + bytes(32))
    add("bad-signature", "a key of small order", forged, keys=[[neutral.hex(), 1]])
    add("bad-signature", "a stranger's key", envelope(small, ((OWNER, STRANGER),)))
    add("bad-signature", "a stranger beside the owner", envelope(small, ((OWNER, ALICE), (OWNER, STRANGER))))
    other_payload = reshaped(lambda t, p, s: (t, [p[0], p[1], dumps(web), p[3]], None))
    add("bad-signature", "another payload", other_payload)
    add("bad-signature", "another chain", envelope(small, external=aad(b"loam-deployment-v1", 1)))
    add("bad-signature", "another contract", envelope(small, external=aad(b"loam-deployment-v1", grid=bytes(20))))
    add("bad-signature", "another label", envelope(small, external=aad(b"loam-report-v1")))
    add("bad-signature", "no external data", envelope(small, external=b""))
    add("bad-signature", "verified for another chain", good, chain_id=1)
    add("bad-signature", "verified for another contract", good, grid="00" * 20)
    add("wrong-owner", "in another twin's name", envelope(small, ((6, ALICE),)))
    add("wrong-owner", "the contract is another's", good, owner=6)
    add("too-few-signers", "one of two", good, threshold=2)
    add("too-few-signers", "the same key twice", envelope(small, ((OWNER, ALICE), (OWNER, ALICE))), threshold=2)
    add("too-few-signers", "a key without weight", good, keys=[[public(ALICE).hex(), 0]])
    twice = [[public(ALICE).hex(), 1], [public(ALICE).hex(), 1]]
    add("too-few-signers", "a key recorded twice", good, keys=twice, threshold=2)
    add("bad-envelope", "a threshold of nothing", good, threshold=0)
    add("bad-envelope", "no keys", good, keys=[])

    # Records.
    add("wrong-node", "another node", good, node=public(ALICE).hex())
    add("wrong-contract", "another number", good, contract=8)
    add("wrong-version", "an old version", good, version=2)
    add("wrong-version", "a version ahead of the chain", envelope(small | {"version": 2}))
    add("not-newer", "what runs already", good, running=1)
    add("not-newer", "older than what runs", good, running=2)
    add("expired", "a second late", envelope(small | {"valid_until": 1799999999}))
    add("not-farmer", "a tenant's policy", envelope(policy({})))
    add("not-farmer", "a policy without a farm", envelope(policy({}), ((FARMER_TWIN, FARMER),)), **AS_FARMER, farm=None)
    farm = without(policy({}), "node") | {"farm": 3}
    add("wrong-farm", "another farm", envelope(farm, ((FARMER_TWIN, FARMER),)), **AS_FARMER)
    return {"expected": EXPECTED, "vectors": vectors}


# --- sealed secrets -----------------------------------------------------------------------------


def clamped(private):
    """RFC 9180 section 7.1.2: a serialised X25519 key is clamped; pyhpke leaves that to its use."""
    return bytes([private[0] & 248, *private[1:31], private[31] & 127 | 64])


def sealed():
    suite = CipherSuite.new(
        KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305
    )
    vectors = []
    for name, workload, field, plain in [
        ("variable", "web", "sealed_env.TOKEN", b"hunter2"),
        ("empty", "w", "sealed_env.A", b""),
        ("password", "store", "sealed_password", "pässwörd".encode()),
        ("image user", "web", "image_login.sealed_user", b"alice"),
        ("image password", "web", "image_login.sealed_password", b"hunter2"),
    ]:
        node = suite.kem.derive_key_pair(seed(6))
        ephemeral = suite.kem.derive_key_pair(seed(7))
        info = aad(b"loam-seal-v1") + public(NODE) + (7).to_bytes(8, "big")
        encapsulated, context = suite.create_sender_context(
            node.public_key, info=info, eks=ephemeral
        )
        place = f"{workload}.{field}".encode()
        private = clamped(node.private_key.to_private_bytes())
        vectors.append(
            {
                "name": name,
                "chain_id": CHAIN_ID,
                "grid": GRID.hex(),
                "node": public(NODE).hex(),
                "contract": 7,
                "workload": workload,
                "field": field,
                "node_seed": seed(6).hex(),
                "node_private": private.hex(),
                "node_public": X25519PrivateKey.from_private_bytes(private)
                .public_key()
                .public_bytes_raw()
                .hex(),
                "ephemeral_seed": seed(7).hex(),
                "plain": plain.hex(),
                "encapsulated": encapsulated.hex(),
                "ciphertext": context.seal(plain, place).hex(),
            }
        )
    return {"vectors": vectors}


# --- reports ------------------------------------------------------------------------------------


def report_envelope(content, private=NODE, external=None, phdr=None, uhdr=None):
    content = content if isinstance(content, bytes) else dumps(content)
    external = external if external is not None else aad(b"loam-report-v1")
    headers = {Algorithm: EdDSA} | (phdr or {})
    message = Sign1Message(
        phdr=headers, uhdr=uhdr or {}, payload=content, key=okp(private), external_aad=external
    )
    return message.encode(tag=True)


def reports():
    base = {
        "format": 1,
        "node": public(NODE),
        "contract": 7,
        "version": 1,
        "time": 1800000000,
    }
    running = base | {
        "image": "0.1.0+g3a087a6d2b1f",
        "workloads": {
            "web": {
                "state": "running",
                "detail": "since 3 s",
                "addresses": [address("10.20.0.5"), address("fd00:1::5")],
                "ports": [{"protocol": "tcp", "node_port": 8080, "machine_port": 80}],
                "restarts": 2,
                "console_position": 4096,
                "health": {"state": "healthy", "since": 1799999990},
            },
            "job": {"state": "stopped", "exit_status": 0},
            "killed": {"state": "failed", "exit_status": -1},
            "data": {"state": "running", "used": 0},
        }
    }
    running_json = {
        "node": public(NODE).hex(),
        "contract": 7,
        "version": 1,
        "time": 1800000000,
        "image": "0.1.0+g3a087a6d2b1f",
        "verdict": {"verdict": "accepted"},
        "workloads": {
            "web": {
                "state": "running",
                "detail": "since 3 s",
                "addresses": ["10.20.0.5", "fd00:1::5"],
                "ports": [{"protocol": "tcp", "node_port": 8080, "machine_port": 80}],
                "exit_status": None,
                "restarts": 2,
                "console_position": 4096,
                "used": None,
                "health": {"state": "healthy", "since": 1799999990},
            },
        }
        | {
            name: {
                "state": state,
                "detail": "",
                "addresses": [],
                "ports": [],
                "exit_status": exit_status,
                "restarts": 0,
                "console_position": None,
                "used": used,
                "health": None,
            }
            for name, state, exit_status, used in [
                ("job", "stopped", 0, None),
                ("killed", "failed", -1, None),
                ("data", "running", None, 0),
            ]
        },
    }
    rejected = base | {
        "rejected": "it is for contract 8; the chain has it under contract 7",
        "rejected_code": "wrong-contract",
    }
    rejected_json = running_json | {
        "image": "",
        "verdict": {
            "verdict": "rejected",
            "code": rejected["rejected_code"],
            "reason": rejected["rejected"],
        },
        "workloads": {},
    }
    valid = [
        {"name": name, "report": dumps(content).hex(), "envelope": report_envelope(content).hex(), "json": meaning}
        for name, content, meaning in [
            ("running", running, running_json),
            ("rejected", rejected, rejected_json),
        ]
    ]
    good = report_envelope(running)
    flipped = bytearray(good)
    flipped[-1] ^= 1
    bad = [
        ("signature", "another node's key", report_envelope(running, ALICE)),
        ("signature", "another chain", report_envelope(running, external=aad(b"loam-report-v1", 1))),
        ("signature", "a deployment's label", report_envelope(running, external=aad(b"loam-deployment-v1"))),
        ("signature", "a flipped bit", bytes(flipped)),
        ("encoding", "a byte behind", good + b"\x00"),
        ("encoding", "an unsorted map", report_envelope(b"\xa2\x61b\x00\x61a\x00")),
        ("envelope", "a deployment", envelope(payload({}))),
        ("envelope", "one more header", report_envelope(running, phdr={ContentType: 60})),
        ("envelope", "an unprotected header", report_envelope(running, uhdr={ContentType: 60})),
        ("field", "an unknown field", report_envelope(running | {"mood": "good"})),
        ("field", "an unknown state", report_envelope(base | {"workloads": {"web": {"state": "happy"}}})),
        ("field", "an unknown health", report_envelope(base | {"workloads": {"web": {"state": "running", "health": {"state": "poorly", "since": 1}}}})),
        ("field", "a health without its time", report_envelope(base | {"workloads": {"web": {"state": "running", "health": {"state": "healthy"}}}})),
        ("field", "without its time", report_envelope(without(running, "time"))),
        ("not-canonical", "an empty map", report_envelope(base | {"workloads": {}})),
        ("wrong-node", "in another node's name", report_envelope(base | {"node": public(ALICE)})),
        ("too-large", "8193 bytes", good + bytes(8193 - len(good))),
    ]
    refused = [{"name": name, "code": code, "envelope": data.hex()} for code, name, data in bad]
    known = {"chain_id": CHAIN_ID, "grid": GRID.hex(), "node": public(NODE).hex(), "node_seed": NODE.hex()}
    return known | {"vectors": valid, "refused": refused}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    differ = []
    for name, make in [
        ("deployments.json", deployments),
        ("refused.json", refused),
        ("sealed.json", sealed),
        ("reports.json", reports),
    ]:
        text = json.dumps(make(), indent=1, ensure_ascii=False) + "\n"
        path = HERE / name
        if check:
            if path.read_text(encoding="utf-8") != text:
                differ.append(name)
        else:
            path.write_text(text, encoding="utf-8")
    if differ:
        sys.exit("these differ from what make.py gives: " + ", ".join(differ))


if __name__ == "__main__":
    main()
