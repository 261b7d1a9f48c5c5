//! Which container a process runs in, from the paths of its cgroups. Pure.

use std::sync::Arc;

/// Most characters of a container's id.
const CONTAINER_ID_CHARS_MAX: usize = 128;

/// Where a process stands in the cgroup hierarchies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupPlace {
    /// The path that says most: that of the unified hierarchy, or, where that is the root, the deepest of the others.
    pub path: Option<Arc<str>>,
    /// The id of its container: 64 hexadecimal digits for the runtimes that use such, a name for LXC and nspawn.
    pub container_id: Option<Arc<str>>,
    /// The id of its Kubernetes pod.
    pub pod_id: Option<Arc<str>>,
}

/// Reads `/proc/PID/cgroup`: one line per hierarchy, `NUMBER:CONTROLLERS:PATH`; the unified one is `0::PATH`.
#[must_use]
pub fn parse_cgroups(text: &str) -> CgroupPlace {
    let mut unified = None;
    let mut deepest: Option<&str> = None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(_), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if number == "0" {
            unified = Some(path);
        }
        if deepest.is_none_or(|deepest| path.matches('/').count() > deepest.matches('/').count()) {
            deepest = Some(path);
        }
    }
    // In the hybrid layout the unified hierarchy may hold nothing but systemd's own tree, or only its root.
    let path = unified.filter(|path| *path != "/").or(deepest);
    let candidates = [unified, deepest];
    let container_id = candidates.iter().flatten().find_map(|path| container_id(path));
    let pod_id = candidates.iter().flatten().find_map(|path| pod_id(path));
    CgroupPlace { path: path.map(Into::into), container_id, pod_id }
}

/// The innermost container of a path, so that a container within a container is told from its host.
fn container_id(path: &str) -> Option<Arc<str>> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    let innermost = (0..parts.len()).rev().find_map(|index| {
        let parent = index.checked_sub(1).and_then(|parent| parts.get(parent)).copied();
        container_of_part(parts[index], parent)
    })?;
    (innermost.chars().count() <= CONTAINER_ID_CHARS_MAX).then(|| innermost.into())
}

fn container_of_part<'a>(part: &'a str, parent: Option<&str>) -> Option<&'a str> {
    if let Some(scope) = part.strip_suffix(".scope") {
        // systemd's form: `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`; podman's and
        // cri-o's monitors (`libpod-conmon-ID.scope`) are outside of the container that they serve.
        if scope.contains("-conmon-") {
            return None;
        }
        if let Some((_, id)) = scope.rsplit_once('-')
            && is_hexadecimal_id(id)
        {
            return Some(id);
        }
        // `machine-NAME.scope`: systemd-nspawn, with `-` written as `\x2d`; virtual machines have it too, but no
        // processes of their own that we could see.
        return scope.strip_prefix("machine-").filter(|_| parent == Some("machine.slice"));
    }
    if let Some(service) = part.strip_suffix(".service") {
        return service.strip_prefix("systemd-nspawn@");
    }
    // cri-containerd's other form: `kubepods-burstable-podUID.slice:cri-containerd:ID`.
    if let Some((_, id)) = part.rsplit_once(':')
        && is_hexadecimal_id(id)
    {
        return Some(id);
    }
    // cgroupfs's form: `/docker/ID`, `/kubepods/besteffort/podUID/ID`, `/libpod_parent/libpod-ID`, `crio-ID`.
    let bare = part.strip_prefix("libpod-").or_else(|| part.strip_prefix("crio-")).unwrap_or(part);
    if is_hexadecimal_id(bare) {
        return Some(bare);
    }
    // AWS ECS: `/ecs/TASK/ID-NUMBER`, where a part begins with 32 hexadecimal digits.
    if let Some((id, number)) = part.split_once('-')
        && id.len() == 32
        && is_hexadecimal(id)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some(part);
    }
    // LXC: `/lxc/NAME`, `/lxc.payload.NAME`, `/lxc.payload/NAME`.
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name);
    }
    matches!(parent, Some("lxc" | "lxc.payload")).then_some(part)
}

/// A Kubernetes pod's id: `podUID`, or `…-podUID.slice` with `_` for `-`.
fn pod_id(path: &str) -> Option<Arc<str>> {
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
        // A path may hold colons.
        assert_eq!(parse_cgroups(&format!("0::/a:b/docker-{ID}.scope")).container_id.as_deref(), Some(ID));
    }
}
