//! The bundled example: a small shop. `up` without a PATH writes it into the state directory, where it can be edited.

use std::path::PathBuf;

use super::dir::{self, StateDir};

const FILES: &[(&str, &str)] = &[
    ("frontend.yaml", include_str!("../../examples/shop/frontend.yaml")),
    ("gateway.yaml", include_str!("../../examples/shop/gateway.yaml")),
    ("ratings.yaml", include_str!("../../examples/shop/ratings.yaml")),
    ("reviews.yaml", include_str!("../../examples/shop/reviews.yaml")),
    ("routes.yaml", include_str!("../../examples/shop/routes.yaml")),
];

/// Writes the files; returns their directory.
///
/// # Errors
/// When the file system refuses.
pub fn write(dir: &StateDir) -> std::io::Result<PathBuf> {
    let place = dir.example();
    std::fs::create_dir_all(&place)?;
    for (name, text) in FILES {
        dir::write(&place.join(name), text.as_bytes())?;
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_failures_has_no_mistake() {
        let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/failover");
        let report = mesh_proto::crd::validate_files(std::slice::from_ref(&place));
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
    }

    #[test]
    fn the_example_has_no_mistake_and_every_file_is_bundled() {
        let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/shop");
        let report = mesh_proto::crd::validate_files(std::slice::from_ref(&place));
        assert!(report.problems.is_empty(), "{:#?}", report.problems);
        let mut there: Vec<String> = std::fs::read_dir(place)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".yaml"))
            .collect();
        there.sort();
        let bundled: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, bundled);
    }

    #[test]
    fn on_a_cluster_the_examples_run_the_image_of_this_version() {
        let ours = concat!("image: mesh/app:", env!("CARGO_PKG_VERSION"));
        for name in ["shop", "security", "failover"] {
            let place = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
            let files = std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path());
            for file in files.filter(|file| file.extension().is_some_and(|kind| kind == "yaml")) {
                let text = std::fs::read_to_string(&file).unwrap();
                for line in text.lines().map(str::trim).filter(|line| line.starts_with("image:")) {
                    assert_eq!(line, ours, "{}", file.display());
                }
            }
        }
    }
}
