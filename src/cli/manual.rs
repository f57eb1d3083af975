//! `udpong completions` and `udpong man`, generated from the options and help texts of the commands.

use std::io::{self, Write};

use clap::builder::StyledStr;
use clap::{Arg, Args, Command, CommandFactory};
use clap_complete::Shell;
use roff::{Roff, bold, italic, roman};

use super::{Cli, Failure, TEMPLATE, serve};

/// Print a completion script for a shell.
///
/// The shell then completes commands, options and their values, and the names of services.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = COMPLETIONS_EXAMPLES, after_long_help = EXIT_STATUS)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  source <(udpong completions bash)             for this bash session
  udpong completions zsh > ~/.zfunc/_udpong     for a directory in fpath
  udpong completions fish > ~/.config/fish/completions/udpong.fish
";

/// Print a man page.
///
/// The page is in roff format, for section 1 of the manual.
#[derive(Args, Debug)]
#[command(help_template = TEMPLATE, before_long_help = MAN_EXAMPLES, after_long_help = EXIT_STATUS)]
pub struct ManArgs {
    /// The command [default: the program itself]
    #[arg(value_name = "COMMAND", value_parser = ["serve", "relay", "send", "ping", "bench", "report", "completions", "man"])]
    command: Option<String>,
}

const MAN_EXAMPLES: &str = "\
Examples:
  udpong man > udpong.1       save the page of the program
  udpong man ping | man -l -  read the page of ping (man-db)
";

const EXIT_STATUS: &str = "\
Exit status:
  0  success
  1  could not print
  2  usage error
";

pub fn print_completions(args: &CompletionsArgs) -> Result<(), Failure> {
    print(&completions(args.shell))
}

pub fn print_man_page(args: &ManArgs) -> Result<(), Failure> {
    print(&man_page(args.command.as_deref()))
}

fn print(page: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout();
    let printed = stdout.write_all(page).and_then(|()| stdout.flush());
    printed.map_err(|error| Failure::new(Failure::FAILED, format!("cannot print the page: {error}")))
}

const NAME: &str = env!("CARGO_BIN_NAME");

fn completions(shell: Shell) -> Vec<u8> {
    // Only here: as possible values for the parser, they would exclude addresses.
    let mut program = Cli::command().mut_subcommands(|command| match command.get_name() {
        "serve" => command.mut_arg("services", |arg| arg.value_parser(serve::SERVICE_NAMES)),
        _ => command,
    });
    // Into memory: clap_complete panics if it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut program, NAME, &mut script);
    if shell == Shell::Fish {
        // clap_complete supports no arguments without a flag for fish.
        let names = serve::SERVICE_NAMES.join(" ");
        let line = format!("complete -c {NAME} -n \"__fish_{NAME}_using_subcommand serve\" -f -a \"{names}\"\n");
        script.extend_from_slice(line.as_bytes());
    }
    script
}

/// Returns the man page of a command, or of the program.
fn man_page(command: Option<&str>) -> Vec<u8> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let version = format!("{NAME} {}", program.get_version().unwrap_or_default());
    let mut command = command.and_then(|name| program.find_subcommand(name)).unwrap_or(&program).clone();
    let name = command.get_display_name().unwrap_or(NAME).to_owned();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").trim_start_matches(NAME);

    let mut page = Roff::new();
    // The empty date is quoted, or the version would take its place.
    page.control("TH", [&*name, "1", "\"\"", &version, "User Commands"]);
    page.control("SH", ["NAME"]).text([roman(format!("{name} - {}", string(command.get_about())))]);
    page.control("SH", ["SYNOPSIS"]).text([bold(NAME), roman(usage)]);
    let description = command.get_long_about().or(command.get_about());
    help_text(&mut page, &format!("Description:\n{}", string(description)));
    arguments(&mut page, &command);
    if command.has_subcommands() {
        page.control("SH", ["COMMANDS"]);
        for command in command.get_subcommands() {
            page.control("TP", []).text([bold(format!("{NAME}-{}", command.get_name())), roman("(1)")]);
            page.text([roman(string(command.get_about()))]);
        }
    }
    help_text(&mut page, &string(command.get_after_long_help()));
    help_text(&mut page, &string(command.get_before_long_help().or(command.get_before_help())));
    if !command.has_subcommands() {
        page.control("SH", ["SEE ALSO"]).text([bold(NAME), roman("(1)")]);
    }
    page.render().into_bytes()
}

fn string(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// Adds the arguments, then the options grouped by heading.
fn arguments(page: &mut Roff, command: &Command) {
    let (positionals, mut options): (Vec<_>, Vec<_>) = command.get_arguments().partition(|arg| arg.is_positional());
    if !positionals.is_empty() {
        page.control("SH", ["ARGUMENTS"]);
        positionals.into_iter().for_each(|arg| argument(page, arg));
    }
    page.control("SH", ["OPTIONS"]);
    // Those without a heading first.
    options.sort_by_key(|option| option.get_help_heading().is_some());
    while let Some(first) = options.first() {
        let heading = first.get_help_heading();
        if let Some(heading) = heading {
            page.control("SS", [heading]);
        }
        let (group, rest): (Vec<_>, _) = options.into_iter().partition(|option| option.get_help_heading() == heading);
        group.into_iter().for_each(|option| argument(page, option));
        options = rest;
    }
}

fn argument(page: &mut Roff, arg: &Arg) {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let names = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    let mut header = if names.is_empty() { vec![] } else { vec![bold(names)] };
    let help = match arg.get_id().as_str() {
        "help" => "Print help; -h prints a summary".to_owned(),
        _ => string(arg.get_long_help().or(arg.get_help())),
    };
    let (summary, details) = help.split_once("\n\n").unwrap_or((&help, ""));
    let mut summary = vec![roman(summary)];
    if arg.get_action().takes_values() {
        if !header.is_empty() {
            header.push(roman(" "));
        }
        header.push(italic(arg.get_value_names().unwrap_or_default().join(" ")));
        let default = arg.get_default_values().iter().map(|value| value.to_string_lossy());
        summary.extend(default.map(|value| roman(format!(" [default: {value}]"))));
        let values = arg.get_possible_values();
        if !arg.is_hide_possible_values_set() && !values.is_empty() {
            let values = values.iter().map(|value| value.get_name()).collect::<Vec<_>>().join(", ");
            summary.push(roman(format!(" [possible values: {values}]")));
        }
    }
    page.control("TP", []).text(header).text(summary);
    if !details.is_empty() {
        page.control("IP", []).text([roman(details)]);
    }
}

/// Adds a help text: sections, each a heading, then paragraphs and indented tables, with blank lines in between.
fn help_text(page: &mut Roff, text: &str) {
    for block in text.trim_end().split("\n\n").filter(|block| !block.is_empty()) {
        let body = match block.split_once(":\n") {
            Some((heading, body)) if !heading.contains('\n') => {
                page.control("SH", [&*heading.to_uppercase()]);
                body
            }
            _ => {
                page.control("PP", []);
                block
            }
        };
        if body.starts_with("  ") {
            page.control("nf", []);
            for row in body.lines() {
                page.text([roman(row.strip_prefix("  ").unwrap_or(row))]);
            }
            page.control("fi", []);
        } else {
            page.text([roman(body)]);
        }
    }
}
