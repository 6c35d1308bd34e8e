//! Network namespaces for tests, and functions that observe them.
//!
//! Every namespace lives as long as one thread inside it; nothing is mounted, so nothing can be left behind. The "host"
//! of a test is such a namespace too, so the real host is never changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_core::netlink::{Applied, Executor};
use weft_core::plan::{Op, Plan};

use crate::plans::plan;

/// How long to wait for the kernel's background work. Machines that run tests are busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// A network namespace and the thread that keeps it. Its methods work directly inside a job on that thread.
pub(crate) struct Ns {
    jobs: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
    path: PathBuf,
}

impl Ns {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (report, reported) = mpsc::channel();
        let thread = thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare needs root");
            let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid());
            report.send(PathBuf::from(path)).expect("creator waits");
            while let Ok(job) = queue.recv() {
                job();
            }
        });
        let path = reported.recv().expect("thread started");
        Self { jobs: Some(jobs), thread: Some(thread), path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread into the namespace. Such threads work at the same time, unlike those that `run` waits for.
    pub(crate) fn enter(&self) {
        let namespace = std::fs::File::open(self.path()).expect("a namespace");
        nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
    }

    /// Runs a closure inside; a panic in it becomes the caller's panic.
    pub(crate) fn run<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        if self.thread.as_ref().is_some_and(|thread| thread.thread().id() == thread::current().id()) {
            return job();
        }
        let (report, reported) = mpsc::channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            report.send(outcome).ok();
        };
        let boxed: Box<dyn FnOnce() + Send + '_> = Box::new(job);
        #[expect(unsafe_code, reason = "a scoped closure on a long-lived thread")]
        // SAFETY: this function waits for the report, which the job sends last, so all that the job borrows outlives it.
        let boxed: Box<dyn FnOnce() + Send + 'static> = unsafe { std::mem::transmute(boxed) };
        self.jobs.as_ref().expect("alive").send(boxed).expect("thread alive");
        match reported.recv().expect("job reports") {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs a command line inside, which must succeed.
    pub(crate) fn sh(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }

    pub(crate) fn json(&self, line: &str) -> Value {
        let text = self.sh(line);
        if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text).expect("JSON from ip or nft") }
    }

    /// Returns `ip -j -d link show dev NAME`, or nothing.
    pub(crate) fn link(&self, name: &str) -> Option<Value> {
        let links = self.json("ip -j -d link");
        links.as_array().expect("list").iter().find(|link| link["ifname"] == name).cloned()
    }

    /// Returns the addresses of a link as `address/length`.
    pub(crate) fn addresses(&self, name: &str) -> Vec<String> {
        let links = self.json("ip -j addr");
        let link = links.as_array().expect("list").iter().find(|link| link["ifname"] == name).cloned();
        let Some(link) = link else { return Vec::new() };
        let infos = link["addr_info"].as_array().cloned().unwrap_or_default();
        infos.iter().map(|info| format!("{}/{}", info["local"].as_str().expect("local"), info["prefixlen"])).collect()
    }

    pub(crate) fn ruleset(&self) -> String {
        self.sh("nft list ruleset")
    }

    pub(crate) fn sysctl(&self, key: &str) -> String {
        let key = key.to_owned();
        // In one read, because a list of ports can be read only from its start.
        self.sh(&format!("cat /proc/sys/net/{key}")).trim().to_owned()
    }

    pub(crate) fn set_sysctl(&self, key: &str, value: &str) {
        let (key, value) = (key.to_owned(), value.to_owned());
        self.run(move || fs::write(format!("/proc/sys/net/{key}"), value).expect(&key));
    }

    /// Returns everything that a failed ADD must leave unchanged.
    pub(crate) fn snapshot(&self) -> Value {
        let mut all = json!({
            "link": self.json("ip -j -d link"),
            "addr": self.json("ip -j addr"),
            "route4": self.json("ip -j -4 route show table all"),
            "route6": self.json("ip -j -6 route show table all"),
            "rule4": self.json("ip -j -4 rule"),
            "rule6": self.json("ip -j -6 rule"),
            "shaping": self.shaping(),
            "ruleset": self.json("nft -j list ruleset"),
            "sysctl": self.run(sysctls),
        });
        remove_volatile(&mut all);
        all
    }

    /// Returns the queueing disciplines that a program configured; the kernel's own have no handle.
    fn shaping(&self) -> Value {
        let all = self.json("tc -j qdisc");
        let asked = all.as_array().expect("list").iter().filter(|qdisc| qdisc["handle"] != "0:");
        // Packet counters are not part of its identity.
        let own = asked.map(|qdisc| json!([qdisc["dev"], qdisc["kind"], qdisc["handle"], qdisc["options"]]));
        own.collect()
    }

    /// Waits for the kernel's background work on links that just came up.
    pub(crate) fn settle(&self) {
        let mut last = Value::Null;
        eventually("the namespace settles", || {
            thread::sleep(Duration::from_millis(100));
            let now = self.snapshot();
            let settled = now == last && !self.sh("ip addr").contains("tentative");
            last = now;
            settled
        });
    }

    /// Waits until the snapshot equals `before` again; the kernel cleans up partly in the background.
    pub(crate) fn assert_snapshot(&self, before: &Value, what: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let now = self.snapshot();
            if now == *before {
                return;
            }
            if Instant::now() > deadline {
                let difference = difference("", before, &now);
                panic!("{what}: left behind or lost:\n{}", difference.join("\n"));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Ns {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Runs a job with an executor in the host's namespace for the pod's.
pub(crate) fn with_executor<T: Send>(host: &Ns, pod: &Ns, job: impl FnOnce(&mut Executor) -> T + Send) -> T {
    host.run(|| job(&mut Executor::open(Some(pod.path())).expect("executor")))
}

/// Applies ops that must succeed.
pub(crate) fn apply(host: &Ns, pod: &Ns, ops: Vec<Op>) {
    with_executor(host, pod, |executor| drop(applied(executor, &plan(ops))));
}

pub(crate) fn applied(executor: &mut Executor, plan: &Plan) -> Applied {
    executor.apply(plan).unwrap_or_else(|error| panic!("{error}: {} {:?}", error.cause, error.leftovers))
}

/// Applies ops that must fail, and leave nothing behind. Returns the op's index and the reason.
pub(crate) fn refused(host: &Ns, pod: &Ns, ops: Vec<Op>) -> (usize, String) {
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    let error = with_executor(host, pod, |executor| executor.apply(&plan(ops)).expect_err("must fail"));
    assert!(error.leftovers.is_empty(), "{:?}", error.leftovers);
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
    (error.at, error.cause.to_string())
}

/// Applies ops, lets `look` inspect the state, and undoes the ops: everything must be as before.
pub(crate) fn there_and_back(host: &Ns, pod: &Ns, ops: Vec<Op>, look: impl FnOnce() + Send) {
    let (host_before, pod_before) = (host.snapshot(), pod.snapshot());
    let errors = with_executor(host, pod, |executor| {
        let applied = applied(executor, &plan(ops));
        look();
        executor.undo(applied)
    });
    assert!(errors.is_empty(), "{errors:?}");
    host.assert_snapshot(&host_before, "host");
    pod.assert_snapshot(&pod_before, "pod");
}

/// Runs a command line in the calling thread's namespace.
pub(crate) fn sh(line: &str) -> String {
    let output = Command::new("sh").arg("-c").arg(line).stdin(Stdio::null()).output().expect("sh");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {}{text}", String::from_utf8_lossy(&output.stderr));
    text
}

/// Returns all sysctls of IPv4 and IPv6 configuration, and forwarding.
fn sysctls() -> Value {
    let mut found = serde_json::Map::new();
    let mut read = |path: PathBuf| {
        if let Ok(text) = fs::read_to_string(&path) {
            found.insert(path.display().to_string(), json!(text.trim()));
        }
    };
    read(PathBuf::from("/proc/sys/net/ipv4/ip_forward"));
    for tree in ["/proc/sys/net/ipv4/conf", "/proc/sys/net/ipv6/conf"] {
        for link in fs::read_dir(tree).into_iter().flatten().flatten() {
            for key in fs::read_dir(link.path()).into_iter().flatten().flatten() {
                // The kernel generates it with the first link-local address.
                if key.file_name() != "stable_secret" {
                    read(key.path());
                }
            }
        }
    }
    Value::Object(found)
}

/// Removes what changes by itself or cannot be restored: timers, addresses in duplicate address detection, and the
/// queueing discipline, which a link gets when it first comes up and then keeps.
fn remove_volatile(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| {
                !key.ends_with("_timer") && !["tentative", "metainfo", "qdisc"].contains(&key.as_str())
            });
            map.values_mut().for_each(remove_volatile);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_volatile),
        _ => {}
    }
}

fn difference(at: &str, a: &Value, b: &Value) -> Vec<String> {
    match (a, b) {
        _ if a == b => Vec::new(),
        (Value::Object(x), Value::Object(y)) => {
            let keys: std::collections::BTreeSet<_> = x.keys().chain(y.keys()).collect();
            let null = Value::Null;
            let pair = |key: &String| (x.get(key).unwrap_or(&null).clone(), y.get(key).unwrap_or(&null).clone());
            keys.into_iter()
                .flat_map(|key| {
                    let (p, q) = pair(key);
                    difference(&format!("{at}/{key}"), &p, &q)
                })
                .collect()
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().flat_map(|(i, (p, q))| difference(&format!("{at}/{i}"), p, q)).collect()
        }
        _ => vec![format!("{at}: {a} -> {b}")],
    }
}

/// Polls until true.
pub(crate) fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !test() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
