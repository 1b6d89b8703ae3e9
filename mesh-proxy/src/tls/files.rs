//! Certificate files: where they are on this machine, and what is in them now.
//!
//! In: paths as Gateways and DestinationRules say them. Out: their bytes. Each look reads anew: a volume of a Secret is replaced by a symbolic
//! link, which a watch on a file does not see.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::config::Mount;
use crate::tls::pem::LONGEST;

/// Reads files, some directories being elsewhere.
#[derive(Debug)]
pub struct Files {
    mounts: Vec<Mount>,
}

impl Files {
    /// With these directories elsewhere.
    #[must_use]
    pub fn new(mut mounts: Vec<Mount>) -> Self {
        // The longest path first: a mount may be inside of another one.
        mounts.sort_by_key(|mount| std::cmp::Reverse(mount.path.components().count()));
        Self { mounts }
    }

    /// Where a path of the workload is on this machine.
    fn place(&self, path: &str) -> PathBuf {
        let path = Path::new(path);
        let inside = |mount: &Mount| Some(mount.dir.join(path.strip_prefix(&mount.path).ok()?));
        self.mounts.iter().find_map(inside).unwrap_or_else(|| path.to_owned())
    }

    /// The content of a file.
    ///
    /// # Errors
    /// Why there is none.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, String> {
        let place = self.place(path);
        let called = || match place.as_path() == Path::new(path) {
            true => path.to_owned(),
            false => format!("{path} (here {})", place.display()),
        };
        let mut content = Vec::new();
        // One byte too many is refused where it is parsed.
        let limit = LONGEST as u64 + 1;
        let read = File::open(&place).and_then(|file| file.take(limit).read_to_end(&mut content));
        match read {
            Ok(_) => Ok(content),
            Err(error) => Err(format!("{}: {error}", called())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mount_counts() {
        let mount = |path: &str, dir: &str| Mount { path: path.into(), dir: dir.into() };
        let files = Files::new(vec![mount("/etc", "/a"), mount("/etc/certs", "/b")]);
        let place = |path: &str| files.place(path).display().to_string();
        assert_eq!(place("/etc/certs/tls.crt"), "/b/tls.crt");
        assert_eq!(place("/etc/certsx/tls.crt"), "/a/certsx/tls.crt");
        assert_eq!(place("/var/tls.crt"), "/var/tls.crt");
    }
}
