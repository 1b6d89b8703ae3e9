//! The state directory of a mesh: `$XDG_RUNTIME_DIR/mesh/NAME`, else `/tmp/mesh-<uid>/NAME`.
//!
//! It holds keys and sockets, so every directory is 0700 and its owner is checked before anything in it is believed. A
//! lock on `lock` says that a supervisor lives; what a dead one left behind is cleared by the next.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest path of a Unix socket, in bytes (`sun_path` less its NUL).
const MAX_SOCKET_PATH: usize = 107;

/// Why there is no state directory.
#[derive(Debug, thiserror::Error)]
pub enum DirError {
    /// Another user could write there.
    #[error(
        "{0} is not a directory of yours alone (it must belong to you, with mode 0700); remove it or set XDG_RUNTIME_DIR"
    )]
    NotOurs(PathBuf),
    /// A supervisor holds the lock.
    #[error(
        "a mesh named {name:?} is running already (process {pid}); stop it with `meshctl down --name {name}`, or take another --name"
    )]
    Running { name: String, pid: String },
    /// The path is too long for a Unix socket.
    #[error("{0} is too long for a Unix socket; use a shorter --name or XDG_RUNTIME_DIR")]
    TooLong(PathBuf),
    /// The file system refused.
    #[error("cannot use {path} (set XDG_RUNTIME_DIR to a directory where you can write)")]
    Io { path: PathBuf, source: io::Error },
}

/// The paths inside a state directory.
#[derive(Debug, Clone)]
pub struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Where the mesh `name` keeps its state; nothing is touched.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self { root: base().join(name) }
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.root.join("control.sock")
    }

    /// The socket that takes the authority's commands: shorter than [`Self::socket`], so that it fits too.
    #[must_use]
    pub fn authority_socket(&self) -> PathBuf {
        self.root.join("ca.sock")
    }

    /// Pod objects, one file each.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.root.join("pods")
    }

    /// Services that no file of the user declares.
    #[must_use]
    pub fn generated(&self) -> PathBuf {
        self.root.join("generated")
    }

    /// What the processes write.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of one process.
    #[must_use]
    pub fn log(&self, process: &str) -> PathBuf {
        self.logs().join(format!("{}.log", process.replace('/', "+")))
    }

    /// Where a process keeps its own state.
    #[must_use]
    pub fn state_of(&self, process: &str) -> PathBuf {
        self.root.join("state").join(process)
    }

    /// The configuration file of a process.
    #[must_use]
    pub fn config_of(&self, process: &str) -> PathBuf {
        self.root.join("config").join(format!("{process}.json"))
    }

    /// The token that a process shows to the CA.
    #[must_use]
    pub fn token_of(&self, process: &str) -> PathBuf {
        self.root.join("tokens").join(process)
    }

    /// The `/etc/hosts` of a pod with a namespace.
    #[must_use]
    pub fn hosts_of(&self, process: &str) -> PathBuf {
        self.root.join("hosts").join(process)
    }

    /// The `/etc/resolv.conf` of all pods with namespaces.
    #[must_use]
    pub fn resolver(&self) -> PathBuf {
        self.root.join("resolv.conf")
    }

    /// The root certificates.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.root.join("root.pem")
    }

    /// The bundled example's files.
    #[must_use]
    pub fn example(&self) -> PathBuf {
        self.root.join("example")
    }

    fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Makes the directory, empty, and locks it for as long as the answer lives.
    ///
    /// # Errors
    /// When a supervisor of that name runs, or the place is not ours.
    pub fn create(name: &str) -> Result<LockedDir, DirError> {
        let dir = Self::of(name);
        if dir.socket().as_os_str().len() > MAX_SOCKET_PATH {
            return Err(DirError::TooLong(dir.socket()));
        }
        let base = base();
        private_dir(&base)?;
        private_dir(&dir.root)?;
        let lock = dir.lock(name)?;
        dir.clear(false).map_err(|source| DirError::Io { path: dir.root.clone(), source })?;
        for sub in ["pods", "generated", "logs", "state", "config", "tokens", "hosts"] {
            private_dir(&dir.root.join(sub))?;
        }
        Ok(LockedDir { dir, _lock: lock })
    }

    /// Takes the lock; the file may vanish between opening and locking (a `down`), so it is compared afterwards.
    fn lock(&self, name: &str) -> Result<File, DirError> {
        let path = self.lock_file();
        let failed = |source| DirError::Io { path: path.clone(), source };
        loop {
            private_dir(&self.root)?;
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed)?;
            if file.try_lock().is_err() {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(DirError::Running { name: name.to_owned(), pid: pid.trim().to_owned() });
            }
            let here = file.metadata().map_err(failed)?;
            if fs::metadata(&path).is_ok_and(|there| there.ino() == here.ino()) {
                file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).map_err(failed)?;
                return Ok(file);
            }
        }
    }

    /// Whether a supervisor holds the lock now.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        File::open(self.lock_file()).is_ok_and(|file| file.try_lock().is_err())
    }

    /// The supervisor's process, as it wrote it into the lock.
    #[must_use]
    pub fn holder(&self) -> Option<i32> {
        fs::read_to_string(self.lock_file()).ok()?.trim().parse().ok()
    }

    /// Whether there is such a directory.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.root.is_dir()
    }

    /// Removes what is inside, the lock file last and only when `all`; with `all` the directory too.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn clear(&self, all: bool) -> io::Result<()> {
        let lock = self.lock_file();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.path() == lock {
                continue;
            }
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        if all {
            match fs::remove_file(&lock) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::remove_dir(&self.root)?;
            // The last mesh takes the common directory with it.
            let _ = fs::remove_dir(base());
        }
        Ok(())
    }

    /// The names of the meshes that have a state directory here.
    #[must_use]
    pub fn names() -> Vec<String> {
        let Ok(entries) = fs::read_dir(base()) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// A state directory that this process holds.
#[derive(Debug)]
pub struct LockedDir {
    dir: StateDir,
    _lock: File,
}

impl std::ops::Deref for LockedDir {
    type Target = StateDir;

    fn deref(&self) -> &StateDir {
        &self.dir
    }
}

/// Writes a file that only we can read, at once: a reader sees the old one or the new one.
///
/// # Errors
/// When the file system refuses.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.to_path_buf();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    temporary.set_file_name(format!(".{name}.new"));
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    fs::rename(&temporary, path)
}

/// Where all meshes of this user live.
fn base() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !dir.is_empty() && Path::new(&dir).is_dir() => PathBuf::from(dir).join("mesh"),
        _ => PathBuf::from(format!("/tmp/mesh-{}", nix::unistd::getuid())),
    }
}

/// Makes a directory 0700, or checks that the one that is there is ours alone (and no link to another).
fn private_dir(path: &Path) -> Result<(), DirError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(DirError::Io { path: path.to_owned(), source }),
    }
    let there =
        fs::symlink_metadata(path).map_err(|source| DirError::Io { path: path.to_owned(), source })?;
    let ours =
        there.is_dir() && there.uid() == nix::unistd::getuid().as_raw() && there.mode().trailing_zeros() >= 6;
    if ours { Ok(()) } else { Err(DirError::NotOurs(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_can_enter_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("mesh");
        private_dir(&dir).unwrap();
        private_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(private_dir(&dir), Err(DirError::NotOurs(_))));
        let link = place.path().join("link");
        let target = place.path().join("target");
        private_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(private_dir(&link), Err(DirError::NotOurs(_))));
    }

    #[test]
    fn a_second_holder_of_the_same_directory_is_told_who_the_first_is() {
        let place = tempfile::tempdir().unwrap();
        let dir = StateDir { root: place.path().join("one") };
        private_dir(&dir.root).unwrap();
        let first = dir.lock("one").unwrap();
        assert!(dir.is_locked());
        let refused = dir.lock("one").unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        assert!(!dir.is_locked());
        dir.lock("one").unwrap();
    }

    #[test]
    fn clearing_leaves_nothing() {
        let place = tempfile::tempdir().unwrap();
        let dir = StateDir { root: place.path().join("one") };
        private_dir(&dir.root).unwrap();
        let _lock = dir.lock("one").unwrap();
        fs::create_dir(dir.pods()).unwrap();
        write(&dir.pods().join("a.yaml"), b"x").unwrap();
        assert_eq!(fs::read(dir.pods().join("a.yaml")).unwrap(), b"x");
        dir.clear(true).unwrap();
        assert!(!dir.exists());
    }
}
