//! Memory while datagrams wait, for a socket or by their delay: bounded for the process, and given back.

use std::iter;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use crate::harness::{Server, SlowLoopback, SpoofingSocket, python, run_in_namespace, shell, wait_until};
use crate::relay::{echo, relay, stop};

/// What waits in all endpoints together, and everything else that is not the binary's, in kB.
const BOUND: u64 = (32 << 10) + (8 << 10);

/// What is left once nothing waits any more, in kB. The allocator may keep more if other memory was allocated
/// meanwhile.
const AT_REST: u64 = 8 << 10;

/// Makes sends block: one packet of each socket has room in the network, and none of them leaves.
fn jam() -> SlowLoopback {
    let jam = SlowLoopback::new("1kbit", 70_000);
    shell("tc qdisc change dev lo root tbf rate 1kbit burst 70000 limit 40000000");
    jam
}

/// Waits until the memory of a server has stopped growing; returns it in kB.
fn settled_memory(server: &Server) -> u64 {
    let mut before = 0;
    wait_until("the memory has settled", || {
        thread::sleep(Duration::from_millis(300));
        let now = server.status("RssAnon");
        (std::mem::replace(&mut before, now) == now).then_some(now)
    })
}

/// Returns a server with many jammed endpoints, each of which has received what it can, and the jam.
fn jammed(before: impl Fn(&Server, &UdpSocket)) -> (Server, SlowLoopback) {
    const ENDPOINTS: usize = 200;
    let arguments: Vec<_> = iter::repeat_n("echo@127.0.0.1:0", ENDPOINTS).chain(["-q", "--send-buffer=16k"]).collect();
    let server = Server::start_many(ENDPOINTS, &arguments);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    before(&server, &client);
    server.pause();
    for address in server.addresses() {
        (0..20).for_each(|_| assert!(client.send_to(&[b'x'; 60_000], address).is_ok()));
    }
    let jam = jam();
    server.resume();
    (server, jam)
}

#[test]
fn memory_of_jammed_endpoints_is_bounded_and_given_back() {
    run_in_namespace!("tc");
    let (server, jam) = jammed(|_, _| ());
    let memory = settled_memory(&server);
    assert!((4 << 10..BOUND).contains(&memory), "{memory} kB");
    drop(jam);
    wait_until("the memory is given back", || (server.status("RssAnon") < AT_REST).then_some(()));
}

/// After many small datagrams each receive is prepared for many, however large.
#[test]
fn memory_of_jammed_endpoints_is_bounded_after_small_datagrams() {
    run_in_namespace!("tc");
    let (server, _jam) = jammed(|server, client| {
        server.pause();
        for address in server.addresses() {
            (0..80).for_each(|_| assert!(client.send_to(b"small", address).is_ok()));
        }
        server.resume();
        thread::sleep(Duration::from_millis(300));
    });
    let memory = settled_memory(&server);
    assert!((4 << 10..BOUND).contains(&memory), "{memory} kB");
}

/// A datagram of one byte can ask for 60 kB, and a packet holds 64 of them.
#[test]
fn long_replies_to_short_requests_wait_as_requests() {
    run_in_namespace!("tc", "python3");
    let service = format!("reply={}{{}}@127.0.0.1:0", "x".repeat(60_000));
    let server = Server::start(&[&service, "-q", "--json", "--send-buffer=16k", "--grace=0"]);
    server.pause();
    python(
        "
import socket, struct, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(100):
    # udp(7): SOL_UDP, UDP_SEGMENT
    client.sendmsg([b'x' * 64], [(17, 103, struct.pack('H', 1))], 0, ('127.0.0.1', int(sys.argv[1])))
",
        &[&server.address().port().to_string()],
    );
    let jam = jam();
    server.resume();
    let memory = settled_memory(&server);
    assert!(memory < AT_REST, "{memory} kB");
    let endpoint = server.stop().endpoint();
    assert!(endpoint.get("unsent") > 1_000, "{endpoint:?}");
    drop(jam);
}

/// Each of them is a flow of its own, and takes many times its length.
#[test]
fn memory_of_delayed_replies_to_spoofed_sources_is_bounded_and_given_back() {
    run_in_namespace!();
    shell("ip route add 10.0.0.0/8 dev lo");
    let options = ["echo@127.0.0.1:0", "-q", "--no-guard", "--delay=8s", "--limit=1M"];
    let server = Server::start(&options);
    let spoof = SpoofingSocket::new();
    for number in 1..=300_000_u32 {
        let [_, a, b, c] = number.to_be_bytes();
        spoof.send(([10, a, b, c], 4000), server.address(), b"");
    }
    let memory = settled_memory(&server);
    assert!((16 << 10..BOUND).contains(&memory), "{memory} kB");
    wait_until("the memory is given back", || (server.status("RssAnon") < AT_REST).then_some(()));
}

/// Each direction has half of it.
#[test]
fn memory_of_a_relay_is_bounded() {
    let target = echo();
    let relay = relay(target.address(), &["--delay=4s", "--limit=1M", "--stats=20ms"]);
    let client = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = relay.address();
    let fill = || {
        for _ in 0..300 {
            client.send_to(&[b'x'; 60_000], address).expect("sent");
            thread::sleep(Duration::from_micros(200));
        }
    };
    fill();
    let memory = settled_memory(&relay);
    assert!((BOUND / 3..BOUND / 2).contains(&memory), "{memory} kB");
    // When answers wait, others fill the direction to the target.
    let is_answer = |line: &String| line.contains("down: received ") && !line.contains("down: received 0 ");
    wait_until("answers come", || relay.log().iter().any(is_answer).then_some(()));
    fill();
    let memory = wait_until("both directions are filled", || {
        let memory = settled_memory(&relay);
        (memory > BOUND / 2).then_some(memory)
    });
    assert!(memory < BOUND, "{memory} kB");
    let output = stop(relay);
    assert!(output.direction("up").impaired("over_limit") > 0);
}
