//! A host: a network namespace of its own, in which tests run code.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    thread,
    time::Duration,
};

use rustix::{
    process::{Signal, getpid, getppid, set_parent_process_death_signal},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

/// For what must come and does; far more than a slow machine needs.
pub const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct Host {
    namespace: File,
}

impl Host {
    /// With nothing but its loopback link.
    pub fn new() -> Self {
        let namespace = thread::spawn(|| {
            // SAFETY: only this thread's network namespace changes, and it ends right after.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let host = Self {
            namespace: namespace.join().unwrap(),
        };
        host.ip("link set lo up");
        host
    }

    pub fn at(namespace: File) -> Self {
        Self { namespace }
    }

    /// The calling thread's.
    pub fn here() -> Self {
        Self {
            namespace: File::open("/proc/thread-self/ns/net").unwrap(),
        }
    }

    /// Runs `work` on a thread of its own inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(self.namespace.as_fd(), network).unwrap();
            work()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Starts a program inside. It is killed when the calling thread ends, however that comes about.
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let namespace = self.namespace.try_clone()?;
        let parent = getpid();
        let enter = move || {
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(namespace.as_fd(), network)?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // It may have ended before, and will not end again.
            match getppid() == Some(parent) {
                true => Ok(()),
                false => Err(rustix::io::Errno::SRCH.into()),
            }
        };
        // SAFETY: nothing but system calls between fork and exec.
        unsafe { command.pre_exec(enter) }.spawn()
    }

    /// Takes a link over from another host.
    pub fn take(&self, from: &Self, link: &str) {
        // `ip` knows a namespace by a file.
        let (process, file) = (std::process::id(), self.namespace.as_raw_fd());
        from.ip(&format!("link set {link} netns /proc/{process}/fd/{file}"));
    }

    /// `ip` of iproute2, inside.
    pub fn ip(&self, arguments: &str) -> String {
        self.run(|| {
            let output = Command::new("ip")
                .args(arguments.split_whitespace())
                .output();
            let output = output.expect("`ip` does not run; install the package iproute2");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "ip {arguments}: {error}");
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub fn link_names(&self) -> Vec<String> {
        let links = self.ip("-o link");
        let name = |line: &str| {
            line.split(": ")
                .nth(1)
                .unwrap()
                .split('@')
                .next()
                .unwrap()
                .into()
        };
        links.lines().map(name).collect()
    }

    pub fn mac(&self, link: &str) -> [u8; 6] {
        let line = self.ip(&format!("-o link show {link}"));
        let text = line
            .split("link/ether ")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        let bytes: Vec<u8> = text
            .split(':')
            .map(|b| u8::from_str_radix(b, 16).unwrap())
            .collect();
        bytes.try_into().unwrap()
    }

    /// Puts one frame onto the link, whatever it says.
    pub fn send_frame(&self, link: &str, frame: &[u8]) {
        let link = std::ffi::CString::new(link).unwrap();
        self.run(|| {
            // SAFETY: plain system calls; `address` and `frame` are readable for their time.
            let sent = unsafe {
                let socket = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
                let mut address: libc::sockaddr_ll = std::mem::zeroed();
                address.sll_family = libc::AF_PACKET as u16;
                address.sll_ifindex = libc::if_nametoindex(link.as_ptr()).cast_signed();
                let length = size_of_val(&address) as libc::socklen_t;
                let address = std::ptr::from_ref(&address).cast();
                let (bytes, count) = (frame.as_ptr().cast(), frame.len());
                let sent = libc::sendto(socket, bytes, count, 0, address, length);
                libc::close(socket);
                sent
            };
            assert_eq!(sent, frame.len() as isize, "{}", io::Error::last_os_error());
        });
    }

    /// A socket that receives within [`LIMIT`] or fails.
    pub fn udp(&self, address: &str) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }

    pub fn tcp_listener(&self, address: &str) -> TcpListener {
        self.run(|| TcpListener::bind(address)).unwrap()
    }

    pub fn connect(&self, address: &str) -> io::Result<TcpStream> {
        let address: SocketAddr = address.parse().unwrap();
        let stream = self.run(|| TcpStream::connect_timeout(&address, LIMIT))?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(stream)
    }

    /// Whether a TCP connection is refused, or not answered for half a second: what is dropped
    /// can only be waited for.
    pub fn is_not_answered(&self, address: &str) -> bool {
        let address: SocketAddr = address.parse().unwrap();
        let limit = Duration::from_millis(500);
        self.run(|| TcpStream::connect_timeout(&address, limit))
            .is_err()
    }

    /// Answers every TCP connection with `greeting` and the peer's address, for ever.
    pub fn greet(&self, address: &str, greeting: &'static str) {
        let listener = self.tcp_listener(address);
        thread::spawn(move || {
            while let Ok((mut stream, peer)) = listener.accept() {
                // A peer that went away is the test's own affair.
                let _ = write!(stream, "{greeting} {}", peer.ip());
            }
        });
    }

    /// What a [greeter](Self::greet) says: its greeting, and our address as it sees it.
    pub fn ask(&self, address: &str) -> (String, IpAddr) {
        let mut stream = self
            .connect(address)
            .unwrap_or_else(|e| panic!("{address}: {e}"));
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (greeting, peer) = text.split_once(' ').unwrap();
        (greeting.to_owned(), peer.parse().unwrap())
    }
}

/// The next datagram.
pub fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 2048];
    let (length, peer) = socket.recv_from(&mut buffer).expect("no datagram came");
    (
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
        peer,
    )
}
