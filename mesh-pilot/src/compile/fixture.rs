//! A mesh to compile, written as YAML.
