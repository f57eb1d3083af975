//! The relay: what it forwards and to whom, its sessions, and the impairments of each direction against what a client
//! sees.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{
    LENGTH, Random, Responder, Server, ServerOutput, TIMEOUT, Traffic, assert_share, closed_address, connect, needs,
    payload, python, receive, request, run, shell, udpong, wait_until,
};

const INTERVAL: Duration = Duration::from_micros(100);

const SILENCE: Duration = Duration::from_millis(300);

/// A target that echoes, with as many clients as it may have.
pub fn echo() -> Server {
    Server::start(&["echo@127.0.0.1:0", "-q", "--json"])
}

/// Starts a relay to `target`, with a report.
pub fn relay(target: SocketAddr, options: &[&str]) -> Server {
    Server::start_relay(&[&["127.0.0.1:0", &target.to_string(), "--json", "-q"], options].concat())
}

/// A socket that receives from the sessions of a relay and answers by hand.
pub fn target() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    socket
}

pub fn receive_from(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_535];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
    buffer.truncate(length);
    (buffer, from)
}

pub fn stop(relay: Server) -> ServerOutput {
    let output = relay.stop();
    assert_eq!(output.status.code(), Some(0));
    // Each checks that its counts add up.
    output.direction("up");
    output.direction("down");
    output
}

pub fn sessions(output: &ServerOutput, name: &str) -> u64 {
    output.report()["sessions"][name].as_u64().expect("a count")
}

#[test]
fn unimpaired_relay_changes_nothing() {
    for io in ["auto", "portable"] {
        let echo = echo();
        let relay = relay(echo.address(), &["--io", io]);
        let client = connect(relay.address());
        let mut random = Random(1);
        let lengths = [0, 1, 17, 1_400, 1_472, 1_473, 9_000, 65_506, 65_507];
        let mut bytes = 0;
        for length in lengths {
            let payload = random.bytes(length);
            assert_eq!(request(&client, &payload), payload, "{length} bytes");
            bytes += length as u64;
        }
        // Several at a time, of different lengths: boundaries and order stay.
        let many: Vec<Vec<u8>> = (0..100).map(|i| vec![i; 40 + usize::from(i % 7) * 20]).collect();
        many.iter().for_each(|payload| assert_eq!(client.send(payload).expect("sent"), payload.len()));
        assert!(many.iter().all(|payload| receive(&client) == *payload));
        bytes += many.iter().map(|payload| payload.len() as u64).sum::<u64>();

        let output = stop(relay);
        for direction in [output.direction("up"), output.direction("down")] {
            let counts = ["received", "forwarded"].map(|name| direction.get(name));
            assert_eq!(counts, [lengths.len() as u64 + 100; 2], "{io}: {direction:?}");
            assert_eq!((direction.get("received_bytes"), direction.get("forwarded_bytes")), (bytes, bytes));
            assert_eq!(direction.get("kernel_dropped"), 0);
        }
        assert_eq!((sessions(&output, "opened"), sessions(&output, "peak")), (1, 1));
    }
}

#[test]
fn report_has_the_documented_form() {
    let echo = echo();
    let relay = relay(echo.address(), &["--up-loss=0%", "--seed=5"]);
    let listen = relay.address();
    assert_eq!(request(&connect(listen), b"you"), b"you");
    let report = stop(relay).report();
    let seconds = report["seconds"].clone();
    let direction = |impaired: Value| {
        serde_json::json!({
            "received": 1, "received_bytes": 3, "forwarded": 1, "forwarded_bytes": 3, "impaired": impaired,
            "refused": {}, "failed": {}, "receive_errors": {}, "unsent": 0, "kernel_dropped": 0,
        })
    };
    let impaired = serde_json::json!({
        "lost": 0, "duplicated": 0, "delayed": 0, "reordered": 0, "corrupted": 0, "truncated": 0, "over_limit": 0,
    });
    let expected = serde_json::json!({
        "schema": 1, "seconds": seconds, "seed": 5, "listen": listen, "target": echo.address(),
        "up": direction(impaired), "down": direction(Value::Null),
        "sessions": {"opened": 1, "expired": 0, "refused": 0, "peak": 1},
    });
    assert!(seconds.is_f64());
    assert_eq!(report, expected);
}

#[test]
fn each_client_is_a_peer_of_its_own() {
    let target = target();
    let relay = relay(target.local_addr().expect("an address"), &[]);
    let clients: Vec<_> = (0..20).map(|_| connect(relay.address())).collect();
    let mut peers = Vec::new();
    for (i, client) in clients.iter().enumerate() {
        client.send(&[i as u8]).expect("sent");
        let (payload, peer) = receive_from(&target);
        assert_eq!(payload, [i as u8]);
        assert!(!peers.contains(&peer));
        peers.push(peer);
    }
    // Again, and answered in another order.
    clients.iter().for_each(|client| assert_eq!(client.send(b"again").expect("sent"), 5));
    (0..20).for_each(|_| assert!(peers.contains(&receive_from(&target).1)));
    for (i, peer) in peers.iter().enumerate().rev() {
        target.send_to(&[i as u8, 1], peer).expect("sent");
        target.send_to(&[i as u8, 2], peer).expect("sent");
    }
    for (i, client) in clients.iter().enumerate() {
        assert_eq!((receive(client), receive(client)), (vec![i as u8, 1], vec![i as u8, 2]));
    }
    let output = stop(relay);
    assert_eq!((sessions(&output, "opened"), sessions(&output, "peak")), (20, 20));
}

#[test]
fn only_the_target_reaches_a_client() {
    let target = target();
    let relay = relay(target.local_addr().expect("an address"), &[]);
    let client = connect(relay.address());
    client.send(b"hello").expect("sent");
    let (_, peer) = receive_from(&target);
    UdpSocket::bind("127.0.0.1:0").expect("a free port").send_to(b"spam", peer).expect("sent");
    target.send_to(b"answer", peer).expect("sent");
    assert_eq!(receive(&client), b"answer");
    assert_eq!(stop(relay).direction("down").get("received"), 1);
}

#[test]
fn families_of_both_sides_are_independent() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return; // A machine without IPv6.
    }
    let echo = Server::start_many(2, &["echo@127.0.0.1:0", "echo@[::1]:0", "-q"]);
    for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0", ":0", "localhost:0"] {
        for target in echo.addresses() {
            let relay = Server::start_relay(&[listen, &target.to_string(), "-q", "--json"]);
            if listen == ":0" {
                assert!(relay.address().ip().is_loopback() && relay.address().is_ipv4());
            }
            assert_eq!(request(&connect(relay.address()), b"you"), b"you", "{listen} {target}");
        }
    }
}

#[test]
fn answers_leave_from_the_address_that_the_client_used() {
    let echo = echo();
    let relay = Server::start_relay(&["0.0.0.0:0", &echo.address().to_string(), "-q", "--json"]);
    // Connected sockets: they receive from this address only.
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    client.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
    for host in [1, 2, 3] {
        let address = SocketAddr::from(([127, 0, 0, host], relay.address().port()));
        client.send_to(&[host], address).expect("sent");
        assert_eq!(receive_from(&client), (vec![host], address));
    }
    // One client address, three addresses of the relay: otherwise answers could not be distinguished.
    assert_eq!(sessions(&stop(relay), "opened"), 3);
}

#[test]
fn sessions_expire_without_traffic() {
    let echo = echo();
    // Longer than an answer takes on a busy machine.
    let relay = relay(echo.address(), &["--idle=1s", "--stats=20ms"]);
    let (busy, quiet) = (connect(relay.address()), connect(relay.address()));
    assert_eq!(request(&quiet, b"quiet"), b"quiet");
    wait_until("a session has expired", || {
        assert_eq!(request(&busy, b"busy"), b"busy");
        relay.log().iter().any(|line| line.contains("sessions: opened 2, expired 1, ")).then_some(())
    });
    // It may come back.
    assert_eq!(request(&quiet, b"quiet"), b"quiet");
    let output = stop(relay);
    let counts = ["opened", "expired", "refused", "peak"].map(|name| sessions(&output, name));
    assert_eq!(counts, [3, 1, 0, 2]);
}

#[test]
fn a_thousand_sessions_work_with_the_usual_limit_of_open_files() {
    needs!("sh");
    // The sockets of this test need as many.
    let echo = echo();
    let script = format!("ulimit -S -n 1024; exec \"$0\" relay 127.0.0.1:0 {} -q --json", echo.address());
    let relay = Server::spawn_relay(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_udpong")]));
    let clients = "
import resource, socket, sys
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
address = (sys.argv[1], int(sys.argv[2]))
clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(1000)]
for turn in range(3):
    for number, client in enumerate(clients):
        client.settimeout(30)
        client.sendto(b'%d' % number, address)
        assert client.recvfrom(100)[0] == b'%d' % number
print('all answered')
";
    needs!("python3");
    let address = relay.address();
    let answered = python(clients, &[&address.ip().to_string(), &address.port().to_string()]);
    assert_eq!(answered, b"all answered\n");
    // Without the binary, which is larger in a debug build.
    let memory = relay.status("RssAnon");
    let output = stop(relay);
    assert_eq!((sessions(&output, "opened"), sessions(&output, "peak")), (1_000, 1_000));
    assert_eq!(output.direction("up").get("forwarded"), 3_000);
    assert!(memory < 3 << 10, "{memory} kB");
}

/// Returns what `udpong ping` reports of probes through a relay with an impairment, and the output of the relay.
fn ping(impairments: &[&str], probes: &[&str]) -> (Value, ServerOutput) {
    let echo = echo();
    let relay = relay(echo.address(), impairments);
    let target = relay.address().to_string();
    let arguments = [&["ping", &target, "--json", "-W", "500ms"], probes].concat();
    let output = run(&mut udpong(&arguments), b"");
    (serde_json::from_slice(&output.stdout).expect("a report"), stop(relay))
}

const PROBES: [&str; 4] = ["-c", "2000", "-i", "500us"];

#[test]
fn ping_counts_losses_duplicates_and_reordering_as_the_relay_does() {
    for direction in ["up", "down"] {
        let option = |name: &str, value: &str| format!("--{direction}-{name}={value}");
        let impaired = |output: &ServerOutput, name: &str| output.direction(direction).impaired(name);

        let (ping, output) = ping(&[&option("loss", "5%"), "--seed=1"], &PROBES);
        assert_eq!(ping["lost"], impaired(&output, "lost"), "{direction}: {ping}");
        assert_share(impaired(&output, "lost"), 2_000, 0.05);

        let (ping, output) = self::ping(&[&option("loss-model", "gemodel:2%,30%"), "--seed=1"], &PROBES);
        assert_eq!(ping["lost"], impaired(&output, "lost"), "{direction}: {ping}");

        let (ping, output) = self::ping(&[&option("duplicate", "5%"), "--seed=1"], &PROBES);
        assert_eq!(ping["duplicate"], impaired(&output, "duplicated"), "{direction}: {ping}");
        assert_eq!((&ping["lost"], &ping["reordered"]), (&0.into(), &0.into()));

        let jitter = [&*option("delay", "20ms"), &*option("jitter", "2ms"), "--seed=1"];
        let (ping, output) = self::ping(&jitter, &PROBES);
        assert_eq!(ping["reordered"], impaired(&output, "reordered"), "{direction}: {ping}");
        assert!(impaired(&output, "reordered") > 500 && ping["lost"] == 0);
        // A busy machine adds to the mean, and the jitter to neither of these bounds.
        let [least, mean] = ["min", "mean"].map(|name| ping["rtt_ms"][name].as_f64().expect("a round trip"));
        assert!((8.0..20.0).contains(&least) && mean > 19.5, "{least} {mean}");
    }
}

#[test]
fn ping_sees_damage_as_the_relay_reports_it() {
    for direction in ["up", "down"] {
        for (impairment, name) in [("corrupt", "corrupted"), ("truncate", "truncated")] {
            let (ping, output) = ping(&[&format!("--{direction}-{impairment}=5%"), "--seed=1"], &PROBES);
            let damaged = output.direction(direction).impaired(name);
            assert_share(damaged, 2_000, 0.05);
            let count = |name: &str| ping[name].as_u64().expect("a count");
            let seen = count("altered") + count("truncated") + count("unmatched");
            assert_eq!(seen, damaged, "{direction} {impairment}: {ping}");
            assert_eq!(count("lost"), count("unmatched"), "each unmatched answer costs a lost probe: {ping}");
        }
    }
}

#[test]
fn both_directions_have_impairments_and_generators_of_their_own() {
    let echo = echo();
    let relay = relay(echo.address(), &["--loss=20%", "--down-loss=50%", "--seed=3"]);
    let traffic = Traffic::exchange(relay.address(), 10_000, INTERVAL, SILENCE);
    let output = stop(relay);
    let (up, down) = (output.direction("up"), output.direction("down"));
    assert_eq!((up.get("received"), down.get("received")), (10_000, up.get("forwarded")));
    assert_share(up.impaired("lost"), 10_000, 0.2);
    assert_share(down.impaired("lost"), down.get("received") as usize, 0.5);
    assert_eq!(traffic.numbers().len() as u64, down.get("forwarded"));
    assert!(output.log.iter().any(|line| line.ends_with("Impairing up: loss 20%; down: loss 50% (seed 3)")));
}

#[test]
fn same_seed_has_the_same_outcomes() {
    let outcomes = |seed: &str| {
        let echo = echo();
        let relay = relay(echo.address(), &["--loss=5%", "--duplicate=5%", "--corrupt=5%", "--truncate=5%", seed]);
        let traffic = Traffic::exchange(relay.address(), 2_000, INTERVAL, SILENCE);
        drop(relay);
        traffic.answers.into_iter().map(|answer| answer.payload).collect::<Vec<_>>()
    };
    let first = outcomes("--seed=11");
    assert_eq!(first, outcomes("--seed=11"));
    assert_ne!(first, outcomes("--seed=12"));
}

#[test]
fn all_sessions_share_the_rate_and_the_limit_of_a_direction() {
    let echo = echo();
    let relay = relay(echo.address(), &["--up-rate=1024kbit", "--up-limit=100"]);
    // 128-byte packets: one per millisecond.
    let clients: Vec<_> = (0..10).map(|_| connect(relay.address())).collect();
    let start = Instant::now();
    for number in 0..20 {
        clients.iter().for_each(|client| assert_eq!(client.send(&payload(number)).expect("sent"), LENGTH));
    }
    // Those within the limit, in the order of arrival.
    for number in 0..10 {
        assert!(clients.iter().all(|client| receive(client) == payload(number)));
    }
    let elapsed = start.elapsed();
    assert!((Duration::from_millis(99)..Duration::from_millis(500)).contains(&elapsed), "{elapsed:?}");
    let up = stop(relay).direction("up");
    let (delayed, over_limit) = (up.impaired("delayed"), up.impaired("over_limit"));
    assert_eq!(delayed + over_limit, 200);
    // A few have left while others still came.
    assert!((100..110).contains(&delayed), "{delayed}");
}

#[test]
fn delayed_datagrams_leave_within_the_grace_time_and_are_answered() {
    let echo = echo();
    let mut relay = relay(echo.address(), &["--delay=200ms", "--grace=5s", "--stats=10ms"]);
    let client = connect(relay.address());
    client.send(b"late").expect("sent");
    relay.wait_for_line("up: received 1 ", 0);
    let output = stop(relay);
    assert_eq!(receive(&client), b"late");
    assert_eq!((output.direction("up").get("forwarded"), output.direction("down").get("forwarded")), (1, 1));
    assert!(output.report()["seconds"].as_f64().is_some_and(|seconds| seconds < 4.0));
}

#[test]
fn datagrams_delayed_beyond_the_grace_time_are_unsent() {
    let echo = echo();
    let mut relay = relay(echo.address(), &["--up-delay=1h", "--grace=50ms", "--stats=10ms"]);
    connect(relay.address()).send(b"never").expect("sent");
    relay.wait_for_line("up: received 1 ", 0);
    let output = stop(relay);
    assert_eq!((output.direction("up").get("forwarded"), output.direction("up").get("unsent")), (0, 1));
}

#[test]
fn session_outlives_its_delayed_datagrams() {
    let echo = echo();
    let relay = relay(echo.address(), &["--delay=300ms", "--idle=50ms"]);
    let client = connect(relay.address());
    assert_eq!(request(&client, b"late"), b"late");
    let output = stop(relay);
    assert_eq!((output.direction("up").get("forwarded"), output.direction("down").get("forwarded")), (1, 1));
}

#[test]
fn count_ends_after_the_answers() {
    let echo = echo();
    let relay = relay(echo.address(), &["--count=10"]);
    let client = connect(relay.address());
    for number in 0..10 {
        assert_eq!(request(&client, &payload(number)), payload(number));
    }
    let output = relay.wait();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((output.direction("up").get("forwarded"), output.direction("down").get("forwarded")), (10, 10));
    assert!(output.report()["seconds"].as_f64().is_some_and(|seconds| seconds < 30.0));
}

#[test]
fn for_ends_after_its_time() {
    let start = Instant::now();
    let relay = relay(closed_address(), &["--for=100ms"]);
    let output = relay.wait();
    assert_eq!(output.status.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(output.report()["seed"].is_null());
}

#[test]
fn single_datagrams_are_logged_unless_quiet() {
    let echo = echo();
    let address = echo.address().to_string();
    let mut relay = Server::start_relay(&["127.0.0.1:0", &address]);
    let client = connect(relay.address());
    assert_eq!(request(&client, b"esc \x1b"), b"esc \x1b");
    let client = client.local_addr().expect("an address");
    relay.wait_for_line(&format!("Forwarded message from {client} to {address}: esc \\u{{1b}} (5 bytes)"), 0);
    relay.wait_for_line(&format!("Forwarded response from {address} to {client}: esc \\u{{1b}} (5 bytes)"), 0);
    let output = relay.stop();
    assert_eq!(output.stdout, "");
    assert!(output.log.iter().any(|line| line.contains("up: received 1 (5 bytes), forwarded 1 (5 bytes), refused 0")));
}

#[test]
fn foreign_tools_work_through_a_bad_network() {
    needs!("socat", "python3");
    let echo = echo();
    let relay = relay(echo.address(), &["--loss=10%", "--delay=5ms", "--jitter=2ms", "--seed=1"]);
    let port = relay.address().port();
    shell(&format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do printf hi | socat -t1 - UDP4:127.0.0.1:{port}; done | grep -q hi"
    ));
    // A client that sends again what is not answered.
    let client = "
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(('127.0.0.1', int(sys.argv[1])))
client.settimeout(0.1)
sent = 0
for number in range(100):
    while True:
        client.send(b'%d' % number)
        sent += 1
        try:
            while client.recv(100) != b'%d' % number:
                pass
            break
        except TimeoutError:
            pass
print(sent)
";
    let sent: u64 = String::from_utf8_lossy(&python(client, &[&port.to_string()])).trim().parse().expect("a number");
    assert!((105..200).contains(&sent), "{sent}");
}

#[test]
fn dig_reaches_a_resolver_through_a_bad_network() {
    needs!("dig", "dnsmasq");
    let resolver = Responder::name_server("example.test");
    let impairments = ["--loss=20%", "--duplicate=20%", "--delay=5ms", "--jitter=5ms", "--seed=4"];
    let relay = relay(resolver.target().parse().expect("an address"), &impairments);
    let port = relay.address().port().to_string();
    for number in 0..10 {
        let name = format!("{number}.example.test");
        let arguments = ["@127.0.0.1", "-p", &port, &name, "+short", "+tries=20", "+timeout=1"];
        let output = run(Command::new("dig").args(arguments), b"");
        // Among a line for each try without an answer.
        assert!(String::from_utf8_lossy(&output.stdout).lines().any(|line| line == "192.0.2.7"), "{output:?}");
    }
    let output = stop(relay);
    assert!(output.direction("up").impaired("lost") > 0 && output.direction("down").impaired("duplicated") > 0);
}

#[test]
fn fails_for_wrong_addresses_and_options() {
    let echo = echo();
    let target = echo.address().to_string();
    let taken = target.clone();
    for (code, arguments, message) in [
        (2, &["127.0.0.1:0"][..], "TARGET"),
        (2, &["127.0.0.1", &target], "has no port"),
        (2, &["127.0.0.1:0", "127.0.0.1"], "has no port"),
        (2, &["127.0.0.1:0", "127.0.0.1:0"], "nothing can listen on"),
        (2, &["::1:0", &target], "too many colons"),
        (2, &[":0", &target, "--reorder=5%"], "reordering needs a delay"),
        (2, &[":0", &target, "--up-delay=5ms", "--reorder=5%"], "reordering needs a delay"),
        (2, &[":0", &target, "--up-rate=1000"], "write a number and bit"),
        (2, &[":0", &target, "--max-sessions=0"], "at least 1"),
        (1, &[&taken, "127.0.0.1:9"], "address already in use"),
        (1, &["192.0.2.1:0", &target], "no such address"),
        (1, &[":0", "name.invalid:7"], "cannot look up \"name.invalid\""),
    ] {
        let output = run(&mut udpong(&[&["relay", "--for=1ms"], arguments].concat()), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
}

#[test]
fn quic_connection_survives_losses() {
    needs!("python3", "aioquic");
    let target = closed_address();
    let relay = relay(target, &["--loss=5%", "--seed=1"]);
    let script = "
import asyncio, datetime, ssl, sys
from aioquic.asyncio import connect, serve
from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

def server_configuration():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, 'localhost')])
    now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    configuration = QuicConfiguration(is_client=False, alpn_protocols=['echo'])
    configuration.certificate, configuration.private_key = builder.sign(key, hashes.SHA256()), key
    return configuration

async def echo(reader, writer):
    writer.write(await reader.read())
    writer.write_eof()

async def main(host, target, relay):
    handler = lambda reader, writer: asyncio.ensure_future(echo(reader, writer))
    await serve(host, target, configuration=server_configuration(), stream_handler=handler)
    configuration = QuicConfiguration(is_client=True, alpn_protocols=['echo'], verify_mode=ssl.CERT_NONE)
    async with connect('127.0.0.1', relay, configuration=configuration) as client:
        reader, writer = await client.create_stream()
        sent = bytes(range(256)) * 1000
        writer.write(sent)
        writer.write_eof()
        assert await reader.read() == sent
    print('echoed')

asyncio.run(asyncio.wait_for(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])), 60))
";
    let [target_port, port] = [target.port(), relay.address().port()].map(|port| port.to_string());
    assert_eq!(python(script, &[&target.ip().to_string(), &target_port, &port]), b"echoed\n");
    let output = stop(relay);
    assert!(output.direction("up").impaired("lost") > 3 && output.direction("down").impaired("lost") > 3);
}
