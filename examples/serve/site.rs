//! The directory that is served: from the target of a request to a response.

use std::ffi::OsString;
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proactor::fs::File;
use proactor::thread::to_thread;

use crate::http::{self, Method, Range, Request, Status};
use crate::listing;

/// The directory, by its real path.
pub(crate) struct Site {
    root: PathBuf,
}

pub(crate) struct Response {
    pub(crate) status: Status,
    /// Whole header lines, besides those that every response has.
    pub(crate) fields: String,
    pub(crate) body: Body,
}

pub(crate) enum Body {
    None,
    Text(String),
    File { file: File, start: u64, length: u64 },
}

impl Response {
    /// An answer that consists of its status.
    pub(crate) fn plain(status: Status) -> Response {
        let text = format!("{status} {}\n", http::reason(status));
        Response {
            status,
            fields: "Content-Type: text/plain; charset=utf-8\r\n".into(),
            body: Body::Text(text),
        }
    }

    fn with(mut self, field: &str) -> Response {
        self.fields.push_str(field);
        self.fields.push_str("\r\n");
        self
    }
}

impl Site {
    pub(crate) fn new(dir: &Path) -> io::Result<Site> {
        let root = dir.canonicalize()?;
        match root.is_dir() {
            true => Ok(Site { root }),
            false => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(crate) async fn answer(&self, request: &Request) -> Response {
        if request.method == Method::Other {
            return Response::plain(405).with("Allow: GET, HEAD");
        }
        if request.has_body {
            return Response::plain(413);
        }
        let (path, query) = match request.target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (&*request.target, None),
        };
        match self.find(path, query, request).await {
            Ok(response) => response,
            Err(status) => Response::plain(status),
        }
    }

    async fn find(&self, path: &str, query: Option<&str>, request: &Request) -> Result<Response, Status> {
        let names = segments(path)?;
        let wants_dir = path.ends_with('/');
        let (root, relative) = (self.root.clone(), names.clone());
        // A look-up may wait for a disk, so it is for a thread.
        let place =
            to_thread::run_sync(move || locate(&root, &relative, wants_dir)).await.map_err(|_| 500_u16)??;
        match place {
            Place::File(real) => send_file(&real, request).await.map_err(|error| status_of(&error)),
            Place::Directory => Ok(Response::plain(301).with(&location(&names, query))),
            Place::Listing(page) => {
                let fields = "Content-Type: text/html; charset=utf-8\r\n".into();
                Ok(Response { status: 200, fields, body: Body::Text(page) })
            }
        }
    }
}

/// What the path of a request leads to.
enum Place {
    File(PathBuf),
    /// A directory that was asked for without the slash at its end.
    Directory,
    /// A directory without an index, as a page.
    Listing(String),
}

/// Follows `names` below `root`. Blocks.
fn locate(root: &Path, names: &[OsString], wants_dir: bool) -> Result<Place, Status> {
    let relative: PathBuf = names.iter().collect();
    let mut real = inside(root, &relative)?;
    if real.is_dir() {
        if !wants_dir {
            return Ok(Place::Directory);
        }
        match inside(root, &relative.join("index.html")) {
            Ok(index) => real = index,
            Err(404) => {
                let page = listing::page(&real, names).map_err(|error| status_of(&error))?;
                return Ok(Place::Listing(page));
            }
            Err(status) => return Err(status),
        }
    } else if wants_dir {
        return Err(404);
    }
    // Opening a pipe would wait for its writer, and a device has no length.
    if real.is_file() { Ok(Place::File(real)) } else { Err(404) }
}

/// The real path of what lies in the directory. Symlinks are followed, unless they leave it.
fn inside(root: &Path, relative: &Path) -> Result<PathBuf, Status> {
    let real = root.join(relative).canonicalize().map_err(|error| status_of(&error))?;
    if real.starts_with(root) { Ok(real) } else { Err(404) }
}

async fn send_file(path: &Path, request: &Request) -> io::Result<Response> {
    let file = File::open(path).await?;
    let metadata = file.metadata().await?;
    let length = metadata.len();
    let modified = whole_seconds(metadata.modified());
    let date = httpdate::fmt_http_date(modified);
    let mut fields = format!(
        "Content-Type: {}\r\nX-Content-Type-Options: nosniff\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n",
        content_type(path)
    );
    let seen = request.if_modified_since.as_ref().and_then(|seen| httpdate::parse_http_date(seen).ok());
    if seen.is_some_and(|seen| modified <= seen) {
        return Ok(Response { status: 304, fields, body: Body::None });
    }
    // A part of a file that has changed since the other part was fetched is of no use.
    let same = request.if_range.as_ref().is_none_or(|seen| *seen == date);
    let range = match &request.range {
        Some(value) if same && request.method == Method::Get => http::range(value, length),
        _ => Range::Whole,
    };
    match range {
        Range::Whole => Ok(Response { status: 200, fields, body: Body::File { file, start: 0, length } }),
        Range::Part { start, length: part } => {
            let last = start + part - 1;
            // Writing to a String cannot fail.
            let _ = write!(fields, "Content-Range: bytes {start}-{last}/{length}\r\n");
            Ok(Response { status: 206, fields, body: Body::File { file, start, length: part } })
        }
        Range::Unsatisfiable => Ok(Response::plain(416).with(&format!("Content-Range: bytes */{length}"))),
    }
}

/// The decoded names of a path. Empty ones are skipped; what could lead elsewhere is refused.
fn segments(path: &str) -> Result<Vec<OsString>, Status> {
    let mut names = Vec::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let name = percent_decode(part).ok_or(400u16)?;
        // Dots are refused rather than resolved: browsers and proxies resolve them before they ask.
        if name == b"." || name == b".." || name.contains(&0) || name.contains(&b'/') {
            return Err(400);
        }
        names.push(OsString::from_vec(name));
    }
    Ok(names)
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let (high, low) = (char::from(bytes.next()?), char::from(bytes.next()?));
                (high.to_digit(16)? * 16 + low.to_digit(16)?) as u8
            }
            plain => plain,
        };
        decoded.push(byte);
    }
    Some(decoded)
}

/// Made anew from the names, not from what was sent: `//host` would lead to another server.
fn location(names: &[OsString], query: Option<&str>) -> String {
    let mut line = "Location: /".to_owned();
    for name in names {
        line.push_str(&listing::percent_encode(name));
        line.push('/');
    }
    if let Some(query) = query {
        line.push('?');
        line.push_str(query);
    }
    line
}

fn status_of(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::PermissionDenied => 403,
        // Also names that are too long.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename => 404,
        _ => match error.raw_os_error() {
            // ELOOP
            Some(40) => 404,
            // EMFILE, ENFILE, ENOMEM: it may work again in a moment.
            Some(24 | 23 | 12) => 503,
            _ => 500,
        },
    }
}

/// HTTP knows no fractions of a second, and no time before 1970.
fn whole_seconds(at: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "txt" | "md" | "rs" | "toml" | "log" => "text/plain; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "json" | "map" => "application/json",
        "xml" => "application/xml",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "ttf" => "font/ttf",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        _ => "application/octet-stream",
    }
}
