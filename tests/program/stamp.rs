//! `serve stamp`: replies byte for byte, against scapy and tshark; sessions, authentication, refusals, loops.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use udpong::stamp::Key;
use udpong::stamp::packet::{self, Mode, Reply, Request};
use udpong::stamp::time::{ErrorEstimate, TimestampFormat};
use udpong::stamp::tlv;

use crate::harness::{
    Server, connect, connect_from, needs, python, request, run, run_in_namespace, shell, udpong, wait_until,
};
use crate::loops::assert_loops_end;

/// A sender's packet in open mode.
fn packet(sequence: u32, ssid: u16) -> Vec<u8> {
    let mut bytes = vec![0; 44];
    Request { sequence, timestamp: 1 << 40, error: ErrorEstimate(1), ssid }.write(Mode::Open, &mut bytes);
    bytes
}

/// A signed sender's packet.
fn signed(sequence: u32, key: &Key) -> Vec<u8> {
    let mut bytes = vec![0; 112];
    Request { sequence, timestamp: 1 << 40, error: ErrorEstimate(1), ssid: 7 }.write(Mode::Authenticated, &mut bytes);
    packet::sign(&mut bytes, key);
    bytes
}

fn reply(socket: &UdpSocket, request: &[u8]) -> Reply {
    Reply::read(&crate::harness::request(socket, request), Mode::Open).expect("a reply")
}

/// A file with a key, which ends with a line feed as editors leave it.
fn key_file(folder: &tempfile::TempDir, content: &str) -> String {
    let path = folder.path().join("key");
    fs::write(&path, content).expect("written");
    path.to_str().expect("text").to_owned()
}

#[test]
fn replies_agree_with_scapy() {
    needs!("python3", "scapy");
    let server = Server::start(&["stamp@127.0.0.1:0", "-q", "--json"]);
    python(include_str!("stamp_scapy.py"), &[&server.address().port().to_string()]);
    assert_eq!(server.stop().endpoint().get("answered"), 200);
}

/// Returns the fields of a UDP payload as tshark dissects it, from a port of a reflector or to it.
fn dissect(payload: &[u8], ports: &str, fields: &[&str]) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let capture = folder.path().join("capture");
    let hex: String = payload.iter().map(|byte| format!(" {byte:02x}")).collect();
    let capture = capture.to_str().expect("text");
    let converted =
        run(Command::new("text2pcap").args(["-q", "-u", ports, "-", capture]), format!("0000{hex}\n").as_bytes());
    assert!(converted.status.success(), "{}", String::from_utf8_lossy(&converted.stderr));
    let mut tshark = Command::new("tshark");
    tshark
        .args(["-r", capture, "-d", "udp.port==862,twamp.test", "-T", "fields", "-E", "occurrence=f"])
        .env("TZ", "UTC");
    fields.iter().for_each(|field| {
        tshark.args(["-e", &format!("twamp.test.{field}")]);
    });
    let output = run(&mut tshark, b"");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim_end().split('\t').map(str::to_owned).collect()
}

#[test]
fn packets_agree_with_tshark() {
    needs!("tshark", "text2pcap");
    let server = Server::start(&["stamp@127.0.0.1:0", "-q"]);
    let socket = connect(server.address());
    let time = 1_700_000_000_250_000_000;
    let mut sent = vec![0; 44];
    let timestamp = TimestampFormat::Ntp.encode(time);
    Request { sequence: 12, timestamp, error: ErrorEstimate(0x8a17), ssid: 0 }.write(Mode::Open, &mut sent);
    let fields = ["seq_number", "timestamp", "error_estimate.s", "error_estimate.z", "error_estimate.scale"];
    let shown = dissect(&sent, "40000,862", &fields);
    assert_eq!((&*shown[0], &*shown[2], &*shown[3], &*shown[4]), ("12", "1", "0", "10"), "{shown:?}");
    assert!(shown[1].contains("Nov 14, 2023 22:13:20.250000000"), "{shown:?}");

    let received = request(&socket, &sent);
    let read = Reply::read(&received, Mode::Open).expect("a reply");
    let fields = ["seq_number", "sender_seq_number", "sender_timestamp", "sender_error_estimate", "sender_ttl", "mbz2"];
    let shown = dissect(&received, "862,40000", &fields);
    assert_eq!([&shown[0], &shown[1], &shown[4]], ["0", "12", "64"], "{shown:?}");
    assert!(shown[2].contains("Nov 14, 2023 22:13:20.250000000"), "{shown:?}");
    assert_eq!(shown[3], 0x8a17.to_string(), "{shown:?}");
    assert!((read.received..=read.received + (60 << 32)).contains(&read.timestamp), "T3 follows T2");
}

#[test]
fn sessions_have_numbers_of_their_own() {
    let server = Server::start(&["stamp@127.0.0.1:0", "-q"]);
    let (one, other) = (connect(server.address()), connect(server.address()));
    let numbers = [(&one, 5, 1), (&one, 9, 1), (&other, 9, 1), (&one, 10, 2), (&one, 12, 1)];
    let numbers = numbers.map(|(socket, sequence, ssid)| {
        let reply = reply(socket, &packet(sequence, ssid));
        assert_eq!((reply.sender_sequence, reply.ssid), (sequence, ssid));
        reply.sequence
    });
    assert_eq!(numbers, [0, 1, 0, 0, 2]);
}

#[test]
fn stateless_reflector_repeats_numbers() {
    let server = Server::start(&["stamp@127.0.0.1:0", "--stamp-stateless", "-q"]);
    let socket = connect(server.address());
    assert_eq!([5, 9, 7].map(|sequence| reply(&socket, &packet(sequence, 1)).sequence), [5, 9, 7]);
}

#[test]
fn reply_is_as_long_as_its_request_but_at_least_the_base() {
    for io in ["auto", "portable"] {
        let server = Server::start(&["stamp@127.0.0.1:0", "-q", "--io", io, "--json"]);
        let socket = connect(server.address());
        let long = packet(3, 1).into_iter().chain([0x80, 1, 0, 100]).chain([7; 1_000]).collect::<Vec<u8>>();
        let lengths = [0, 1, 14, 43, 44, 45, 48, 148, 1_048];
        for length in lengths {
            let reply = request(&socket, &long[..length]);
            assert_eq!(reply.len(), length.max(44), "{io}");
            let ttl = if io == "auto" { 64 } else { 255 };
            assert_eq!(reply[40], ttl, "{io}");
        }
        assert_eq!(server.stop().endpoint().get("answered"), lengths.len() as u64);
    }
}

#[test]
fn hop_limit_is_copied_for_both_families() {
    let server = Server::start(&["stamp@[::]:0", "-q"]);
    let port = server.address().port();
    for (ip, hops) in [("127.0.0.1", 31), ("::1", 32)] {
        let ip = ip.parse().expect("an address");
        let socket = connect_from(ip, (ip, port));
        let options = socket2::SockRef::from(&socket);
        let set = if ip.is_ipv4() { options.set_ttl_v4(hops) } else { options.set_unicast_hops_v6(hops) };
        set.expect("an option");
        assert_eq!(reply(&socket, &packet(0, 1)).sender_ttl, hops as u8);
    }
}

#[test]
fn receive_time_is_the_kernels() {
    let server = Server::start(&["stamp@127.0.0.1:0", "-q"]);
    let socket = connect(server.address());
    let processing = |reply: &Reply| {
        let times =
            [reply.received, reply.timestamp].map(|time| TimestampFormat::Ntp.decode(time, 1_700_000_000_000_000_000));
        Duration::from_nanos((times[1] - times[0]).try_into().expect("T3 after T2"))
    };
    // The kernel needs a moment to begin to note times.
    wait_until("the time spent in the receive buffer is part of the processing time", || {
        server.pause();
        socket.send(&packet(0, 1)).expect("sent");
        std::thread::sleep(Duration::from_millis(100));
        server.resume();
        let reply = Reply::read(&crate::harness::receive(&socket), Mode::Open).expect("a reply");
        (processing(&reply) >= Duration::from_millis(100)).then_some(())
    });
    assert!(processing(&reply(&socket, &packet(1, 1))) < Duration::from_millis(100));
}

#[test]
fn clock_counts_as_synchronized_only_if_the_kernel_says_so() {
    needs!("strace");
    // The call is not made: what it would have filled in stays zero, which is a synchronized clock.
    for (fault, is_synchronized) in [("retval=0", true), ("error=EPERM", false)] {
        let mut command = Command::new("strace");
        command.args(["-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=adjtimex,clock_adjtime"]);
        command.args(["-e", &format!("inject=adjtimex,clock_adjtime:{fault}")]);
        let program = udpong(&["serve", "stamp@127.0.0.1:0", "-q"]);
        let server = Server::spawn(1, command.arg(program.get_program()).args(program.get_args()));
        let error = reply(&connect(server.address()), &packet(0, 1)).error;
        assert_eq!(error.is_synchronized(), is_synchronized, "{fault}");
        let seconds = if is_synchronized { 2_f64.powi(-32) } else { 16.0 };
        assert_eq!(error.seconds(), seconds, "{fault}");
    }
}

#[test]
fn wrong_and_missing_signatures_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = key_file(&folder, "secret\n");
    let server = Server::start(&["stamp@127.0.0.1:0", "--stamp-key-file", &path, "-q", "--json"]);
    let (key, other) = (Key::new(b"secret").expect("a key"), Key::new(b"secret\n").expect("a key"));
    let socket = connect(server.address());
    let mut changed = signed(3, &key);
    changed[90] ^= 1;
    for refused in [signed(3, &other), changed, packet(3, 1), Vec::new(), vec![0; 112], vec![0; 1_400]] {
        socket.send(&refused).expect("sent");
    }
    for sequence in [5, 6] {
        let received = request(&socket, &signed(sequence, &key));
        assert_eq!(received.len(), 112);
        assert!(packet::is_authentic(&received, &key));
        let reply = Reply::read(&received, Mode::Authenticated).expect("a reply");
        // Refused packets have no part in the session.
        assert_eq!((reply.sequence, reply.sender_sequence, reply.sender_ttl), (sequence - 5, sequence, 64));
    }
    // A TLV that the digest protects.
    let mut extended = signed(7, &key);
    let mut tlvs = Vec::new();
    tlv::push(&mut tlvs, 5, &[0; 12]);
    let digest = key.digest(&[&packet::sequence_bytes(&extended), &tlvs]);
    tlv::push(&mut tlvs, tlv::HMAC, &digest);
    extended.extend_from_slice(&tlvs);
    let received = request(&socket, &extended);
    assert_eq!((received[112], received[128]), (0, 0), "neither U nor M nor I");
    assert_eq!(received[120..128], [0, 0, 0, 3, 0, 0, 0, 3], "received and transmitted");
    let digest = key.digest(&[&received[..4], &received[112..128]]);
    assert_eq!(received[132..], digest);
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.count("refused", "hmac"), endpoint.get("answered")), (6, 3));
}

#[test]
fn short_requests_are_no_amplification() {
    run_in_namespace!();
    shell("ip addr add 192.0.2.1/32 dev lo && ip addr add 192.0.2.2/32 dev lo");
    let server = Server::start(&["stamp@192.0.2.1:8620", "-q", "--json"]);
    let socket = connect_from([192, 0, 2, 2].into(), server.address());
    assert_eq!(request(&socket, b"").len(), 44);
    assert_eq!(server.stop().endpoint().total("refused"), 0);
}

#[test]
fn default_port_is_that_of_the_protocol() {
    run_in_namespace!();
    let server = Server::start(&["stamp", "-q"]);
    assert_eq!(server.address(), SocketAddr::from(([0, 0, 0, 0], 862)));
    assert_eq!(reply(&connect(server.address()), &packet(4, 1)).sender_sequence, 4);
    let output = run(&mut udpong(&["serve", "stamp", "--json"]), b"");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("try stamp@:8620)"), "{message}");
}

#[test]
fn unprivileged_user_is_shown_another_port() {
    run_in_namespace!("setpriv");
    shell("sysctl -qw net.ipv4.ip_unprivileged_port_start=1024");
    let program = udpong(&["serve", "stamp"]);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"]);
    let output = run(command.arg(program.get_program()).args(program.get_args()), b"");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("permission denied") && message.contains("try stamp@:8620)"), "{message}");
}

#[test]
fn loop_between_two_reflectors_ends() {
    run_in_namespace!("python3");
    assert_loops_end(
        Duration::ZERO,
        &[
            ("stamp", "stamp", 1),
            ("stamp", "echo", 1),
            ("stamp", "hello", 1),
            // Shorter than what may be a reply, and always the same.
            ("stamp", "fixed", 1),
            ("stamp", "reply=", 1),
        ],
    );
}

#[test]
fn only_what_may_be_a_reply_is_withheld() {
    run_in_namespace!();
    shell("for i in 1 2; do ip addr add 192.0.2.$i/32 dev lo; done");
    let server = Server::start(&["stamp@192.0.2.1:8620", "-q", "--json", "--rate-limit=0"]);
    let socket = connect_from([192, 0, 2, 2].into(), server.address());
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let unanswered = |requests: &mut dyn Iterator<Item = Vec<u8>>| {
        requests
            .filter(|request| {
                socket.send(request).expect("sent");
                socket.recv(&mut [0; 100]).is_err()
            })
            .count()
    };
    assert_eq!(unanswered(&mut (0..2_500).map(|sequence| packet(sequence, 1))), 0, "of a sender");
    let padded = |sequence| packet(sequence, 1).into_iter().take(16).chain([7; 28]).collect::<Vec<u8>>();
    assert_eq!(unanswered(&mut (0..2_500).map(padded)), 2, "as of a reflector");
    let endpoint = server.stop().endpoint();
    assert_eq!((endpoint.count("refused", "loop"), endpoint.total("refused")), (2, 2));
}

#[test]
fn options_without_the_service_and_bad_keys_are_usage_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = key_file(&folder, "\n");
    for (arguments, expected) in [
        (&["hello@:0", "--stamp-stateless"][..], "are for the service stamp, which is not served"),
        (&["stamp@:0", "--stamp-key-file", &empty], "the key is empty"),
        (&["stamp@:0", "--stamp-key-file", "/nonexistent/key"], "cannot read the key"),
    ] {
        let output = run(udpong(&["serve"]).args(arguments), b"");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn impairments_apply_to_replies() {
    let server = Server::start(&["stamp@127.0.0.1:0", "-q", "--json", "--duplicate=100%", "--seed=1"]);
    let socket = connect(server.address());
    let first = request(&socket, &packet(3, 1));
    assert_eq!(crate::harness::receive(&socket), first);
    let output = server.stop();
    let report: Value = output.report();
    assert_eq!(report["endpoints"][0]["impaired"]["duplicated"], 1, "{report}");
}
