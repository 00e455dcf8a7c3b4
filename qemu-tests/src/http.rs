//! The few requests that cases make of the demo's web server.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};

/// For one answer; a download has the limit for each piece that it waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The body of the answer to a GET.
pub fn get(address: SocketAddr, path: &str) -> anyhow::Result<Vec<u8>> {
    request(address, "GET", path)
}

pub fn get_text(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8(get(address, path)?)?)
}

pub fn post(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8(request(address, "POST", path)?)?)
}

/// A GET whose body is read piece by piece; `each` sees every piece as it comes.
pub fn download(
    address: SocketAddr,
    path: &str,
    mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<u64> {
    let mut stream = send(address, "GET", path)?;
    let head = read_head(&mut stream)?;
    let length: u64 = header(&head, "content-length")
        .context("no length")?
        .parse()?;
    let mut buffer = vec![0; 64 << 10];
    let mut seen = 0;
    while seen < length {
        let count = stream.read(&mut buffer).context("the download broke off")?;
        ensure!(
            count > 0,
            "the download ended after {seen} of {length} bytes"
        );
        each(&buffer[..count])?;
        seen += count as u64;
    }
    Ok(seen)
}

fn request(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let mut stream = send(address, method, path)?;
    let head = read_head(&mut stream)?;
    let status = head
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .to_owned();
    let mut body = Vec::new();
    match header(&head, "content-length") {
        Some(length) => {
            body.resize(length.parse()?, 0);
            stream.read_exact(&mut body)?;
        }
        None => {
            stream.read_to_end(&mut body)?;
        }
    }
    ensure!(
        status == "200",
        "{method} {path} at {address}: {status} {}",
        String::from_utf8_lossy(&body)
    );
    Ok(body)
}

fn send(address: SocketAddr, method: &str, path: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    Ok(stream)
}

/// Byte by byte up to the empty line: the body stays in the stream.
fn read_head(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(
            head.len() < 16 << 10,
            "an answer without an end of its headers"
        );
        let mut byte = [0];
        stream.read_exact(&mut byte).context("no answer")?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8(head)?)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}
