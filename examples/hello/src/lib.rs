//! The demo's web server, and the guest's half of the QEMU tests.
//!
//! | request | what it does |
//! |---|---|
//! | `GET /` | host name, counter (raised by this visit, kept on the volume), start, environment |
//! | `GET /start` | what this start is known by, the processors it has, how the one before ended |
//! | `POST /record` | adds a record to the volume, and answers its number once it is on the disk |
//! | `GET /records` | how many records are on the volume, whole and in order |
//! | `GET /download?bytes=N[&rate=B]` | `N` bytes of [`pattern`], at most `B` a second |
//! | `GET /connect?to=IP:PORT[&from=IP]` | whether a TCP connection can be made from here |
//! | `POST /spoof?src=IP&dst=IP&port=P` | sends one UDP datagram with any source address (IPv4) |
//! | `GET /datagrams` | how many UDP datagrams came in on the server's port, by source address |
//! | `POST /exit?status=N` | ends the process with this status |
//! | `POST /sysrq?key=K` | presses Alt, SysRq and a key a moment later: `c` has the kernel panic, `b` resets |
//!
//! Every answer is plain text. All but the first two are there for tests, and only with `--probes`:
//! they let anybody who reaches the server connect to, and send from, the network that it is in.

pub mod counter;
pub mod datagrams;
pub mod http;
pub mod pattern;
pub mod reach;
pub mod records;
pub mod routes;
pub mod server;
pub mod start;
