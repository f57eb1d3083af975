//! The program from outside: the real binary, real sockets, foreign tools.
//!
//! Where a test belongs:
//!
//! | File | What it tests |
//! |---|---|
//! | `usage` | `serve`: wrong options, addresses that cannot be served, exit codes |
//! | `services` | `serve`: what is replied, where it listens, several services and workers |
//! | `compatibility` | `serve`: the five exercises byte for byte; foreign clients (socat, ncat, nping, check_udp) |
//! | `reply_source` | `serve`: which address a reply leaves from |
//! | `batches` | `serve`: how many replies leave per system call and message |
//! | `packet_info` | `serve`: IPv4-mapped sources, broadcast and multicast, addresses of no interface |
//! | `guard` | `serve`: which requests are refused; spoofed sources, rate limit |
//! | `loops` | `serve`: loops between two servers, over a wire with delay |
//! | `faults` | `serve`: errors of single datagrams and of sockets; injected system call errors |
//! | `availability` | `serve`: start and stop with many services, a stuck stderr, refused threads, ignored signals |
//! | `backpressure` | `serve`: replies that wait for a slow network |
//! | `memory` | `serve`: what replies that wait take, in how many endpoints, and giving it back |
//! | `overload` | `serve`: more datagrams than can be handled; counts, memory and fairness under floods |
//! | `impair` | `serve`: replies that are lost, delayed, reordered, damaged on purpose |
//! | `stamp` | `serve stamp`: replies, sessions, authentication; against scapy and tshark |
//! | `shutdown` | `serve`: signals, `--for`, `--count`, `--grace` |
//! | `statistics` | `serve`: `--stats` and the report of `--json` |
//! | `metrics` | `--metrics` and `--metrics-file` of every command |
//! | `systemd` | `serve`: notifications, watchdog, inherited sockets |
//! | `many_machines` | what README shows for operators: rules, units, manifests, a static binary, nginx, recipes |
//! | `log` | `serve`: lines, levels, escaping; a stderr that is slow, stuck or closed |
//! | `relay` | `relay`: what is forwarded, sessions, impairments of each direction |
//! | `stamp_ping` | `ping --stamp`: losses and delays by direction, through a relay; foreign reflectors |
//! | `relay_faults` | `relay`: what it refuses, what refuses it, a slow network, loops |
//! | `send`, `ping`, `bench` | each command against udpong and against other responders |
//! | `flows`, `outcomes` | `ping` and `bench`: attribution by source port; what is counted, reported and when they fail |
//! | `pictures` | histogram, strip, `--plot`, `--hdr`, and `report` |
//! | `options` | payloads, IP headers and limits that users of other tools look for; what mistakes in the arguments lead to |
//! | `router` | `ping` and `send`: what routers and hosts report by ICMP |
//! | `hostile_responders` | these commands against responders that flood, spoof or answer endlessly |
//! | `manual` | help, man pages, completions, `make install` |
//! | `soak` | the long run, `make soak` |
//!
//! `harness` is what they share. A test that uses a tool begins with `needs!("socat")`; one that needs root, fixed
//! ports or the network to itself begins with `run_in_namespace!()`. Tests whose tools are missing are left out, and
//! `tests/summary.rs` prints how many. What can be tested without the binary is a unit test next to the code.

mod availability;
mod backpressure;
mod batches;
mod bench;
mod compatibility;
mod faults;
mod flows;
mod guard;
mod harness;
mod hostile_responders;
mod impair;
mod log;
mod loops;
mod manual;
mod many_machines;
mod memory;
mod metrics;
mod options;
mod outcomes;
mod overload;
mod packet_info;
mod pictures;
mod ping;
mod relay;
mod relay_faults;
mod reply_source;
mod router;
mod send;
mod services;
mod shutdown;
mod soak;
mod stamp;
mod stamp_ping;
mod statistics;
mod systemd;
mod usage;
