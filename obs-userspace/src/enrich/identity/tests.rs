//! From the question to the answer: real processes, made-up ones, and runtimes that come and go.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use super::*;

const ID: &str = "3f4c8e1b7a2d5f60918273645a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b";

fn wait_for<T>(mut what: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = what() {
            return found;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "it never came");
        thread::sleep(Duration::from_millis(2));
    }
}

fn wait_known(identities: &Identities, pid: u32, started_ns: u64) -> Arc<Identity> {
    wait_for(|| match identities.lookup(pid, started_ns) {
        Lookup::Known(identity) => Some(identity),
        Lookup::Pending => None,
        Lookup::Unknown(reason) => panic!("{reason}"),
    })
}

/// When a process started, read independently of the code under test.
fn started_ns(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let ticks: u64 = stat.rsplit(')').next().unwrap().split_whitespace().nth(19).unwrap().parse().unwrap();
    ticks * NS_PER_TICK
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_known_a_little_later_and_also_when_it_has_ended() {
    let identities = Identities::start(IdentityOptions::default()).unwrap();
    let child = Killed(
        Command::new("sh")
            .args(["-c", "read line; :", "x", "--password=hunter2"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let (pid, started) = (child.0.id(), started_ns(child.0.id()));
    // The shell may not have been started yet: then it is still this test.
    let identity = wait_for(|| {
        let identity = wait_known(&identities, pid, started);
        identities.notice(pid, None);
        identity.command_line.as_ref().is_some_and(|line| line.starts_with("sh ")).then_some(identity)
    });
    assert_eq!(identity.command_line.as_deref(), Some("sh -c 'read line; :' x --password=[redacted]"));
    assert_eq!((identity.secrets_redacted, identity.parent_pid), (1, std::process::id()));
    drop(child);
    // Not all notices are heeded: many may have gone before while the shell was started.
    wait_for(|| {
        identities.notice(pid, None);
        (identities.counts().processes_missed > 0).then_some(())
    });
    assert!(matches!(identities.lookup(pid, started), Lookup::Known(_)));
    // Another one under this pid is another one.
    let unknown = wait_for(|| match identities.lookup(pid, started + 5 * NS_PER_TICK) {
        Lookup::Unknown(reason) => Some(reason),
        Lookup::Known(_) => panic!("it is another process"),
        Lookup::Pending => None,
    });
    assert!(unknown.contains("ended"), "{unknown}");
}

/// Told of when it starts, a process is known though nobody asked while it lived.
#[test]
fn a_short_lived_process_that_was_told_of() {
    let identities = Identities::start(IdentityOptions::default()).unwrap();
    let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
    let (pid, started) = (child.id(), started_ns(child.id()));
    identities.notice(pid, None);
    wait_for(|| (identities.counts().processes_read > 0).then_some(()));
    drop(child.stdin.take());
    child.wait().unwrap();
    assert!(matches!(identities.lookup(pid, started), Lookup::Known(_)));
}

/// A made-up `/proc` with processes that all run in one container.
fn made_up(folder: &Path, pids: std::ops::RangeInclusive<u32>) -> IdentityOptions {
    for pid in pids {
        let process = folder.join("proc").join(pid.to_string());
        fs::create_dir_all(&process).unwrap();
        let stat = format!("{pid} (web) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {pid} 0 0 0");
        fs::write(process.join("stat"), stat).unwrap();
        fs::write(process.join("status"), "Name:\tweb\nUid:\t33\t33\t33\t33\n").unwrap();
        fs::write(process.join("cgroup"), format!("0::/docker/{ID}\n")).unwrap();
        fs::write(process.join("cmdline"), b"web\0--listen\0:80\0").unwrap();
    }
    fs::write(folder.join("passwd"), "www-data:x:33:33::/:/bin/sh\n").unwrap();
    IdentityOptions {
        proc: folder.join("proc"),
        passwd: folder.join("passwd"),
        runtimes: RuntimePaths::below(folder),
        answer_limit: Duration::from_millis(500),
        ..IdentityOptions::default()
    }
}

#[test]
fn a_container_is_asked_for_once_and_again_when_its_runtime_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let options = made_up(folder.path(), 1000..=1100);
    let socket = options.runtimes.docker_sockets[0].clone();
    let identities = Identities::start(options).unwrap();
    let identity = wait_for(|| {
        let identity = wait_known(&identities, 1000, 1000 * NS_PER_TICK);
        let container = identity.container.clone().unwrap();
        container.unknown.as_ref().is_some_and(|reason| reason.contains("no runtime")).then_some(identity)
    });
    assert_eq!((identity.user_id, identity.user_name.as_deref()), (Some(33), None), "the host's name is not its own");
    assert_eq!(
        identity.container.as_ref().and_then(|container| container.runtime).map(crate::model::container::Runtime::name),
        Some("docker")
    );
    // 100 processes more, and no question more: the runtime is left alone for a while.
    for pid in 1001..=1100 {
        wait_known(&identities, pid, u64::from(pid) * NS_PER_TICK);
    }
    assert!(identities.counts().containers_failed <= 2, "{:?}", identities.counts());

    let asked = Arc::new(AtomicU32::new(0));
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let count = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream
                .write_all(b"HTTP/1.0 200 OK\r\n\r\n{\"Name\":\"/shop\",\"Config\":{\"Labels\":{\"team\":\"a\"}}}");
        }
    });
    let name = |pid: u32| {
        let identity = wait_known(&identities, pid, u64::from(pid) * NS_PER_TICK);
        identity.container.as_ref().and_then(|container| container.details.name.clone())
    };
    assert_eq!(&*wait_for(|| name(1000)), "shop");
    // All its processes have it, and it was asked for once.
    assert!((1001..=1100).all(|pid| name(pid).as_deref() == Some("shop")));
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

/// A process that makes whoever reads its command line wait: a pipe that nobody writes to stands for it.
#[test]
fn a_process_that_makes_readers_wait_does_not_hold_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let options = made_up(folder.path(), 1..=50);
    let trap = folder.path().join("proc/1/cmdline");
    fs::remove_file(&trap).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &trap, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let identities = Identities::start(options).unwrap();
    assert_eq!(identities.lookup(1, NS_PER_TICK), Lookup::Pending);
    for pid in 2..=50_u32 {
        let begin = Instant::now();
        let _ = identities.lookup(pid, u64::from(pid) * NS_PER_TICK);
        assert!(begin.elapsed() < STUCK_AFTER, "the question itself waited");
    }
    for pid in 2..=50_u32 {
        wait_known(&identities, pid, u64::from(pid) * NS_PER_TICK);
    }
    assert_eq!(identities.counts().processes_stuck, 1);
    let Lookup::Unknown(reason) = identities.lookup(1, NS_PER_TICK) else { panic!("it cannot be known") };
    assert!(reason.contains("too long"), "{reason}");
    // The stuck thread comes back, and ends.
    fs::OpenOptions::new().write(true).open(&trap).unwrap();
    wait_for(|| (identities.shared.lock().stuck == 0).then_some(()));
}

#[test]
fn everything_is_bounded() {
    let mut state = State::default();
    for pid in 0..20_000_u32 {
        let known = Identity { pid, command_line: Some("x".repeat(4000).into()), ..nobody() };
        state.note_known(known);
        assert!(state.processes.len() <= PROCESSES_MAX && state.process_bytes <= PROCESS_BYTES_MAX);
    }
    assert_eq!(state.processes.len() as u64 + state.counts.processes_evicted, 20_000);
    assert_eq!(state.process_bytes, state.processes.values().map(|process| process.bytes).sum::<usize>());
    assert!(state.processes.contains_key(&(19_999, 0)), "the newest stay");
    for pid in 0..20_000_u32 {
        state.note_unknown((pid, 7), "gone".into());
    }
    assert!(state.processes.len() <= PROCESSES_MAX);

    let folder = tempfile::tempdir().unwrap();
    let options = IdentityOptions { proc: folder.path().join("none"), ..IdentityOptions::default() };
    let identities = Identities::start(options).unwrap();
    let begin = Instant::now();
    for pid in 0..50_000 {
        identities.notice(pid, None);
        let _ = identities.lookup(pid, 0);
    }
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(identities.shared.lock().questions.len() <= QUEUE_MAX);
    wait_for(|| {
        let counts = identities.counts();
        assert!(counts.notices_skipped > 40_000, "{counts:?}");
        (counts.processes_missed + counts.questions_dropped + counts.notices_skipped == 100_000).then_some(())
    });
}

fn nobody() -> Identity {
    Identity {
        pid: 0,
        started_ns: 0,
        parent_pid: 0,
        name: "x".into(),
        command_line: None,
        secrets_redacted: 0,
        is_command_line_cut: false,
        executable: None,
        user_id: None,
        user_name: None,
        cgroup: None,
        unit: None,
        container: None,
    }
}

#[test]
fn threads_end_with_it() {
    let identities = Identities::start(IdentityOptions::default()).unwrap();
    let shared = Arc::downgrade(&identities.shared);
    drop(identities);
    wait_for(|| (shared.strong_count() == 0).then_some(()));
}
