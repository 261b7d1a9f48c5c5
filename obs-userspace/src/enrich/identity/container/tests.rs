//! Runtimes that answer well, badly, slowly and not at all; and what they keep in files.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixListener,
    thread,
    time::Instant,
};

use super::*;

const ID: &str = "3f4c8e1b7a2d5f60918273645a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b";
const LIMIT: Duration = Duration::from_millis(500);

fn container(runtime: Option<Runtime>) -> ContainerIdentity {
    ContainerIdentity {
        id: ID.into(),
        runtime,
        pod_id: None,
        details: ContainerDetails::default(),
        unknown: Some("not asked".into()),
    }
}

/// A server that sends this to everybody who asks, in pieces with a pause between them.
fn serve(path: &Path, pieces: Vec<Vec<u8>>, pause: Duration) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            for piece in &pieces {
                if stream.write_all(piece).is_err() {
                    break;
                }
                thread::sleep(pause);
            }
        }
    });
}

fn docker(answer: &[u8]) -> (tempfile::TempDir, RuntimePaths) {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    serve(&paths.docker_sockets[0], vec![answer.to_owned()], Duration::ZERO);
    (folder, paths)
}

fn ask_docker(paths: &RuntimePaths) -> Result<(Answer, Option<Runtime>), String> {
    ask(paths, &container(Some(Runtime::Docker)), "/", LIMIT)
}

#[test]
fn an_answer_of_docker() {
    let (_folder, paths) =
        docker(b"HTTP/1.0 200 OK\r\n\r\n{\"Name\":\"/web\",\"Config\":{\"Image\":\"nginx\",\"Labels\":{\"a\":\"b\"}}}");
    let (answer, runtime) = ask_docker(&paths).unwrap();
    assert_eq!((answer.details.name.as_deref(), runtime), (Some("web"), Some(Runtime::Docker)));
    // Whose runtime the path does not tell, it is found out.
    let (answer, runtime) = ask(&paths, &container(None), "/", LIMIT).unwrap();
    assert_eq!((answer.details.image.as_deref(), runtime), (Some("nginx"), Some(Runtime::Docker)));
}

#[test]
fn answers_that_are_none() {
    for (answer, problem) in [
        (&b"HTTP/1.0 500 Oops\r\n\r\n"[..], "status 500"),
        (b"HTTP/1.0 200 OK\r\n\r\n{", "EOF"),
        (b"HTTP/1.0 404 No\r\n\r\n", "no runtime that obs knows has it"),
        (b"\xff\xff\xff", "not HTTP"),
        (b"", "not HTTP"),
    ] {
        let (_folder, paths) = docker(answer);
        let told = ask_docker(&paths).unwrap_err();
        assert!(told.contains(problem), "{told}");
    }
}

#[test]
fn an_endless_answer_and_a_slow_one_end() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    serve(&paths.docker_sockets[0], vec![vec![b'x'; 1 << 20]; 100], Duration::ZERO);
    assert!(ask_docker(&paths).unwrap_err().contains("more than"));
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    // Each byte comes in time; all of them do not.
    serve(&paths.docker_sockets[0], vec![vec![b'x']; 1000], LIMIT / 4);
    let begin = Instant::now();
    assert!(ask_docker(&paths).unwrap_err().contains("in time"));
    assert!(begin.elapsed() < LIMIT * 20);
}

/// A server whose queue of connections is full and that accepts none.
#[test]
fn a_server_that_accepts_nobody_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let socket = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let mut open = Vec::new();
    let error = loop {
        match socket::Connection::open(&path, LIMIT) {
            Ok(connection) => open.push(connection),
            Err(error) => break error,
        }
        assert!(open.len() < 10);
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn without_a_runtime_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    for runtime in [None, Some(Runtime::Docker), Some(Runtime::Podman), Some(Runtime::CriO), Some(Runtime::Containerd)]
    {
        assert_eq!(ask(&paths, &container(runtime), "/", LIMIT).unwrap_err(), "no runtime that obs knows has it");
    }
    // An id that would lead elsewhere is never part of a path.
    let hostile = ContainerIdentity { id: "../../etc/x".into(), ..container(None) };
    assert!(ask(&paths, &hostile, "/", LIMIT).unwrap_err().contains("not one that a runtime gives"));
    let lxc = ContainerIdentity { id: "web".into(), ..container(Some(Runtime::Lxc)) };
    assert_eq!(ask(&paths, &lxc, "/", LIMIT).unwrap().0.details.name.as_deref(), Some("web"));
}

#[test]
fn a_users_socket_answers_for_that_user_only() {
    let (folder, paths) = docker(b"HTTP/1.0 200 OK\r\n\r\n{\"Name\":\"hosts\"}");
    let users = folder.path().join("run/user/1000/podman/podman.sock");
    serve(&users, vec![b"HTTP/1.0 200 OK\r\n\r\n{\"Name\":\"users\"}".to_vec()], Duration::ZERO);
    let name = |cgroup: &str| {
        let asked = ask(&paths, &container(None), cgroup, LIMIT);
        asked.map(|(answer, _)| answer.details.name.unwrap().to_string())
    };
    assert_eq!(name("/user.slice/user-1000.slice/user@1000.service/x.scope").unwrap(), "users");
    assert_eq!(name("/machine.slice/x.scope").unwrap(), "hosts");
    assert!(name("/user.slice/user-1001.slice/x.scope").unwrap_err().contains("user/1001/podman"));
}

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn files_of_containerd() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    let config = r#"{"ociVersion":"1","annotations":{"io.kubernetes.cri.container-name":"web",
        "io.kubernetes.cri.sandbox-name":"web-0","io.kubernetes.cri.sandbox-namespace":"shop",
        "io.kubernetes.cri.sandbox-uid":"uid-1","io.kubernetes.cri.image-name":"nginx:1"}}"#;
    write(folder.path(), &format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"), config);
    let (answer, runtime) = ask(&paths, &container(None), "/", LIMIT).unwrap();
    let details = answer.details;
    assert_eq!((details.name.as_deref(), details.image.as_deref()), (Some("web"), Some("nginx:1")));
    assert_eq!((details.pod_name.as_deref(), details.pod_namespace.as_deref()), (Some("web-0"), Some("shop")));
    assert_eq!((answer.pod_id.as_deref(), runtime), (Some("uid-1"), Some(Runtime::Containerd)));
}

#[test]
fn files_of_podman_and_of_cri_o() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    let storage = "var/lib/containers/storage/overlay-containers";
    let other = ID.replace('3', "4");
    let all = format!(
        r#"[{{"id":"{ID}","names":["web"],"metadata":"{{\"image-name\":\"nginx:1\",\"name\":\"web\"}}"}},
            {{"id":"{other}","names":["k8s_web"],"metadata":"{{\"image-name\":\"n\",\"pod-name\":\"web-0\",\"namespace\":\"shop\",\"metadata-name\":\"web\"}}"}}]"#
    );
    write(folder.path(), &format!("{storage}/containers.json"), &all);
    let labels = r#"{"annotations":{"io.kubernetes.cri-o.Labels":"{\"io.kubernetes.container.name\":\"web\",\"io.kubernetes.pod.uid\":\"uid-1\",\"team\":\"a\"}"}}"#;
    write(folder.path(), &format!("{storage}/{other}/userdata/config.json"), labels);
    let (answer, _) = ask(&paths, &container(Some(Runtime::Podman)), "/", LIMIT).unwrap();
    assert_eq!((answer.details.name.as_deref(), answer.details.image.as_deref()), (Some("web"), Some("nginx:1")));
    let of_cri_o = ContainerIdentity { id: other.into(), ..container(Some(Runtime::CriO)) };
    let (answer, _) = ask(&paths, &of_cri_o, "/", LIMIT).unwrap();
    assert_eq!((answer.details.pod_name.as_deref(), answer.pod_id.as_deref()), (Some("web-0"), Some("uid-1")));
    assert_eq!(answer.details.labels.get("team").map(|value| &**value), Some("a"));
    // Garbage is no container, and says nothing.
    write(folder.path(), &format!("{storage}/containers.json"), "{");
    assert!(ask(&paths, &of_cri_o, "/", LIMIT).is_err());
}

#[test]
fn files_of_docker() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    let config = r#"{"Name":"/web","Config":{"Image":"nginx:1","Labels":{}}}"#;
    write(folder.path(), &format!("var/lib/docker/containers/{ID}/config.v2.json"), config);
    let (answer, _) = ask_docker(&paths).unwrap();
    assert_eq!(answer.details.name.as_deref(), Some("web"));
}

#[test]
fn containers_that_only_runc_knows_by_their_cgroup() {
    let folder = tempfile::tempdir().unwrap();
    let paths = RuntimePaths::below(folder.path());
    let state = |path: &str| {
        format!(r#"{{"cgroup_paths":{{"":"/sys/fs/cgroup{path}"}},"config":{{"labels":["team=a","bundle=/x"]}}}}"#)
    };
    write(folder.path(), "run/runc/web-1/state.json", &state("/web-1"));
    write(folder.path(), "run/runc/web-2/state.json", &state("/system.slice/runc-web-2.scope"));
    write(folder.path(), "run/containerd/runc/default/web/state.json", &state("/default/web"));
    write(folder.path(), "run/runc/other/state.json", &state("/elsewhere/other2"));
    let find = |cgroup: &str| find_by_cgroup(&paths, cgroup).map(|found| (found.id.to_string(), found.runtime));
    assert_eq!(find("/web-1"), Some(("web-1".to_owned(), Runtime::Runc)));
    assert_eq!(find("/web-1/below/it"), Some(("web-1".to_owned(), Runtime::Runc)));
    assert_eq!(find("/system.slice/runc-web-2.scope"), Some(("web-2".to_owned(), Runtime::Runc)));
    assert_eq!(find("/default/web"), Some(("web".to_owned(), Runtime::Containerd)));
    for cgroup in ["/", "", "/other", "/web-3", "/../web-1x", "/system.slice", "/a/b/c/d/e/f/g/web-1/1/2/3/4/5"] {
        assert_eq!(find(cgroup), None, "{cgroup}");
    }
    let known = ContainerIdentity { id: "web-1".into(), ..container(Some(Runtime::Runc)) };
    let (answer, _) = ask(&paths, &known, "/web-1", LIMIT).unwrap();
    assert_eq!(answer.details.labels.into_iter().collect::<Vec<_>>(), [("team".into(), "a".into())]);
}

#[test]
fn what_others_write_is_bounded() {
    assert_eq!(bounded(""), None);
    assert_eq!(bounded("a\nb").as_deref(), Some("a\u{fffd}b"));
    assert_eq!(bounded(&"é".repeat(1000)).map(|text| text.len()), Some(TEXT_BYTES_MAX));
    let many: HashMap<String, String> = (0..1000).map(|number| (format!("{number:04}"), "x".to_owned())).collect();
    assert_eq!(bounded_map(&many).len(), LABELS_MAX);
    let large: HashMap<String, String> = (0..64).map(|number| (format!("{number:04}"), "x".repeat(9999))).collect();
    assert_eq!(bounded_map(&large).len(), LABEL_BYTES_MAX / (TEXT_BYTES_MAX + 4));
}
