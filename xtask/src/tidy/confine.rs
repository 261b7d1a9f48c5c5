//! What may appear in one place only: aya in `kernel/`, `unsafe` there and on the kernel side.

use super::source::tokens;
use super::{TextFile, Violation};

/// The only place that knows how programs get into the kernel.
const KERNEL: &str = "obs-userspace/src/kernel";
const AYA: [&str; 3] = ["aya", "aya_log", "aya_obj"];

/// Where `unsafe` is unavoidable.
const UNSAFE: [&str; 2] = ["obs-ebpf/src/", KERNEL];

pub(super) fn aya(files: &[TextFile]) -> Vec<Violation> {
    let elsewhere = |file: &&TextFile| file.is_rust() && !file.path.starts_with(KERNEL);
    let mut found = Vec::new();
    for file in files.iter().filter(elsewhere) {
        for token in tokens(&file.text).into_iter().filter(|token| AYA.contains(&token.text)) {
            // A rule has the name of what it is about; nothing else in xtask has.
            if !file.path.starts_with("xtask/src/tidy/") {
                let message =
                    format!("`{}` is named outside {KERNEL}: put what you need behind a type there", token.text);
                found.push(file.violation(token.line, message));
            }
        }
    }
    found
}

pub(super) fn unsafe_code(files: &[TextFile]) -> Vec<Violation> {
    let elsewhere = |file: &&TextFile| file.is_rust() && !UNSAFE.iter().any(|folder| file.path.starts_with(folder));
    let mut found = Vec::new();
    for file in files.iter().filter(elsewhere) {
        let all = tokens(&file.text);
        for (at, token) in all.iter().enumerate().filter(|(_, token)| token.text == "unsafe") {
            let mut after = all.iter().skip(at + 1).map(|token| token.text).take_while(|text| *text != "{");
            let is_marked_pod = after.next() == Some("impl")
                && after.take_while(|text| *text != "for").any(|text| text == "Pod")
                && has_safety_comment(&file.text, token.line);
            if !is_marked_pod {
                found.push(file.violation(token.line, format!("`unsafe` outside {}", UNSAFE.join(" and "))));
            }
        }
    }
    found
}

/// Whether the comment right above a line gives the reason.
fn has_safety_comment(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let above = lines.iter().take(line.saturating_sub(1)).rev().map(|line| line.trim_start());
    above.take_while(|line| line.starts_with("//")).any(|line| line.starts_with("// SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    #[test]
    fn aya_belongs_to_the_kernel_module() {
        let inside = file("obs-userspace/src/kernel/load.rs", "use aya::Ebpf;");
        let other_crate = file("obs-ebpf/src/lib.rs", "use aya_ebpf::maps::Array; // aya::Ebpf");
        assert_eq!(aya(&[inside, other_crate]), []);
        let outside = file("obs-userspace/src/cli/record.rs", "//! x\nfn f(e: &aya::Ebpf) {}");
        assert_eq!(aya(&[outside])[0].line, 2);
    }

    #[test]
    fn unsafe_belongs_to_two_places() {
        let inside = file("obs-userspace/src/kernel/btf.rs", "unsafe { x() }");
        let mentioned = file("xtask/src/a.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]\nlet s = \"unsafe\";");
        assert_eq!(unsafe_code(&[inside, mentioned]), []);
        assert_eq!(unsafe_code(&[file("obs-unwind/src/lib.rs", "fn f() { unsafe { x() } }")]).len(), 1);
    }

    #[test]
    fn a_marked_pod_is_allowed_anywhere() {
        let marked = "// SAFETY: plain numbers, no padding.\nunsafe impl Pod for Row {}";
        assert_eq!(unsafe_code(&[file("obs-common/src/lib.rs", marked)]), []);
        assert_eq!(unsafe_code(&[file("obs-common/src/lib.rs", "unsafe impl Pod for Row {}")]).len(), 1);
        let other = "// SAFETY: no.\nunsafe impl Send for Row {}";
        assert_eq!(unsafe_code(&[file("obs-common/src/lib.rs", other)]).len(), 1);
    }
}
