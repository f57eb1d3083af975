//! What README.md shows for operators: metrics, units, manifests and recipes, each checked by the tool that reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Metrics, Server, connect, needs, request, run, run_in_namespace, signal, udpong, wait_until};

const README: &str = include_str!("../../README.md");

/// Returns the code blocks of README.md in a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let start = format!("\n```{language}\n");
    let blocks: Vec<_> = README.split(&start).skip(1).filter_map(|rest| rest.split("\n```").next()).collect();
    assert!(!blocks.is_empty(), "no {language} in README.md");
    blocks
}

/// Returns the only block in a language that contains `text`.
fn block(language: &str, text: &str) -> &'static str {
    let found: Vec<_> = blocks(language).into_iter().filter(|block| block.contains(text)).collect();
    assert_eq!(found.len(), 1, "{language} with {text}");
    found[0]
}

fn write(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("a file");
    path
}

/// Checks that a command succeeds; returns what it prints.
fn assert_accepts(command: &mut Command) -> String {
    let output = run(command, b"");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    text.into_owned()
}

#[test]
fn promtool_accepts_alert_rules_and_queries() {
    needs!("promtool");
    let folder = tempfile::tempdir().expect("a folder");
    let rules = write(&folder, "udpong.rules.yml", &(block("yaml", "groups:").to_owned() + "\n"));
    let found = assert_accepts(Command::new("promtool").args(["check", "rules"]).arg(rules));
    assert!(found.contains("3 rules found"), "{found}");
    // promtool checks a query only as a part of a rule.
    let queries = block("promql", "rate(").lines().filter(|line| !line.starts_with('#'));
    let rule = |(index, query): (usize, &str)| {
        let query = query.replace("$__rate_interval", "5m").replace('\'', "''");
        format!("      - record: query:{index}\n        expr: '{query}'\n")
    };
    let rules: String = queries.enumerate().map(rule).collect();
    let rules = write(&folder, "queries.yml", &format!("groups:\n  - name: queries\n    rules:\n{rules}"));
    assert_accepts(Command::new("promtool").args(["check", "rules"]).arg(rules));
}

#[test]
fn every_metric_of_the_readme_exists() {
    let mut server = Server::start_many(2, &["hello@127.0.0.1:0", "stamp@127.0.0.1:0", "--metrics", ":0"]);
    let mut relay = Server::start_relay(&["127.0.0.1:0", "127.0.0.1:9", "--metrics", ":0"]);
    let folder = tempfile::tempdir().expect("a folder");
    let ping = |target: usize, option: &str| {
        let file = folder.path().join("ping.prom");
        let target = server.addresses()[target].to_string();
        let mut ping = udpong(&["ping", &target, "-c2", "-i10ms", "-q", option, "--metrics-file"]);
        assert!(run(ping.arg(&file), b"").status.success());
        fs::read_to_string(file).expect("a file")
    };
    let pings = ping(0, "--flows=1") + &ping(1, "--stamp");
    let text = Metrics::of(&mut server).text() + &Metrics::of(&mut relay).text() + &pings;
    let words = README.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names: Vec<_> = words.filter(|word| word.starts_with("udpong_")).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("\n{name}")), "{name}");
    }
}

/// Writes the units, with the tested program in them; returns the paths.
fn units(folder: &TempDir) -> Vec<PathBuf> {
    let unit = |text: &&str| {
        let (name, text) = text.strip_prefix("# ").and_then(|text| text.split_once('\n')).expect("a name");
        let text = text.replace("/usr/local/bin/udpong", env!("CARGO_BIN_EXE_udpong"));
        write(folder, name, &(text + "\n"))
    };
    blocks("ini").iter().map(unit).collect()
}

#[test]
fn systemd_accepts_the_units() {
    needs!("systemd-analyze");
    let folder = tempfile::tempdir().expect("a folder");
    let units = units(&folder);
    assert_eq!(units.len(), 2);
    let said = assert_accepts(Command::new("systemd-analyze").arg("verify").args(&units));
    assert!(!said.contains("udpong"), "{said}");
    let service = units.iter().find(|unit| unit.ends_with("udpong.service")).expect("a service");
    // The exposure times 10: it must not exceed what README.md promises.
    let mut security = Command::new("systemd-analyze");
    assert_accepts(security.args(["security", "--offline=true", "--threshold=14", "--no-pager"]).arg(service));
    assert!(README.contains("at 1.4, of 10"));
}

#[test]
fn command_of_the_unit_serves_its_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let units = units(&folder);
    let text = |name: &str| {
        let unit = units.iter().find(|unit| unit.ends_with(name)).expect("a unit");
        fs::read_to_string(unit).expect("a file")
    };
    let value = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{key}=")).map(str::to_owned));
        line.expect("a setting")
    };
    let name = value(&text("udpong.socket"), "FileDescriptorName");
    let start = value(&text("udpong.service"), "ExecStart").replace(":9500", ":0");
    let script = format!("exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES={name}; exec {start}");
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).stdin(std::os::fd::OwnedFd::from(socket)).env_remove("RUST_LOG");
    let server = Server::spawn_with_stdin(1, &mut command);
    assert_eq!(request(&connect(address), b"you"), b"Hello you");
    assert_eq!(server.stop().status.code(), Some(0));
}

#[test]
fn kubernetes_accepts_the_manifest() {
    needs!("kubernetes-validate");
    let folder = tempfile::tempdir().expect("a folder");
    let manifest = write(&folder, "udpong.yaml", block("yaml", "apiVersion:"));
    let found = assert_accepts(Command::new("kubernetes-validate").arg("--strict").arg(manifest));
    assert!(found.contains("daemonset/udpong") && found.contains("service/udpong"), "{found}");
}

#[test]
fn commands_of_the_manifest_are_accepted() {
    let server = Server::start(&["hello@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let lines = block("yaml", "apiVersion:").lines().filter_map(|line| line.trim().strip_prefix("command: ["));
    let probes: Vec<_> =
        lines.map(|line| line.trim_end_matches(']').replace('"', "").replace(":5000", &target)).collect();
    assert_eq!(probes.len(), 2);
    for probe in probes {
        let words: Vec<_> = probe.split(", ").skip(1).collect();
        assert!(run(&mut udpong(&words), b"").status.success(), "{probe}");
    }
}

#[test]
fn static_binary_runs_in_an_empty_folder() {
    run_in_namespace!("chroot");
    let folder = tempfile::tempdir().expect("a folder");
    // The command of the Dockerfile, without optimisation and without the network.
    let command = block("dockerfile", "FROM scratch").split("RUN ").nth(1).and_then(|rest| rest.split("\n\n").next());
    let options = format!("--root {} --debug --offline", folder.path().display());
    let command =
        command.expect("a command").replace("--root /out", &options).replace("/src", env!("CARGO_MANIFEST_DIR"));
    let mut build = Command::new("sh");
    build.args(["-ec", &command]).env("CARGO_TARGET_DIR", concat!(env!("CARGO_TARGET_TMPDIR"), "/static"));
    assert_accepts(&mut build);
    fs::rename(folder.path().join("bin/udpong"), folder.path().join("udpong")).expect("a binary");
    fs::remove_dir(folder.path().join("bin")).expect("an empty folder");
    let inside = |arguments: &[&str]| {
        let mut command = Command::new("chroot");
        command.arg(folder.path()).arg("/udpong").args(arguments).env_remove("RUST_LOG");
        command
    };
    let server = Server::spawn(1, inside(&["serve", "hello@0.0.0.0:5000", "-q"]).args(["--metrics", "0.0.0.0:9500"]));
    assert_eq!(request(&connect(server.address()), b"you"), b"Hello you");
    let probe = run(&mut inside(&["ping", ":5000", "-c1", "-q"]), b"");
    assert!(probe.status.success(), "{}", String::from_utf8_lossy(&probe.stderr));
    assert_eq!(server.stop().status.code(), Some(0));
    // Looking up a name needs files.
    let output = run(&mut inside(&["serve", "echo"]), b"");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let hint = "(try an address such as 127.0.0.1)";
    assert!(error.contains("cannot look up \"localhost\" for echo: ") && error.contains(hint), "{error}");
}

/// A running nginx, ended when it is dropped.
struct Nginx(Child);

impl Nginx {
    /// Starts it with the configuration of README.md, for servers on 127.0.0.11 to 127.0.0.13.
    fn start(folder: &TempDir, address: &str) -> Self {
        let stream = block("nginx", "stream {")
            .replace("10.0.0.", "127.0.0.1")
            .replace("listen 5000", &format!("listen {address}"));
        let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
        assert!(Path::new(module).is_file(), "libnginx-mod-stream is installed");
        let main = format!(
            "load_module {module};\nuser root;\ndaemon off;\npid pid;\nevents {{ worker_connections 4096; }}\n"
        );
        let configuration = write(folder, "nginx.conf", &(main + &stream));
        let mut command = Command::new("nginx");
        command.arg("-p").arg(folder.path()).arg("-c").arg(configuration).args(["-e", "error.log"]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nginx"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        signal("TERM", self.0.id());
        let _ = self.0.wait();
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    })
}

#[test]
fn flows_through_nginx_that_fail_are_named_until_it_takes_the_server_out() {
    run_in_namespace!("nginx");
    const NGINX: &str = "127.0.0.1:6000";
    let start = |number: u32| Server::start(&[&format!("echo@127.0.0.1{number}:5000"), "-q", "--json"]);
    let mut servers: Vec<_> = (1..=3).map(start).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let _nginx = Nginx::start(&folder, NGINX);
    wait_until("nginx forwards", || {
        let client = connect(NGINX.parse().expect("an address"));
        client.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        client.send(b"you").and_then(|_| client.recv(&mut [0; 9])).ok()
    });

    let bench = json(&run(&mut udpong(&["bench", NGINX, "--clients", "32", "-t", "1s", "--json"]), b""));
    assert_eq!(bench["lost"], 0, "{bench}");
    let answered = bench["answered"].as_u64().expect("a count");
    assert_eq!(bench["sent"], answered, "{bench}");

    drop(servers.remove(1));
    let flows = ["--flows", "32", "-c", "160", "-i", "5ms", "-W", "500ms"];
    let ping = || run(udpong(&["ping", NGINX, "-q"]).args(flows), b"");
    let output = ping();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A third of the source ports have lost three probes of five: nginx takes a server out after three failures each.
    let bad = text.lines().filter(|line| line.starts_with("port ") && line.ends_with("bad")).count();
    assert!((8..=14).contains(&bad), "{text}");
    assert!(text.contains("over half of the probes lost on source ports "), "{text}");
    let output = ping();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains("160 sent, 160 answered, 0 lost"), "{text}");

    for server in servers {
        let endpoint = server.stop().endpoint();
        assert!(endpoint.get("answered") > answered / 6, "each has its share: {endpoint:?}");
    }
}

#[test]
fn recipe_merges_what_several_hosts_have_measured() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q", "--json"]);
    let folder = tempfile::tempdir().expect("a folder");
    // Runs on this host, in a folder for each other one.
    let ssh = write(&folder, "ssh", "#!/bin/sh\nmkdir -p host-$1 && cd host-$1 && shift && exec sh -c \"$*\"\n");
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("a script");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_udpong"), folder.path().join("udpong")).expect("a link");
    let recipe = block("sh", "ssh \"$host\"").replace("192.0.2.1:5000", &server.address().to_string());
    let recipe = recipe.replace("-t 10s -r 50k", "-n 50 --clients 1").replace("./*.json", "./*.json --json");
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let output = run(Command::new("sh").args(["-ec", &recipe]).env("PATH", path).current_dir(folder.path()), b"");
    let report = json(&output);
    let target = &report["targets"][0];
    assert_eq!((&target["sent"], &target["count"]), (&Value::from(150), &Value::from(150)), "{report}");
    assert_eq!(server.stop().endpoint().get("answered"), 150);
}
