//! A client of the metrics.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{Server, TIMEOUT, wait_until};

/// The metrics of a running program.
pub struct Metrics {
    pub address: SocketAddr,
}

impl Metrics {
    /// Learns from the log where they are served.
    pub fn of(server: &mut Server) -> Self {
        Self::from_notice(&server.wait_for_line("Metrics are served on ", 0))
    }

    /// Learns from a line where they are served.
    pub fn from_notice(line: &str) -> Self {
        let address = line.split("http://").nth(1).and_then(|rest| rest.strip_suffix("/metrics")).expect("a URL");
        Self { address: address.parse().expect("an address") }
    }

    /// Returns the text of the metrics.
    pub fn text(&self) -> String {
        let (status, body) = self.get("/metrics");
        assert_eq!(status, 200, "{body}");
        body
    }

    /// Returns the status and the body of a page.
    pub fn get(&self, path: &str) -> (u16, String) {
        self.request(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }

    /// Returns the status and the body of the response to a request.
    pub fn request(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect();
        // One that is too long is answered before its end, and still read to its end.
        stream.write_all(request.as_bytes()).expect("a send");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {response:?}"));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    /// Connects, and sends nothing.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream
    }

    /// Returns the sum of the samples that begin with `name` and contain all of `labels`.
    pub fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        sum(&self.text(), name, labels)
    }

    /// Waits until that sum has a value.
    pub fn wait_for(&self, name: &str, labels: &[&str], value: u64) {
        wait_until(&format!("{name} is {value}"), || (self.sum(name, labels) == value).then_some(()));
    }
}

/// Returns the sum of the samples in metrics that begin with `name` and contain all of `labels`.
pub fn sum(text: &str, name: &str, labels: &[&str]) -> u64 {
    let is_meant = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && labels.iter().all(|l| line.contains(l))
    };
    let value = |line: &str| line.rsplit_once(' ').and_then(|(_, value)| value.parse::<u64>().ok()).expect("a count");
    let values: Vec<_> = text.lines().filter(is_meant).map(value).collect();
    assert!(!values.is_empty(), "no {name} with {labels:?} in {text}");
    values.iter().sum()
}
