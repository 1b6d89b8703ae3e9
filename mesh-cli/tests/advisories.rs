//! The list of advisories' classes is whole, and each test that it names is one that runs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Row letters, and how many there are of each.
const ROWS: [(&str, usize); 6] = [("P", 12), ("F", 18), ("H", 13), ("T", 13), ("J", 17), ("C", 16)];

/// What stands in the way of a test that is there in name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lack {
    /// A function, but no test.
    NoTest,
    /// Left out by every run.
    Ignored,
    /// Its file belongs to no module.
    NoModule,
}

/// What the workspace has.
#[derive(Default)]
struct Sources {
    /// Functions by name; of several of one name the best.
    functions: BTreeMap<String, Option<Lack>>,
    /// Files whose name is a module somewhere.
    modules: BTreeSet<String>,
    texts: Vec<(String, String)>,
}

impl Sources {
    fn read(workspace: &Path) -> Self {
        let mut all = Self::default();
        for part in ["mesh-proto", "mesh-proxy", "mesh-pilot", "mesh-ca", "mesh-cli"] {
            for folder in ["src", "tests"] {
                let folder = workspace.join(part).join(folder);
                if folder.exists() {
                    all.take(&folder);
                }
            }
        }
        let texts = std::mem::take(&mut all.texts);
        for (stem, text) in &texts {
            for (name, lack) in functions(text) {
                let linked =
                    all.modules.contains(stem) || ["lib", "main", "integration"].contains(&stem.as_str());
                let lack = lack.or((!linked).then_some(Lack::NoModule));
                let best = all.functions.entry(name).or_insert(lack);
                *best = (*best).min(lack);
            }
        }
        all
    }

    fn take(&mut self, directory: &Path) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                self.take(&path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let module = |line: &str| {
                    let name = line.trim().split_once("mod ")?.1.strip_suffix(';')?;
                    Some(name.to_owned())
                };
                self.modules.extend(text.lines().filter_map(module));
                let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
                self.texts.push((stem, text));
            }
        }
    }
}

/// The functions of a file, and what keeps each from being a test.
fn functions(text: &str) -> Vec<(String, Option<Lack>)> {
    let (mut found, mut attributes) = (Vec::new(), Vec::new());
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            attributes.push(line);
            continue;
        }
        if line.starts_with("//") {
            continue;
        }
        let name = line.split_once("fn ").and_then(|(before, rest)| {
            let declared = before.split_whitespace().all(|word| ["pub", "async", "const"].contains(&word));
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            declared.then(|| rest[..end].to_owned())
        });
        if let Some(name) = name {
            let is_test =
                attributes.iter().any(|a| a.starts_with("#[test]") || a.starts_with("#[tokio::test"));
            let ignored = attributes.iter().any(|a| a.starts_with("#[ignore") || a.starts_with("#[cfg"));
            let lack = (!is_test).then_some(Lack::NoTest).or(ignored.then_some(Lack::Ignored));
            found.push((name, lack));
        }
        attributes.clear();
    }
    found
}

#[test]
fn each_row_has_its_tests_or_a_reason() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let known = Sources::read(workspace).functions;
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
                for test in tests {
                    assert_eq!(known.get(test), Some(&None), "{row}: {test} is no test that runs");
                }
            }
        }
    }
    let all = ROWS.iter().flat_map(|(letter, most)| (1..=*most).map(move |n| format!("{letter}{n}")));
    assert_eq!(rows, all.collect::<Vec<_>>());
    assert_eq!(rows.len(), 89);
}

/// C16: versions before these have bugs that reach us.
const FROM: [(&str, [u64; 3]); 9] = [
    ("bytes", [1, 11, 1]),
    ("h2", [0, 4, 16]),
    ("http", [1, 0, 0]),
    ("hyper", [1, 0, 0]),
    ("lru", [0, 16, 3]),
    ("rustls", [0, 23, 46]),
    ("rustls-webpki", [0, 103, 13]),
    ("tokio", [1, 54, 1]),
    ("tonic", [0, 12, 3]),
];

#[test]
fn c16_no_older_crates() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |file: &str| std::fs::read_to_string(workspace.join(file)).unwrap();
    let lock = read("Cargo.lock");
    let mut seen = 0;
    for package in lock.split("[[package]]").skip(1) {
        let field = |name: &str| {
            let line = package.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            line.and_then(|line| line.strip_suffix('"')).unwrap_or_default()
        };
        let Some((name, least)) = FROM.iter().find(|(name, _)| *name == field("name")) else { continue };
        let version: Vec<u64> = field("version").split('.').map(|part| part.parse().unwrap()).collect();
        assert!(version >= least.to_vec(), "{name} {version:?} is older than {least:?}");
        seen += 1;
    }
    assert!(seen >= FROM.len() - 1, "Cargo.lock is not read as it is written");
    // The linter refuses `unsafe` but where a line asks for it.
    assert!(read("Cargo.toml").contains("unsafe_code = \"deny\""));
}

/// The reader of sources finds what it must not take for a test.
#[test]
fn a_name_alone_is_no_test() {
    let text = "#[test]\nfn one() {}\n#[tokio::test(flavor = \"multi_thread\")]\n/// Words: fn none(\nasync fn two() {}\n\
                fn three() {}\n#[test]\n#[ignore = \"slow\"]\nfn four() {}\n// #[test]\nfn five() {}\n\
                #[test]\nconst X: u8 = 1;\nfn six() {}\n    #[test]\n    fn seven(x in 0..3) {}\nlet _ = \"fn eight()\";\n\
                #[cfg(target_os = \"none\")]\n#[test]\nfn nine() {}\n";
    let lacks = functions(text);
    let expected = [
        ("one", None),
        ("two", None),
        ("three", Some(Lack::NoTest)),
        ("four", Some(Lack::Ignored)),
        ("five", Some(Lack::NoTest)),
        ("six", Some(Lack::NoTest)),
        ("seven", None),
        ("nine", Some(Lack::Ignored)),
    ];
    assert_eq!(lacks, expected.map(|(name, lack)| (name.to_owned(), lack)));
}
