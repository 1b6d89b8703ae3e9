//! The list of advisories' classes is whole, and each test that it names is there.

use std::collections::BTreeSet;
use std::path::Path;

/// Row letters, and how many there are of each.
const ROWS: [(&str, usize); 6] = [("P", 12), ("F", 18), ("H", 13), ("T", 13), ("J", 17), ("C", 16)];

/// The names of all functions in Rust files below.
fn functions(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let defined = text.lines().filter_map(|line| line.split_once("fn ")?.1.split_once('('));
            names.extend(defined.map(|(name, _)| name.to_owned()));
        }
    }
}

#[test]
fn each_row_has_its_tests_or_a_reason() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut known = BTreeSet::new();
    for part in ["mesh-proto", "mesh-proxy", "mesh-pilot", "mesh-ca", "mesh-cli"] {
        for folder in ["src", "tests"] {
            let folder = workspace.join(part).join(folder);
            if folder.exists() {
                functions(&folder, &mut known);
            }
        }
    }
    let lines = include_str!("advisories/rows.txt").lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    let mut rows = Vec::new();
    for line in lines {
        let (row, rest) = line.split_once(' ').unwrap();
        rows.push(row.to_owned());
        match rest.trim().split_once("- ") {
            Some(("", why)) => assert!(why.len() > 10, "{row}: why?"),
            _ => {
                let tests: Vec<_> = rest.split_whitespace().collect();
                assert!(!tests.is_empty(), "{row} has no test");
                tests
                    .iter()
                    .for_each(|test| assert!(known.contains(*test), "{row}: there is no test {test}"));
            }
        }
    }
    let all = ROWS.iter().flat_map(|(letter, most)| (1..=*most).map(move |n| format!("{letter}{n}")));
    assert_eq!(rows, all.collect::<Vec<_>>());
    assert_eq!(rows.len(), 89);
}
