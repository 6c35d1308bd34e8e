//! Plugins that answer, fail, hang, cannot be killed, or say too much.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sched::CloneFlags;

use super::*;

fn run(script: &str, stdin: &str, limit: Duration) -> Result<Answer, ExecError> {
    run_by(Caller::Weft, script, stdin, limit)
}

fn run_by(caller: Caller, script: &str, stdin: &str, limit: Duration) -> Result<Answer, ExecError> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plugin");
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let path = [dir.path().to_owned()];
    exec(&ExecCall {
        plugin: "plugin",
        verb: "ADD",
        container_id: "c1",
        netns: "/n",
        ifname: "eth0",
        args: "A=b",
        path: &path,
        stdin: stdin.as_bytes(),
        stderr: Stderr::Kept,
        limit,
        caller,
    })
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn stdin_and_environment_reach_the_plugin() {
    let answer = run(r#"cat; echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_NETNS $CNI_IFNAME $CNI_ARGS""#, "{}", LONG);
    assert_eq!(answer.unwrap().stdout, b"{}ADD c1 /n eth0 A=b\n");
    let long = "x".repeat(300_000);
    assert_eq!(run("cat", &long, LONG).unwrap().stdout.len(), long.len());
    assert!(run("exit 0", &long, LONG).is_ok(), "a plugin need not read its stdin");
}

#[test]
fn what_weft_runs_knows_that_it_is_inside() {
    let said = run("echo \"${WEFT_INSIDE-}\"", "{}", LONG).unwrap();
    assert_eq!(said.stdout, b"1\n");
    let said = run_by(Caller::Runtime, "echo \"${WEFT_INSIDE-none}\"", "{}", LONG).unwrap();
    assert_eq!(said.stdout, b"none\n");
}

#[test]
fn a_plugin_that_hangs_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!("(sleep 1; touch {}) & sleep 600", mark.display());
    let error = run(&script, "{}", Duration::from_millis(300)).unwrap_err();
    assert_eq!(error.code(), 11);
    let text = error.to_string();
    assert!(text.starts_with("CNI plugin \"plugin\" did not finish ADD within 0.3 s and was killed"), "{text}");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!mark.exists(), "its child lived on");
}

#[test]
fn a_child_that_keeps_the_pipes_open_is_not_waited_for() {
    let answer = run("echo '{}'; sleep 600 &", "{}", LONG).unwrap();
    assert_eq!(answer.stdout, b"{}\n");
}

#[test]
fn errors_are_those_of_the_plugin() {
    let own = run(r#"echo '{"code": 50, "msg": "no", "details": "d"}'; exit 1"#, "{}", LONG).unwrap_err().into_cni();
    assert_eq!(own, CniError::new(50, "no").with_details("d"));
    let silent = run("echo boom >&2; exit 3", "{}", LONG).unwrap_err().into_cni();
    assert_eq!(silent.msg, "netplugin failed: \"boom\\n\": plugin \"plugin\", exit status 3");
    let killed = run("kill -9 $$", "{}", LONG).unwrap_err().into_cni();
    assert!(killed.msg.contains("the node has no memory left"), "{}", killed.msg);
    let missing = find("calico", &["/nowhere".into(), "/elsewhere".into()]).unwrap_err();
    assert_eq!(missing.to_string(), "failed to find plugin \"calico\" in path [/nowhere /elsewhere]");
    assert_eq!(missing.code(), 7);
}

#[test]
fn a_plugin_with_endless_output_is_killed() {
    let error = run("yes", "{}", LONG).unwrap_err();
    assert!(matches!(error, ExecError::TooLarge { .. }), "{error}");
    assert_eq!(error.code(), 6);
}
#[test]
#[ignore = "needs root, for a PID namespace"]
fn a_killed_plugin_that_cannot_end_is_left_and_reaped_later() {
    // The first process of a PID namespace cannot end before its other processes are reaped.
    let sleep = || Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
    let unshared = std::thread::spawn(move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWPID).unwrap();
        sleep()
    });
    let first = unshared.join().unwrap();
    let pid = first.id();
    let entered = std::thread::spawn(move || {
        let namespace = fs::File::open(format!("/proc/{pid}/ns/pid")).unwrap();
        nix::sched::setns(namespace, CloneFlags::CLONE_NEWPID).unwrap();
        sleep()
    });
    let mut other = entered.join().unwrap();

    assert_eq!(kill(first, Duration::from_millis(50)), Fate::Unended);
    let is_left = || left().iter().any(|left| u32::try_from(left.as_raw()) == Ok(pid));
    reap();
    assert!(is_left(), "it has not ended");
    other.wait().unwrap();
    while is_left() {
        reap();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it was reaped");

    let (plugin, verb) = ("p".to_owned(), "ADD".to_owned());
    let text = ExecError::TimedOut { plugin, verb, seconds: 2.0, fate: Fate::Unended }.to_string();
    assert!(text.contains("within 2 s and was killed, but has not ended"), "{text}");
}

/// A plugin whose file system does not answer when the kernel opens the file to execute it, until this is dropped.
struct Unanswering {
    _lease: fs::File,
    dir: tempfile::TempDir,
}

impl Unanswering {
    /// A lease makes the kernel wait for its holder, which never looks. The kernel gives up after 45 s.
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("plugin");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let lease = fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
        #[expect(unsafe_code, reason = "nix has no leases")]
        // SAFETY: the descriptor is open, and both commands take a number. Without an owner, nobody gets a signal.
        let outcome = unsafe {
            use std::os::fd::AsRawFd as _;
            let fd = lease.as_raw_fd();
            let taken = nix::libc::fcntl(fd, nix::libc::F_SETLEASE, nix::libc::F_WRLCK);
            taken | nix::libc::fcntl(fd, nix::libc::F_SETOWN, 0)
        };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        Self { _lease: lease, dir }
    }
}

#[test]
fn a_file_system_that_does_not_answer_is_not_waited_for() {
    let mark = tempfile::tempdir().unwrap();
    let started = mark.path().join("started");
    let plugin = Unanswering::new(&format!("cat > /dev/null; touch {}", started.display()));
    let path = [plugin.dir.path().to_owned()];
    let call = ExecCall {
        plugin: "plugin",
        verb: "ADD",
        container_id: "c1",
        netns: "/n",
        ifname: "eth0",
        args: "",
        path: &path,
        stdin: b"{}",
        stderr: Stderr::Kept,
        limit: Duration::from_millis(200),
        caller: Caller::Weft,
    };
    let error = exec(&call).unwrap_err();
    assert!(matches!(error, ExecError::NotStarted { .. }), "{error}");
    assert_eq!(error.code(), 11);
    let text = error.to_string();
    assert!(text.starts_with("CNI plugin \"plugin\" could not be started within 0.2 s: the file system"), "{text}");
    assert!(text.contains(&path[0].display().to_string()), "{text}");
    // Other plugins run meanwhile, and the late one gets no input and is killed.
    assert_eq!(run("cat", "{}", LONG).unwrap().stdout, b"{}");
    drop(plugin);
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!started.exists(), "a plugin that weft gave up has run");
}

#[test]
fn what_comes_too_late_is_taken_back() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (report, reported) = std::sync::mpsc::channel();
    let job = move || wait.recv().map_or(0, |()| 7);
    let late = move |number: i32| report.send(number).unwrap();
    assert_eq!(by_deadline(Instant::now(), job, late).unwrap(), None);
    go.send(()).unwrap();
    assert_eq!(reported.recv().unwrap(), 7);
}
