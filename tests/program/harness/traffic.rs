//! Numbered datagrams through a responder, and what came back: a client that shares no code with the program.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::connect;

/// The payload length of the datagrams, of which the first 8 bytes are the number.
pub const LENGTH: usize = 100;

/// A datagram that came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub payload: Vec<u8>,
    /// Since the first datagram was sent.
    pub at: Duration,
}

impl Answer {
    /// Returns the number of the datagram, and whether it came back unchanged. A number that was changed itself has no
    /// meaning.
    pub fn number(&self) -> (usize, bool) {
        let number = self.payload.get(..8).map_or(u64::MAX, |bytes| u64::from_be_bytes(bytes.try_into().expect("8")));
        (number as usize, self.payload == payload(number))
    }
}

/// Returns the payload of the datagram with this number.
pub fn payload(number: u64) -> [u8; LENGTH] {
    let mut payload = [b'x'; LENGTH];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// What was sent and what came back.
pub struct Traffic {
    /// When each datagram was sent.
    pub sent: Vec<Duration>,
    pub answers: Vec<Answer>,
}

impl Traffic {
    /// Sends `count` datagrams, one every `interval`, and receives until nothing came for `silence`.
    pub fn exchange(server: SocketAddr, count: usize, interval: Duration, silence: Duration) -> Self {
        let socket = connect(server);
        // As much as the system allows, for the time in which the receiver gets no processor.
        let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
        let receiver = socket.try_clone().expect("a second handle");
        let start = Instant::now();
        let receiving = thread::spawn(move || receive(&receiver, start, silence));
        let sent = (0..count).map(|number| {
            let due = start + interval * number as u32;
            if let Some(left) = due.checked_duration_since(Instant::now()) {
                thread::sleep(left);
            }
            let at = start.elapsed();
            socket.send(&payload(number as u64)).expect("sent");
            at
        });
        Self { sent: sent.collect(), answers: receiving.join().expect("a list of answers") }
    }

    /// Returns the numbers of the unchanged answers, in the order in which they came.
    pub fn numbers(&self) -> Vec<usize> {
        self.answers.iter().map(Answer::number).filter_map(|(number, unchanged)| unchanged.then_some(number)).collect()
    }

    /// Returns the round trips of the unchanged answers.
    pub fn round_trips(&self) -> Vec<Duration> {
        let unchanged = self.answers.iter().filter(|answer| answer.number().1);
        unchanged.map(|answer| answer.at - self.sent[answer.number().0]).collect()
    }

    /// Returns how many answers came after one to a later datagram. Duplicates do not count.
    pub fn overtaken(&self) -> u64 {
        let (mut seen, mut latest, mut count) = (HashSet::new(), None, 0);
        for number in self.numbers() {
            if seen.insert(number) && latest.is_some_and(|latest| number < latest) {
                count += 1;
            }
            latest = latest.max(Some(number));
        }
        count
    }
}

fn receive(socket: &UdpSocket, start: Instant, silence: Duration) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut buffer = [0; 2_000];
    let mut last = start;
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    while last.elapsed() < silence {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                last = Instant::now();
                answers.push(Answer { payload: buffer[..length].to_vec(), at: last - start });
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
    answers
}

/// Asserts that `count` of `total` agrees with a probability, within three standard errors.
#[track_caller]
pub fn assert_share(count: u64, total: usize, probability: f64) {
    let total = total as f64;
    let error = (total * probability * (1.0 - probability)).sqrt();
    let deviation = (count as f64 - total * probability) / error;
    assert!(deviation.abs() <= 3.0, "{count} of {total}, not {probability}: {deviation} errors");
}

/// Asserts that the mean of samples with this standard deviation is `mean`, within three standard errors.
#[track_caller]
pub fn assert_mean(samples: &[f64], mean: f64, deviation: f64) {
    let sampled = samples.iter().sum::<f64>() / samples.len() as f64;
    let deviation = (sampled - mean) / (deviation / (samples.len() as f64).sqrt());
    assert!(deviation.abs() <= 3.0, "{sampled}, not {mean}: {deviation} errors");
}
