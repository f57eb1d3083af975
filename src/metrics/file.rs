//! A file with the metrics, for node_exporter's textfile collector: replaced as a whole, by a thread of its own.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use log::warn;

/// A file that always holds complete metrics.
#[derive(Debug)]
pub struct MetricsFile {
    path: PathBuf,
    /// To the thread that writes, since a slow disk must not delay the loop.
    text: SyncSender<String>,
    thread: JoinHandle<()>,
}

impl MetricsFile {
    /// Writes the file for the first time, and starts the thread that will replace it.
    ///
    /// # Errors
    ///
    /// One line that names the file.
    pub fn create(path: &Path, text: &str) -> Result<Self, String> {
        let failed = |error| cannot_write(path, &error);
        replace(path, text).map_err(failed)?;
        let (sender, texts) = mpsc::sync_channel::<String>(1);
        let file = path.to_owned();
        let write = move || {
            // A fault that lasts is logged once.
            let mut is_faulty = false;
            for text in texts {
                let result = replace(&file, &text);
                if let (Err(error), false) = (&result, is_faulty) {
                    warn!("{}", cannot_write(&file, error));
                }
                is_faulty = result.is_err();
            }
        };
        let thread = thread::Builder::new().name("metrics file".to_owned()).spawn(write).map_err(failed)?;
        Ok(Self { path: path.to_owned(), text: sender, thread })
    }

    /// Replaces the content soon, unless the disk is still busy with an earlier one.
    pub fn update(&self, text: String) {
        let _ = self.text.try_send(text);
    }

    /// Replaces the content for the last time.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn finish(self, text: &str) -> Result<(), String> {
        drop(self.text);
        let _ = self.thread.join();
        replace(&self.path, text).map_err(|error| cannot_write(&self.path, &error))
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> String {
    format!("cannot write the metrics to {}: {error}", path.display())
}

/// Writes another file in the same directory and renames it, so that no reader sees a part of it. The collector ignores
/// names that do not end with `.prom`. A link stays, and what it leads to is replaced; a device or a pipe never is.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(io::Error::other("it is not a regular file"));
    }
    let name = path.file_name().ok_or_else(|| io::Error::other("it is not the name of a file"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(temporary);
    // Left behind by another process of this number, or put there: it is not written through.
    let _ = fs::remove_file(&temporary);
    let file = File::options().write(true).create_new(true).open(&temporary);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    let result = written.and_then(|()| fs::rename(&temporary, path));
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("udpong.prom");
        let file = MetricsFile::create(&path, "first\n").expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "first\n");
        file.update("second\n".to_owned());
        file.finish("last\n").expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "last\n");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn link_in_place_of_the_temporary_file_is_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, other) = (folder.path().join("udpong.prom"), folder.path().join("other"));
        fs::write(&other, "kept").expect("a file");
        let temporary = folder.path().join(format!(".udpong.prom.{}", std::process::id()));
        std::os::unix::fs::symlink(&other, temporary).expect("a link");
        let file = MetricsFile::create(&path, "first\n").expect("a file");
        file.finish("last\n").expect("a file");
        assert_eq!(fs::read_to_string(&path).expect("a file"), "last\n");
        assert_eq!(fs::read_to_string(&other).expect("a file"), "kept");
    }

    #[test]
    fn name_of_a_folder_is_an_error_that_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let taken = folder.path().join("udpong.prom");
        fs::create_dir(&taken).expect("a folder");
        MetricsFile::create(&taken, "").expect_err("a folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn only_a_regular_file_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let [socket, link, other] = ["socket", "link", "other"].map(|name| folder.path().join(name));
        let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        let error = MetricsFile::create(&socket, "").expect_err("a socket");
        assert!(error.ends_with("/socket: it is not a regular file"), "{error}");
        assert!(!socket.metadata().expect("a socket").is_file());
        fs::write(&other, "earlier").expect("a file");
        std::os::unix::fs::symlink(&other, &link).expect("a link");
        let file = MetricsFile::create(&link, "first\n").expect("a file");
        file.finish("last\n").expect("a file");
        assert_eq!(fs::read_to_string(&other).expect("a file"), "last\n");
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 3);
    }

    #[test]
    fn missing_folder_is_an_error_that_names_the_file() {
        let error = MetricsFile::create(Path::new("/nonexistent/a.prom"), "").expect_err("no folder");
        assert!(error.starts_with("cannot write the metrics to /nonexistent/a.prom: "), "{error}");
    }
}
