//! What is told to those who break HTTP itself, from below the HTTP library: it answers a head that it can't read with a
//! bare status of its own, and says nothing of why. Pure, but for the words.

/// The head of a request was begun and did not end in time.
pub(super) const LATE: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    x-error-detail: the head of the request did not come in time\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

const UNREADABLE: &[u8] = b"HTTP/1.1 400 Bad Request\r\n\
    x-error-detail: the head of the request is not HTTP, or can be read in two ways (two framings, a folded header, a bare line feed); it reached no program\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

const TARGET_TOO_LONG: &[u8] = b"HTTP/1.1 414 URI Too Long\r\n\
    x-error-detail: the target of the request is longer than 65534 bytes; it reached no program\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

const HEAD_TOO_LARGE: &[u8] = b"HTTP/1.1 431 Request Header Fields Too Large\r\n\
    x-error-detail: the headers of the request are larger, or more, than this proxy takes (proxy.header_bytes_max, proxy.limits.header_count_max); it reached no program\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// What is said in place of `written`, where that is an answer of the library's own: a status and nothing but how it is
/// framed. Whatever is answered above it bears the id of its request at least.
pub(super) fn in_place_of(written: &[u8]) -> Option<&'static [u8]> {
    let rest = written.strip_prefix(b"HTTP/1.1 4")?;
    let (own, fields) = if let Some(fields) = rest.strip_prefix(b"00 Bad Request\r\n") {
        (UNREADABLE, fields)
    } else if let Some(fields) = rest.strip_prefix(b"14 URI Too Long\r\n") {
        (TARGET_TOO_LONG, fields)
    } else {
        let fields = rest.strip_prefix(b"31 Request Header Fields Too Large\r\n")?;
        (HEAD_TOO_LARGE, fields)
    };
    let fields = fields.strip_suffix(b"\r\n")?;
    let is_bare = fields.split_inclusive(|byte| *byte == b'\n').all(|field| {
        field == b"connection: close\r\n" || field == b"content-length: 0\r\n" || field.starts_with(b"date: ")
    });
    is_bare.then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_bears_nothing_is_replaced() {
        let said = |fields: &str| {
            let written = format!("HTTP/1.1 400 Bad Request\r\n{fields}\r\n");
            in_place_of(written.as_bytes()).is_some()
        };
        assert!(said(
            "connection: close\r\ncontent-length: 0\r\ndate: Sun, 29 Nov 2026 05:00:00 GMT\r\n"
        ));
        assert!(said("content-length: 0\r\n"));
        assert!(!said("x-request-id: 1\r\ncontent-length: 0\r\n"));
        assert!(!said("content-length: 0\r\n\r\nHTTP/1.1 200 OK\r\n"));
        assert_eq!(
            in_place_of(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"),
            None
        );
        assert_eq!(
            in_place_of(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n"),
            None
        );
    }

    #[test]
    fn what_is_said_is_whole() {
        for own in [LATE, UNREADABLE, TARGET_TOO_LONG, HEAD_TOO_LARGE] {
            let text = std::str::from_utf8(own).expect("it is text");
            assert!(
                text.ends_with("\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
                "{text}"
            );
            assert_eq!(text.matches("\r\n").count(), 5, "{text}");
        }
    }
}
