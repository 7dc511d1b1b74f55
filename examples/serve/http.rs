//! HTTP/1.1 on the wire: request heads in (parsed by httparse), response heads out.

use std::fmt::Write;
use std::time::SystemTime;

/// A request line and its headers may take this many bytes.
pub(crate) const HEAD_LIMIT: usize = 16 * 1024;
/// A request may have this many headers.
const HEADERS_LIMIT: usize = 64;

/// A status code; `reason` knows those that this server sends.
pub(crate) type Status = u16;

/// What this server needs to know of a request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// The path and query, percent-encoded as it came, starting with `/`.
    pub(crate) target: String,
    pub(crate) keep_alive: bool,
    /// A body follows. It is never read, so nothing that comes after it can be understood either.
    pub(crate) has_body: bool,
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
    pub(crate) if_modified_since: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) enum Method {
    #[default]
    Get,
    Head,
    Other,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// The head is not complete yet.
    Partial,
    /// A request, and how many bytes its head took.
    Complete(Request, usize),
    /// The connection is to be closed after this answer.
    Refused(Status),
}

/// Whether `input`, of which `tried` bytes were parsed in vain, is worth another attempt: its head may be complete,
/// or it has doubled, so that nonsense is refused early. A head that trickles in byte by byte is thus not parsed
/// anew for each byte.
pub(crate) fn worth_parsing(input: &[u8], tried: usize) -> bool {
    let fresh = &input[tried.saturating_sub(2)..];
    input.len() >= tried * 2
        || fresh.windows(2).any(|pair| pair == b"\n\n")
        || fresh.windows(3).any(|three| three == b"\n\r\n")
}

/// Reads one request head from the start of `input`.
pub(crate) fn parse(input: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
    let mut head = httparse::Request::new(&mut headers);
    let length = match head.parse(input) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_LIMIT => length,
        Ok(httparse::Status::Partial) if input.len() <= HEAD_LIMIT => return Parsed::Partial,
        // Too long: the address, if not even the first line fits, else the headers.
        Ok(_) if input.iter().take(HEAD_LIMIT).all(|&byte| byte != b'\n') => return Parsed::Refused(414),
        Ok(_) => return Parsed::Refused(431),
        Err(httparse::Error::Version) => return Parsed::Refused(505),
        Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(431),
        Err(_) => return Parsed::Refused(400),
    };
    match request(&head) {
        Ok(request) => Parsed::Complete(request, length),
        Err(status) => Parsed::Refused(status),
    }
}

fn request(head: &httparse::Request<'_, '_>) -> Result<Request, Status> {
    let is_http_1_1 = head.version == Some(1);
    let mut request = Request { keep_alive: is_http_1_1, ..Request::default() };
    request.method = match head.method {
        Some("GET") => Method::Get,
        Some("HEAD") => Method::Head,
        _ => Method::Other,
    };
    let mut hosts = 0;
    let mut length: Option<String> = None;
    for header in head.headers.iter() {
        let value = &*String::from_utf8_lossy(header.value);
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            hosts += 1;
        } else if is("connection") {
            let mut options = value.split(',').map(str::trim);
            if options.clone().any(|option| option.eq_ignore_ascii_case("close")) {
                request.keep_alive = false;
            } else if options.any(|option| option.eq_ignore_ascii_case("keep-alive")) {
                request.keep_alive = true;
            }
        } else if is("content-length") {
            // Two lengths that differ are how requests are smuggled past a proxy.
            if value.is_empty()
                || value.bytes().any(|c| !c.is_ascii_digit())
                || length.is_some_and(|other| other != value)
            {
                return Err(400);
            }
            length = Some(value.to_owned());
            request.has_body |= value.bytes().any(|digit| digit != b'0');
        } else if is("transfer-encoding") {
            request.has_body = true;
        } else if is("range") {
            request.range = Some(value.to_owned());
        } else if is("if-range") {
            request.if_range = Some(value.to_owned());
        } else if is("if-modified-since") {
            request.if_modified_since = Some(value.to_owned());
        }
    }
    if hosts > 1 || (is_http_1_1 && hosts == 0) {
        return Err(400);
    }
    request.target = match origin_form(head.path.unwrap_or_default()) {
        Some(target) => target.to_owned(),
        // `*` and `host:port` belong to methods that are refused anyway.
        None if request.method == Method::Other => "/".to_owned(),
        None => return Err(400),
    };
    Ok(request)
}

/// Strips the host off `http://host/path`, which every server must understand.
fn origin_form(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let scheme = target.get(..7)?;
    let rest = target.get(7..).filter(|_| scheme.eq_ignore_ascii_case("http://"))?;
    Some(rest.find('/').map_or("/", |slash| &rest[slash..]))
}

/// Which bytes of a file of `length` bytes a `Range` header asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Range {
    /// All of it; also where the header is one that may be ignored (several ranges, other units, nonsense).
    Whole,
    Part {
        start: u64,
        length: u64,
    },
    /// Nothing that exists.
    Unsatisfiable,
}

/// Reads the value of a `Range` header.
pub(crate) fn range(value: &str, length: u64) -> Range {
    let number = |text: &str| match text.bytes().all(|c| c.is_ascii_digit()) && !text.is_empty() {
        // More digits than fit are as good as the greatest number.
        true => Some(text.parse().unwrap_or(u64::MAX)),
        false => None,
    };
    let Some((unit, set)) = value.split_once('=') else { return Range::Whole };
    let Some((first, last)) = set.trim().split_once('-') else { return Range::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Range::Whole;
    }
    let (start, end) = match (first, number(first), last, number(last)) {
        // The last so many bytes.
        ("", _, _, Some(suffix)) => (length.saturating_sub(suffix), length),
        (_, Some(start), "", _) => (start, length),
        (_, Some(start), _, Some(last)) if start <= last => (start, last.saturating_add(1).min(length)),
        _ => return Range::Whole,
    };
    match start < end {
        true => Range::Part { start, length: end - start },
        false => Range::Unsatisfiable,
    }
}

/// Writes a response head; `fields` are whole header lines. The length is left out only for 304, which has no body.
pub(crate) fn head(status: Status, length: Option<u64>, keep_alive: bool, fields: &str) -> Vec<u8> {
    let mut text = String::with_capacity(256 + fields.len());
    let date = httpdate::HttpDate::from(SystemTime::now());
    let connection = if keep_alive { "keep-alive" } else { "close" };
    // Writing to a String cannot fail.
    let _ = write!(text, "HTTP/1.1 {status} {}\r\nServer: proactor\r\nDate: {date}\r\n", reason(status));
    if let Some(length) = length {
        let _ = write!(text, "Content-Length: {length}\r\n");
    }
    let _ = write!(text, "{fields}Connection: {connection}\r\n\r\n");
    text.into_bytes()
}

/// The words beside a status code.
pub(crate) fn reason(status: Status) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        304 => "Not Modified",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Internal Server Error",
    }
}
