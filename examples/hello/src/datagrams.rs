//! [`Datagrams`]: who sent how many UDP datagrams here.

use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, UdpSocket},
    sync::{Mutex, PoisonError},
};

/// Anyone can make up sources; past this many, new ones are not kept.
const MAX_SOURCES: usize = 256;

#[derive(Debug, Default)]
pub struct Datagrams {
    by_source: Mutex<BTreeMap<IpAddr, u64>>,
}

impl Datagrams {
    /// Counts what comes in, for as long as the process lives.
    pub fn count_forever(&self, socket: &UdpSocket) {
        // What a datagram carries does not matter; the kernel cuts it off.
        let mut byte = [0];
        loop {
            // An error here is an ICMP answer to nothing we sent, or a passing lack of memory.
            if let Ok((_, source)) = socket.recv_from(&mut byte) {
                self.count(source.ip().to_canonical());
            }
        }
    }

    fn count(&self, source: IpAddr) {
        let mut by_source = self
            .by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if by_source.len() < MAX_SOURCES || by_source.contains_key(&source) {
            *by_source.entry(source).or_default() += 1;
        }
    }

    /// One line a source: its address, a space, how many.
    pub fn table(&self) -> String {
        let by_source = self
            .by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        by_source
            .iter()
            .fold(String::new(), |mut text, (source, count)| {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{source} {count}");
                text
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_by_source_up_to_a_limit() {
        let datagrams = Datagrams::default();
        for n in 0..1000_u32 {
            datagrams.count(IpAddr::V4(n.into()));
        }
        datagrams.count(IpAddr::V4(3.into()));
        let table = datagrams.table();
        assert_eq!(table.lines().count(), MAX_SOURCES);
        assert!(table.contains("0.0.0.3 2\n"), "{table}");
    }
}
