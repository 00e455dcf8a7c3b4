//! What the server answers to each request.

use std::{
    env, fmt, fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{
    counter::Counter,
    datagrams::Datagrams,
    http::{self, Request},
    pattern, reach,
    records::Records,
    server::log,
    start::Start,
};

/// What the answers are made from.
#[derive(Debug)]
pub struct Site {
    counter: Counter,
    records: Records,
    start: Start,
    /// Whether to answer what only tests may ask.
    probes: bool,
    pub datagrams: Datagrams,
}

/// An answer, not yet written.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Text(u16, String),
    Download {
        bytes: u64,
        /// Bytes a second.
        rate: Option<u64>,
    },
    /// Ends the process with this status once the client has the answer.
    Exit(i32),
}

impl Site {
    /// `data` is where the volume is mounted.
    pub fn new(data: PathBuf, start: Start, probes: bool) -> Self {
        Self {
            counter: Counter::new(data.clone()),
            records: Records::new(data),
            start,
            probes,
            datagrams: Datagrams::default(),
        }
    }

    pub fn answer(&self, request: &Request) -> Answer {
        let result = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Ok(Answer::Text(200, self.page())),
            ("GET", "/start") => Ok(Answer::Text(200, self.start.to_string())),
            (_, "/" | "/start") => wrong_method(),
            _ if !self.probes => nothing_here(),
            ("POST", "/record") => Ok(kept(self.records.add())),
            ("GET", "/records") => Ok(kept(self.records.count())),
            ("GET", "/download") => download(request),
            ("GET", "/connect") => connect(request),
            ("GET", "/datagrams") => Ok(Answer::Text(200, self.datagrams.table())),
            ("POST", "/spoof") => spoof(request),
            ("POST", "/exit") => parameter(request, "status")
                .and_then(|status| status.ok_or_else(|| missing("status")))
                .map(|status: u8| Answer::Exit(status.into())),
            ("POST", "/sysrq") => sysrq(request),
            (
                _,
                "/record" | "/records" | "/download" | "/connect" | "/datagrams" | "/spoof"
                | "/exit" | "/sysrq",
            ) => wrong_method(),
            _ => nothing_here(),
        };
        result.unwrap_or_else(|wrong| Answer::Text(400, format!("{wrong}\n")))
    }

    fn page(&self) -> String {
        let counter = match self.counter.raise() {
            Ok(number) => number.to_string(),
            Err(error) => format!("not kept ({error})"),
        };
        let environment = env::vars_os()
            .map(|(name, value)| {
                let line = format!("{}={}", name.to_string_lossy(), value.to_string_lossy());
                one_line(&line)
            })
            .collect();
        page(&host_name(), &counter, &self.start, environment)
    }
}

fn wrong_method() -> Result<Answer, String> {
    Ok(Answer::Text(405, "another method is needed here\n".into()))
}

fn nothing_here() -> Result<Answer, String> {
    Ok(Answer::Text(404, "there is nothing here\n".into()))
}

fn page(host: &str, counter: &str, start: &Start, mut environment: Vec<String>) -> String {
    environment.sort();
    format!(
        "hello from {}\ncounter: {counter}\n{start}environment:\n  {}\n",
        one_line(host),
        environment.join("\n  ")
    )
}

fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Control characters escaped, so that no value can look like another line.
pub fn one_line(text: &str) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut line, c| {
            if c.is_control() {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
            line
        })
}

/// A volume that fails is a fault of the server, unlike anything else here.
fn kept(number: io::Result<u64>) -> Answer {
    match number {
        Ok(number) => Answer::Text(200, format!("{number}\n")),
        Err(error) => Answer::Text(500, format!("{error}\n")),
    }
}

fn download(request: &Request) -> Result<Answer, String> {
    let rate = parameter(request, "rate")?;
    if rate == Some(0) {
        return Err("rate must be at least 1 byte a second".into());
    }
    Ok(Answer::Download {
        bytes: parameter(request, "bytes")?.ok_or_else(|| missing("bytes"))?,
        rate,
    })
}

fn connect(request: &Request) -> Result<Answer, String> {
    let to: SocketAddr = parameter(request, "to")?.ok_or_else(|| missing("to"))?;
    let from: Option<IpAddr> = parameter(request, "from")?;
    Ok(outcome(reach::connect(to, from)))
}

fn spoof(request: &Request) -> Result<Answer, String> {
    let source: Ipv4Addr = parameter(request, "src")?.ok_or_else(|| missing("src"))?;
    let target: Ipv4Addr = parameter(request, "dst")?.ok_or_else(|| missing("dst"))?;
    let port: u16 = parameter(request, "port")?.ok_or_else(|| missing("port"))?;
    Ok(outcome(reach::send_forged(
        source,
        SocketAddrV4::new(target, port),
    )))
}

/// Once the answer is on its way, as the kernel answers nobody then (its `admin-guide/sysrq.rst`).
fn sysrq(request: &Request) -> Result<Answer, String> {
    let key: char = parameter(request, "key")?.ok_or_else(|| missing("key"))?;
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        if let Err(error) = fs::write("/proc/sysrq-trigger", key.to_string()) {
            log(&format!("no sysrq: {error}"));
        }
    });
    Ok(Answer::Text(200, "pressed\n".to_owned()))
}

/// That something could not be done is an answer too, not a fault of the server.
fn outcome(result: io::Result<()>) -> Answer {
    Answer::Text(
        200,
        match result {
            Ok(()) => "ok\n".into(),
            Err(error) => format!("failed: {error}\n"),
        },
    )
}

fn parameter<T>(request: &Request, name: &str) -> Result<Option<T>, String>
where
    T: std::str::FromStr<Err: fmt::Display>,
{
    request
        .query(name)
        .map(|value| value.parse().map_err(|error| format!("{name}: {error}")))
        .transpose()
}

fn missing(name: &str) -> String {
    format!("{name} is missing from the query")
}

impl Answer {
    pub fn status(&self) -> u16 {
        match self {
            Self::Text(status, _) => *status,
            Self::Download { .. } | Self::Exit(_) => 200,
        }
    }

    pub fn write(&self, output: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Text(status, text) => http::write_text(output, *status, text),
            Self::Exit(status) => http::write_text(output, 200, &format!("exit {status}\n")),
            Self::Download { bytes, rate } => {
                http::write_head(output, 200, "application/octet-stream", *bytes)?;
                write_pattern(output, *bytes, *rate)
            }
        }
    }
}

fn write_pattern(output: &mut impl Write, bytes: u64, rate: Option<u64>) -> io::Result<()> {
    const CHUNK: u64 = 64 << 10;
    // Ten writes a second keep a slow download steady.
    let chunk = rate.map_or(CHUNK, |rate| (rate / 10).clamp(1, CHUNK));
    let mut buffer = vec![0; chunk as usize];
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        let part = &mut buffer[..chunk.min(bytes - sent) as usize];
        pattern::fill(sent, part);
        output.write_all(part)?;
        sent += part.len() as u64;
        if let Some(rate) = rate {
            let due = Duration::from_secs_f64(sent as f64 / rate as f64);
            thread::sleep(due.saturating_sub(start.elapsed()));
        }
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(data: &str) -> Site {
        Site::new(data.into(), Start::of(data.as_ref()), true)
    }

    fn ask(site: &Site, line: &str) -> Answer {
        let text = format!("{line} HTTP/1.1\r\n\r\n");
        site.answer(&Request::read(&mut text.as_bytes()).unwrap())
    }

    #[test]
    fn the_page_counts_visits_and_shows_the_environment() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path().to_str().unwrap());
        let Answer::Text(200, first) = ask(&site, "GET /") else {
            panic!()
        };
        assert!(first.contains("\ncounter: 1\nstart: "), "{first}");
        assert!(first.contains("\nenvironment:\n"), "{first}");
        assert!(first.contains("\n  PATH="), "{first}");
        let Answer::Text(200, second) = ask(&site, "GET /") else {
            panic!()
        };
        assert!(second.contains("\ncounter: 2\n"), "{second}");
    }

    #[test]
    fn what_a_start_is_known_by_is_shown_without_counting() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path().to_str().unwrap());
        let Answer::Text(200, start) = ask(&site, "GET /start") else {
            panic!()
        };
        let Answer::Text(200, page) = ask(&site, "GET /") else {
            panic!()
        };
        assert!(page.contains(&start), "{start:?} is not in {page}");
        assert!(page.contains("\ncounter: 1\n"), "{page}");
    }

    #[test]
    fn records_are_numbered_and_those_that_cannot_be_kept_are_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let kept = site(folder.path().to_str().unwrap());
        assert_eq!(ask(&kept, "POST /record"), Answer::Text(200, "1\n".into()));
        assert_eq!(ask(&kept, "GET /records"), Answer::Text(200, "1\n".into()));
        let lost = site("/proc/none");
        let Answer::Text(500, _) = ask(&lost, "POST /record") else {
            panic!()
        };
    }

    #[test]
    fn without_a_volume_the_page_says_so() {
        let Answer::Text(200, page) = ask(&site("/nonexistent"), "GET /") else {
            panic!()
        };
        assert!(page.contains("\ncounter: not kept ("), "{page}");
    }

    #[test]
    fn the_environment_is_sorted_and_cannot_forge_lines() {
        let environment = vec!["B=2".to_owned(), one_line("A=1\ncounter: 9")];
        let page = page(
            "host",
            "1",
            &Start::of("/nonexistent".as_ref()),
            environment,
        );
        assert!(
            page.starts_with("hello from host\ncounter: 1\nstart: "),
            "{page}"
        );
        assert!(
            page.ends_with("environment:\n  A=1\\ncounter: 9\n  B=2\n"),
            "{page}"
        );
    }

    #[test]
    fn a_download_is_the_pattern() {
        let answer = ask(&site("/nonexistent"), "GET /download?bytes=200000");
        let mut output = Vec::new();
        answer.write(&mut output).unwrap();
        let body = output.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        assert!(output.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert_eq!(output.len() - body, 200_000);
        assert_eq!(pattern::first_wrong(0, &output[body..]), None);
    }

    #[test]
    fn a_rate_loses_nothing() {
        let mut output = Vec::new();
        write_pattern(&mut output, 1003, Some(1_000_000)).unwrap();
        assert_eq!(output.len(), 1003);
        assert_eq!(pattern::first_wrong(0, &output), None);
    }

    #[test]
    fn without_probes_nobody_is_let_into_the_network() {
        let data = "/nonexistent";
        let site = Site::new(data.into(), Start::of(data.as_ref()), false);
        for line in [
            "GET /download?bytes=1",
            "GET /connect?to=127.0.0.1:1",
            "GET /datagrams",
            "POST /spoof?src=1.2.3.4&dst=127.0.0.1&port=1",
            "POST /exit?status=0",
            // With a key the machine that tests would be at stake.
            "POST /sysrq",
        ] {
            assert_eq!(ask(&site, line).status(), 404, "{line}");
        }
        assert_eq!(ask(&site, "GET /").status(), 200);
        assert_eq!(ask(&site, "GET /start").status(), 200);
    }

    #[test]
    fn wrong_requests_say_what_is_wrong() {
        let site = site("/nonexistent");
        for (line, status, text) in [
            ("GET /nowhere", 404, "there is nothing here\n"),
            ("GET /exit?status=1", 405, "another method is needed here\n"),
            ("POST /sysrq", 400, "key is missing from the query\n"),
            (
                "POST /sysrq?key=cc",
                400,
                "key: too many characters in string\n",
            ),
            ("GET /download", 400, "bytes is missing from the query\n"),
            (
                "GET /download?bytes=-1",
                400,
                "bytes: invalid digit found in string\n",
            ),
            (
                "GET /download?bytes=1&rate=0",
                400,
                "rate must be at least 1 byte a second\n",
            ),
            (
                "POST /exit?status=256",
                400,
                "status: number too large to fit in target type\n",
            ),
            (
                "GET /connect?to=localhost:80",
                400,
                "to: invalid socket address syntax\n",
            ),
            (
                "POST /spoof?src=::1&dst=1.2.3.4&port=1",
                400,
                "src: invalid IPv4 address syntax\n",
            ),
        ] {
            assert_eq!(
                ask(&site, line),
                Answer::Text(status, text.into()),
                "{line}"
            );
        }
        assert_eq!(ask(&site, "POST /exit?status=7"), Answer::Exit(7));
    }
}
