//! `meshctl install`: the charts that this program carries, installed by Helm and waited for.

pub mod charts;
pub mod helm;
mod progress;
mod revision;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use charts::Chart;
use helm::{Arguments, Helm, Target};
use progress::Awaited;

use crate::cmd::input;

/// The release of the control plane.
pub const RELEASE: &str = "mesh";

/// `meshctl install`.
#[derive(Debug, Clone, Args)]
pub struct InstallArgs {
    /// Values of the control plane's chart, as for `helm install`; - is standard input
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// One of them
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// One of them, taken as a text whatever it looks like
    #[arg(long, value_name = "KEY=VALUE")]
    pub set_string: Vec<String>,
    /// Where the images are (for the control plane and for gateways)
    #[arg(long, value_name = "HUB")]
    pub hub: Option<String>,
    /// The images' tag (for the control plane and for gateways)
    #[arg(long, value_name = "TAG")]
    pub tag: Option<String>,
    /// A gateway of this name, too: istio-ingressgateway is found by `istio: ingressgateway`
    #[arg(long = "gateway", value_name = "NAME")]
    pub gateways: Vec<String>,
    /// A control plane of this revision beside the first one; the same as `--set revision=REVISION`
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<String>,
    /// Print the manifests; no cluster is needed and nothing is changed
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until everything is ready
    #[arg(long, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true,
        action = clap::ArgAction::Set)]
    pub wait: bool,
    /// How long to wait, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub timeout: u64,
    #[command(flatten)]
    pub target: Target,
}

/// One release, as Helm is asked for it.
#[derive(Debug)]
struct Release {
    name: String,
    chart: Chart,
    values: Arguments,
}

/// Installs, or brings what is installed to what the arguments say.
///
/// # Errors
/// When Helm refuses, or not all is ready in time.
pub async fn run(mut args: InstallArgs) -> anyhow::Result<ExitCode> {
    let directory = tempfile::tempdir().context("a directory for the charts")?;
    charts::unpack(directory.path())?;
    args.files = files(&args.files, directory.path())?;
    // Release, webhooks, gateways and the labels of pods go by it, wherever it was said.
    args.revision = revision::of(&args)?;
    let helm = Helm::new(&args.target);
    let releases = releases(&args);
    for release in &releases {
        let chart = directory.path().join(release.chart.directory());
        let words = words(&args, release, &chart);
        if args.dry_run {
            print!("{}", helm.run(&words).await?);
            continue;
        }
        let version = env!("CARGO_PKG_VERSION");
        println!(
            "installing {} {version} ({}, namespace {})",
            release.name,
            release.chart.directory(),
            args.target.namespace
        );
        helm.run(&words).await.with_context(|| format!("release {}", release.name))?;
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    if args.wait {
        let names: Vec<String> = releases.into_iter().map(|release| release.name).collect();
        let (suffix, namespace) = (suffix(args.revision.as_deref()), args.target.namespace.as_str());
        let injector = format!("istio-sidecar-injector{suffix}");
        let validator = format!("istio-validator{suffix}-{namespace}");
        let awaited = Awaited { namespace, releases: &names, injector: &injector, validator: &validator };
        progress::wait(&args.target.client().await?, &awaited, Duration::from_secs(args.timeout)).await?;
    }
    println!("{}", next(&args));
    Ok(ExitCode::SUCCESS)
}

fn suffix(revision: Option<&str>) -> String {
    revision
        .filter(|name| !name.is_empty() && *name != "default")
        .map(|name| format!("-{name}"))
        .unwrap_or_default()
}

/// Files of values that can be read twice, by us and by Helm: what comes in at standard input is put into `directory`.
fn files(asked: &[PathBuf], directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if asked.iter().filter(|file| *file == Path::new("-")).count() > 1 {
        bail!("-f - is there twice: standard input can be read once");
    }
    let file = |asked: &PathBuf| {
        if asked.to_str().is_some_and(|text| text.contains("://")) {
            bail!(
                "{}: values are read from files, fetch it and give its name, or -f - to standard input",
                asked.display()
            );
        }
        if asked != Path::new("-") {
            return Ok(asked.clone());
        }
        let (name, text) = input::read(asked)?;
        let file = directory.join("values-of-stdin.yaml");
        std::fs::write(&file, text).with_context(|| format!("{name}, into {}", file.display()))?;
        Ok(file)
    };
    asked.iter().map(file).collect()
}

/// The control plane first: gateways wait for it.
fn releases(args: &InstallArgs) -> Vec<Release> {
    let images = [("global.hub", &args.hub), ("global.tag", &args.tag)];
    let mut common = Arguments::default();
    for (name, value) in images {
        if let Some(value) = value {
            common = common.with(["--set-string", &format!("{name}={value}")]);
        }
    }
    // What the release is named after, said last: whatever else the arguments say of it, the chart is told the same.
    let revision = format!("revision={}", args.revision.as_deref().unwrap_or_default());
    let revision = ["--set-string", &revision];
    let mut values = Arguments::default();
    for file in &args.files {
        values = values.with([OsString::from("--values"), file.clone().into()]);
    }
    values.0.extend(common.0.iter().cloned());
    for one in &args.set {
        values = values.with(["--set", one]);
    }
    for one in &args.set_string {
        values = values.with(["--set-string", one]);
    }
    let values = values.with(revision);
    let name = format!("{RELEASE}{}", suffix(args.revision.as_deref()));
    let mut releases = vec![Release { name, chart: Chart::ControlPlane, values }];
    for gateway in &args.gateways {
        let place = format!("controlPlane.namespace={}", args.target.namespace);
        let values = common.clone().with(["--set-string", &place]).with(revision);
        releases.push(Release { name: gateway.clone(), chart: Chart::Gateway, values });
    }
    releases
}

fn words(args: &InstallArgs, release: &Release, chart: &Path) -> Vec<OsString> {
    let call = Arguments::default();
    let call = if args.dry_run {
        // Who applies this wants the mesh, not the pods of `helm test`.
        call.with(["template", "--skip-tests", &release.name])
    } else {
        call.with(["upgrade", "--install", "--create-namespace", &release.name])
    };
    call.with([chart]).with(release.values.0.iter()).0
}

/// What to do now.
fn next(args: &InstallArgs) -> String {
    let label = match &args.revision {
        Some(revision) => format!("istio-injection- istio.io/rev={revision}"),
        None => "istio-injection=enabled".to_owned(),
    };
    format!(
        "\nPut a namespace into the mesh; its pods get a sidecar when they are made anew:\n\
         \x20 kubectl label namespace default {label}\n\
         \x20 kubectl -n default rollout restart deployment\n\
         What is in force, and if not, why: meshctl status"
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: InstallArgs,
    }

    fn lines(text: &str) -> Vec<String> {
        let args = Line::try_parse_from(format!("install {text}").trim().split(' ')).unwrap().args;
        let line = |release: &Release| {
            let words = words(&args, release, Path::new("CHART"));
            words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        releases(&args).iter().map(line).collect()
    }

    #[test]
    fn the_control_plane_comes_first_and_gateways_have_its_images() {
        assert_eq!(lines(""), ["upgrade --install --create-namespace mesh CHART --set-string revision="]);
        let told = lines("-n mesh --tag 1 --set pilot.replicaCount=3 -f a.yaml --gateway edge");
        assert_eq!(
            told,
            [
                "upgrade --install --create-namespace mesh CHART --values a.yaml --set-string global.tag=1 --set pilot.replicaCount=3 --set-string revision=",
                "upgrade --install --create-namespace edge CHART --set-string global.tag=1 --set-string controlPlane.namespace=mesh --set-string revision=",
            ]
        );
    }

    #[test]
    fn a_revision_is_a_release_of_its_own_and_a_dry_run_only_renders() {
        assert_eq!(
            lines("--revision canary --dry-run"),
            ["template --skip-tests mesh-canary CHART --set-string revision=canary"]
        );
        assert_eq!(
            lines("--revision default"),
            ["upgrade --install --create-namespace mesh CHART --set-string revision=default"]
        );
        assert!(!Line::try_parse_from(["install", "--wait=false"]).unwrap().args.wait);
        assert!(Line::try_parse_from(["install", "--wait"]).unwrap().args.wait);
    }
}
