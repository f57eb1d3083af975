//! Files that commands read and write, with errors that name them.

use std::collections::HashSet;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

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

/// Checks that a picture and a log do not overwrite each other.
pub fn check_distinct(plot: Option<&Path>, hdr: Option<&Path>) -> Result<(), Failure> {
    let (Some(plot), Some(hdr)) = (plot, hdr) else { return Ok(()) };
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    // Both may go to what keeps nothing, such as /dev/null.
    let is_file = plot.metadata().map_or(true, |metadata| metadata.is_file());
    if is_file && absolute(plot) == absolute(hdr) {
        return Err(about_file(plot, &"--plot and --hdr need a file each"));
    }
    Ok(())
}

/// Checks that no file is merged twice, or merged and then overwritten by a picture.
pub fn check_merged_once(files: &[PathBuf], plot: Option<&Path>) -> Result<(), Failure> {
    // A link and its target are one file. What has no path of its own, such as a pipe, keeps its name.
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut seen = HashSet::new();
    if let Some(twice) = files.iter().find(|file| !seen.insert(real(file))) {
        return Err(about_file(twice, &"the same file is given twice"));
    }
    match plot.filter(|plot| seen.contains(&real(plot))) {
        Some(plot) => Err(about_file(plot, &"--plot would overwrite what is merged: write the name of another file")),
        None => Ok(()),
    }
}

/// The file of a picture, opened before there is anything to draw: a wrong name should not cost a measurement. Until then it
/// keeps its content, which a measurement that fails should not cost either.
#[derive(Debug)]
pub struct PlotFile<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> PlotFile<'a> {
    /// Opens or creates the file.
    pub fn open(path: &'a Path) -> Result<Self, Failure> {
        let file = File::options().write(true).create(true).truncate(false).open(path);
        file.map(|file| Self { path, file }).map_err(|error| Self::cannot_write(path, &error))
    }

    /// Replaces the content of the file.
    pub fn write(mut self, picture: &str) -> Result<(), Failure> {
        // What is no regular file, such as a pipe, has no length.
        let is_file = self.file.metadata().is_ok_and(|metadata| metadata.is_file());
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
    fn picture_and_log_need_a_file_each() {
        let check = |plot: &str, hdr: &str| check_distinct(Some(Path::new(plot)), Some(Path::new(hdr)));
        assert!(check("no-such-file", "no-such-file").is_err() && check("no-such-file", "./no-such-file").is_err());
        assert!(check("a.svg", "a.hdr").is_ok() && check_distinct(Some(Path::new("a.svg")), None).is_ok());
        #[cfg(unix)]
        assert!(check("/dev/null", "/dev/null").is_ok());
    }
}
