//! Names inside the namespaces: each pod has an `/etc/hosts` of its own, in which every service that the pilot knows stands
//! as a pod's resolver would answer for it. In: what the pilot tells. Out: files, kept up to date.
//!
//! The files are mounted, so they are written in place: whoever reads meanwhile sees old lines, new ones, or both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::pilot::ServiceStatus;

/// Whose names they are.
#[derive(Debug, Clone)]
pub struct Owner {
    pub name: String,
    pub namespace: String,
    pub ips: Vec<IpAddr>,
}

/// The files of all pods.
#[derive(Debug, Default)]
pub struct Names {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    lines: Vec<(String, Vec<IpAddr>)>,
    files: BTreeMap<PathBuf, (Owner, String)>,
}

impl Names {
    /// Writes a pod's file from now on.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&self, path: &Path, owner: Owner, cluster_domain: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let text = hosts(&owner, &inner.lines, cluster_domain);
        write(path, &text)?;
        inner.files.insert(path.to_owned(), (owner, text));
        Ok(())
    }

    /// Forgets a pod's file, and removes it.
    pub fn remove(&self, path: &Path) {
        self.inner.lock().files.remove(path);
        let _ = std::fs::remove_file(path);
    }

    /// Takes what the pilot tells; writes the files that change.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn update(&self, services: &[ServiceStatus], cluster_domain: &str) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let Inner { lines, files } = &mut *inner;
        let new: Vec<_> = services.iter().map(|s| (s.host.clone(), addresses(s))).collect();
        if *lines == new {
            return Ok(());
        }
        *lines = new;
        for (path, (owner, before)) in files {
            let text = hosts(owner, lines, cluster_domain);
            if text != *before {
                write(path, &text)?;
                *before = text;
            }
        }
        Ok(())
    }
}

/// The service's address, or those of its pods where it has none (`clusterIP: None`).
fn addresses(service: &ServiceStatus) -> Vec<IpAddr> {
    let own: Vec<IpAddr> = service.vips().collect();
    if !own.is_empty() {
        return own;
    }
    let ready = service.endpoints.iter().filter(|e| e.ready);
    let mut pods: Vec<IpAddr> =
        ready.filter_map(|e| e.address.parse().ok().map(|at: SocketAddr| at.ip())).collect();
    pods.sort();
    pods.dedup();
    pods
}

/// The text of a pod's file. A service of its own namespace has its short name too, as by the search domains of a pod.
fn hosts(owner: &Owner, services: &[(String, Vec<IpAddr>)], cluster_domain: &str) -> String {
    let mut text = String::from("# written by meshctl up: localhost, this pod, the services of the mesh\n");
    text.push_str("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    for ip in &owner.ips {
        let _ = writeln!(text, "{ip} {}", owner.name);
    }
    for (host, ips) in services.iter().filter(|(host, _)| is_name(host)) {
        let mut names = vec![host.as_str()];
        let within = host.strip_suffix(cluster_domain).and_then(|rest| rest.strip_suffix(".svc."));
        if let Some((service, namespace)) = within.and_then(|rest| rest.split_once('.')) {
            let end = service.len() + 1 + namespace.len();
            names.extend([&host[..end + ".svc".len()], &host[..end]]);
            if namespace == owner.namespace {
                names.push(service);
            }
        }
        for ip in ips {
            let _ = writeln!(text, "{ip} {}", names.join(" "));
        }
    }
    text
}

/// Nothing but a DNS name gets into a file that programs parse; `*.example.com` is a pattern and no name.
fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

/// Writes the `/etc/resolv.conf` of all pods: none of this machine's name servers can be reached from there, and a name that
/// is in no file is not waited for.
///
/// # Errors
/// When it cannot be written.
pub fn write_resolver(path: &Path) -> io::Result<()> {
    write(
        path,
        "# written by meshctl up: names are in /etc/hosts\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )
}

/// Everybody in the pod may read it.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).create(true).truncate(false).mode(0o644).open(path)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(host: &str, vip: Option<&str>, endpoints: &[&str]) -> ServiceStatus {
        let endpoints: Vec<_> =
            endpoints.iter().map(|at| serde_json::json!({"address": at, "ready": true})).collect();
        serde_json::from_value(
            serde_json::json!({"host": host, "vips": vip.as_slice(), "endpoints": endpoints}),
        )
        .unwrap()
    }

    #[test]
    fn services_have_the_names_that_a_pods_resolver_knows() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("hosts");
        let names = Names::default();
        let owner = Owner {
            name: "web-0".to_owned(),
            namespace: "default".to_owned(),
            ips: vec!["10.9.4.1".parse().unwrap()],
        };
        names.add(&path, owner, "cluster.local").unwrap();
        let read = || std::fs::read_to_string(&path).unwrap();
        assert!(read().contains("127.0.0.1 localhost\n") && read().contains("\n10.9.4.1 web-0\n"));
        let services = [
            service("web.default.svc.cluster.local", Some("10.9.255.1"), &["10.9.4.1:80"]),
            service("db.data.svc.cluster.local", None, &["10.9.5.1:5432", "10.9.6.1:5432", "10.9.5.1:1"]),
            service("api.example.com", Some("10.9.255.2"), &[]),
            service("*.example.com", Some("10.9.255.3"), &[]),
            service("evil\n1.1.1.1 x", Some("10.9.255.4"), &[]),
        ];
        names.update(&services, "cluster.local").unwrap();
        let text = read();
        let line = |line: &str| assert!(text.lines().any(|l| l == line), "no {line:?} in {text}");
        line("10.9.255.1 web.default.svc.cluster.local web.default.svc web.default web");
        line("10.9.5.1 db.data.svc.cluster.local db.data.svc db.data");
        line("10.9.6.1 db.data.svc.cluster.local db.data.svc db.data");
        line("10.9.255.2 api.example.com");
        assert!(!text.contains('*') && !text.contains("evil"), "{text}");
        names.update(&services[..1], "cluster.local").unwrap();
        assert!(!read().contains("example") && read().ends_with("web\n"), "{}", read());
        names.remove(&path);
        assert!(!path.exists());
    }
}
