//! The errors of sockets: their names, which of them break a socket, and the message when one did.

use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::io;

/// Returns whether an error means that the socket itself is unusable: every further call would fail in the same way.
/// Never on Windows, whose error codes differ.
pub fn is_broken(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK))
}

/// The names that [`error_name`] returns, other than those of a [broken](is_broken) socket.
pub const ERROR_NAMES: [&str; 14] = [
    "EACCES",
    "EADDRNOTAVAIL",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "EINVAL",
    "EIO",
    "EMSGSIZE",
    "ENETDOWN",
    "ENETUNREACH",
    "ENOBUFS",
    "ENOMEM",
    "EPERM",
    "other",
];

/// Returns the symbolic name of an error as in errno(3), for those that single datagrams can cause, and `"other"` for
/// the rest. On Windows, whose error codes differ, it is always `"other"`.
pub fn error_name(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES) => "EACCES",
        Some(libc::EADDRNOTAVAIL) => "EADDRNOTAVAIL",
        Some(libc::EBADF) => "EBADF",
        Some(libc::ECONNREFUSED) => "ECONNREFUSED",
        Some(libc::ECONNRESET) => "ECONNRESET",
        Some(libc::EHOSTUNREACH) => "EHOSTUNREACH",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EIO) => "EIO",
        Some(libc::EMSGSIZE) => "EMSGSIZE",
        Some(libc::ENETDOWN) => "ENETDOWN",
        Some(libc::ENETUNREACH) => "ENETUNREACH",
        Some(libc::ENOBUFS) => "ENOBUFS",
        Some(libc::ENOMEM) => "ENOMEM",
        Some(libc::ENOTSOCK) => "ENOTSOCK",
        Some(libc::EPERM) => "EPERM",
        _ => "other",
    }
}

/// The error of a socket that became unusable. Its message includes that of its [source](Error::source).
///
/// # Examples
///
/// ```
/// use std::io;
/// use udpong::net::BrokenSocket;
///
/// let error = BrokenSocket::new("echo on 127.0.0.1:7", io::Error::other("bad file descriptor"));
/// assert_eq!(error.to_string(), "the socket of echo on 127.0.0.1:7 became unusable: bad file descriptor");
/// ```
#[derive(Debug)]
pub struct BrokenSocket {
    /// Empty if there is only one socket that can be meant.
    owner: String,
    error: io::Error,
}

impl BrokenSocket {
    /// Creates the error of the socket of `owner`. An empty `owner` is left out of the message.
    pub fn new(owner: impl Into<String>, error: io::Error) -> Self {
        Self { owner: owner.into(), error }
    }
}

impl Display for BrokenSocket {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.owner.as_str() {
            "" => write!(f, "the socket became unusable: {}", self.error),
            owner => write!(f, "the socket of {owner} became unusable: {}", self.error),
        }
    }
}

impl Error for BrokenSocket {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_socket_itself_break_it() {
        let broken = |code| is_broken(&io::Error::from_raw_os_error(code));
        assert!(broken(libc::EBADF) && broken(libc::ENOTSOCK));
        assert!(
            ![libc::EAGAIN, libc::ECONNREFUSED, libc::EMSGSIZE, libc::ENETUNREACH, libc::ENOBUFS]
                .map(broken)
                .contains(&true)
        );
    }

    #[test]
    fn broken_socket_has_its_error_as_source() {
        let error = BrokenSocket::new("", io::Error::from_raw_os_error(libc::EBADF));
        let source = error.source().expect("a source").to_string();
        assert_eq!(error.to_string(), format!("the socket became unusable: {source}"));
    }
}
