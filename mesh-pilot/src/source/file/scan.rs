//! Which YAML files there are and what is in them. In: paths. Out: texts by path, or why one cannot be read.
//!
//! A file that looks as it did (size, time, inode) is not read again, unless it changed so lately that its time could
//! hide another change.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Larger files are refused: an object that the mesh understands is a few KiB.
const MAX_FILE: u64 = 8 << 20;
/// Directories deeper than this are a loop of links.
const MAX_DEPTH: usize = 16;
/// A change within this time of the last reading may have left the file's time as it was.
const RACY: Duration = Duration::from_secs(2);

/// What a path holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Text.
    Text(Arc<str>),
    /// It is there and cannot be read: why.
    Unreadable(String),
}

/// All files, in path order.
pub type Listing = BTreeMap<PathBuf, Content>;

/// Lists and reads.
#[derive(Debug, Default)]
pub struct Scanner {
    read: BTreeMap<PathBuf, (Stat, Content)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    size: u64,
    inode: u64,
    modified: (i64, i64),
    /// Too fresh to be believed.
    racy: bool,
}

impl Scanner {
    /// Reads what changed in `paths` (files, or directories and all below) since the last call.
    pub fn scan(&mut self, paths: &[PathBuf]) -> Listing {
        let mut files = Vec::new();
        let mut unreadable = Listing::new();
        for path in paths {
            collect(path, 0, true, &mut files, &mut unreadable);
        }
        let mut before = std::mem::take(&mut self.read);
        for path in files {
            let known = before.remove(&path);
            if let Some(entry) = read(&path, known) {
                self.read.insert(path, entry);
            }
        }
        let mut listing: Listing =
            self.read.iter().map(|(p, (_, content))| (p.clone(), content.clone())).collect();
        listing.append(&mut unreadable);
        listing
    }
}

/// `None`: it is not there any more.
fn read(path: &Path, known: Option<(Stat, Content)>) -> Option<(Stat, Content)> {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some((Stat::unknown(), Content::Unreadable(error.to_string()))),
    };
    let fresh = metadata
        .modified()
        .is_ok_and(|at| SystemTime::now().duration_since(at).map_or(true, |age| age < RACY));
    let stat = Stat {
        size: metadata.len(),
        inode: metadata.ino(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        racy: fresh,
    };
    if let Some((before, content)) = known
        && before == stat
        && !stat.racy
    {
        return Some((stat, content));
    }
    if metadata.len() > MAX_FILE {
        let why = format!("{} bytes are more than {MAX_FILE}", metadata.len());
        return Some((stat, Content::Unreadable(why)));
    }
    match std::fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => Some((stat, Content::Text(Arc::from(text)))),
        Ok(Err(_)) => Some((stat, Content::Unreadable("not UTF-8".to_owned()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some((Stat::unknown(), Content::Unreadable(error.to_string()))),
    }
}

impl Stat {
    fn unknown() -> Self {
        Self { size: 0, inode: 0, modified: (0, 0), racy: true }
    }
}

fn collect(path: &Path, depth: usize, named: bool, files: &mut Vec<PathBuf>, unreadable: &mut Listing) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    if !metadata.is_dir() {
        if named || is_yaml(path) {
            files.push(path.to_owned());
        }
        return;
    }
    if depth > MAX_DEPTH {
        unreadable
            .insert(path.to_owned(), Content::Unreadable(format!("more than {MAX_DEPTH} directories deep")));
        return;
    }
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            unreadable.insert(path.to_owned(), Content::Unreadable(error.to_string()));
            return;
        }
    };
    for entry in entries.flatten() {
        let hidden = entry.file_name().as_encoded_bytes().first() == Some(&b'.');
        if !hidden {
            collect(&entry.path(), depth + 1, false, files, unreadable);
        }
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
}
