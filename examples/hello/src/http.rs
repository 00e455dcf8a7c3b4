//! As much of HTTP/1.1 as the demo needs: one request a connection, no request body.

use std::io::{self, BufRead, Write};

/// Request line and header lines together. Browsers send far less than 4 KiB.
pub const MAX_HEAD: u64 = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    query: Vec<(String, String)>,
}

#[derive(Debug)]
pub enum ReadError {
    /// The client closed the connection before it said anything.
    Nothing,
    /// The text says what is wrong with the request.
    Bad(&'static str),
    Io(io::Error),
}

impl Request {
    /// Reads the head of a request.
    pub fn read(input: &mut impl BufRead) -> Result<Self, ReadError> {
        let mut head = io::Read::take(input, MAX_HEAD);
        let request = Self::parse(&read_line(&mut head)?.ok_or(ReadError::Nothing)?)?;
        loop {
            match read_line(&mut head)? {
                Some(line) if line.is_empty() => return Ok(request),
                Some(_) => {}
                None => return Err(ReadError::Bad("the request's head is too long or cut off")),
            }
        }
    }

    fn parse(line: &str) -> Result<Self, ReadError> {
        let mut words = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(ReadError::Bad(
                "the request line is not `METHOD /path HTTP/1.1`",
            ));
        };
        if !version.starts_with("HTTP/1.") || !target.starts_with('/') {
            return Err(ReadError::Bad(
                "the request line is not `METHOD /path HTTP/1.1`",
            ));
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = query
            .split('&')
            .filter(|part| !part.is_empty())
            .map(|part| part.split_once('=').unwrap_or((part, "")))
            .map(|(name, value)| Some((decode(name)?, decode(value)?)))
            .collect::<Option<_>>()
            .ok_or(ReadError::Bad(
                "the query is not valid percent-encoded UTF-8",
            ))?;
        Ok(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query,
        })
    }

    /// The first value of this name in the query.
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

/// None: the input ended, or the limit was reached, before the line did.
fn read_line(input: &mut impl BufRead) -> Result<Option<String>, ReadError> {
    let mut line = Vec::new();
    input.read_until(b'\n', &mut line).map_err(ReadError::Io)?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line)
        .map(Some)
        .map_err(|_| ReadError::Bad("the request is not UTF-8"))
}

/// Percent-decoding (RFC 3986, section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest
            .get(..2)
            .filter(|d| d.iter().all(u8::is_ascii_hexdigit))?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).ok()
}

/// Writes an answer's head; the connection ends with the answer.
pub fn write_head(
    output: &mut impl Write,
    status: u16,
    content_type: &str,
    length: u64,
) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "",
    };
    // In one piece: the output is a socket, and each write may become a packet of its own.
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    output.write_all(head.as_bytes())
}

/// Writes a whole answer of plain text.
pub fn write_text(output: &mut impl Write, status: u16, text: &str) -> io::Result<()> {
    write_head(
        output,
        status,
        "text/plain; charset=utf-8",
        text.len() as u64,
    )?;
    output.write_all(text.as_bytes())?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Result<Request, ReadError> {
        Request::read(&mut io::BufReader::new(text))
    }

    #[test]
    fn reads_path_and_query() {
        let request =
            read(b"GET /connect?to=%5b::1%5d:80&from=::1&flag HTTP/1.1\r\nHost: a\r\n\r\n")
                .unwrap();
        assert_eq!(request.method, "GET");
        assert_eq!(request.path, "/connect");
        assert_eq!(request.query("to"), Some("[::1]:80"));
        assert_eq!(request.query("from"), Some("::1"));
        assert_eq!(request.query("flag"), Some(""));
        assert_eq!(request.query("absent"), None);
    }

    #[test]
    fn refuses_what_is_no_request() {
        for text in [
            &b"\r\n\r\n"[..],
            b"GET /\r\n\r\n",
            b"GET / HTTP/2\r\n\r\n",
            b"GET / HTTP/1.1 more\r\n\r\n",
            b"GET http://elsewhere/ HTTP/1.1\r\n\r\n",
            b"GET /?a=%zz HTTP/1.1\r\n\r\n",
            b"GET /?a=%ff HTTP/1.1\r\n\r\n",
            b"GET /?a=%4 HTTP/1.1\r\n\r\n",
            b"GET /?a=%+4 HTTP/1.1\r\n\r\n",
            b"GET /\xff HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: cut",
        ] {
            assert!(
                matches!(read(text), Err(ReadError::Bad(_))),
                "{}",
                text.escape_ascii()
            );
        }
        assert!(matches!(read(b""), Err(ReadError::Nothing)));
    }

    #[test]
    fn an_endless_head_ends_at_the_limit() {
        let mut endless = io::BufReader::new(io::Read::chain(
            &b"GET / HTTP/1.1\r\nX: "[..],
            io::repeat(b'x'),
        ));
        assert!(matches!(
            Request::read(&mut endless),
            Err(ReadError::Bad(_))
        ));
    }
}
