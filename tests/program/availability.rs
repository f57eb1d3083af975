//! Start and stop under adverse conditions: many services, a stuck stderr, refused threads, ignored signals.

use std::fs::{self, File};
use std::io;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{
    Server, SlowLoopback, connect, needs, receive, request, run, run_in_namespace, signal, udpong, wait_until,
};

#[test]
fn every_service_logs_its_start_and_its_statistics_to_a_file() {
    const SERVICES: usize = 900;
    let path = tempfile::NamedTempFile::new().expect("a temporary file").into_temp_path();
    let mut command = udpong(&["serve", "--for", "100ms"]);
    command.args(["discard@127.0.0.1:0"; SERVICES]).stderr(File::create(&path).expect("a file"));
    assert!(command.status().expect("a server").success());
    let log = fs::read_to_string(path).expect("a log");
    let count = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert_eq!(count("Server is listening on 127.0.0.1:"), SERVICES);
    assert_eq!(count("received 0 (0 bytes), answered 0 (0 bytes)"), SERVICES);
    assert_eq!(count("skipped"), 0);
}

#[test]
fn stuck_stderr_delays_the_exit_by_half_a_second_and_not_by_the_grace_time() {
    let (reader, writer) = io::pipe().expect("a pipe");
    let arguments = ["serve", "hello@127.0.0.1:0", "--json", "--no-guard", "--grace=30s"];
    let server = Server::spawn_without_log(udpong(&arguments).stderr(writer));
    let client = connect(server.address());
    for _ in 0..2_000 {
        assert_eq!(request(&client, b"you"), b"Hello you");
    }
    let start = Instant::now();
    signal("INT", server.pid());
    let output = server.wait();
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.endpoint().get("answered"), 2_000);
    drop(reader);
}

/// As `nohup udpong serve &` (SIGHUP) and `sh -c 'udpong serve &'` (SIGINT) start it.
#[test]
fn signal_that_is_ignored_at_the_start_stays_ignored() {
    needs!("sh");
    for (ignored, other) in [("HUP", "INT"), ("INT", "TERM"), ("TERM", "HUP"), ("INT", "HUP")] {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("trap '' {ignored}; exec \"$0\" serve hello@127.0.0.1:0 --json"));
        let server = Server::spawn(1, command.arg(env!("CARGO_BIN_EXE_udpong")).env_remove("RUST_LOG"));
        let client = connect(server.address());
        for _ in 0..2 {
            signal(ignored, server.pid());
            thread::sleep(Duration::from_millis(50));
            assert_eq!(request(&client, b"you"), b"Hello you");
        }
        signal(other, server.pid());
        let output = server.wait();
        assert_eq!(output.status.code(), Some(0), "{ignored} counted as a request to stop");
        assert_eq!(output.endpoint().get("answered"), 2);
    }
}

/// Where the system allows fewer threads: RLIMIT_NPROC, `pids.max`, `TasksMax`.
#[test]
fn all_workers_start_or_no_socket_is_bound() {
    needs!("strace");
    const WORKERS: usize = 8;
    // One for the log, two for signals; the first worker has the main thread.
    const THREADS: usize = 3 + WORKERS - 1;
    let serve = |refused: usize| {
        let mut command = Command::new("strace");
        let fault = format!("inject=/^clone3?$:error=EAGAIN:when={refused}+");
        command.args(["-D", "-qq", "-o", "/dev/null", "-e", "signal=none", "-e", &fault]);
        command.arg(env!("CARGO_BIN_EXE_udpong")).args(["serve", "hello@127.0.0.1:0", "--for=10ms"]);
        run(command.arg(format!("--workers={WORKERS}")).env_remove("RUST_LOG"), b"")
    };
    for refused in 1..=THREADS {
        let output = serve(refused);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "thread {refused}: {said}");
        assert!(said.starts_with("udpong: cannot ") && said.contains("Resource temporarily unavailable"), "{said}");
    }
    assert_eq!(serve(THREADS + 1).status.code(), Some(0));
}

#[test]
fn without_grace_owed_replies_do_not_delay_the_exit() {
    run_in_namespace!("tc");
    let exit = |_| {
        let server = Server::start(&["echo@127.0.0.1:0", "-q", "--json", "--send-buffer=16k", "--grace=0"]);
        let client = connect(server.address());
        server.pause();
        (0..50).for_each(|_| assert!(client.send(&[b'x'; 1_000]).is_ok()));
        let _loopback = SlowLoopback::new("1kbit", 2_000);
        server.resume();
        // The first replies have filled the network.
        receive(&client);
        thread::sleep(Duration::from_millis(50));
        let start = Instant::now();
        let endpoint = server.stop().endpoint();
        assert!(endpoint.get("unsent") > 0, "{endpoint:?}");
        start.elapsed()
    };
    // On a busy machine one may take longer.
    let shortest = (0..4).map(exit).min();
    assert!(shortest < Some(Duration::from_millis(400)), "{shortest:?}");
}

#[test]
fn spinning_uses_the_processor_until_its_time_is_over() {
    let ticks = |spin: &str, at_least: u64| {
        let server = Server::start(&["hello@127.0.0.1:0", "-q", spin]);
        assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
        let before = server.cpu_ticks();
        if at_least > 0 {
            wait_until("the server has spun", || (server.cpu_ticks() - before >= at_least).then_some(()));
        }
        // Whatever spins now has not stopped.
        thread::sleep(Duration::from_millis(400));
        let before = server.cpu_ticks();
        thread::sleep(Duration::from_millis(400));
        server.cpu_ticks() - before
    };
    // One tick is 10 ms.
    assert!(ticks("--spin=0", 0) <= 5, "idle");
    assert!(ticks("--spin=300ms", 5) <= 5, "over");
    assert!(ticks("--spin=1h", 20) >= 1, "spinning");
}

#[test]
fn reader_that_has_gone_is_exit_code_141_without_a_message() {
    let server = Server::start(&["hello@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    for arguments in [&["send", &target, "you"][..], &["ping", &target, "-c1"], &["bench", &target, "-t", "50ms"]] {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let child = udpong(arguments).stdout(writer).stderr(Stdio::piped()).spawn().expect("a client");
        let output = child.wait_with_output().expect("its output");
        assert_eq!((output.status.code(), &*String::from_utf8_lossy(&output.stderr)), (Some(141), ""), "{arguments:?}");
    }
}
