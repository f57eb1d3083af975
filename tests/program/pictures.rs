//! What `ping` and `bench` draw, what they log for other programs, and `report`, which merges it.

use std::fs;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Responder, Server, needs, python, run, udpong};

/// Answers all but the 11th to the 20th datagram.
fn with_outage() -> Responder {
    Responder::python("def answer(n, data, to):\n    if not 11 <= n <= 20: server.sendto(data, to)")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn output(locale: &str, columns: &str, arguments: &[&str]) -> Output {
    let mut command = udpong(arguments);
    command.env_remove("LC_CTYPE").env("LC_ALL", locale).env("COLUMNS", columns);
    run(&mut command, b"")
}

fn json(arguments: &[&str]) -> Value {
    let output = run(&mut udpong(arguments), b"");
    let text = text(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text:?}, {output:?}"))
}

#[test]
fn strip_shows_an_outage_and_rows_fit_the_terminal() {
    needs!("python3");
    for (locale, columns, mark, bar) in [("C.UTF-8", 50, '×', '█'), ("C", 80, 'x', '#'), ("C.UTF-8", 200, '×', '█')]
    {
        let responder = with_outage();
        let ping = ["ping", &responder.target(), "-c", "40", "-i", "50ms", "-W", "200ms", "-q"];
        let stdout = text(&output(locale, &columns.to_string(), &ping).stdout);
        let mut lines = stdout.lines().skip_while(|line| !line.starts_with("rtt over "));
        let legend = lines.next().unwrap_or_else(|| panic!("no legend in {stdout}"));
        assert!(legend.ends_with(&format!("{mark} lost")), "{stdout}");
        let strip = lines.next().expect("a strip");
        // A column is a probe, unless one left late.
        assert!((40..=45).contains(&strip.chars().count()), "{stdout}");
        let first = strip.find(mark).map(|at| strip[..at].chars().count());
        assert!(first.is_some_and(|first| (9..=12).contains(&first)), "{stdout}");
        assert!((8..=10).contains(&strip.chars().filter(|character| *character == mark).count()), "{stdout}");
        let rows: Vec<_> = lines.skip(1).collect();
        assert!(rows.len() > 1 && rows.iter().all(|row| row.chars().count() <= columns), "{stdout}");
        assert!(rows.iter().any(|row| row.ends_with(bar) && row.chars().count() == columns), "{stdout}");
        assert_eq!(stdout.is_ascii(), locale == "C", "{stdout}");
    }
}

#[test]
fn few_answers_have_no_histogram() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let rows = |count| {
        text(&output("C", "80", &["ping", &target, "-c", count, "-i", "2ms", "-q"]).stdout).matches("cum.").count()
    };
    assert_eq!(rows("19"), 0);
    assert!(rows("20") > 0);
}

#[test]
fn status_line_is_on_a_terminal_only() {
    needs!("python3");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let program = "
import os, pty, re, sys
def run(arguments):
    process, terminal = pty.fork()
    if process == 0:
        os.environ['LC_ALL'] = 'C'
        os.environ['TERM'] = 'xterm'
        os.execv(sys.argv[1], sys.argv[1:3] + arguments + [sys.argv[3]])
    output = b''
    while True:
        try:
            chunk = os.read(terminal, 1000)
        except OSError:
            chunk = b''
        if not chunk:
            break
        output += chunk
    os.waitpid(process, 0)
    return output
shown = run(['-c', '8', '-i', '200ms'])
lines = re.findall(rb'(?:^|\\n)(\\d+ sent, 0 lost, p50 [0-9.]+ ms  [_.:=*#+-]+)\\r\\x1b\\[K', shown)
summary = shown.split(b'---')[0]
print(len(lines) > 1, summary.endswith(b'\\r\\x1b[K\\r\\n'), b'\\x1b' in run(['-q', '-c', '4', '-i', '300ms']))
";
    let arguments = [env!("CARGO_BIN_EXE_udpong"), "ping", &target];
    assert_eq!(text(&python(program, &arguments)), "True True False\n");
    let piped = output("C.UTF-8", "80", &["ping", &target, "-c", "3", "-i", "300ms"]);
    assert_eq!(text(&piped.stderr), "");
}

#[test]
fn picture_marks_losses_and_names_units() {
    needs!("python3");
    let folder = TempDir::new().expect("a folder");
    let picture = folder.path().join("picture.svg").display().to_string();
    let responder = with_outage();
    for command in [&["ping", "-i", "10ms", "-c", "40"][..], &["bench", "--rate", "100", "-t", "400ms"]] {
        let rest = [&responder.target(), "-W", "100ms", "--plot", &picture, "--json"];
        let report = json(&[command, &rest].concat());
        let svg = fs::read_to_string(&picture).expect("a picture");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        for text in [" (ms)", "time since the start (s)", "percentile of the answers (%)", "prefers-color-scheme:dark"]
        {
            assert!(svg.contains(text), "no {text:?} in {svg}");
        }
        assert_eq!(svg.contains("\nlost\n"), report["lost"] != 0, "{report}");
    }
}

#[test]
fn file_that_cannot_be_written_costs_no_measurement() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    for command in ["ping", "bench"] {
        for option in ["--plot", "--hdr"] {
            let output = run(&mut udpong(&[command, &target, option, "/nowhere/file"]), b"");
            assert_eq!(output.status.code(), Some(2), "{output:?}");
            assert!(text(&output.stderr).starts_with("udpong: cannot write /nowhere/file: No such file"), "{output:?}");
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    }
}

#[test]
fn logs_and_reports_of_several_runs_are_merged() {
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "echo@127.0.0.1:0", "-q"]);
    let [one, other] = server.addresses() else { panic!("two addresses") };
    let [one, other] = [one, other].map(ToString::to_string);
    let folder = TempDir::new().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let mut answers = 0;
    let mut files = Vec::new();
    for (number, target) in [&one, &one, &other].into_iter().enumerate() {
        let (log, result) = (file(&format!("{number}.hdr")), file(&format!("{number}.json")));
        let command = if number == 1 { &["bench", "-t", "1200ms"][..] } else { &["ping", "-c", "60", "-i", "20ms"] };
        let report = json(&[command, &[target, "-W", "10s", "--hdr", &log, "--json"]].concat());
        fs::write(&result, report.to_string()).expect("written");
        if *target == one {
            answers += report["answered"].as_u64().expect("a count");
        }
        files.extend([log, result]);
    }
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    let log = fs::read_to_string(files[0]).expect("a log");
    assert_eq!(log.lines().filter(|line| line.starts_with(&format!("Tag={one},"))).count(), 2, "1.2 s in {log}");

    let picture = file("all.svg");
    let report = json(&[&["report", "--json", "--plot", &picture][..], &files].concat());
    let targets = report["targets"].as_array().expect("targets");
    let of = |target: &str| targets.iter().find(|object| object["target"] == target).expect("a target");
    assert_eq!((of(&one)["count"].as_u64(), of(&one)["sent"].as_u64()), (Some(answers), Some(answers)));
    assert_eq!((&of(&other)["count"], &of(&other)["lost"]), (&60.into(), &0.into()));
    assert!(of(&one)["rtt_ms"]["p99_9"].as_f64() <= of(&one)["rtt_ms"]["max"].as_f64());
    assert!(fs::read_to_string(&picture).expect("a picture").contains(&other));

    let logs: Vec<_> = files.iter().copied().step_by(2).collect();
    let report = json(&[&["report", "--json"][..], &logs].concat());
    assert_eq!((&report["targets"][0]["sent"], &report["targets"][0]["lost"]), (&Value::Null, &Value::Null));

    let table = run(&mut udpong(&[&["report"][..], &files].concat()), b"");
    assert!(text(&table.stdout).starts_with("target "), "{table:?}");
    assert!(table.stderr.is_empty(), "{table:?}");
}

#[test]
fn report_says_which_file_is_wrong() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("notes.txt").display().to_string();
    fs::write(&file, "# notes\nnothing\n").expect("written");
    for (name, why) in
        [(&*file, "line 2 is neither JSON nor part of an HdrHistogram log"), ("/nowhere", "cannot read it")]
    {
        let output = run(&mut udpong(&["report", name]), b"");
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with(&format!("udpong: {name}: {why}")), "{output:?}");
    }
}
