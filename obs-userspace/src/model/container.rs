//! What the paths of cgroups say: which container, runtime, pod and systemd unit something belongs to. Pure.

use std::{fmt, sync::Arc};

/// Most characters of a container's id, and of a unit's name.
const NAME_CHARS_MAX: usize = 256;

/// Where a process stands in the cgroup hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPlace {
    /// The path that says most: that of the unified hierarchy, or, where that is the root, the deepest of the others.
    pub path: Option<Arc<str>>,
    /// The id of its container: 64 hexadecimal digits for the runtimes that use such, a name for LXC and nspawn.
    pub container_id: Option<Arc<str>>,
    /// What runs the container, where the path tells.
    pub runtime: Option<Runtime>,
    /// The id of its Kubernetes pod.
    pub pod_id: Option<Arc<str>>,
    /// The systemd unit that it belongs to.
    pub unit: Option<Unit>,
}

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Runtime {
    /// Docker.
    Docker,
    /// containerd, for Kubernetes, nerdctl or ctr.
    Containerd,
    /// CRI-O.
    CriO,
    /// Podman.
    Podman,
    /// runc by itself.
    Runc,
    /// systemd-nspawn.
    Nspawn,
    /// LXC, LXD, Incus.
    Lxc,
}

impl Runtime {
    /// Its name, as OpenTelemetry's `container.runtime.name` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Podman => "podman",
            Self::Runc => "runc",
            Self::Nspawn => "systemd-nspawn",
            Self::Lxc => "lxc",
        }
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A systemd unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    /// Its name, with systemd's escapes (`\x2d`) decoded.
    pub name: Arc<str>,
    /// Whose it is, for a unit of a user's own systemd.
    pub user_id: Option<u32>,
}

/// Reads `/proc/PID/cgroup`: one line per hierarchy, `NUMBER:CONTROLLERS:PATH`; the unified one is `0::PATH`.
#[must_use]
pub fn parse_cgroups(text: &str) -> CgroupPlace {
    let mut unified = None;
    let mut systemd = None;
    let mut deepest: Option<&str> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if number == "0" {
            unified = Some(path);
        } else if controllers == "name=systemd" {
            systemd = Some(path);
        }
        if deepest.is_none_or(|deepest| path.matches('/').count() > deepest.matches('/').count()) {
            deepest = Some(path);
        }
    }
    // In the hybrid layout the unified hierarchy may hold nothing but systemd's own tree, or only its root.
    let path = unified.filter(|path| *path != "/").or(deepest);
    let candidates = [unified, deepest];
    let container = candidates.iter().flatten().find_map(|path| container_of_path(path));
    CgroupPlace {
        path: path.map(Into::into),
        container_id: container.map(|(id, _)| id.into()),
        runtime: container.and_then(|(_, runtime)| runtime),
        pod_id: candidates.iter().flatten().find_map(|path| pod_of_path(path)),
        unit: [unified, systemd].iter().flatten().find_map(|path| unit_of_path(path)),
    }
}

/// The innermost container of a path, so that a container within a container is told from its host, and what runs it
/// where the path tells.
#[must_use]
pub fn container_of_path(path: &str) -> Option<(&str, Option<Runtime>)> {
    let mut parts = path.rsplit('/').filter(|part| !part.is_empty() && *part != "..").peekable();
    while let Some(part) = parts.next() {
        if let Some((id, runtime)) = container_of_part(part, parts.peek().copied()) {
            return (id.chars().count() <= NAME_CHARS_MAX).then_some((id, runtime));
        }
    }
    None
}

fn container_of_part<'a>(part: &'a str, parent: Option<&str>) -> Option<(&'a str, Option<Runtime>)> {
    if let Some(scope) = part.strip_suffix(".scope") {
        // systemd's form: `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`; podman's and
        // cri-o's monitors (`libpod-conmon-ID.scope`) are outside of the container that they serve.
        if scope.contains("-conmon-") {
            return None;
        }
        if let Some((prefix, id)) = scope.rsplit_once('-')
            && is_hexadecimal_id(id)
        {
            return Some((id, runtime_of_prefix(prefix)));
        }
        // `machine-NAME.scope`: systemd-nspawn, with `-` written as `\x2d`; virtual machines have it too, but no
        // processes of their own that we could see.
        let machine = scope.strip_prefix("machine-").filter(|_| parent == Some("machine.slice"))?;
        return Some((machine, Some(Runtime::Nspawn)));
    }
    if let Some(service) = part.strip_suffix(".service") {
        return Some((service.strip_prefix("systemd-nspawn@")?, Some(Runtime::Nspawn)));
    }
    // cri-containerd's other form: `kubepods-burstable-podUID.slice:cri-containerd:ID`.
    if let Some((prefix, id)) = part.rsplit_once(':')
        && is_hexadecimal_id(id)
    {
        return Some((id, runtime_of_prefix(prefix.rsplit(':').next().unwrap_or(prefix))));
    }
    // cgroupfs's form: `/docker/ID`, `/kubepods/besteffort/podUID/ID`, `/libpod_parent/libpod-ID`, `crio-ID`.
    if let Some((prefix @ ("libpod" | "crio"), id)) = part.split_once('-')
        && is_hexadecimal_id(id)
    {
        return Some((id, runtime_of_prefix(prefix)));
    }
    if is_hexadecimal_id(part) {
        return Some((part, parent.and_then(runtime_of_prefix)));
    }
    // AWS ECS: `/ecs/TASK/ID-NUMBER`, where a part begins with 32 hexadecimal digits.
    if let Some((id, number)) = part.split_once('-')
        && id.len() == 32
        && is_hexadecimal(id)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some((part, None));
    }
    // LXC: `/lxc/NAME`, `/lxc.payload.NAME`, `/lxc.payload/NAME`.
    let name = match part.strip_prefix("lxc.payload.") {
        Some(name) => name,
        None => Some(part).filter(|_| matches!(parent, Some("lxc" | "lxc.payload")))?,
    };
    Some((name, Some(Runtime::Lxc)))
}

fn runtime_of_prefix(prefix: &str) -> Option<Runtime> {
    match prefix {
        "docker" => Some(Runtime::Docker),
        "cri-containerd" | "containerd" | "nerdctl" => Some(Runtime::Containerd),
        "crio" => Some(Runtime::CriO),
        "libpod" | "libpod_parent" => Some(Runtime::Podman),
        _ => None,
    }
}

/// The Kubernetes pod of a path: `podUID`, or `…-podUID.slice` with `_` for `-`.
#[must_use]
pub fn pod_of_path(path: &str) -> Option<Arc<str>> {
    path.split('/').find_map(|part| {
        let part = part.split(':').next().unwrap_or(part);
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let id = part.rsplit_once("-pod").map(|(_, id)| id).or_else(|| part.strip_prefix("pod"))?;
        let id = id.replace('_', "-");
        let is_id =
            (id.len() == 36 || id.len() == 32) && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
        is_id.then(|| id.into())
    })
}

/// The systemd unit of a path, by systemd's own rule: the first part that is not a slice; and where that is a user's
/// manager (`user@UID.service`), the next such part is that user's unit.
#[must_use]
pub fn unit_of_path(path: &str) -> Option<Unit> {
    let mut parts = path.split('/').filter(|part| !part.is_empty() && !part.ends_with(".slice"));
    let first = unit_name(parts.next()?)?;
    let user_id = first.strip_prefix("user@").and_then(|rest| rest.strip_suffix(".service")?.parse().ok());
    let of_user = user_id.and_then(|_| unit_name(parts.next()?));
    Some(match of_user {
        Some(name) => Unit { name: decode_unit_name(name), user_id },
        None => Unit { name: decode_unit_name(first), user_id: None },
    })
}

/// A part of a path that is the name of a unit that can hold processes.
fn unit_name(part: &str) -> Option<&str> {
    // systemd puts `_` before names that the kernel's own files could have.
    let name = part.strip_prefix('_').unwrap_or(part);
    let (stem, kind) = name.rsplit_once('.')?;
    let holds_processes = matches!(kind, "service" | "scope" | "socket" | "mount" | "swap");
    (holds_processes && !stem.is_empty() && name.chars().count() <= NAME_CHARS_MAX).then_some(name)
}

/// A unit's name with `\xNN` decoded; what is no printable text then is replaced.
fn decode_unit_name(name: &str) -> Arc<str> {
    if !name.contains('\\') {
        return name.into();
    }
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = rest.strip_prefix(b"\\x").and_then(|digits| digits.split_at_checked(2));
        let byte = escaped.and_then(|(digits, after)| {
            let digits = str::from_utf8(digits).ok().filter(|digits| is_hexadecimal(digits))?;
            Some((u8::from_str_radix(digits, 16).ok()?, after))
        });
        let (byte, after) = byte.unwrap_or((*first, after));
        decoded.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&decoded).replace(char::is_control, "\u{fffd}").into()
}

fn is_hexadecimal_id(id: &str) -> bool {
    id.len() == 64 && is_hexadecimal(id)
}

fn is_hexadecimal(id: &str) -> bool {
    id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f4c8e1b7a2d5f60918273645a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b";
    const POD: &str = "0d2f0c1e-5c0f-4c8a-9a57-1f0c5b7b8f3e";

    #[test]
    fn known_paths() {
        let dashed = POD.replace('-', "_");
        let table = [
            // (path, container, pod)
            (format!("/docker/{ID}"), Some(ID), None),
            (format!("/system.slice/docker-{ID}.scope"), Some(ID), None),
            (format!("/system.slice/docker-{ID}.scope/init.scope"), Some(ID), None),
            (
                format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"),
                Some(ID),
                None,
            ),
            (format!("/machine.slice/libpod-{ID}.scope"), Some(ID), None),
            (format!("/machine.slice/libpod-conmon-{ID}.scope"), None, None),
            (format!("/libpod_parent/libpod-{ID}"), Some(ID), None),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{dashed}.slice/cri-containerd-{ID}.scope"
                ),
                Some(ID),
                Some(POD),
            ),
            (
                format!(
                    "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{dashed}.slice/crio-{ID}.scope"
                ),
                Some(ID),
                Some(POD),
            ),
            (format!("/kubepods.slice/kubepods-pod{dashed}.slice/crio-conmon-{ID}.scope"), None, Some(POD)),
            (format!("/kubepods/burstable/pod{POD}/{ID}"), Some(ID), Some(POD)),
            (format!("/kubepods/pod{POD}/crio-{ID}"), Some(ID), Some(POD)),
            (
                format!("/system.slice/containerd.service/kubepods-burstable-pod{dashed}.slice:cri-containerd:{ID}"),
                Some(ID),
                Some(POD),
            ),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{dashed}.slice/cri-containerd-{ID}.scope"
                ),
                Some(ID),
                Some(POD),
            ),
            ("/machine.slice/systemd-nspawn@debian.service/payload".to_owned(), Some("debian"), None),
            ("/machine.slice/machine-debian\\x2d12.scope".to_owned(), Some("debian\\x2d12"), None),
            ("/lxc/web".to_owned(), Some("web"), None),
            ("/lxc.payload.web/system.slice/cron.service".to_owned(), Some("web"), None),
            ("/lxc.payload/web".to_owned(), Some("web"), None),
            ("/lxc.monitor.web".to_owned(), None, None),
            (
                "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-2574823563".to_owned(),
                Some("0123456789abcdef0123456789abcdef-2574823563"),
                None,
            ),
            ("/".to_owned(), None, None),
            ("/user.slice/user-1000.slice/session-3.scope".to_owned(), None, None),
            ("/system.slice/ssh.service".to_owned(), None, None),
            ("/system.slice/docker.service".to_owned(), None, None),
        ];
        for (path, container, pod) in table {
            let place = parse_cgroups(&format!("0::{path}\n"));
            assert_eq!(place.container_id.as_deref(), container, "{path}");
            assert_eq!(place.pod_id.as_deref(), pod, "{path}");
            assert_eq!(place.path.as_deref(), Some(&*path));
        }
    }

    #[test]
    fn a_container_in_a_container_is_the_inner_one() {
        let inner = ID.replace('3', "4");
        let place = parse_cgroups(&format!("0::/docker/{ID}/docker/{inner}\n"));
        assert_eq!(place.container_id.as_deref(), Some(&*inner));
    }

    #[test]
    fn version_1_and_hybrid() {
        let version_1 = format!("12:pids:/docker/{ID}\n11:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n");
        let place = parse_cgroups(&version_1);
        assert_eq!((place.container_id.as_deref(), place.path), (Some(ID), Some(format!("/docker/{ID}").into())));
        let hybrid =
            format!("4:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/containerd.service\n");
        let place = parse_cgroups(&hybrid);
        assert_eq!(place.container_id.as_deref(), Some(ID));
        assert_eq!(place.path.as_deref(), Some("/system.slice/containerd.service"));
        let rooted = format!("4:memory:/docker/{ID}\n0::/\n");
        assert_eq!(parse_cgroups(&rooted).path, Some(format!("/docker/{ID}").into()));
    }

    #[test]
    fn hostile_text() {
        let long = format!("0::/lxc/{}\n", "x".repeat(10_000));
        assert_eq!(parse_cgroups(&long).container_id, None);
        for text in ["", "\n\n", "0", "0:", "0::", ":::", "0::///", "x:y:z"] {
            assert_eq!(parse_cgroups(text).container_id, None, "{text:?}");
        }
        // Not hexadecimal, and upper case: not what a runtime writes.
        assert_eq!(parse_cgroups(&format!("0::/docker/{}", "G".repeat(64))).container_id, None);
        assert_eq!(parse_cgroups(&format!("0::/docker/{}", ID.to_uppercase())).container_id, None);
        assert_eq!(unit_of_path(&format!("/{}.service", "x".repeat(10_000))), None);
        // A path may hold colons.
        assert_eq!(parse_cgroups(&format!("0::/a:b/docker-{ID}.scope")).container_id.as_deref(), Some(ID));
    }

    #[test]
    fn what_runs_it() {
        let table = [
            (format!("/docker/{ID}"), Some(Runtime::Docker)),
            (format!("/system.slice/docker-{ID}.scope"), Some(Runtime::Docker)),
            (format!("/kubepods.slice/kubepods-pod{POD}.slice/cri-containerd-{ID}.scope"), Some(Runtime::Containerd)),
            (format!("/system.slice/x.service/kubepods-pod.slice:cri-containerd:{ID}"), Some(Runtime::Containerd)),
            (format!("/user.slice/user-0.slice/nerdctl-{ID}.scope"), Some(Runtime::Containerd)),
            (format!("/kubepods/pod{POD}/crio-{ID}"), Some(Runtime::CriO)),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Some(Runtime::Podman)),
            (format!("/libpod_parent/libpod-{ID}"), Some(Runtime::Podman)),
            // Every runtime that is told to use cgroupfs writes the same.
            (format!("/kubepods/besteffort/pod{POD}/{ID}"), None),
            ("/lxc/web".to_owned(), Some(Runtime::Lxc)),
            ("/machine.slice/machine-debian.scope".to_owned(), Some(Runtime::Nspawn)),
        ];
        for (path, runtime) in table {
            let place = parse_cgroups(&format!("0::{path}\n"));
            assert_eq!((place.container_id.is_some(), place.runtime), (true, runtime), "{path}");
        }
    }

    #[test]
    fn units() {
        let table = [
            ("/system.slice/ssh.service", Some(("ssh.service", None))),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some(("getty@tty1.service", None))),
            ("/system.slice/dev-disk-by\\x2dlabel-a\\x20b.swap", Some(("dev-disk-by-label-a b.swap", None))),
            ("/system.slice/_cpu.service", Some(("cpu.service", None))),
            ("/user.slice/user-1000.slice/session-3.scope", Some(("session-3.scope", None))),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/emacs.service",
                Some(("emacs.service", Some(1000))),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some(("init.scope", Some(1000)))),
            ("/user.slice/user-1000.slice/user@1000.service", Some(("user@1000.service", None))),
            ("/user.slice/user-1.slice/user@x.service/app.slice/a.service", Some(("user@x.service", None))),
            ("/system.slice/a\\x0ab\\x.service", Some(("a\u{fffd}b\\x.service", None))),
            ("/system.slice/caf\\xc3\\xa9.service", Some(("café.service", None))),
            ("/init.scope", Some(("init.scope", None))),
            ("/system.slice", None),
            ("/docker/abc", None),
            ("/.service", None),
            ("/", None),
        ];
        for (path, expected) in table {
            let unit = unit_of_path(path);
            let found = unit.as_ref().map(|unit| (&*unit.name, unit.user_id));
            assert_eq!(found, expected, "{path}");
        }
        // In the hybrid layout, systemd's own hierarchy tells.
        let hybrid = "4:memory:/system.slice\n1:name=systemd:/system.slice/cron.service\n0::/\n";
        assert_eq!(parse_cgroups(hybrid).unit.map(|unit| unit.name).as_deref(), Some("cron.service"));
    }
}
