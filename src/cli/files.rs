//! Files that commands read and write, with errors that name them.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use udpong::client;

use super::Failure;

/// Reads the first bytes of a file, or of stdin if it is `-`.
pub fn read(file: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let mut content = Vec::new();
    let read = if file.as_os_str() == "-" {
        io::stdin().take(most).read_to_end(&mut content)
    } else {
        File::open(file).and_then(|file| file.take(most).read_to_end(&mut content))
    };
    read.map(|_| content).map_err(|error| about_file(file, &format_args!("cannot read it: {error}")))
}

/// Returns the error that something is wrong with a file.
pub fn about_file(file: &Path, why: &dyn Display) -> Failure {
    Failure::new(Failure::USAGE, format!("{}: {why}", file.display()))
}

/// Checks that no two options write the same file.
pub fn check_distinct(options: &[(&str, Option<&Path>)]) -> Result<(), Failure> {
    // Several may go to what keeps nothing, such as /dev/null.
    let is_file = |path: &Path| path.metadata().map_or(true, |metadata| metadata.is_file());
    let mut taken: HashMap<PathBuf, &str> = HashMap::new();
    let files = options.iter().filter_map(|(option, path)| Some((option, (*path)?)));
    for (option, path) in files.filter(|(_, path)| is_file(path)) {
        if let Some(other) = taken.insert(real(path), option) {
            return Err(about_file(path, &format_args!("{other} and {option} need a file each")));
        }
    }
    Ok(())
}

/// Checks that no file is merged twice, or merged and then overwritten by a picture.
pub fn check_merged_once(files: &[PathBuf], plot: Option<&Path>) -> Result<(), Failure> {
    let stdin = |path: &Path| if path.as_os_str() == "-" { real(Path::new("/dev/stdin")) } else { real(path) };
    let mut seen = HashSet::new();
    if let Some(twice) = files.iter().find(|file| !seen.insert(stdin(file))) {
        return Err(about_file(twice, &"the same file is given twice"));
    }
    match plot.filter(|plot| seen.contains(&real(plot))) {
        Some(plot) => Err(about_file(plot, &"--plot would overwrite what is merged: write the name of another file")),
        None => Ok(()),
    }
}

/// Returns the path of a file without links, of which the file itself need not exist. What has no path of its own, such
/// as a pipe, keeps its name.
fn real(path: &Path) -> PathBuf {
    let in_folder = || {
        let folder = path.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(in_folder).unwrap_or_else(|| path.to_owned())
}

/// The file of a picture, opened before there is anything to draw: a wrong name should not cost a measurement. Until
/// then it keeps its content, which a measurement that fails should not cost either.
#[derive(Debug)]
pub struct PlotFile<'a> {
    path: &'a Path,
    file: File,
    /// The file has a content, which the picture does not replace.
    is_stdout: bool,
}

impl<'a> PlotFile<'a> {
    /// Opens or creates the file.
    pub fn open(path: &'a Path) -> Result<Self, Failure> {
        let stdout = client::stdout(path);
        let is_stdout = stdout.is_some();
        let file = stdout.unwrap_or_else(|| File::options().write(true).create(true).truncate(false).open(path));
        file.map(|file| Self { path, file, is_stdout }).map_err(|error| Self::cannot_write(path, &error))
    }

    /// Replaces the content of the file.
    pub fn write(mut self, picture: &str) -> Result<(), Failure> {
        // What is no regular file, such as a pipe, has no length.
        let is_file = !self.is_stdout && self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let emptied = if is_file { self.file.set_len(0) } else { Ok(()) };
        let written = emptied.and_then(|()| self.file.write_all(picture.as_bytes()));
        written.map_err(|error| Self::cannot_write(self.path, &error))
    }

    fn cannot_write(path: &Path, error: &io::Error) -> Failure {
        Failure::new(Failure::USAGE, format!("cannot write {}: {error}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_need_a_file_each() {
        let check = |a: &str, b: &str, c: &str| {
            let files = [("--a", a), ("--b", b), ("--c", c)];
            check_distinct(&files.map(|(option, path)| (option, (!path.is_empty()).then_some(Path::new(path)))))
        };
        let error = |a, b, c| check(a, b, c).err().and_then(|failure| failure.message).unwrap_or_default();
        assert_eq!(error("none", "none", ""), "none: --a and --b need a file each");
        assert_eq!(error("none", "", "./none"), "./none: --a and --c need a file each");
        assert_eq!(error("other", "none", "none"), "none: --b and --c need a file each");
        assert_eq!(error("src/none", "src/cli/../none", ""), "src/cli/../none: --a and --b need a file each");
        assert_eq!(error("Cargo.toml", "", "src/../Cargo.toml"), "src/../Cargo.toml: --a and --c need a file each");
        assert!(check("a.svg", "a.hdr", "a.prom").is_ok() && check("", "", "").is_ok());
        #[cfg(unix)]
        assert!(check("/dev/null", "/dev/null", "").is_ok());
    }
}
