//! Answers known from hand-made files; then the running kernel's, against bpftool's reading of the same file.

use std::collections::HashMap;

use proptest::prelude::*;

use super::{
    layout::{KIND_ARRAY, KIND_CONST, KIND_FUNC_PROTO, KIND_INT, KIND_PTR},
    *,
};

/// Writes BTF files by hand. Types are numbered from 1 in the order in which they are added.
#[derive(Default)]
struct Writer {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Writer {
    fn new() -> Self {
        Self { strings: vec![0], ..Self::default() }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = self.strings.len() as u32;
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend(word.to_ne_bytes());
        }
    }

    fn add(&mut self, kind: u32, name: &str, info: u32, size_or_type: u32, body: &[u32]) -> u32 {
        let name = self.name(name);
        self.words(&[name, kind << 24 | info, size_or_type]);
        self.words(body);
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, size_bytes: u32) -> u32 {
        self.add(KIND_INT, name, 0, size_bytes, &[size_bytes * 8])
    }

    /// Members are (name, type, position word).
    fn composite(&mut self, kind: u32, flag: bool, name: &str, size_bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
        let body: Vec<u32> =
            members.iter().flat_map(|(name, type_id, position)| [self.name(name), *type_id, *position]).collect();
        self.add(kind, name, members.len() as u32 | u32::from(flag) << 31, size_bytes, &body)
    }

    fn structure(&mut self, name: &str, size_bytes: u32, members: &[(&str, u32, u32)]) -> u32 {
        self.composite(KIND_STRUCT, false, name, size_bytes, members)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend(MAGIC.to_ne_bytes());
        file.extend([1, 0]);
        for word in [24, 0, self.types.len() as u32, self.types.len() as u32, self.strings.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(&self.types);
        file.extend(&self.strings);
        file
    }

    fn parse(&self) -> Btf {
        Btf::parse(self.bytes()).expect("a well-formed file")
    }
}

/// struct inner { u32 first; u64 second; };
/// typedef const struct inner inner_t;
/// struct outer { u64 id; inner_t nested; union { u32 left; struct { u32 pad; u32 deep; }; }; inner *link; u32 list[3]; };
fn example() -> Writer {
    let mut writer = Writer::new();
    let word = writer.int("u32", 4);
    let long = writer.int("u64", 8);
    let inner = writer.structure("inner", 16, &[("first", word, 0), ("second", long, 64)]);
    let constant = writer.add(KIND_CONST, "", 0, inner, &[]);
    let typedef = writer.add(KIND_TYPEDEF, "inner_t", 0, constant, &[]);
    let deepest = writer.structure("", 8, &[("pad", word, 0), ("deep", word, 32)]);
    let union = writer.composite(KIND_UNION, false, "", 8, &[("left", word, 0), ("", deepest, 0)]);
    let link = writer.add(KIND_PTR, "", 0, inner, &[]);
    let list = writer.add(KIND_ARRAY, "", 0, 0, &[word, word, 3]);
    writer.structure(
        "outer",
        56,
        &[("id", long, 0), ("nested", typedef, 64), ("", union, 192), ("link", link, 256), ("list", list, 320)],
    );
    writer
}

#[test]
fn finds_fields_by_name_and_by_path() {
    let btf = example().parse();
    let field = |path| btf.field("outer", path).expect("exists");
    assert_eq!(field("id"), Field { offset_bytes: 0, size_bytes: 8 });
    assert_eq!(field("nested"), Field { offset_bytes: 8, size_bytes: 16 });
    assert_eq!(field("nested.first"), Field { offset_bytes: 8, size_bytes: 4 });
    assert_eq!(field("nested.second"), Field { offset_bytes: 16, size_bytes: 8 });
    assert_eq!(field("link"), Field { offset_bytes: 32, size_bytes: 8 });
    assert_eq!(field("list"), Field { offset_bytes: 40, size_bytes: 12 });
    assert_eq!(btf.resolve(&[("inner", "second"), ("outer", "link")]).expect("both exist"), [8, 32]);
    assert_eq!(btf.size_bytes("outer").expect("exists"), 56);
}

#[test]
fn finds_members_of_anonymous_unions_and_structures() {
    let btf = example().parse();
    assert_eq!(btf.field_offset_bytes("outer", "left").expect("exists"), 24);
    assert_eq!(btf.field_offset_bytes("outer", "pad").expect("exists"), 24);
    assert_eq!(btf.field_offset_bytes("outer", "deep").expect("exists"), 28);
}

#[test]
fn a_typedef_stands_for_its_structure() {
    let btf = example().parse();
    assert_eq!(btf.field_offset_bytes("inner_t", "second").expect("exists"), 8);
    assert_eq!(btf.size_bytes("inner_t").expect("exists"), 16);
}

#[test]
fn what_is_not_there_is_named() {
    let btf = example().parse();
    assert!(matches!(btf.field("none", "x"), Err(BtfError::NoType { name }) if name == "none"));
    let missing = btf.field("outer", "nested.third");
    assert!(
        matches!(missing, Err(BtfError::NoField { structure, field }) if structure == "outer" && field == "nested.third")
    );
    for path in ["", ".", "id.", ".id", "nested..first"] {
        assert!(btf.field("outer", path).is_err(), "{path:?} must not be found");
    }
}

#[test]
fn paths_do_not_go_through_pointers_arrays_and_numbers() {
    let btf = example().parse();
    for (path, what) in [("link.first", "a pointer"), ("list.first", "an array"), ("id.first", "a number")] {
        let error = btf.field("outer", path).expect_err("not by value");
        assert!(matches!(error, BtfError::NotByValue { found, .. } if found == what), "{path}");
    }
}

#[test]
fn bit_fields_are_refused() {
    let mut writer = Writer::new();
    let word = writer.int("u32", 4);
    let narrow = writer.add(KIND_INT, "narrow", 0, 4, &[3]);
    // Width in the upper 8 bits of the position where the flag is set.
    writer.composite(KIND_STRUCT, true, "flagged", 8, &[("whole", word, 0), ("bits", word, 8 << 24 | 32)]);
    writer.structure("old", 8, &[("odd", word, 3), ("narrow", narrow, 32)]);
    let btf = writer.parse();
    assert_eq!(btf.field_offset_bytes("flagged", "whole").expect("exists"), 0);
    for (structure, field) in [("flagged", "bits"), ("old", "odd"), ("old", "narrow")] {
        assert!(matches!(btf.field(structure, field), Err(BtfError::BitField { .. })), "{structure}.{field}");
    }
}

#[test]
fn structures_of_one_name_must_agree() {
    let mut writer = Writer::new();
    let word = writer.int("u32", 4);
    writer.structure("twice", 8, &[("same", word, 0), ("other", word, 32)]);
    writer.structure("twice", 8, &[("same", word, 0), ("extra", word, 32), ("other", word, 0)]);
    let btf = writer.parse();
    assert_eq!(btf.field_offset_bytes("twice", "same").expect("agreed"), 0);
    assert_eq!(btf.field_offset_bytes("twice", "extra").expect("only one has it"), 4);
    assert!(matches!(btf.field("twice", "other"), Err(BtfError::Ambiguous { .. })));
    assert_eq!(btf.size_bytes("twice").expect("agreed"), 8);
}

#[test]
fn finds_functions_and_tracepoints() {
    let mut writer = Writer::new();
    let prototype = writer.add(KIND_FUNC_PROTO, "", 1, 0, &[0, 0]);
    let function = writer.add(KIND_FUNC, "vfs_read", 0, prototype, &[]);
    let pointer = writer.add(KIND_PTR, "", 0, prototype, &[]);
    let tracepoint = writer.add(KIND_TYPEDEF, "btf_trace_sched_switch", 0, pointer, &[]);
    let btf = writer.parse();
    assert_eq!(btf.function_type_id("vfs_read"), Some(function));
    assert_eq!(btf.tracepoint_type_id("sched_switch"), Some(tracepoint));
    assert!(!btf.has_function("sched_switch"));
    assert!(!btf.has_tracepoint("vfs_read"));
}

#[test]
fn cycles_end() {
    let mut writer = Writer::new();
    writer.add(KIND_TYPEDEF, "ouroboros", 0, 2, &[]);
    writer.add(KIND_CONST, "", 0, 1, &[]);
    writer.structure("itself", 8, &[("", 3, 0)]);
    writer.add(KIND_ARRAY, "", 0, 0, &[4, 4, 2]);
    writer.structure("arrays", 8, &[("endless", 4, 0)]);
    let btf = writer.parse();
    assert!(matches!(btf.size_bytes("ouroboros"), Err(BtfError::Malformed { .. })));
    assert!(matches!(btf.field("itself", "x"), Err(BtfError::Malformed { .. })));
    assert!(matches!(btf.field("arrays", "endless"), Err(BtfError::Malformed { .. })));
}

#[test]
fn a_search_that_doubles_at_each_level_ends() {
    let mut writer = Writer::new();
    // Type n holds type n+1 several times without a name: 16 levels of 16 members are 2^64 paths.
    for next in 2..18 {
        writer.structure(if next == 2 { "top" } else { "" }, 8, &[("", next, 0); 16]);
    }
    writer.int("end", 4);
    assert!(matches!(writer.parse().field("top", "x"), Err(BtfError::Malformed { .. })));
}

#[test]
fn references_outside_the_file_are_refused() {
    let mut writer = Writer::new();
    writer.structure("holder", 8, &[("away", 99, 0)]);
    assert!(matches!(writer.parse().field("holder", "away"), Err(BtfError::Malformed { .. })));

    let mut writer = Writer::new();
    let word = writer.int("u32", 4);
    writer.structure("holder", 8, &[("field", word, 0)]);
    let mut bytes = writer.bytes();
    // The name of the member: behind the header, the integer (16 bytes) and the fixed part of the structure.
    bytes[24 + 16 + 12..][..4].copy_from_slice(&0xffff_ffff_u32.to_ne_bytes());
    let btf = Btf::parse(bytes).expect("names are read when they are needed");
    assert!(matches!(btf.field("holder", "field"), Err(BtfError::Malformed { .. })));
}

#[test]
fn offsets_and_sizes_that_overflow_are_refused() {
    let mut writer = Writer::new();
    let long = writer.int("u64", 8);
    let inner = writer.add(KIND_ARRAY, "", 0, 0, &[long, long, u32::MAX]);
    let outer = writer.add(KIND_ARRAY, "", 0, 0, &[inner, long, u32::MAX]);
    let most = writer.add(KIND_ARRAY, "", 0, 0, &[outer, long, u32::MAX]);
    writer.structure("holder", 8, &[("inner", inner, 0), ("most", most, 0)]);
    let btf = writer.parse();
    for field in ["inner", "most"] {
        assert!(matches!(btf.field("holder", field), Err(BtfError::Malformed { .. })), "{field}");
    }
}

#[test]
fn broken_files_are_refused() {
    let whole = example().bytes();
    assert!(matches!(Btf::parse(Vec::new()), Err(BtfError::Malformed { .. })));
    assert!(matches!(Btf::parse(b"\x7fELF".to_vec()), Err(BtfError::WrongMagic { .. })));
    for length in 2..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "cut to {length} bytes");
    }
    let mut unknown = Writer::new();
    unknown.add(31, "new", 0, 0, &[]);
    assert!(matches!(Btf::parse(unknown.bytes()), Err(BtfError::UnknownKind { type_id: 1, kind: 31 })));
    // A structure that promises more members than the section holds.
    let mut huge = Writer::new();
    huge.add(KIND_STRUCT, "huge", 0xffff, 8, &[]);
    assert!(matches!(Btf::parse(huge.bytes()), Err(BtfError::Malformed { .. })));
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Btf::open(Path::new("/nonexistent/btf")).expect_err("there is no such file");
    assert!(error.to_string().contains(PATH_VARIABLE), "{error}");
}

#[test]
fn the_variable_names_the_file() {
    assert_eq!(path_or_default(None), Path::new(DEFAULT_PATH));
    assert_eq!(path_or_default(Some("".into())), Path::new(DEFAULT_PATH));
    assert_eq!(path_or_default(Some("/x".into())), Path::new("/x"));
}

proptest! {
    #[test]
    fn damaged_files_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let mut bytes = example().bytes();
        for (index, value) in changes {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(btf) = Btf::parse(bytes) {
            for path in ["id", "nested.second", "deep", "link", "list", "none"] {
                let _ = btf.field("outer", path);
            }
            let _ = (btf.size_bytes("inner_t"), btf.has_function("u32"), btf.has_tracepoint("x"));
        }
    }
}

/// What bpftool prints of one type: its members (name, type, offset in bits) or the type that it refers to.
#[derive(Default)]
struct Printed {
    kind: String,
    refers_to: u32,
    size: u32,
    members: Vec<(String, u32, u32)>,
}

fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.split_once(key).map(|(_, rest)| rest.split_whitespace().next().unwrap_or_default())
}

fn number_after(line: &str, key: &str) -> u32 {
    after(line, key).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Reads `bpftool btf dump file … format raw`; nothing where bpftool or the file is missing.
fn bpftool() -> Option<(HashMap<u32, Printed>, HashMap<String, u32>)> {
    let arguments = ["btf", "dump", "file", DEFAULT_PATH, "format", "raw"];
    let output = ["bpftool", "/usr/sbin/bpftool"]
        .into_iter()
        .find_map(|program| std::process::Command::new(program).args(arguments).output().ok())
        .filter(|output| output.status.success())?;
    let text = String::from_utf8(output.stdout).expect("names are ASCII");
    let (mut types, mut structures) = (HashMap::<u32, Printed>::new(), HashMap::new());
    let mut current = 0;
    for line in text.lines() {
        let quoted = line.split('\'').nth(1).unwrap_or_default();
        let quoted = if quoted == "(anon)" { "" } else { quoted };
        if let Some(rest) = line.strip_prefix('[') {
            let (id, rest) = rest.split_once("] ").expect("a numbered type");
            current = id.parse().expect("a number");
            let kind = rest.split_whitespace().next().unwrap_or_default().to_owned();
            if matches!(kind.as_str(), "STRUCT" | "UNION") && !quoted.is_empty() {
                structures.entry(quoted.to_owned()).or_insert(current);
            }
            let (refers_to, size) = (number_after(line, "type_id="), number_after(line, "size="));
            types.insert(current, Printed { kind, refers_to, size, members: Vec::new() });
        } else if line.contains("bits_offset=") {
            let member = (quoted.to_owned(), number_after(line, "type_id="), number_after(line, "bits_offset="));
            types.get_mut(&current).expect("a member follows its structure").members.push(member);
        }
    }
    Some((types, structures))
}

fn printed_offset(types: &HashMap<u32, Printed>, holder: u32, name: &str) -> Option<(u32, u32)> {
    let mut holder = &types[&holder];
    while matches!(holder.kind.as_str(), "TYPEDEF" | "CONST" | "VOLATILE" | "RESTRICT" | "TYPE_TAG") {
        holder = &types[&holder.refers_to];
    }
    holder.members.iter().find_map(|(member, type_id, bits)| match member.as_str() {
        found if found == name => Some((*bits, *type_id)),
        "" => printed_offset(types, *type_id, name).map(|(inner, type_id)| (bits + inner, type_id)),
        _ => None,
    })
}

#[test]
fn agrees_with_bpftool_about_the_running_kernel() {
    let Some((types, structures)) = bpftool() else {
        eprintln!("skipped: bpftool or {DEFAULT_PATH} is missing");
        return;
    };
    let btf = Btf::open(Path::new(DEFAULT_PATH)).expect("bpftool reads it");
    assert_eq!(btf.type_count(), types.len() + 1, "void is counted too");
    let asked = [
        "task_struct pid tgid real_parent stack group_leader start_time start_boottime comm mm thread_pid __state flags \
         signal self_exec_id parent_exec_id cgroups nsproxy thread.sp thread.fsbase se.sum_exec_runtime rcu.func",
        "mm_struct exe_file pgd arg_start mm_count.counter",
        "vm_area_struct vm_start vm_end vm_pgoff vm_file",
        "file f_inode f_path.dentry",
        "pid numbers level",
        "upid nr ns",
        "css_set dfl_cgrp",
        "cgroup kn level ancestors",
        "kernfs_node id name",
        "request __sector rq_disk q",
        "sock __sk_common.skc_daddr __sk_common.skc_dport __sk_common.skc_family",
        "bpf_iter_meta seq session_id",
        "rq nr_running curr",
        "signal_struct leader_pid nr_threads",
        "page flags lru _refcount.counter",
    ];
    let mut found = 0;
    for (structure, path) in asked.iter().flat_map(|line| {
        let mut words = line.split_whitespace();
        let structure = words.next().expect("a structure");
        words.map(move |path| (structure, path))
    }) {
        let mut at = structures.get(structure).map(|id| (0, *id));
        for name in path.split('.') {
            at = at.and_then(|(bits, id)| {
                let (more, id) = printed_offset(&types, id, name)?;
                Some((bits + more, id))
            });
        }
        let ours = btf.field_offset_bytes(structure, path);
        match at {
            Some((bits, _)) => assert_eq!(ours.expect("bpftool has it"), bits / 8, "{structure}.{path}"),
            None => assert!(
                matches!(ours, Err(BtfError::NoField { .. } | BtfError::NoType { .. })),
                "{structure}.{path} is not in bpftool's print"
            ),
        }
        found += usize::from(at.is_some());
    }
    assert!(found >= 30, "only {found} fields could be compared");
    for structure in ["task_struct", "mm_struct", "file", "pid"] {
        let printed = types[&structures[structure]].size;
        assert_eq!(btf.size_bytes(structure).expect("bpftool has it"), printed, "{structure}");
    }
    assert!(btf.has_tracepoint("sched_switch") && !btf.has_tracepoint("no_such_tracepoint"));
    assert!(btf.has_function("vfs_read") && !btf.has_function("no_such_function"));
}
