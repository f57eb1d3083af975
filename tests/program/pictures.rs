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

/// Returns what the program writes to a terminal of a width.
fn in_terminal(columns: u16, locale: &str, arguments: &[&str]) -> String {
    let program = "
import fcntl, os, pty, struct, sys, termios
process, terminal = pty.fork()
if process == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack('HHHH', 24, int(sys.argv[1]), 0, 0))
    os.environ.update(LC_ALL=sys.argv[2], TERM='xterm')
    os.execv(sys.argv[3], sys.argv[3:])
while True:
    try:
        sys.stdout.buffer.write(os.read(terminal, 1000))
    except OSError:
        break
os.waitpid(process, 0)
";
    let columns = columns.to_string();
    text(&python(program, &[&[&*columns, locale, env!("CARGO_BIN_EXE_udpong")], arguments].concat()))
}

/// Carriage return, and erase to the end of the line.
const CLEAR: &str = "\r\x1b[K";

#[test]
fn status_line_is_on_a_terminal_only() {
    needs!("python3");
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let shown = in_terminal(80, "C", &["ping", &target, "-c", "8", "-i", "200ms"]);
    let lines: Vec<_> = shown.split(CLEAR).filter_map(|text| text.rsplit("\r\n").next()).collect();
    let is_status = |line: &&&str| line.contains(" sent, 0 lost, p50 ") && line.contains(" ms  ");
    assert!(lines.iter().filter(is_status).count() > 1, "{shown:?}");
    let (run, _) = shown.split_once("---").expect("a summary");
    assert!(run.ends_with(&format!("{CLEAR}\r\n")), "{shown:?}");
    assert!(!in_terminal(80, "C", &["ping", &target, "-q", "-c", "4", "-i", "300ms"]).contains('\x1b'));
    let piped = output("C.UTF-8", "80", &["ping", &target, "-c", "3", "-i", "300ms"]);
    assert_eq!(text(&piped.stderr), "");
}

#[test]
fn no_line_is_wider_than_a_narrow_terminal() {
    needs!("python3");
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "hello@127.0.0.1:0", "-q"]);
    let [one, other] = server.addresses() else { panic!("two addresses") };
    let (one, other) = (one.to_string(), other.to_string());
    for arguments in [
        &["ping", &one, "-c", "30", "-i", "40ms", "-s", "9"][..],
        &["ping", &one, &other, "-c", "3", "-i", "10ms", "-q"],
        &["bench", &one, "-t", "600ms", "-W", "10s"],
    ] {
        let shown = in_terminal(50, "C.UTF-8", arguments);
        assert!(shown.contains("0.0%"), "{shown}");
        let visible = shown.replace("\x1b[K", "").replace("\x1b[2K", "");
        for line in visible.split(['\r', '\n']) {
            assert!(line.chars().count() <= 50, "{line:?} in {shown}");
        }
    }
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
    for command in [&["ping", "-c", "1"][..], &["bench", "-n", "1"]] {
        let output = run(&mut udpong(&[command, &[&target, "--plot", "/dev/full", "-q"]].concat()), b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(text(&output.stdout).contains("1 sent, 1 answered"), "{output:?}");
        assert!(text(&output.stderr).contains("cannot write /dev/full"), "{output:?}");
    }
}

#[test]
fn file_that_is_written_has_a_name_of_its_own() {
    let folder = TempDir::new().expect("a folder");
    for arguments in [&["ping", ":1", "-c", "1"][..], &["bench", ":1"]] {
        let files = ["--plot", "file", "--hdr", "./file"];
        let output = run(udpong(&[arguments, &files].concat()).current_dir(&folder), b"");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert_eq!(text(&output.stderr), "udpong: ./file: --plot and --hdr need a file each\n");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
    }
    let ping = ["ping", ":1", "-c", "1", "--hdr", "file", "--metrics-file", "file"];
    let output = run(udpong(&ping).current_dir(&folder), b"");
    assert_eq!(text(&output.stderr), "udpong: file: --hdr and --metrics-file need a file each\n");
    assert_eq!(output.status.code(), Some(2));
    for (arguments, advice) in [
        (&["ping", ":1", "-c", "1", "--plot"][..], "write the name of a file, or /dev/stdout\n"),
        (&["ping", ":1", "-c", "1", "--hdr"], "write the name of a file, or /dev/stdout\n"),
        (&["bench", ":1", "--plot"], "write the name of a file, or /dev/stdout\n"),
        (&["bench", ":1", "--hdr"], "write the name of a file, or /dev/stdout\n"),
        (&["report", "a.hdr", "--plot"], "write the name of a file, or /dev/stdout\n"),
        (&["ping", ":1", "-c", "1", "--metrics-file"], "write the name of a file\n"),
        (&["serve", "hello@127.0.0.1:0", "--for", "1ms", "--metrics-file"], "write the name of a file\n"),
    ] {
        let output = run(udpong(arguments).arg("-").current_dir(&folder), b"");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
        assert!(text(&output.stderr).contains(advice), "{output:?}");
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 0);
    }
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let target = server.address().to_string();
    let ping = ["ping", &target, "-c", "1", "--json", "--plot", "/dev/stdout", "--hdr", "/dev/stdout"];
    let stdout = text(&run(&mut udpong(&ping), b"").stdout);
    assert!(stdout.contains("#[Histogram log") && stdout.trim_end().ends_with("</svg>"), "{stdout}");
    // Nothing is lost if the standard output is a file, which may have a content of its own.
    let everything = folder.path().join("everything");
    fs::write(&everything, "earlier\n").expect("written");
    for command in [["ping", &target, "-c", "1", "--plot"], ["bench", &target, "-n", "1", "--hdr"]] {
        let stdout = fs::File::options().append(true).open(&everything).expect("a file");
        let status = udpong(&command).arg("/dev/stdout").stdout(stdout).status();
        assert!(status.is_ok_and(|status| status.success()));
    }
    let everything = fs::read_to_string(&everything).expect("a file");
    let parts =
        ["earlier", "#[Histogram log", "Tag=", "min/avg/max", "</svg>"].map(|part| everything.matches(part).count());
    assert_eq!(parts, [1, 1, 1, 2, 1], "{everything}");
}

#[test]
fn picture_is_replaced_only_by_another() {
    let server = Server::start(&["echo@127.0.0.1:0", "-q"]);
    let folder = TempDir::new().expect("a folder");
    let picture = folder.path().join("picture.svg");
    let earlier = "earlier ".repeat(100_000);
    fs::write(&picture, &earlier).expect("written");
    let path = picture.display().to_string();
    let ping = |target: &str| run(&mut udpong(&["ping", target, "-c", "1", "-q", "--plot", &path]), b"");
    assert_eq!(ping("127.0.0.1:1:1").status.code(), Some(2));
    assert!(fs::read_to_string(&picture).expect("a picture") == earlier);
    assert_eq!(ping(&server.address().to_string()).status.code(), Some(0));
    assert!(fs::read_to_string(&picture).expect("a picture").trim_end().ends_with("</svg>"));
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

/// The reader of PyPI rounds ranks, so it is asked for percentiles that are whole ranks: those of nearest rank.
#[test]
fn another_reader_of_the_logs_agrees_on_every_percentile() {
    needs!("python3", "hdrhistogram");
    let server = Server::start_many(2, &["echo@127.0.0.1:0", "hello@127.0.0.1:0", "-q"]);
    let folder = TempDir::new().expect("a folder");
    let log = folder.path().join("log.hdr").display().to_string();
    let targets: Vec<_> = server.addresses().iter().map(ToString::to_string).collect();
    let ping = ["ping", &targets[0], &targets[1], "-c", "1100", "-i", "1ms", "-W", "10s", "-q", "--hdr", &log];
    assert_eq!(run(&mut udpong(&ping), b"").status.code(), Some(0));
    let report = json(&["report", "--json", &log]);
    let program = "
import json, math, sys
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
whole = {}
reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, 1 << 42, 3))
while (interval := reader.get_next_interval_histogram()) is not None:
    whole.setdefault(interval.get_tag(), HdrHistogram(1, 1 << 42, 3)).add(interval)
for tag, histogram in whole.items():
    count = histogram.get_total_count()
    values = [histogram.get_value_at_percentile(100 * math.ceil(percentile * count / 100) / count)
        for percentile in (50, 90, 99, 99.9)]
    print(json.dumps([tag, count, values]))
";
    let read = text(&python(program, &[&log]));
    assert_eq!(read.lines().count(), 2, "{read}");
    for line in read.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let target = report["targets"].as_array().and_then(|all| all.iter().find(|one| one["target"] == line[0]));
        let target = target.unwrap_or_else(|| panic!("no {line} in {report}"));
        assert_eq!(target["count"], line[1]);
        for (index, name) in ["p50", "p90", "p99", "p99_9"].iter().enumerate() {
            let (ours, theirs) = (target["rtt_ms"][name].as_f64(), line[2][index].as_f64().map(|nanos| nanos / 1e6));
            let (ours, theirs) = ours.zip(theirs).expect("a percentile");
            assert!((ours - theirs).abs() <= theirs / 1000.0, "{name}: {ours} and {theirs} in {line}");
        }
    }
}

#[test]
fn report_says_which_file_is_wrong() {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("notes.txt").display().to_string();
    fs::write(&file, "# notes\nnothing\n").expect("written");
    let head = folder.path().join("head.hdr").display().to_string();
    fs::write(&head, "#[Histogram log format version 1.3]\n#[StartTime: 1.0 (seconds since epoch)]\n")
        .expect("written");
    for (name, why) in [
        (&*file, "line 2 is neither JSON of ping or bench nor part of an HdrHistogram log"),
        ("/nowhere", "cannot read it"),
        (&head, "the file has no histogram"),
    ] {
        let output = run(&mut udpong(&["report", name]), b"");
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).starts_with(&format!("udpong: {name}: {why}")), "{output:?}");
    }
}

#[test]
fn picture_of_reports_without_a_log_is_not_drawn() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, picture) = (path("a.json"), path("a.svg"));
    fs::write(&file, r#"{"schema":2,"target":"a:1","sent":1,"answered":1}"#).expect("written");
    let output = run(&mut udpong(&["report", &file, "--plot", &picture]), b"");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(text(&output.stderr).ends_with("there is nothing to draw: give logs, written with --hdr\n"), "{output:?}");
    assert!(fs::metadata(&picture).is_err());
}

#[test]
fn file_is_merged_once_and_not_overwritten() {
    let folder = TempDir::new().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (file, link, other) = (path("a.json"), path("link.json"), path("b.json"));
    let result = r#"{"schema":2,"target":"a:1","sent":1,"answered":1}"#;
    fs::write(&file, result).expect("written");
    fs::write(&other, result).expect("written");
    std::os::unix::fs::symlink(&file, &link).expect("a link");
    let indirect = format!("{}/./a.json", folder.path().display());
    for (arguments, error) in [
        (&[&file, &other, &file][..], format!("{file}: the same file is given twice")),
        (&[&file, &link], format!("{link}: the same file is given twice")),
        (&[&file, &indirect], format!("{indirect}: the same file is given twice")),
        (&[&"-".to_owned(), &"-".to_owned()], "-: the same file is given twice".to_owned()),
        (&[&file, &"--plot".to_owned(), &link], format!("{link}: --plot would overwrite what is merged")),
    ] {
        let arguments: Vec<_> = arguments.iter().map(|argument| argument.as_str()).collect();
        let output = run(&mut udpong(&[&["report"][..], &arguments].concat()), b"");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{output:?}");
        assert!(text(&output.stderr).starts_with(&format!("udpong: {error}")), "{output:?}");
    }
    let mut report = udpong(&["report", &file, "-"]);
    let output = report.stdin(fs::File::open(&link).expect("a file")).output().expect("its output");
    assert_eq!(text(&output.stderr), "udpong: -: the same file is given twice\n");
    assert_eq!(fs::read_to_string(&file).expect("the file"), result);
    // Equal content is no reason: another host may have measured the same.
    assert_eq!(json(&["report", "--json", &file, &other])["targets"][0]["sent"], 2);
}
