//! The cluster suite. It needs the charts and the Kubernetes source, which do not exist yet; it says so.

/// Skips with its reason: there is nothing to deploy on a cluster yet.
#[test]
fn cluster_suite_says_why_it_skips() {
    let charts = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts");
    let installable = ["base", "control-plane", "gateway"]
        .iter()
        .filter(|chart| std::path::Path::new(charts).join(chart).join("Chart.yaml").exists())
        .count();
    assert_eq!(installable, 0, "there are charts now: this suite must install them instead of skipping");
    eprintln!("skipped: no chart to install yet; the mesh runs on one machine with `meshctl up`");
}
