//! Collectors are listed once, and each has its page.

use super::source::tokens;
use super::{TextFile, Violation};

/// The file of the one list, and the folder of the collectors.
const REGISTRY: &str = "obs-userspace/src/collect/mod.rs";
const COLLECTORS: &str = "obs-userspace/src/collect/";
const SPEC: &str = "CollectorSpec";
const PAGES: &str = "docs/collectors/";

pub(super) fn one_registry(files: &[TextFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut is_declared = false;
    for file in files.iter().filter(|file| file.is_rust() && !file.path.starts_with("xtask/src/tidy/")) {
        let all = tokens(&file.text);
        for (at, token) in all.iter().enumerate().filter(|(_, token)| matches!(token.text, "static" | "const")) {
            // A parameter of a generic type or function declares nothing.
            if at.checked_sub(1).and_then(|before| all.get(before)).is_some_and(|token| matches!(token.text, "<" | ","))
            {
                continue;
            }
            // The type: what is between the colon and the value.
            let declared =
                all.iter().skip(at + 1).map(|token| token.text).take_while(|text| !matches!(*text, "=" | ";"));
            let declared: Vec<&str> = declared.collect();
            let is_function = declared.contains(&"fn");
            if is_function || !(declared.contains(&"[") && declared.contains(&SPEC)) {
                continue;
            }
            if file.path == REGISTRY && declared.first() == Some(&"COLLECTORS") && !is_declared {
                is_declared = true;
            } else {
                let message = format!("a second list of collectors: iterate over COLLECTORS of {REGISTRY}");
                found.push(file.violation(token.line, message));
            }
        }
    }
    let registry = files.iter().find(|file| file.path == REGISTRY);
    if let Some(registry) = registry.filter(|_| !is_declared) {
        found.push(registry.violation(0, format!("it must declare `static COLLECTORS: &[&{SPEC}]`")));
    }
    found
}

pub(super) fn pages(files: &[TextFile]) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path != REGISTRY) {
        let Some(name) = file.path.strip_prefix(COLLECTORS).and_then(|inside| inside.strip_suffix(".rs")) else {
            continue;
        };
        let all = tokens(&file.text);
        let declares = all.windows(2).any(|pair| matches!(pair, [spec, open] if spec.text == SPEC && open.text == "{"))
            && all.iter().any(|token| matches!(token.text, "static" | "const"));
        let name = name.trim_end_matches("/mod");
        let page = format!("{PAGES}{name}.md");
        if declares && !files.iter().any(|file| file.path == page) {
            found.push(file.violation(0, format!("the collector `{name}` has no page {page}")));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::file;

    const LIST: &str = "pub static COLLECTORS: &[&CollectorSpec] = &[&cpu::SPEC];";
    const SPEC_OF_CPU: &str = "pub static SPEC: CollectorSpec = CollectorSpec { name: \"cpu\" };";

    #[test]
    fn one_list_is_fine_and_functions_may_take_slices() {
        let uses = file(
            "obs-userspace/src/cli/list.rs",
            "fn print<const M: usize>(all: [&'static CollectorSpec; M]) {} const N: usize = 1;",
        );
        assert_eq!(
            one_registry(&[file(REGISTRY, LIST), uses, file("obs-userspace/src/collect/cpu.rs", SPEC_OF_CPU)]),
            []
        );
        assert_eq!(one_registry(&[file("xtask/src/main.rs", "")]), []);
    }

    #[test]
    fn a_second_list_is_found_wherever_it_is() {
        let second = file("obs-userspace/src/cli/list.rs", "const ALL: [&CollectorSpec; 1] = [&cpu::SPEC];");
        assert_eq!(one_registry(&[file(REGISTRY, LIST), second]).len(), 1);
        let twice = format!("{LIST}\nstatic MORE: &[&CollectorSpec] = &[];");
        assert_eq!(one_registry(&[file(REGISTRY, &twice)])[0].line, 2);
    }

    #[test]
    fn the_list_must_be_there() {
        assert_eq!(one_registry(&[file(REGISTRY, "pub mod cpu;")]).len(), 1);
    }

    #[test]
    fn every_collector_needs_its_page() {
        let collector = file("obs-userspace/src/collect/cpu.rs", SPEC_OF_CPU);
        let helper = file("obs-userspace/src/collect/decode.rs", "fn decode(spec: &CollectorSpec) {}");
        let page = file("docs/collectors/cpu.md", "# cpu");
        assert_eq!(pages(&[collector.clone(), helper.clone(), page]), []);
        assert!(pages(&[collector, helper])[0].message.contains("docs/collectors/cpu.md"));
    }
}
