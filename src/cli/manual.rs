//! Completions and manual pages, made of what [`cli`](crate::cli) declares. No terminal, no file.

use std::io;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;

/// The script that lets a shell complete the command line.
pub fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    // Into memory: clap_complete panics where it cannot write.
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    script
}

/// The manual page, for section 1, of the program or of one of its commands.
///
/// # Errors
///
/// When there is no such command.
pub fn manual(command: Option<&str>) -> io::Result<Vec<u8>> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let version = format!("{NAME} {}", program.get_version().unwrap_or_default());
    let mut asked = match command {
        None => program,
        Some(name) => program.find_subcommand(name).cloned().ok_or(io::ErrorKind::NotFound)?,
    };
    let usage = asked.render_usage().to_string();
    let usage = usage.strip_prefix("Usage: ").unwrap_or(&usage).to_owned();
    // Clap_mangen leaves out the words for an option that -h leaves out.
    let asked = asked.override_usage(usage).mut_args(|option| option.hide_short_help(false));

    // An empty date would make it leave out the field, so that the next one took its place.
    let man = Man::new(asked.clone()).date(" ").source(version).manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    if asked.get_long_about().is_some() {
        man.render_description_section(&mut page)?;
    }
    man.render_options_section(&mut page)?;
    if asked.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    sections(&asked).to_writer(&mut page)?;
    Ok(page)
}

const NAME: &str = env!("CARGO_BIN_NAME");

/// What stands around the options in the help: headings, tables, paragraphs. Clap_mangen would fill the tables as
/// prose, under EXTRA.
fn sections(command: &Command) -> Roff {
    let mut roff = Roff::new();
    let after = command.get_after_long_help().map(ToString::to_string);
    let before = command.get_before_long_help().or(command.get_before_help()).map(ToString::to_string);
    let mut in_table = false;
    for line in after.iter().chain(&before).flat_map(|text| text.lines()) {
        let is_row = line.starts_with(' ');
        if in_table != is_row {
            roff.control(if is_row { "nf" } else { "fi" }, []);
            in_table = is_row;
        }
        match line.strip_suffix(':') {
            Some(heading) if !is_row => drop(roff.control("SH", [heading.to_uppercase().as_str()])),
            _ if line.is_empty() => drop(roff.control("PP", [])),
            _ => drop(roff.text([roman(line.strip_prefix("  ").unwrap_or(line))])),
        }
    }
    if in_table {
        roff.control("fi", []);
    }
    if command.get_name() != NAME {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold(NAME), roman("(1)")]);
    }
    roff
}
