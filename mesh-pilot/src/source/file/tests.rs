//! Stories with real files in a temporary directory; time is given, nothing sleeps.

use std::fs;

use mesh_proto::crd::{Kind, Object, ObjectRef};
use tempfile::TempDir;

use super::merge::GRACE;
use super::*;
use crate::source::Event;

const ROUTE: &str = "\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: NAME}
spec:
  hosts: [reviews]
  http: [{route: [{destination: {host: reviews, subset: SUBSET}}]}]
";

fn route(name: &str, subset: &str) -> String {
    ROUTE.replace("NAME", name).replace("SUBSET", subset)
}

struct Story {
    dir: TempDir,
    source: FileSource,
    now: Instant,
}

impl Story {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["user", "pods"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let source = Self::open(&dir);
        Self { dir, source, now: Instant::now() }
    }

    fn open(dir: &TempDir) -> FileSource {
        FileSource::open(Settings {
            user_paths: vec![dir.path().join("user")],
            state_pods: dir.path().join("pods"),
            state_dir: dir.path().join("state"),
            vip_cidr: "127.5.255.0/24".parse().unwrap(),
            vip_cidr6: None,
        })
        .unwrap()
    }

    fn restart(&mut self) {
        self.source = Self::open(&self.dir);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.dir.path().join(name)).unwrap();
    }

    /// One look, as short words.
    fn look(&mut self) -> Vec<String> {
        let (events, _) = self.source.look(self.now);
        events.iter().map(word).collect()
    }

    fn look_later(&mut self) -> Vec<String> {
        self.now += GRACE;
        self.look()
    }
}

fn word(event: &Event) -> String {
    match event {
        Event::Init => "init".into(),
        Event::InitDone => "done".into(),
        Event::Slice { .. } | Event::Options(_) | Event::Keys { .. } => {
            panic!("no file says that: {event:?}")
        }
        Event::Apply(resource) => match &resource.object {
            Object::VirtualService(vs) => {
                format!("apply {} {}", resource.reference.name, vs.spec.http[0].route[0].destination.subset)
            }
            Object::Service(service) => {
                format!("apply {} {}", resource.reference.name, service.spec.cluster_ip)
            }
            _ => format!("apply {}", resource.reference.name),
        },
        Event::Delete(reference) => format!("delete {}", reference.name),
        Event::Refused(refusal) => {
            let problem = &refusal.refused.problems[0];
            let kept = if refusal.last_good { "kept" } else { "absent" };
            format!(
                "refused {} {}:{} {kept}",
                refusal.reference.name, problem.position.line, problem.position.column
            )
        }
        Event::File { path, problems } => {
            format!("file {} {}", path.file_name().unwrap().display(), problems.len())
        }
    }
}

#[test]
fn files_come_change_and_go() {
    let mut story = Story::new();
    fs::create_dir(story.dir.path().join("user/deep")).unwrap();
    story.write("user/a.yaml", &format!("{}---\n{}", route("a", "v1"), route("b", "v1")));
    story.write("user/deep/c.yml", &route("c", "v1"));
    story.write("user/notes.txt", "not: yaml: at all");
    assert_eq!(story.look(), ["init", "apply a v1", "apply b v1", "apply c v1", "done"]);
    assert!(story.look().is_empty(), "nothing changed");
    story.write("user/a.yaml", &format!("{}---\n{}", route("a", "v2"), route("b", "v1")));
    assert_eq!(story.look(), ["apply a v2"], "a changed file applies at once");
    story.remove("user/deep/c.yml");
    assert!(story.look().is_empty(), "it may be an editor at work");
    assert_eq!(story.look_later(), ["delete c"]);
}

#[test]
fn a_file_that_is_written_anew_deletes_nothing() {
    let mut story = Story::new();
    story.write("user/a.yaml", &route("a", "v1"));
    story.look();
    story.write("user/a.yaml", "");
    assert!(story.look().is_empty());
    story.write("user/a.yaml", &route("a", "v1"));
    assert!(story.look().is_empty());
    assert!(story.look_later().is_empty());
}

#[test]
fn a_half_written_file_keeps_everything_it_had_over_restarts_too() {
    let mut story = Story::new();
    story.write("user/a.yaml", &format!("{}---\n{}", route("a", "v1"), route("b", "v1")));
    story.look();
    let broken =
        format!("{}---\napiVersion: networking.istio.io/v1\nkind: Virtu\nmetadata: {{name", route("a", "v2"));
    story.write("user/a.yaml", &broken);
    assert!(story.look().contains(&"file a.yaml 1".to_owned()));
    assert!(!story.look_later().iter().any(|word| word.starts_with("delete")));
    story.restart();
    let words = story.look();
    for name in ["a", "b"] {
        assert!(words.iter().any(|word| word.starts_with(&format!("apply {name} v"))), "{name} in {words:?}");
    }
    story.write("user/a.yaml", &format!("{}---\n{}", route("a", "v2"), route("b", "v2")));
    assert!(story.look().contains(&"apply b v2".to_owned()));
    // Deleted while nobody looked: forgotten, not brought back by the next broken file.
    story.remove("user/a.yaml");
    story.restart();
    assert_eq!(story.look(), ["init", "done"]);
    story.write("user/a.yaml", &broken);
    story.restart();
    assert!(!story.look().iter().any(|word| word.starts_with("apply b")));
}

#[test]
fn a_refused_object_keeps_its_last_good_version_over_restarts_too() {
    let mut story = Story::new();
    story.write("user/a.yaml", &route("a", "v1"));
    story.write("user/b.yaml", &route("b", "v1"));
    story.look();
    story.write("user/a.yaml", &route("a", "v2").replace("hosts", "hostz"));
    assert_eq!(story.look(), ["refused a 5:3 kept"]);
    assert!(story.look().is_empty(), "told once");
    story.restart();
    assert_eq!(story.look(), ["init", "apply a v1", "refused a 5:3 kept", "apply b v1", "done"]);
    story.write("user/a.yaml", &route("a", "v1"));
    assert_eq!(story.look().len(), 1, "good again");
    story.write("user/new.yaml", &route("new", "v1").replace("hosts", "hostz"));
    assert_eq!(story.look(), ["refused new 5:3 absent"]);
    story.remove("user/new.yaml");
    story.look();
    assert_eq!(story.look_later(), ["delete new"]);
}

#[test]
fn the_first_definition_by_path_wins_and_the_other_is_told() {
    let mut story = Story::new();
    story.write("user/b.yaml", &route("x", "second"));
    story.write("user/a.yaml", &route("x", "first"));
    assert_eq!(story.look(), ["init", "apply x first", "file b.yaml 1", "done"]);
    story.remove("user/a.yaml");
    assert_eq!(story.look(), ["apply x second", "file b.yaml 0"], "the other one takes over at once");
}

#[test]
fn services_get_an_address_and_keep_it() {
    let mut story = Story::new();
    let service = |name: &str, more: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]{more}}}\n"
        )
    };
    story.write("user/a.yaml", &service("a", ""));
    story.write("user/b.yaml", &service("b", ", clusterIP: None"));
    assert_eq!(story.look(), ["init", "apply a 127.5.255.2", "apply b None", "done"]);
    story.write("user/0.yaml", &service("first-by-path", ""));
    story.restart();
    assert_eq!(
        story.look(),
        ["init", "apply a 127.5.255.2", "apply b None", "apply first-by-path 127.5.255.3", "done"]
    );
}

#[test]
fn pods_of_the_supervisor_go_at_once_and_the_users_pods_are_wishes() {
    let mut story = Story::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c}]}\n";
    story.write("user/pod.yaml", pod);
    assert_eq!(story.look(), ["init", "done"]);
    story.write("pods/p.yaml", pod);
    assert_eq!(story.look(), ["apply p"]);
    story.remove("pods/p.yaml");
    assert_eq!(story.look(), ["delete p"]);
}

#[test]
fn what_cannot_be_read_is_told_and_costs_nothing_else() {
    let mut story = Story::new();
    story.write("user/a.yaml", &route("a", "v1"));
    story.look();
    fs::write(story.dir.path().join("user/a.yaml"), [0xff, 0xfe, 0]).unwrap();
    assert_eq!(story.look(), ["file a.yaml 1"]);
    assert!(story.look_later().is_empty());
    assert!(story.source.look(story.now).1.is_none());
    let reference = ObjectRef::new(Kind::VirtualService, "default", "a");
    assert_eq!(reference.to_string(), "VirtualService default/a");
}

/// The watcher itself: a change is seen without waiting for the safety look.
#[tokio::test]
async fn a_change_is_noticed() {
    let story = Story::new();
    story.write("user/a.yaml", &route("a", "v1"));
    let Story { dir, source, .. } = story;
    let (found, mut finds) = tokio::sync::mpsc::channel(4);
    let task = tokio::spawn(source.run(found));
    let limit = std::time::Duration::from_secs(10);
    let mut next = async || tokio::time::timeout(limit, finds.recv()).await.unwrap().unwrap();
    let first: Vec<_> = next().await.iter().map(word).collect();
    assert_eq!(first, ["init", "apply a v1", "done"]);
    fs::write(dir.path().join("user/a.yaml"), route("a", "v2")).unwrap();
    let second: Vec<_> = next().await.iter().map(word).collect();
    assert_eq!(second.last().unwrap(), "apply a v2");
    drop(finds);
    tokio::time::timeout(limit, task).await.unwrap().unwrap();
}
