//! The page that shows a directory without an index.html.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// So many entries are shown; the page says when there are more.
const ENTRIES_LIMIT: usize = 10_000;

/// The page for the directory `dir`, which is reached by `names`.
pub(crate) fn page(dir: &Path, names: &[OsString]) -> io::Result<String> {
    let mut entries = Vec::new();
    let mut is_cut = false;
    for entry in dir.read_dir()? {
        is_cut = entries.len() == ENTRIES_LIMIT;
        if is_cut {
            break;
        }
        let entry = entry?;
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // Directories first, then by name.
        entries.push((!is_dir, entry.file_name()));
    }
    entries.sort();

    let mut title = "/".to_owned();
    for name in names {
        title.push_str(&escape(&name.to_string_lossy()));
        title.push('/');
    }
    let mut page = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><title>{title}</title></head>\n<body><h1>{title}</h1><ul>\n"
    );
    if !names.is_empty() {
        page.push_str("<li><a href=\"../\">../</a></li>\n");
    }
    for (is_file, name) in &entries {
        let slash = if *is_file { "" } else { "/" };
        let (link, text) = (percent_encode(name), escape(&name.to_string_lossy()));
        // Writing to a String cannot fail.
        let _ = writeln!(page, "<li><a href=\"{link}{slash}\">{text}{slash}</a></li>");
    }
    page.push_str(if is_cut { "</ul><p>and more</p>" } else { "</ul>" });
    page.push_str("</body></html>\n");
    Ok(page)
}

/// All but what is safe anywhere in an address, so that no name can be taken for a scheme, a query or markup.
pub(crate) fn percent_encode(name: &OsStr) -> String {
    let mut encoded = String::with_capacity(name.len());
    for &byte in name.as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
