//! A time server of one's own: Debian's chrony on loopback, with NTS and without. For tests.

use std::{
    io,
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use loam_test_authority::Authority;
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::config::ServerName;

/// Names a chronyd that is not the machine's own, as `cargo xtask test` does.
const VARIABLE: &str = "LOAM_CHRONYD";
const CHRONYD: &str = "/usr/sbin/chronyd";
const MINUTE: Duration = Duration::from_secs(60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum LocalServerError {
    #[error(
        "{0} cannot be run ({1}); `cargo xtask test` brings a chronyd and names it in ${VARIABLE}"
    )]
    Chrony(String, io::Error),
    #[error("chronyd ended with {0}")]
    Ended(std::process::ExitStatus),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A chronyd that serves this machine's time, once it is started; gone when dropped.
#[derive(Debug)]
pub struct LocalServer {
    folder: tempfile::TempDir,
    ntp_port: u16,
    nts_port: u16,
    /// The authority of its certificate, as PEM.
    pub authority: String,
    process: Option<Child>,
}

impl LocalServer {
    /// A server with a certificate for `host` that began a minute ago.
    ///
    /// # Errors
    ///
    /// No port is free, or its files cannot be written.
    pub fn new(host: &str) -> Result<Self, LocalServerError> {
        let now = SystemTime::now();
        Self::valid(host, now - MINUTE, now + YEAR)
    }

    /// A server whose certificate is valid `from` and `until`, which may both be in the future: to
    /// whom has its own idea of the time.
    ///
    /// # Errors
    ///
    /// No port is free, or its files cannot be written.
    pub fn valid(
        host: &str,
        from: SystemTime,
        until: SystemTime,
    ) -> Result<Self, LocalServerError> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::generate();
        let certified = authority.certify(host, from..until);
        std::fs::write(folder.path().join("server.pem"), certified.pem())?;
        std::fs::write(folder.path().join("server.key"), certified.key_pem())?;
        let server = Self {
            ntp_port: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port(),
            nts_port: TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port(),
            folder,
            authority: authority.pem(),
            process: None,
        };
        std::fs::write(server.file("chrony.conf"), server.chrony_conf())?;
        Ok(server)
    }

    /// Starts to answer, and returns when it does.
    ///
    /// # Errors
    ///
    /// chronyd is not here, or ends.
    pub fn start(&mut self) -> Result<(), LocalServerError> {
        let chronyd = std::env::var(VARIABLE).unwrap_or_else(|_| CHRONYD.to_owned());
        let mut command = Command::new(&chronyd);
        command
            // In the foreground, without touching this machine's clock.
            .args(["-d", "-x", "-u", "root", "-f", &self.file("chrony.conf")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // SAFETY: nothing but system calls between fork and exec.
        unsafe { command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?)) };
        let process = command
            .spawn()
            .map_err(|error| LocalServerError::Chrony(chronyd, error))?;
        let process = self.process.insert(process);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.nts_port)).is_err() {
            if let Some(status) = process.try_wait()? {
                return Err(LocalServerError::Ended(status));
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    pub fn ntp(&self, host: &str) -> ServerName {
        ServerName {
            host: host.to_owned(),
            port: Some(self.ntp_port),
        }
    }

    pub fn nts(&self, host: &str) -> ServerName {
        ServerName {
            host: host.to_owned(),
            port: Some(self.nts_port),
        }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn chrony_conf(&self) -> String {
        let Self {
            ntp_port, nts_port, ..
        } = self;
        format!(
            "local stratum 1\nallow 127.0.0.0/8\nbindaddress 127.0.0.1\nport {ntp_port}\n\
             cmdport 0\nbindcmdaddress /\npidfile {}\nntsport {nts_port}\n\
             ntsservercert {}\nntsserverkey {}\nntsdumpdir {}\n",
            self.file("pid"),
            self.file("server.pem"),
            self.file("server.key"),
            self.folder.path().display(),
        )
    }
}

impl Drop for LocalServer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // It may have ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
