//! Root's rights given up for good: a sidecar that has programmed the rules of capture itself goes on as the proxy's user.
//!
//! In: what may be kept. Out: a process that is nobody but [`USER`], without groups of root's, capabilities or a way back; or
//! the step that failed, and then the process must end. Everything is read back from the kernel afterwards: an order that was
//! obeyed by half would leave a proxy that reads strangers' bytes with rights that it says it has not. What each step means
//! is in capabilities(7), credentials(7) and prctl(2).

use std::io;

use nix::unistd::{Gid, Uid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// User and group of the proxy; the rules of capture know them.
pub const USER: u32 = 1337;
/// Linux numbers capabilities in 64 bits; where the kernel's own end, it says so.
const CAPABILITIES: u32 = 64;

/// What a proxy needs while it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// `CAP_NET_ADMIN`: transparent sockets and marks, TPROXY.
    NetAdmin,
}

/// Why a process may not go on.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// It is somebody else already.
    #[error("must be started by root, not by user {0}: the container needs securityContext.runAsUser: 0")]
    NotRoot(Uid),
    /// Capabilities belong to threads: others would keep theirs.
    #[error("BUG: {0} threads run already")]
    Threads(usize),
    /// The kernel said no.
    #[error("{step}: {error}{hint}", hint = hint(.error))]
    Step {
        /// To what.
        step: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// The kernel said yes, and it is not so.
    #[error("{0}: this process would keep rights of root's")]
    Kept(String),
}

/// What an injected sidecar has; somebody has taken it away.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (the container needs securityContext.capabilities.add: [NET_ADMIN, SETGID, SETPCAP, SETUID])"
        }
        _ => "",
    }
}

impl Keep {
    fn capabilities(self) -> CapabilitySet {
        match self {
            Self::Nothing => CapabilitySet::empty(),
            Self::NetAdmin => CapabilitySet::NET_ADMIN,
        }
    }
}

/// Gives up root and everything of it but `keep`. To be called before any other thread is started.
///
/// # Errors
/// Which step failed; the process has an unknown part of its rights then, and must end.
pub fn drop_for_good(keep: Keep) -> Result<(), Failed> {
    let user = Uid::effective();
    if !user.is_root() {
        return Err(Failed::NotRoot(user));
    }
    let threads = std::fs::read_dir("/proc/self/task").map_err(of("cannot count threads"))?.count();
    if threads != 1 {
        return Err(Failed::Threads(threads));
    }
    // No program that this process may yet start gains anything by being setuid or by its file's capabilities.
    thread::set_no_new_privs(true).map_err(of("cannot set no_new_privs"))?;
    empty_bounding_set()?;
    thread::clear_ambient_capability_set().map_err(of("cannot clear the ambient capabilities"))?;
    become_user(keep)?;
    let capabilities = keep.capabilities();
    let sets = CapabilitySets {
        effective: capabilities,
        permitted: capabilities,
        inheritable: CapabilitySet::empty(),
    };
    thread::set_capabilities(None, sets).map_err(of("cannot give up capabilities"))?;
    thread::set_keep_capabilities(false).map_err(of("cannot reset PR_SET_KEEPCAPS"))?;
    verify(sets)
}

/// While this process is root still: user 1337 may not.
fn empty_bounding_set() -> Result<(), Failed> {
    for capability in in_bounding_set()? {
        thread::remove_capability_from_bounding_set(capability)
            .map_err(of("cannot remove a capability from the bounding set"))?;
    }
    Ok(())
}

fn in_bounding_set() -> Result<Vec<CapabilitySet>, Failed> {
    let mut all = Vec::new();
    for number in 0..CAPABILITIES {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match thread::capability_is_in_bounding_set(capability) {
            Ok(true) => all.push(capability),
            Ok(false) => {}
            // The kernel knows no more.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(of("cannot read the bounding set")(error)),
        }
    }
    Ok(all)
}

/// The groups that the pod gives to all of its processes (`fsGroup`, `supplementalGroups`) stay: volumes are theirs.
fn become_user(keep: Keep) -> Result<(), Failed> {
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    let groups = getgroups().map_err(of("cannot read the supplementary groups"))?;
    let roots = groups_of_root();
    let groups: Vec<Gid> = groups.into_iter().filter(|group| !roots.contains(group)).collect();
    setgroups(&groups).map_err(of("cannot leave root's group"))?;
    setresgid(group, group, group).map_err(of("cannot become group 1337"))?;
    if keep != Keep::Nothing {
        thread::set_keep_capabilities(true).map_err(of("cannot set PR_SET_KEEPCAPS"))?;
    }
    setresuid(user, user, user).map_err(of("cannot become user 1337"))
}

/// Its own, and those that the image's `/etc/group` gives it: the container's runtime adds them to the pod's.
fn groups_of_root() -> Vec<Gid> {
    let file = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let named = file.lines().filter_map(|line| {
        let mut fields = line.split(':').skip(2);
        let (group, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|member| member == "root").then(|| group.parse().ok().map(Gid::from_raw))?
    });
    named.chain([Gid::from_raw(0)]).collect()
}

/// Reads everything back, and tries to return.
fn verify(expected: CapabilitySets) -> Result<(), Failed> {
    let users = getresuid().map_err(of("cannot read the user"))?;
    let groups = getresgid().map_err(of("cannot read the group"))?;
    let users = [users.real, users.effective, users.saved].map(Uid::as_raw);
    let groups = [groups.real, groups.effective, groups.saved].map(Gid::as_raw);
    kept(users != [USER; 3] || groups != [USER; 3], || format!("users {users:?}, groups {groups:?}"))?;
    let more = getgroups().map_err(of("cannot read the supplementary groups"))?;
    let roots = groups_of_root();
    kept(more.iter().any(|group| roots.contains(group)), || format!("supplementary groups {more:?}"))?;
    let sets = thread::capabilities(None).map_err(of("cannot read the capabilities"))?;
    kept(sets != expected, || format!("capabilities {sets:?}"))?;
    let bounding = in_bounding_set()?;
    kept(!bounding.is_empty(), || format!("bounding set {bounding:?}"))?;
    let locked = thread::no_new_privs().map_err(of("cannot read no_new_privs"))?;
    kept(!locked, || "no_new_privs is not set".to_owned())?;
    let root = (Uid::from_raw(0), Gid::from_raw(0));
    kept(setresuid(root.0, root.0, root.0).is_ok(), || "user 0 can be had again".to_owned())?;
    kept(setresgid(root.1, root.1, root.1).is_ok(), || "group 0 can be had again".to_owned())?;
    kept(setgroups(&[root.1]).is_ok(), || "root's groups can be had again".to_owned())
}

fn kept(is: bool, what: impl FnOnce() -> String) -> Result<(), Failed> {
    if is { Err(Failed::Kept(what())) } else { Ok(()) }
}

fn of<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Failed {
    move |error| Failed::Step { step, error: error.into() }
}
