//! State on disk: what comes back, and what does not.

use std::os::unix::fs::PermissionsExt as _;

use tempfile::TempDir;

use super::*;
use crate::store::testing::{cluster, destination, endpoints};

const A: &str = "a.test:80";

fn held(resource: Incoming) -> Change {
    (resource.name, Some(Held { version: resource.version, body: resource.body }))
}

fn filled(uid: &str) -> (TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open(dir.path(), uid).unwrap();
    let all = [destination(A, &[A]), cluster(A), endpoints(A, &["10.0.0.1:80"])];
    disk.write(&all.map(held)).unwrap();
    (dir, disk)
}

fn files(disk: &Disk) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(&disk.dir).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn what_was_written_comes_back() {
    let (_dir, disk) = filled("uid-1");
    let expected = [endpoints(A, &["10.0.0.1:80"]), cluster(A), destination(A, &[A])];
    let mut found = disk.load();
    found.sort_by_key(|r| r.name.clone());
    let mut expected = expected.to_vec();
    expected.sort_by_key(|r| r.name.clone());
    assert_eq!(found, expected);
    // Replaced, and removed; removing twice is no error.
    let gone: Change = (destination(A, &[]).name, None);
    disk.write(&[held(endpoints(A, &[])), gone.clone(), gone]).unwrap();
    assert_eq!(files(&disk).len(), 2);
    assert!(disk.load().contains(&endpoints(A, &[])));
}

#[test]
fn nobody_else_may_look() {
    let (_dir, disk) = filled("uid-1");
    assert_eq!(fs::metadata(&disk.dir).unwrap().permissions().mode() & 0o777, 0o700);
    for file in files(&disk) {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    fs::set_permissions(&disk.dir, fs::Permissions::from_mode(0o755)).unwrap();
    let error = Disk::open(disk.dir.parent().unwrap(), "uid-1").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
}

#[test]
fn another_instance_starts_empty() {
    let (dir, _disk) = filled("uid-1");
    let other = Disk::open(dir.path(), "uid-2").unwrap();
    assert_eq!(other.load(), []);
    assert_eq!(files(&other), Vec::<PathBuf>::new(), "and leaves nothing of the other one behind");
}

#[test]
fn damaged_files_are_left_out_and_the_rest_is_read() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [(&str, Damage); 5] = [
        ("cut short", |content| content[..content.len() - 3].to_vec()),
        ("one bit", |mut content| {
            *content.last_mut().unwrap() ^= 1;
            content
        }),
        ("empty", |_| Vec::new()),
        ("of an earlier version", |content| [b"mesh-state 0".as_slice(), &content[12..]].concat()),
        ("no text", |_| vec![0xff; 10_000]),
    ];
    for (what, damage) in damages {
        let (_dir, disk) = filled("uid-1");
        let file = disk.path(&cluster(A).name);
        fs::write(&file, damage(fs::read(&file).unwrap())).unwrap();
        let names: Vec<_> = disk.load().into_iter().map(|r| r.name.to_string()).collect();
        assert_eq!(names.len(), 2, "{what}: {names:?}");
        assert!(!file.exists(), "{what}");
    }
}

#[test]
fn what_an_interrupted_write_left_is_swept_up() {
    let (_dir, disk) = filled("uid-1");
    let left = disk.path(&cluster(A).name).with_extension("new");
    fs::write(&left, b"half").unwrap();
    assert_eq!(disk.load().len(), 3);
    assert!(!left.exists());
}
