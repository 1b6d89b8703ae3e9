//! The process as a container starts it.

use std::process::{Command, Output};

fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mesh-proxy"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).output().unwrap()
}

#[test]
fn a_bad_environment_is_one_line_and_64() {
    let pod = [("POD_NAME", "a"), ("POD_NAMESPACE", "b"), ("POD_UID", "c"), ("INSTANCE_IP", "10.0.0.1")];
    let wrong = [("PROXY_CONFIG", "{\"concurrency\":\"many\"}")];
    let both: Vec<_> = pod.iter().chain(&wrong).copied().collect();
    for (command, environment, expected) in [
        ("sidecar", &[][..], "INSTANCE_IP is not set"),
        ("router", &pod[..1], "INSTANCE_IP is not set"),
        ("sidecar", &both[..], "concurrency: \"many\" is not a number"),
    ] {
        let output = run(&[command], environment);
        assert_eq!(output.status.code(), Some(64));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.starts_with("mesh-proxy: ") && told.contains(expected), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
    }
}

#[test]
fn a_sidecar_that_is_not_there_is_not_waited_for_for_ever() {
    let output = run(&["wait", "--timeout", "0"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("is not ready after 0 s"));
}
