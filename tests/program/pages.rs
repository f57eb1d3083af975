//! What can be read about the program without its documentation: help, manual, completions, and where they go.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::harness::{needs, run, shell, udpong};

const COMMANDS: [&str; 6] = ["serve", "send", "ping", "bench", "completions", "man"];

/// What it prints for these arguments, without a word on stderr.
fn printed(arguments: &[&str]) -> String {
    let output = run(udpong(arguments).env_remove("COLUMNS"), b"");
    assert!(output.status.success() && output.stderr.is_empty(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The arguments for the program itself and for each of its commands.
fn program_and_commands() -> impl Iterator<Item = Vec<&'static str>> {
    [vec![]].into_iter().chain(COMMANDS.map(|command| vec![command]))
}

fn assert_fits(what: &str, text: &str) {
    for line in text.lines() {
        assert!(line.chars().count() <= 80, "{what}: {line:?}");
        assert!(!line.contains('\t'), "{what}: {line:?}");
    }
}

/// Checks that one text comes before the other.
fn assert_order(text: &str, first: &str, second: &str) {
    let place = |part| text.find(part).unwrap_or_else(|| panic!("no {part:?} in {text}"));
    assert!(place(first) < place(second), "{second:?} before {first:?} in {text}");
}

#[test]
fn help_fits_the_screen_with_its_examples_first() {
    for mut arguments in program_and_commands() {
        let what = format!("{arguments:?}");
        arguments.push("--help");
        let long = printed(&arguments);
        assert_fits(&what, &long);
        assert_order(&long, "\nExamples:\n  ", "\nUsage: ");
        *arguments.last_mut().expect("-h") = "-h";
        let short = printed(&arguments);
        assert_fits(&what, &short);
        assert!(short.lines().count() <= 24, "{what} is no screenful: {short}");
        assert_eq!(long.lines().next().map(|line| line.trim_end_matches('.')), short.lines().next());
        // An example that is wrapped stands at the margin.
        let examples = long.split("\nExamples:\n").nth(1).and_then(|text| text.split("\n\n").next());
        assert!(examples.is_some_and(|examples| examples.lines().all(|line| line.starts_with("  "))), "{long}");
    }
}

#[test]
fn help_says_what_holds_unless_it_is_said_otherwise() {
    let defaults: [(&str, &[&str]); 4] = [
        ("serve", &["hello", "500ms", "RUST_LOG, or info", "4M if the system allows", "auto", "1", "0", "1000"]),
        ("send", &["127.0.0.1:5000", "every line of the standard input", "1s", "2"]),
        ("ping", &["1s", "56"]),
        ("bench", &["1", "--segments", "56", "5s", "0", "1s"]),
    ];
    for (command, values) in defaults {
        let help = printed(&[command, "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
        for value in values {
            assert!(help.contains(&format!("[default: {value}]")), "{command}: {value}: {help}");
        }
        assert!(help.contains(" Exit codes: 0 "), "{command}: {help}");
    }
}

/// A wrong one would be exit 2.
#[test]
fn the_examples_of_serve_can_be_typed() {
    let help = printed(&["serve", "--help"]);
    let examples = help.split("\nExamples:\n").nth(1).and_then(|text| text.split("\n\n").next()).expect("examples");
    assert_eq!(examples.matches("udpong serve").count(), 4, "{examples}");
    for line in examples.lines().filter(|line| line.starts_with("  udpong ")) {
        let example = line.trim().split("  ").next().expect("a command");
        // First an address that this machine does not have: all is read, nothing is bound.
        let elsewhere = example.replacen("udpong serve", "exec \"$0\" serve hello@192.0.2.1:9", 1);
        let output = run(Command::new("sh").args(["-c", &elsewhere, env!("CARGO_BIN_EXE_udpong")]), b"");
        assert_eq!(output.status.code(), Some(1), "{example}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = printed(&["completions", shell]);
        for word in COMMANDS.iter().chain(&["rate-limit", "json-stream", "segmented"]) {
            assert!(script.contains(word), "{shell} does not know {word}");
        }
    }
    for wrong in [&["completions"][..], &["completions", "csh"], &["man", "help"], &["man", "serve", "send"]] {
        let output = run(&mut udpong(wrong), b"");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{wrong:?}");
    }
}

#[test]
fn bash_completes_commands_options_and_values() {
    needs!("bash");
    let script = printed(&["completions", "bash"]);
    let check = run(Command::new("bash").arg("-n"), script.as_bytes());
    assert!(check.status.success() && check.stderr.is_empty(), "{}", String::from_utf8_lossy(&check.stderr));
    for (typed, expected) in
        [("udpong p", "ping"), ("udpong serve --rate", "--rate-limit"), ("udpong serve --io p", "portable")]
    {
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
fn every_page_of_the_manual_has_its_sections_and_every_option() {
    for arguments in program_and_commands() {
        let page = printed(&[&["man"], &arguments[..]].concat());
        let name = [&["udpong"], &arguments[..]].concat().join("-");
        let title = format!("\n.TH {name} 1 \" \" \"udpong {}\" \"User Commands\"\n", env!("CARGO_PKG_VERSION"));
        assert!(page.contains(&title), "{page}");
        for section in ["NAME", "SYNOPSIS", "OPTIONS", "EXAMPLES"] {
            assert_eq!(page.matches(&format!("\n.SH {section}\n")).count(), 1, "{name}: {section}: {page}");
        }
        assert!(!page.contains("\n.SH EXTRA\n"), "{page}");
        let help = printed(&[&arguments[..], &["--help"]].concat());
        for option in help.lines().filter_map(|line| line.split_once("--").filter(|(before, _)| before.len() == 6)) {
            let option = option.1.split([' ', ',']).next().expect("an option").replace('-', "\\-");
            // The option and what it does: a header without words has another one behind it.
            let described = page.split(&format!("\\-\\-{option}\\fR")).nth(1).and_then(|rest| rest.lines().nth(1));
            assert!(described.is_some_and(|words| !words.is_empty() && !words.starts_with('.')), "{name}: {option}");
        }
    }
}

#[test]
fn groff_formats_the_manual_without_a_warning() {
    needs!("groff");
    for arguments in program_and_commands() {
        let page = printed(&[&["man"], &arguments[..]].concat());
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
fn a_page_that_cannot_be_printed_is_one_line_and_exit_1() {
    needs!("sh");
    for page in ["man", "man serve", "completions bash"] {
        let script = format!("exec \"$0\" {page} >/dev/full");
        let output = run(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_udpong")]), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{page}: {said}");
        assert!(said.starts_with("udpong: cannot print the page: ") && said.lines().count() == 1, "{page}: {said}");
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let output = udpong(&["man"]).stdout(writer).output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
}

/// The files below a folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

#[test]
fn what_is_installed_works_and_goes_away_again() {
    needs!("make", "install");
    let folder = TempDir::new().expect("a folder");
    let root = folder.path().join("not /usr");
    let theirs = root.join("opt/share/man/man1/udpong-other.1");
    std::fs::create_dir_all(theirs.parent().expect("a folder")).expect("a folder");
    std::fs::write(&theirs, "").expect("a file");
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
    expected.push(theirs.clone());
    expected.sort();
    assert_eq!(files(&root), expected);
    assert!(run(Command::new(below.join("bin/udpong")).arg("--version"), b"").status.success());
    let page = std::fs::read_to_string(below.join("share/man/man1/udpong-ping.1")).expect("a page");
    assert_eq!(page, printed(&["man", "ping"]));
    shell(&format!("cd '{}/opt' && test -z \"$(find bin share/zsh -type f ! -perm -444)\"", root.display()));
    make("uninstall");
    assert_eq!(files(&root), [theirs]);
}
