//! One reading of a path: what policies and routes compare is what goes on to the application.
//!
//! In: a request's path, and which of Istio's four modes. Out: the same where there is nothing to do, else another one; or
//! a refusal of what two servers read differently. Source: Istio's "path normalization", Envoy's `normalize_path` and
//! `merge_slashes`, RFC 3986 5.2.4 and 6.2.2.

use http::Uri;
use http::uri::PathAndQuery;
use mesh_proto::wire::mesh::v1::PathNormalization as Mode;

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// A code that some servers take for the end.
    #[error("%00 in the path")]
    Nul,
    /// `/..;/`: a step up for servers that take parameters from segments, a name for others.
    #[error("a dot segment with parameters in the path")]
    DotParameters,
    /// `%%32e`: decoded once, it would be another code, which whoever decodes next reads as a dot.
    #[error("a percent code within a percent code in the path")]
    Nested,
    /// What came of it is no path.
    #[error("the path cannot be normalised")]
    Form,
}

/// Puts the path of `uri` right, if there is anything to do.
///
/// # Errors
/// What must not go on at all.
pub fn normalise(uri: &mut Uri, mode: Mode) -> Result<(), BadPath> {
    let path = uri.path();
    // `*` of OPTIONS, and CONNECT's nothing.
    if !path.starts_with('/') || is_plain(path.as_bytes(), mode) {
        return Ok(());
    }
    let clean = normalised(path, mode)?;
    if clean == path {
        return Ok(());
    }
    let whole = match uri.query() {
        Some(query) => format!("{clean}?{query}"),
        None => clean,
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(whole).map_err(|_| BadPath::Form)?);
    *uri = Uri::from_parts(parts).map_err(|_| BadPath::Form)?;
    Ok(())
}

/// Nothing in it that any step would look at: as nearly all are.
fn is_plain(path: &[u8], mode: Mode) -> bool {
    let merges = matches!(mode, Mode::PathMergeSlashes | Mode::PathDecodeAndMergeSlashes);
    let mut before = 0;
    for byte in path {
        match byte {
            b'%' | b'\\' | b';' => return false,
            b'.' if before == b'/' => return false,
            b'/' if before == b'/' && merges => return false,
            _ => before = *byte,
        }
    }
    true
}

/// The path as it goes on.
///
/// # Errors
/// What must not go on at all.
pub fn normalised(path: &str, mode: Mode) -> Result<String, BadPath> {
    if path.as_bytes().windows(3).any(|code| code == b"%00") {
        return Err(BadPath::Nul);
    }
    let mut clean = match mode {
        Mode::PathNone => path.to_owned(),
        Mode::PathBase | Mode::PathMergeSlashes => without_dots(&decoded(path, false)?),
        Mode::PathDecodeAndMergeSlashes => without_dots(&decoded(path, true)?),
    };
    if matches!(mode, Mode::PathMergeSlashes | Mode::PathDecodeAndMergeSlashes) {
        clean = merged(&clean);
    }
    let parameters =
        |segment: &str| segment.split_once(';').is_some_and(|(name, _)| matches!(name, "." | ".."));
    if mode != Mode::PathNone && clean.split('/').any(parameters) {
        return Err(BadPath::DotParameters);
    }
    Ok(clean)
}

/// Percent codes of unreserved characters are these, once; a backslash is a slash. Of `slashes`, so are `%2F` and `%5C`.
fn decoded(path: &str, slashes: bool) -> Result<String, BadPath> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len());
    let mut from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let (replaced, length) = match bytes[at] {
            b'\\' => (Some('/'), 1),
            b'%' => match code(bytes.get(at + 1..at + 3)) {
                Some(b'/' | b'\\') if slashes => (Some('/'), 3),
                Some(byte) if is_unreserved(byte) => (Some(char::from(byte)), 3),
                _ => (None, 1),
            },
            _ => (None, 1),
        };
        if let Some(replaced) = replaced {
            out.push_str(&path[from..at]);
            if replaced.is_ascii_hexdigit() && ends_in_half_a_code(out.as_bytes()) {
                return Err(BadPath::Nested);
            }
            out.push(replaced);
            from = at + length;
        }
        at += length;
    }
    out.push_str(&path[from..]);
    Ok(out)
}

/// Whether the next hexadecimal digit could make a code of what is there. A whole code ends in two digits.
fn ends_in_half_a_code(path: &[u8]) -> bool {
    matches!(path, [.., b'%']) || matches!(path, [.., b'%', digit] if digit.is_ascii_hexdigit())
}

/// The byte of two hexadecimal digits.
pub(crate) fn code(digits: Option<&[u8]>) -> Option<u8> {
    let [high, low] = digits? else { return None };
    let value = |digit: u8| char::from(digit).to_digit(16);
    u8::try_from(value(*high)? * 16 + value(*low)?).ok()
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    let mut ends_open = false;
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." => ends_open = last,
            ".." => {
                kept.pop();
                ends_open = last;
            }
            name => kept.push(name),
        }
    }
    if ends_open {
        kept.push("");
    }
    if kept.is_empty() {
        return "/".to_owned();
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    out
}

fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODES: [Mode; 4] = {
        use Mode::{PathBase, PathDecodeAndMergeSlashes, PathMergeSlashes, PathNone};
        [PathNone, PathBase, PathMergeSlashes, PathDecodeAndMergeSlashes]
    };

    fn base(path: &str) -> Result<String, BadPath> {
        normalised(path, Mode::PathBase)
    }

    #[test]
    fn four_modes() {
        for (path, expected) in [
            ("/a", ["/a", "/a", "/a", "/a"]),
            ("/a/./b", ["/a/./b", "/a/b", "/a/b", "/a/b"]),
            ("/a/../b", ["/a/../b", "/b", "/b", "/b"]),
            ("/../../b", ["/../../b", "/b", "/b", "/b"]),
            ("/a/..", ["/a/..", "/", "/", "/"]),
            ("/a/b/..", ["/a/b/..", "/a/", "/a/", "/a/"]),
            ("/a/.", ["/a/.", "/a/", "/a/", "/a/"]),
            ("/..", ["/..", "/", "/", "/"]),
            ("/a/...", ["/a/...", "/a/...", "/a/...", "/a/..."]),
            (r"/a\b", [r"/a\b", "/a/b", "/a/b", "/a/b"]),
            (r"/a\..\b", [r"/a\..\b", "/b", "/b", "/b"]),
            ("//a", ["//a", "//a", "/a", "/a"]),
            ("/a///b/", ["/a///b/", "/a///b/", "/a/b/", "/a/b/"]),
            ("/a%2Fb", ["/a%2Fb", "/a%2Fb", "/a%2Fb", "/a/b"]),
            ("/a%2fb", ["/a%2fb", "/a%2fb", "/a%2fb", "/a/b"]),
            ("/a%5Cb", ["/a%5Cb", "/a%5Cb", "/a%5Cb", "/a/b"]),
            ("/a%2F..%2Fb", ["/a%2F..%2Fb", "/a%2F..%2Fb", "/a%2F..%2Fb", "/b"]),
            ("/%61dmin", ["/%61dmin", "/admin", "/admin", "/admin"]),
            ("/a/%2e%2E/b", ["/a/%2e%2E/b", "/b", "/b", "/b"]),
            ("/%252e", ["/%252e", "/%252e", "/%252e", "/%252e"]),
            ("/%c0%af", ["/%c0%af", "/%c0%af", "/%c0%af", "/%c0%af"]),
            ("/%", ["/%", "/%", "/%", "/%"]),
            ("/%4", ["/%4", "/%4", "/%4", "/%4"]),
            ("/%zz", ["/%zz", "/%zz", "/%zz", "/%zz"]),
        ] {
            for (mode, expected) in MODES.into_iter().zip(expected) {
                assert_eq!(normalised(path, mode).as_deref(), Ok(expected), "{path} {mode:?}");
            }
        }
    }

    /// Each code is what it was or its own character, decoded once, and what is decoded is unreserved.
    #[test]
    fn p1_p5_each_of_the_256_percent_codes_in_four_modes() {
        for byte in 0..=255_u8 {
            for text in [format!("/a%{byte:02x}b"), format!("/a%{byte:02X}b")] {
                for mode in MODES {
                    let own = format!("/a{}b", char::from(byte));
                    let expected = match (mode, byte) {
                        (_, 0) => Err(BadPath::Nul),
                        (Mode::PathNone, _) => Ok(text.clone()),
                        (_, b) if is_unreserved(b) => Ok(own),
                        (Mode::PathDecodeAndMergeSlashes, b'/' | b'\\') => Ok("/a/b".to_owned()),
                        _ => Ok(text.clone()),
                    };
                    assert_eq!(normalised(&text, mode), expected, "{text} {mode:?}");
                }
            }
        }
    }

    /// A code that comes of decoding would be decoded by whoever comes next: the application would read what no policy saw.
    #[test]
    fn p5_a_code_within_a_code_is_refused() {
        for path in ["/%%32e%%32e/admin", "/%2%65", "/%%32%65", "/%0%30", "/%%61dmin", "/%2%46", "/a%%%32e"] {
            for mode in &MODES[1..] {
                assert_eq!(normalised(path, *mode), Err(BadPath::Nested), "{path} {mode:?}");
            }
        }
        // A percent sign of its own is nobody's code.
        for path in ["/100%", "/100%%20off", "/%zz%41", "/%2g%41", "/%25%32e"] {
            assert!(base(path).is_ok(), "{path}");
        }
        assert_eq!(base("/%252e").as_deref(), Ok("/%252e"), "never decoded twice");
    }

    /// What a policy saw is what a second reader gets, and no dot segment is left in it, in whatever spelling.
    #[test]
    fn p1_once_is_enough() {
        let alphabet =
            ["/", "a", "%", "2", "e", "E", "%2", "%2e", "%32", "%65", "%5c", "%2F", "\\", "..", ";"];
        let mut texts = vec![String::from("/")];
        for _ in 0..4 {
            texts = texts.iter().flat_map(|text| alphabet.map(|next| format!("{text}{next}"))).collect();
            for (text, mode) in texts.iter().flat_map(|text| MODES[1..].iter().map(move |mode| (text, *mode)))
            {
                let Ok(once) = normalised(text, mode) else { continue };
                assert_eq!(normalised(&once, mode).as_deref(), Ok(&*once), "{text} {mode:?}");
                assert!(once.starts_with('/'), "{text} {mode:?}");
                let name =
                    |segment: &str| segment.split(';').next().unwrap().to_lowercase().replace("%2e", ".");
                let dots = |segment: &str| matches!(&*name(segment), "." | "..");
                assert!(!once.split('/').any(dots) && !once.contains('\\'), "{text} {mode:?}: {once}");
                let merges = mode != Mode::PathBase;
                assert!(!merges || !once.contains("//"), "{text} {mode:?}: {once}");
            }
        }
    }

    #[test]
    fn p2_dot_segments_with_parameters_are_refused() {
        for path in ["/a/..;/admin", "/.;x/admin", "/a/%2e%2e;a=b/c", "/..;"] {
            assert_eq!(base(path), Err(BadPath::DotParameters), "{path}");
        }
        assert_eq!(base("/admin;a=b/c").as_deref(), Ok("/admin;a=b/c"));
        assert_eq!(base("/a..;x").as_deref(), Ok("/a..;x"));
    }

    #[test]
    fn the_query_stays_as_it_is() {
        let clean = |text: &str| {
            let mut uri: Uri = text.parse().unwrap();
            normalise(&mut uri, Mode::PathBase).unwrap();
            uri.to_string()
        };
        assert_eq!(clean("/a/../b?x=/../%2e"), "/b?x=/../%2e");
        assert_eq!(clean("/plain?a"), "/plain?a");
        assert_eq!(clean("http://host/a/./b"), "http://host/a/b");
        assert_eq!(clean("*"), "*");
        let mut nul: Uri = "/%00".parse().unwrap();
        assert_eq!(normalise(&mut nul, Mode::PathNone), Err(BadPath::Nul));
    }

    #[test]
    fn what_is_plain_is_what_would_stay() {
        let alphabet = ["/", "a", ".", "%", "2", "e", "\\", ";", "//", "..", "%2F"];
        let mut texts = vec![String::from("/")];
        for _ in 0..4 {
            texts = texts.iter().flat_map(|text| alphabet.map(|next| format!("{text}{next}"))).collect();
            for text in &texts {
                for mode in [Mode::PathNone, Mode::PathBase, Mode::PathMergeSlashes] {
                    if is_plain(text.as_bytes(), mode) {
                        assert_eq!(normalised(text, mode).as_deref(), Ok(&**text), "{text} {mode:?}");
                    }
                }
            }
        }
    }
}
