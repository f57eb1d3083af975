//! What routers and hosts report by ICMP: ping and send name the error and its sender.

use std::process::{Child, Command, Output};

use serde_json::Value;

use crate::harness::{Server, run, run_in_namespace, shell, udpong, wait_until};

/// A router in a network namespace of its own, at 10.0.0.1 and 2001:db8::1, and a host behind it, at 10.5.0.1 and
/// 2001:db8:5::1, to which packets of at most 1,300 bytes get. The test is at 10.0.0.2 and 2001:db8::2.
struct Router {
    router: Child,
    host: Child,
}

impl Router {
    fn new() -> Self {
        let namespace = || Command::new("unshare").args(["-n", "sleep", "1000"]).spawn().expect("unshare");
        let this = Self { router: namespace(), host: namespace() };
        for child in [&this.router, &this.host] {
            wait_until("it has a namespace", || {
                let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
                (link(&child.id().to_string())? != link("self")?).then_some(())
            });
        }
        let (router, host) = (this.router.id(), this.host.id());
        // IPv6 MTUs are at least 1,280.
        shell(&format!(
            "ip link add near type veth peer name far netns {router}
             ip addr add 10.0.0.2/24 dev near; ip addr add 2001:db8::2/64 dev near nodad; ip link set near up
             ip route add default via 10.0.0.1; ip -6 route add default via 2001:db8::1
             nsenter -t {router} -n sh -ec '
                 ip link set lo up
                 ip link add next type veth peer name end netns {host}
                 ip addr add 10.0.0.1/24 dev far; ip addr add 2001:db8::1/64 dev far nodad; ip link set far up
                 ip addr add 10.5.0.2/24 dev next; ip addr add 2001:db8:5::2/64 dev next nodad
                 ip link set next mtu 1300 up
                 cd /proc/sys/net; echo 1 >ipv4/ip_forward; echo 1 >ipv6/conf/all/forwarding
                 echo 0 >ipv4/icmp_ratelimit; echo 0 >ipv6/icmp/ratelimit'
             nsenter -t {host} -n sh -ec '
                 ip link set lo up; ip link set end mtu 1300 up
                 ip addr add 10.5.0.1/24 dev end; ip addr add 2001:db8:5::1/64 dev end nodad
                 ip route add default via 10.5.0.2; ip -6 route add default via 2001:db8:5::2'"
        ));
        this
    }

    /// Runs a script in the router's namespace.
    fn shell(&self, script: &str) {
        shell(&format!("nsenter -t {} -n sh -ec '{script}'", self.router.id()));
    }

    /// Starts a server on the host.
    fn serve(&self, arguments: &[&str]) -> Server {
        let host = self.host.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &host, "-n", env!("CARGO_BIN_EXE_udpong"), "serve"]).args(arguments).env_remove("RUST_LOG");
        Server::spawn(1, &mut command)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for child in [&mut self.router, &mut self.host] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn output(arguments: &[&str]) -> Output {
    run(&mut udpong(arguments), b"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Every probe must be refused with this error.
fn assert_refused(target: &str, error: &str) {
    let ping = output(&["ping", target, "-c", "3", "-i", "20ms", "-W", "20s"]);
    let stdout = text(&ping.stdout);
    for seq in 1..=3 {
        assert!(stdout.contains(&format!("seq={seq} refused: {error}\n")), "{target} {error}: {stdout}");
    }
    assert!(stdout.contains("3 sent, 0 answered, 3 lost (100.0%; 3 refused)"), "{stdout}");
    assert_eq!(ping.status.code(), Some(1));
    let send = output(&["send", target, "hi", "-W", "20s"]);
    let stderr = text(&send.stderr);
    assert_eq!((&*stderr, send.status.code()), (&*format!("udpong: cannot reach {target}: {error}\n"), Some(1)));
}

#[test]
fn unreachable_target_is_refused_by_name() {
    run_in_namespace!("nsenter", "nft");
    let router = Router::new();
    router.shell(
        "ip route add unreachable 10.1.0.0/24; ip route add prohibit 10.2.0.0/24
         ip -6 route add unreachable 2001:db8:1::/64; ip -6 route add prohibit 2001:db8:2::/64
         nft add table inet filter; nft add chain inet filter forward { type filter hook forward priority 0 \\; }
         nft add rule inet filter forward udp dport 4444 reject with icmpx port-unreachable",
    );
    // Linux sends a source five such errors, then one per second.
    shell(
        "for i in 2 3; do
             ip addr add 10.0.0.1$i/24 dev near; ip route add 10.$i.0.0/24 via 10.0.0.1 src 10.0.0.1$i
         done",
    );
    // A routing loop.
    shell("ip route add 10.4.0.0/24 via 10.0.0.1 hoplimit 1");
    router.shell("ip route add 10.4.0.0/24 via 10.5.0.1");
    assert_refused("10.1.0.1:5000", "host unreachable from 10.0.0.1");
    assert_refused("10.2.0.1:5000", "administratively prohibited from 10.0.0.1");
    assert_refused("10.3.0.1:5000", "network unreachable from 10.0.0.1");
    assert_refused("10.4.0.1:5000", "TTL exceeded from 10.0.0.1");
    assert_refused("10.5.0.1:4444", "port unreachable from 10.0.0.1");
    assert_refused("[2001:db8:1::1]:5000", "network unreachable from 2001:db8::1");
    assert_refused("[2001:db8:2::1]:5000", "administratively prohibited from 2001:db8::1");
    assert_refused("[2001:db8:5::1]:4444", "port unreachable from 2001:db8::1");
    // A neighbour that is not there: this host reports it, after three seconds.
    assert_refused("10.0.0.77:5000", "host unreachable from 10.0.0.2");
    let bench = output(&["bench", "10.1.0.1:5000", "-t", "100ms", "-W", "1s"]);
    assert!(text(&bench.stderr).contains("host unreachable from 10.0.0.1"), "{bench:?}");
}

/// An error that comes after the timeout changes no outcome, but is shown.
#[test]
fn error_after_the_timeout_is_shown() {
    run_in_namespace!("nsenter");
    let _router = Router::new();
    let ping = output(&["ping", "10.0.0.77:5000", "-c", "5", "-i", "1s", "-W", "500ms"]);
    let stdout = text(&ping.stdout);
    assert!(stdout.contains("seq=1 no answer within 500ms\n"), "{stdout}");
    assert!(stdout.contains("seq=1 was reported too late: host unreachable from 10.0.0.2\n"), "{stdout}");
    assert!(stdout.contains("5 sent, 0 answered, 5 lost"), "{stdout}");
}

#[test]
fn message_over_a_smaller_mtu_is_fragmented_at_once() {
    run_in_namespace!("nsenter");
    let router = Router::new();
    for (service, ip) in [("echo@10.5.0.1:4001", "10.0.0.1"), ("echo@[2001:db8:5::1]:4001", "2001:db8::1")] {
        let server = router.serve(&[service, "--json", "-q"]);
        let (target, message) = (server.address().to_string(), "x".repeat(1_400));
        let send = output(&["send", &target, &message, "--retries", "0", "-W", "20s"]);
        assert_eq!((text(&send.stdout), text(&send.stderr)), (message + "\n", String::new()), "{service}");
        assert_eq!(server.stop().endpoint().get("answered"), 1);
        // ping reports what happened to the probe that met the smaller MTU.
        shell("ip route flush cache; ip -6 route flush cache");
        let server = router.serve(&[service, "--json", "-q"]);
        let ping = output(&["ping", &target, "-s", "1400", "-c", "3", "-i", "50ms", "-W", "20s"]);
        let stdout = text(&ping.stdout);
        assert!(stdout.contains(&format!("seq=1 refused: fragmentation needed (MTU 1300) from {ip}\n")), "{stdout}");
        assert!(stdout.contains("3 sent, 2 answered, 1 lost (33.3%; 1 refused)"), "{stdout}");
        assert_eq!(server.stop().endpoint().get("answered"), 2);
    }
}

/// Quotes the IP header and 8 bytes only, as many routers do.
const TERSE_ROUTER: &str = "
import socket
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
link.bind((\"far\", 0x0800))
icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
while True:
    packet = link.recv(2000)
    if packet[9] == 17 and packet[16:18] == bytes([10, 6]):
        message = bytes([3, 1, 0, 0, 0, 0, 0, 0]) + packet[:28]
        total = sum(int.from_bytes(message[i:i + 2], \"big\") for i in range(0, len(message), 2))
        total = (total & 0xffff) + (total >> 16)
        total = (total & 0xffff) + (total >> 16)
        icmp.sendto(message[:2] + (0xffff - total).to_bytes(2, \"big\") + message[4:], (\"10.0.0.2\", 0))
";

#[test]
fn error_without_payload_belongs_to_the_oldest_probe() {
    run_in_namespace!("nsenter", "python3");
    let router = Router::new();
    router.shell("ip route add blackhole 10.6.0.0/24");
    let namespace = router.router.id().to_string();
    let mut terse =
        Command::new("nsenter").args(["-t", &namespace, "-n", "python3", "-c", TERSE_ROUTER]).spawn().expect("nsenter");
    let target = "10.6.0.1:5000";
    wait_until("the router reports errors", || {
        (output(&["send", target, "hi", "--retries=0", "-W", "200ms"]).stderr.ends_with(b"from 10.0.0.1\n"))
            .then_some(())
    });
    let ping = output(&["ping", target, "-c", "5", "-i", "20ms", "-W", "20s", "--json-stream"]);
    let _ = terse.kill();
    let _ = terse.wait();
    let objects: Vec<Value> =
        text(&ping.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let refused: Vec<_> =
        objects.iter().filter(|object| object["outcome"] == "refused").map(|o| o["seq"].clone()).collect();
    assert_eq!(refused, [1, 2, 3, 4, 5]);
    assert_eq!((&objects[5]["sent"], &objects[5]["refused"]), (&5.into(), &5.into()));
}
