//! Help, man pages, shell completions, and where `make install` puts them; links of the pages for readers.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Server, needs, run, shell, udpong};

const COMMANDS: [&str; 8] = ["serve", "relay", "send", "ping", "bench", "report", "completions", "man"];

const SERVICES: [&str; 7] = ["hello", "echo", "fixed", "ack", "discard", "reply=", "stamp"];

/// Returns the standard output of a run that succeeds with nothing on stderr.
fn stdout(arguments: &[&str]) -> String {
    let output = run(udpong(arguments).env_remove("COLUMNS"), b"");
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Returns the arguments for the program itself and for each of its commands.
fn program_and_commands() -> impl Iterator<Item = Vec<&'static str>> {
    [vec![]].into_iter().chain(COMMANDS.map(|command| vec![command]))
}

/// Returns the man page of the program or of one of its commands.
fn man_page(command: &[&str]) -> String {
    stdout(&[&["man"], command].concat())
}

/// Returns a section of a man page, in roff; there must be one of that name.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let mut sections = page.split("\n.SH ").filter_map(|section| {
        let (title, body) = section.split_once('\n')?;
        (title.trim_matches('"') == heading).then_some(body)
    });
    let section = sections.next().unwrap_or_else(|| panic!("no section {heading}: {page}"));
    assert_eq!(sections.next(), None, "two sections {heading}");
    section
}

/// Checks that no line is longer than 80 columns.
fn assert_fits(what: &str, text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{what}: {line:?}");
        assert!(!line.contains('\t'), "{what}: {line:?}");
    }
}

#[test]
fn long_help_fits_80_columns_and_starts_with_examples() {
    for arguments in program_and_commands() {
        let help = stdout(&[&arguments[..], &["--help"]].concat());
        assert_fits(&format!("{arguments:?}"), &help);
        let (examples, _) = help.split_once("\nUsage: ").expect("a usage");
        let (_, examples) = examples.split_once("\nExamples:\n").expect("examples before the usage");
        // A line that was wrapped would start at the margin.
        assert!(examples.trim_end().lines().all(|line| line.starts_with("  ")), "{help}");
    }
}

#[test]
fn short_help_fits_24_lines_of_80_columns() {
    for arguments in program_and_commands() {
        let help = stdout(&[&arguments[..], &["-h"]].concat());
        assert_fits(&format!("{arguments:?}"), &help);
        assert!(help.lines().count() <= 24, "{help}");
    }
}

#[test]
fn short_help_of_serve_lists_services_and_json() {
    let help = stdout(&["serve", "-h"]);
    let (options, services) = help.split_once("\nServices ").expect("services");
    assert!(options.contains(" --json "), "{help}");
    for service in SERVICES {
        assert!(services.contains(&format!("\n  {service}")), "no {service}: {help}");
    }
    for address in ["0.0.0.0:5000", "localhost:10000", "127.0.0.1:20001", "127.0.0.1:12345"] {
        assert!(services.contains(address), "no {address}: {help}");
    }
}

#[test]
fn help_states_the_default_of_every_option_that_has_one() {
    let defaults: [(&str, &[&str]); 5] = [
        ("relay", &["60s", "1024", "500ms", "RUST_LOG, or info", "auto", "normal", "random, see the log"]),
        ("serve", &["hello", "500ms", "RUST_LOG, or info", "4M if the system allows", "auto", "1", "0", "1000"]),
        ("send", &["127.0.0.1:5000", "every line of the standard input", "1s", "0"]),
        ("ping", &["1s", "56"]),
        ("bench", &["1", "--segments", "56", "5s", "0", "1s"]),
    ];
    for (command, values) in defaults {
        let help = stdout(&[command, "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
        for value in values {
            assert!(help.contains(&format!("[default: {value}]")), "{command}: {value}: {help}");
        }
    }
}

#[test]
fn long_help_ends_with_the_reference_sections() {
    let sections: [(&str, &[&str]); 6] = [
        ("relay", &["Stages", "JSON", "Exit status", "Environment", "Signals"]),
        ("serve", &["Services", "Refusals", "Stages", "JSON", "Exit status", "Environment", "Signals"]),
        ("send", &["Exit status"]),
        ("ping", &["Outcomes", "JSON", "Exit status", "Signals"]),
        ("bench", &["JSON", "Exit status", "Signals"]),
        ("man", &["Exit status"]),
    ];
    for (command, headings) in sections {
        let (help, page) = (stdout(&[command, "--help"]), man_page(&[command]));
        let places = headings.iter().map(|heading| help.find(&format!("\n{heading}:\n")));
        let places = places.collect::<Option<Vec<_>>>().unwrap_or_else(|| panic!("{headings:?}: {help}"));
        assert!(places.is_sorted(), "{headings:?}: {help}");
        for heading in headings {
            assert!(!section(&page, &heading.to_uppercase()).is_empty(), "{command}: {heading}");
        }
    }
}

#[test]
fn impaired_is_described_at_the_level_of_its_neighbours() {
    for command in ["serve", "relay"] {
        let help = stdout(&[command, "--help"]);
        let has = |indentation: &str, field: &str| help.contains(&format!("\n{indentation}{field} "));
        assert!(has("    ", "received") && has("    ", "impaired") && has("      ", "over_limit"), "{help}");
    }
}

#[test]
fn examples_of_serve_are_accepted() {
    let help = stdout(&["serve", "--help"]);
    let examples = help.split("\nExamples:\n").nth(1).and_then(|text| text.split("\n\n").next()).expect("examples");
    assert_eq!(examples.matches("udpong serve").count(), 5, "{examples}");
    for line in examples.lines().filter(|line| line.starts_with("  udpong ")) {
        let example = line.trim().split("  ").next().expect("a command");
        // The first address is not one of this machine: everything is parsed, nothing is bound. A usage error is 2.
        let elsewhere = example.replacen("udpong serve", "exec \"$0\" serve hello@192.0.2.1:9", 1);
        let output = run(Command::new("sh").args(["-c", &elsewhere, env!("CARGO_BIN_EXE_udpong")]), b"");
        assert_eq!(output.status.code(), Some(1), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// Adds the names of the fields of an object, and of the objects in it.
fn add_fields(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            names.push(name.clone());
            add_fields(value, names);
        }),
        Value::Array(values) => values.iter().for_each(|value| add_fields(value, names)),
        _ => {}
    }
}

#[test]
fn every_json_field_is_documented() {
    let server = Server::start(&["echo@127.0.0.1:0"]);
    let target = server.address().to_string();
    let runs: [&[&str]; 5] = [
        &["relay", "127.0.0.1:0", "127.0.0.1:9", "--for", "1ms", "--log", "off", "--json", "--loss", "1%"],
        &["serve", "discard@127.0.0.1:0", "--for", "1ms", "--log", "off", "--json", "--loss", "1%"],
        &["ping", &target, "-c", "1", "--json"],
        &["ping", &target, "-c", "1", "--json-stream"],
        &["bench", &target, "-t", "10ms", "--rate", "1k", "--json"],
    ];
    for arguments in runs {
        let page = man_page(&arguments[..1]);
        let tables = section(&page, "JSON").split(".nf\n").skip(1).filter_map(|rest| rest.split(".fi\n").next());
        let words = tables.flat_map(|table| table.split(|c: char| c != '_' && !c.is_alphanumeric()));
        let documented: Vec<_> = words.collect();
        let mut fields = Vec::new();
        // bench may warn on stderr that it was late.
        for line in run(&mut udpong(arguments), b"").stdout.split_inclusive(|byte| *byte == b'\n') {
            add_fields(&serde_json::from_slice(line).expect("JSON"), &mut fields);
        }
        assert!(fields.len() > 10, "{arguments:?}: {fields:?}");
        for field in fields {
            assert!(documented.contains(&&*field), "{arguments:?}: {field} is not documented");
        }
    }
}

#[test]
fn every_refusal_reason_is_documented() {
    let page = man_page(&["serve"]);
    for reason in [
        "unanswerable",
        "group_copy",
        "own_port",
        "service_port",
        "amplification",
        "rate_limit",
        "loop",
        "hmac",
        "discard",
    ] {
        assert!(section(&page, "REFUSALS").contains(&format!("\n{reason} ")), "{reason}: {page}");
    }
}

#[test]
fn completions_contain_commands_options_values_and_services() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&["completions", shell]);
        for word in COMMANDS.iter().chain(&["rate-limit", "json-stream", "segmented"]) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
        // clap_complete offers no arguments in the other shells.
        if ["bash", "zsh", "fish"].contains(&shell) {
            assert!(script.contains(&SERVICES.join(" ")), "{shell} does not know the services");
        }
    }
    for wrong in [&["completions"][..], &["completions", "csh"], &["man", "help"], &["man", "serve", "send"]] {
        let output = run(&mut udpong(wrong), b"");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{wrong:?}");
    }
}

#[test]
fn bash_completes_commands_options_values_and_services() {
    needs!("bash");
    let script = stdout(&["completions", "bash"]);
    let check = run(Command::new("bash").arg("-n"), script.as_bytes());
    assert!(check.status.success() && check.stderr.is_empty(), "{}", String::from_utf8_lossy(&check.stderr));
    for (typed, expected) in [
        ("udpong p", "ping"),
        ("udpong serve --rate-", "--rate-limit"),
        ("udpong serve --io p", "portable"),
        ("udpong serve f", "fixed"),
        ("udpong serve hello -q ec", "echo"),
    ] {
        let words = typed.split(' ').collect::<Vec<_>>();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let ask = format!(
            "{script}\nCOMP_WORDS=({typed}) COMP_CWORD={} COMPREPLY=()\n_udpong udpong {last} {before}\n\
             echo \"${{COMPREPLY[*]}}\"",
            words.len() - 1
        );
        let output = run(Command::new("bash").args(["--norc", "-s"]), ask.as_bytes());
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{typed}: {output:?}");
    }
}

#[test]
fn man_pages_have_the_usual_sections_and_every_option() {
    for arguments in program_and_commands() {
        let page = man_page(&arguments);
        let name = [&["udpong"], &arguments[..]].concat().join("-");
        let title = format!("\n.TH {name} 1 \"\" \"udpong {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&title), "{page}");
        for heading in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "EXAMPLES"] {
            assert!(!section(&page, heading).is_empty(), "{name}: {heading}");
        }
        let options = section(&page, "OPTIONS");
        let help = stdout(&[&arguments[..], &["--help"]].concat());
        for option in help.lines().filter_map(|line| line.split_once("--").filter(|(before, _)| before.len() == 6)) {
            let option = option.1.split([' ', ',']).next().expect("an option").replace('-', "\\-");
            let described = options.split(&format!("\\-\\-{option}\\fR")).nth(1).and_then(|rest| rest.lines().nth(1));
            assert!(described.is_some_and(|words| !words.is_empty() && !words.starts_with('.')), "{name}: {option}");
        }
    }
}

#[test]
fn man_pages_list_arguments_apart_from_options() {
    let arguments: [(&str, &[&str]); 7] = [
        ("relay", &["LISTEN", "TARGET"]),
        ("serve", &["SERVICE"]),
        ("send", &["TARGET", "MESSAGE"]),
        ("ping", &["TARGET"]),
        ("bench", &["TARGET"]),
        ("completions", &["SHELL"]),
        ("man", &["COMMAND"]),
    ];
    for (command, names) in arguments {
        let page = man_page(&[command]);
        for name in names {
            let header = format!(".TP\n\\fI{name}\\fR\n");
            assert!(section(&page, "ARGUMENTS").contains(&header), "{command}: {page}");
            assert!(!section(&page, "OPTIONS").contains(&header), "{command}: {page}");
        }
    }
}

#[test]
fn groff_formats_man_pages_without_a_warning() {
    needs!("groff");
    for arguments in program_and_commands() {
        let page = man_page(&arguments);
        let output =
            run(Command::new("groff").args(["-man", "-ww", "-rLL=80n", "-Tascii", "-P-cbou"]), page.as_bytes());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
        let text = String::from_utf8(output.stdout).expect("ASCII");
        assert_fits(&format!("{arguments:?}"), &text);
        let usage = format!("       udpong{}", arguments.iter().map(|word| format!(" {word}")).collect::<String>());
        assert!(text.lines().any(|line| line.starts_with(&usage)), "{text}");
    }
}

#[test]
fn mandoc_accepts_man_pages() {
    needs!("mandoc");
    for arguments in program_and_commands() {
        let output = run(Command::new("mandoc").args(["-T", "lint", "-W", "warning"]), man_page(&arguments).as_bytes());
        let warnings = String::from_utf8(output.stdout).expect("UTF-8");
        // Without a date, builds are reproducible.
        let others: Vec<_> = warnings.lines().filter(|line| !line.contains("missing date")).collect();
        assert!(others.is_empty() && output.stderr.is_empty(), "{arguments:?}: {others:?}");
    }
}

#[test]
fn page_that_cannot_be_printed_is_one_line_and_exit_1() {
    needs!("sh");
    for page in ["man", "man serve", "completions bash"] {
        let script = format!("exec \"$0\" {page} >/dev/full");
        let output = run(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_udpong")]), b"");
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{page}: {error}");
        assert!(error.starts_with("udpong: cannot print the page: ") && error.lines().count() == 1, "{page}: {error}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = udpong(&["man"]).stdout(writer).output().expect("an end");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), error.lines().count()), (Some(1), 1), "{error}");
}

#[test]
fn links_of_readme_and_contributing_point_to_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for page in [root.join("README.md"), root.join(".github/CONTRIBUTING.md")] {
        let text = std::fs::read_to_string(&page).expect("a page");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let files: Vec<_> = links.filter(|link| !link.starts_with("https:") && !link.starts_with('#')).collect();
        assert!(!files.is_empty());
        for file in files {
            assert!(page.parent().expect("a directory").join(file).is_file(), "{}: {file}", page.display());
        }
    }
}

/// Returns the files below a directory, sorted.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn make_uninstall_removes_exactly_what_make_install_created() {
    needs!("make", "install");
    let directory = TempDir::new().expect("a directory");
    let root = directory.path().join("not /usr");
    let foreign = root.join("opt/share/man/man1/udpong-other.1");
    std::fs::create_dir_all(foreign.parent().expect("a directory")).expect("a directory");
    std::fs::write(&foreign, "").expect("a file");
    let make = |target| {
        let (root, tree) = (root.display(), env!("CARGO_MANIFEST_DIR"));
        let binary = env!("CARGO_BIN_EXE_udpong");
        shell(&format!("umask 077; make -C '{tree}' {target} BINARY='{binary}' PREFIX=/opt DESTDIR='{root}'"));
    };
    make("install");
    let below = root.join("opt");
    let mut expected = COMMANDS.map(|command| below.join(format!("share/man/man1/udpong-{command}.1"))).to_vec();
    expected.extend(
        [
            "bin/udpong",
            "share/bash-completion/completions/udpong",
            "share/fish/vendor_completions.d/udpong.fish",
            "share/man/man1/udpong.1",
            "share/zsh/site-functions/_udpong",
        ]
        .map(|file| below.join(file)),
    );
    expected.push(foreign.clone());
    expected.sort();
    assert_eq!(files(&root), expected);
    assert!(run(Command::new(below.join("bin/udpong")).arg("--version"), b"").status.success());
    let page = std::fs::read_to_string(below.join("share/man/man1/udpong-ping.1")).expect("a page");
    assert_eq!(page, stdout(&["man", "ping"]));
    shell(&format!("cd '{}/opt' && test -z \"$(find bin share/zsh -type f ! -perm -444)\"", root.display()));
    make("uninstall");
    assert_eq!(files(&root), [foreign]);
}
