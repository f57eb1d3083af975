//! What an HTTP client asks for, and the bytes that answer it. Pure.

use httparse::{EMPTY_HEADER, Error, Status};

/// A longer request is refused, in bytes.
pub const LONGEST_REQUEST: usize = 8 << 10;

/// More headers than any scraper sends.
const MOST_HEADERS: usize = 64;

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    status: &'static str,
    content_type: &'static str,
    body: String,
    /// For HEAD: the client wants the length of the body only.
    omits_body: bool,
}

impl Response {
    /// Creates a successful response.
    pub fn ok(content_type: &'static str, body: String) -> Self {
        Self { status: "200 OK", content_type, body, omits_body: false }
    }

    /// Creates a response of another status, whose code and reason phrase this is, with a line of text.
    pub fn other(status: &'static str, line: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{line}\n"), omits_body: false }
    }

    /// Returns the response as it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        let Self { status, content_type, body, omits_body } = self;
        let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
        let length = body.len();
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{allow}Connection: close\r\n\r\n"
        );
        if !omits_body {
            bytes += &body;
        }
        bytes.into_bytes()
    }
}

/// Answers what has been received of a request so far, with the response that `respond` gives for its path; `None` if
/// more is needed. What follows the first request is ignored, since the connection ends with the response.
pub fn answer(received: &[u8], respond: impl FnOnce(&str) -> Response) -> Option<Response> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let too_large = || Some(Response::other("431 Request Header Fields Too Large", "the request is too large"));
    match request.parse(received) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) if received.len() >= LONGEST_REQUEST => return too_large(),
        Ok(Status::Partial) => return None,
        Err(Error::TooManyHeaders) => return too_large(),
        Err(error) => return Some(Response::other("400 Bad Request", &error.to_string())),
    }
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    // RFC 9112 wants the absolute form, http://host/path, to be accepted too.
    let path = path.strip_prefix("http://").map_or(path, |rest| rest.find('/').map_or("/", |slash| &rest[slash..]));
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match method {
        "GET" => Some(respond(path)),
        "HEAD" => Some(Response { omits_body: true, ..respond(path) }),
        _ => Some(Response::other("405 Method Not Allowed", "use GET")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn status(request: &str) -> Option<&'static str> {
        let respond = |path: &str| match path {
            "/metrics" => Response::ok("text/plain", "1".to_owned()),
            _ => Response::other("404 Not Found", "no"),
        };
        answer(request.as_bytes(), respond).map(|response| &response.status[..3])
    }

    #[test]
    fn absolute_form_is_accepted() {
        assert_eq!(status("GET http://localhost:9500/metrics HTTP/1.1\r\n\r\n"), Some("200"));
        assert_eq!(status("GET http://localhost:9500 HTTP/1.1\r\n\r\n"), Some("404"));
    }

    #[test]
    fn request_is_answered_once_it_is_complete() {
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n"), None);
        assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"), Some("200"));
        assert_eq!(status("GET /metrics?a=b HTTP/1.0\r\n\r\nGET / HTTP/1.1\r\n"), Some("200"));
        assert_eq!(status("GET /other HTTP/1.1\r\n\r\n"), Some("404"));
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), Some("405"));
    }

    #[test]
    fn what_is_no_request_or_too_large_is_refused() {
        assert_eq!(status("\x16\x03\x01\x02\x00"), Some("400"));
        assert_eq!(status("GET /metrics HTTP/2.7\r\n\r\n"), Some("400"));
        let line = format!("GET /{}", "a".repeat(LONGEST_REQUEST));
        assert_eq!(status(&line), Some("431"));
        assert_eq!(status(&line[..LONGEST_REQUEST - 1]), None);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(MOST_HEADERS + 1))), Some("431"));
    }

    #[test]
    fn head_has_the_length_but_not_the_body() {
        let respond = |_: &str| Response::ok("text/plain", "body".to_owned());
        let bytes = |request: &str| answer(request.as_bytes(), respond).expect("complete").into_bytes();
        let head = String::from_utf8(bytes("HEAD / HTTP/1.1\r\n\r\n")).expect("text");
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"));
        assert_eq!(bytes("GET / HTTP/1.1\r\n\r\n"), [head.as_bytes(), b"body"].concat());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = answer(&bytes, |_| Response::other("404 Not Found", ""));
            let _ = answer(&[b"GET / HTTP/1.1\r\n", &*bytes].concat(), |_| Response::other("404 Not Found", ""));
        }
    }
}
