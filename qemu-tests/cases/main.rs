//! The cases. Each boots a node of its own on a chain of its own.

mod cancel;
mod clock;
mod daemons;
mod foreign_disk;
mod full_disk;
mod hello;
mod reboot;
mod refused;
mod shutdown;
mod silence;
mod tenants;
mod update;

use qemu_tests::grid::Grid;

/// The demo's server on a volume, published on a port of the node.
struct Hello {
    port: u16,
    subnet: &'static str,
    /// Shown by the server, to tell versions apart.
    greeting: &'static str,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            port: 8080,
            subnet: "10.20.0",
            greeting: "one",
        }
    }
}

impl Hello {
    fn toml(&self, grid: &Grid) -> String {
        let Self {
            port,
            subnet,
            greeting,
        } = self;
        let image = grid.hello_reference();
        format!(
            r#"
            kind = "workload"

            [volume.data]
            size = "64MiB"
            encrypted = false

            [network.private]
            ipv4 = "{subnet}.0/24"
            nat = true

            [machine.web]
            image = "{image}"
            cpus = 1
            memory = "160MiB"
            root = "64MiB"
            env = {{ GREETING = "{greeting}" }}
            volumes = {{ data = "/data" }}
            networks = ["private"]
            publish = ["tcp:{port}:80"]
            "#
        )
    }
}

/// The demo's counter, raised by asking for it.
fn count(address: std::net::SocketAddr) -> anyhow::Result<u64> {
    let page = qemu_tests::http::get_text(address, "/")?;
    let counter = page.lines().find_map(|line| line.strip_prefix("counter: "));
    counter
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| anyhow::anyhow!("{page}"))
}
