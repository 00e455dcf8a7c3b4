//! The table: what is in each image, and what it must do.
//!
//! `/check` says `right: WHAT` for each thing that holds, and ends with 0 when all did.

use qemu_tests::debian_image::DebianImage;

/// One row.
#[derive(Debug)]
pub struct Software {
    pub name: &'static str,
    pub image: DebianImage,
    /// MiB.
    pub memory: u32,
    /// Where a volume is mounted.
    pub volume: Option<&'static str>,
    /// What must be told.
    pub right: &'static [&'static str],
}

const CHECK: [&str; 2] = ["--config.cmd", "/check"];

pub const SYSTEMD: Software = Software {
    name: "systemd",
    image: DebianImage {
        packages: &["systemd-sysv", "dbus", "cron"],
        files: &[
            (
                "etc/systemd/system/check.service",
                include_str!("scripts/systemd.service"),
            ),
            ("check", include_str!("scripts/systemd.sh")),
        ],
        setup: "systemctl enable check.service",
        config: &["--config.cmd", "/sbin/init"],
    },
    memory: 512,
    volume: None,
    right: &[
        "the system runs",
        "its services run",
        "systemd is process 1",
        "a unit in a cgroup",
    ],
};

pub const S6: Software = Software {
    name: "s6",
    image: DebianImage {
        packages: &["s6"],
        files: &[
            ("services/check/run", include_str!("scripts/s6.sh")),
            ("services/other/run", "#!/bin/sh\nexec sleep 1000\n"),
        ],
        setup: "",
        config: &[
            "--config.entrypoint",
            "s6-svscan",
            "--config.cmd",
            "/services",
        ],
    },
    memory: 256,
    volume: None,
    right: &["s6 is process 1", "it supervises"],
};

pub const POSTGRESQL: Software = Software {
    name: "postgresql",
    image: DebianImage {
        packages: &["postgresql"],
        files: &[("check", include_str!("scripts/postgresql.sh"))],
        setup: "apt-get install -q -y --no-install-recommends procps >/dev/null",
        config: &["--config.user", "postgres", "--config.cmd", "/check"],
    },
    memory: 512,
    volume: None,
    right: &["it makes tables", "its own bench", "killed and recovered"],
};

pub const MARIADB: Software = Software {
    name: "mariadb",
    image: DebianImage {
        packages: &["mariadb-server", "procps"],
        files: &[("check", include_str!("scripts/mariadb.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 512,
    volume: None,
    right: &["its own bench", "killed and recovered"],
};

pub const REDIS: Software = Software {
    name: "redis",
    image: DebianImage {
        packages: &["redis-server", "procps"],
        files: &[("check", include_str!("scripts/redis.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 256,
    volume: None,
    right: &["its own bench", "killed and recovered"],
};

pub const NGINX: Software = Software {
    name: "nginx",
    image: DebianImage {
        packages: &["nginx-light", "curl"],
        files: &[("check", include_str!("scripts/nginx.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 256,
    volume: None,
    right: &["its configuration", "it serves", "by the machine's name"],
};

pub const RABBITMQ: Software = Software {
    name: "rabbitmq",
    image: DebianImage {
        packages: &["rabbitmq-server"],
        files: &[("check", include_str!("scripts/rabbitmq.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 768,
    volume: None,
    right: &["it starts", "it says that it runs"],
};

pub const OPENSSH: Software = Software {
    name: "openssh",
    image: DebianImage {
        packages: &["openssh-server", "openssh-client", "cron", "procps"],
        files: &[("check", include_str!("scripts/openssh.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 256,
    volume: None,
    right: &["a session with a terminal", "cron runs"],
};

pub const PODMAN: Software = Software {
    name: "podman",
    image: DebianImage {
        packages: &[
            "podman",
            "buildah",
            "crun",
            "busybox-static",
            "ca-certificates",
            "kmod",
        ],
        files: &[
            ("check", include_str!("scripts/podman.sh")),
            (
                "build/Dockerfile",
                "FROM scratch\nCOPY busybox /busybox\nRUN [\"/busybox\", \"touch\", \"/made\"]\n",
            ),
            (
                "etc/containers/registries.conf",
                "unqualified-search-registries = [\"localhost\"]\n",
            ),
        ],
        setup: "",
        config: &CHECK,
    },
    memory: 768,
    // The kernel has no overlay over an overlay, which the root is.
    volume: Some("/var/lib/containers"),
    right: &["a build", "a container", "with limits", "without a network"],
};

pub const NETWORKS: Software = Software {
    name: "networks",
    image: DebianImage {
        packages: &[
            "wireguard-tools",
            "nftables",
            "iptables",
            "iproute2",
            "iputils-ping",
            "ipvsadm",
            "kmod",
        ],
        files: &[("check", include_str!("scripts/networks.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 256,
    volume: None,
    right: &[
        "what is built in is known",
        "what is not is not",
        "WireGuard",
        "nftables",
        "iptables",
        "ipvs",
        "bridge, vxlan and tap",
    ],
};

pub const FILE_SYSTEMS: Software = Software {
    name: "file systems",
    image: DebianImage {
        packages: &[
            "fuse2fs",
            "fuse3",
            "e2fsprogs",
            "btrfs-progs",
            "xfsprogs",
            "mount",
            "fuse-overlayfs",
        ],
        files: &[("check", include_str!("scripts/file-systems.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 256,
    volume: None,
    right: &[
        "a sparse file of 4 GiB",
        "ext4 over a loop",
        "btrfs over a loop",
        "xfs over a loop",
        "FUSE",
        "an overlay by FUSE",
        "an overlay",
    ],
};

pub const LANGUAGES: Software = Software {
    name: "languages",
    image: DebianImage {
        packages: &[
            "default-jre-headless",
            "nodejs",
            "python3-minimal",
            "restic",
            "libclojure-java",
        ],
        files: &[("check", include_str!("scripts/languages.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 768,
    volume: None,
    right: &["Java", "Node.js", "Python", "a program in Go"],
};

pub const CHECK_SCRIPTS: Software = Software {
    name: "check scripts",
    image: DebianImage {
        packages: &["lxc", "docker.io", "apparmor", "kmod"],
        files: &[("check", include_str!("scripts/check-scripts.sh"))],
        setup: "",
        config: &CHECK,
    },
    memory: 512,
    volume: None,
    right: &[
        "nothing that docker needs is missing",
        "nothing that lxc needs is missing",
        "nothing that Kubernetes needs is missing",
    ],
};
