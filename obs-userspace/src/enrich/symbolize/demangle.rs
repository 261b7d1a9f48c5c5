//! Names as their language writes them.

/// Most bytes of a name that is shown; longer ones are cut, and end in `…`.
pub(super) const FUNCTION_NAME_BYTES_MAX: usize = 1_024;

/// Most nested parts of a C++ name.
const CPP_RECURSION_MAX: u32 = 96;

/// Most bytes of a mangled C++ name that is demangled; what it expands to grows faster than it does.
const CPP_NAME_BYTES_MAX: usize = 2_048;

/// Demangles a Rust (legacy and v0) or C++ name; other names stay as they are.
pub(super) fn demangle(name: &str) -> String {
    // `{:#}` leaves the hash out.
    let demangled = if let Ok(rust) = rustc_demangle::try_demangle(name) {
        bounded(&format_args!("{rust:#}"))
    } else if let Some(cpp) = demangle_cpp(name) {
        cpp
    } else {
        name.to_owned()
    };
    shorten(demangled)
}

fn demangle_cpp(name: &str) -> Option<String> {
    // `_GLOBAL__sub_I_…` and the like are demangled too; plain C names are not to be taken for types.
    if !(name.starts_with("_Z") || name.starts_with("__Z") || name.starts_with("_GLOBAL_"))
        || name.len() > CPP_NAME_BYTES_MAX
    {
        return None;
    }
    let options = cpp_demangle::ParseOptions::default().recursion_limit(CPP_RECURSION_MAX);
    let symbol = cpp_demangle::Symbol::new_with_options(name, &options).ok()?;
    let options = cpp_demangle::DemangleOptions::default().recursion_limit(CPP_RECURSION_MAX);
    let mut written = Bounded { text: String::new() };
    // Stopping at the bound is an error for the writer, but what was written is the name's beginning.
    match symbol.structured_demangle(&mut written, &options) {
        Ok(()) => Some(written.text),
        Err(_) if written.text.len() >= FUNCTION_NAME_BYTES_MAX => Some(written.text),
        Err(_) => None,
    }
}

/// Text that refuses to grow beyond a little more than is shown.
struct Bounded {
    text: String,
}

impl std::fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = (FUNCTION_NAME_BYTES_MAX + 1).saturating_sub(self.text.len());
        self.text.push_str(&part[..part.floor_char_boundary(room)]);
        if part.len() > room { Err(std::fmt::Error) } else { Ok(()) }
    }
}

fn bounded(name: &std::fmt::Arguments<'_>) -> String {
    let mut written = Bounded { text: String::new() };
    let _ = std::fmt::write(&mut written, *name);
    written.text
}

fn shorten(mut name: String) -> String {
    if name.len() > FUNCTION_NAME_BYTES_MAX {
        name.truncate(name.floor_char_boundary(FUNCTION_NAME_BYTES_MAX - '…'.len_utf8()));
        name.push('…');
    }
    // Line breaks and other control characters would break every text format downstream.
    if name.contains(char::is_control) { name.replace(char::is_control, "?") } else { name }
}

/// Cuts a name to what is shown, and takes control characters out.
pub(super) fn presentable(name: &str) -> String {
    shorten(name[..name.floor_char_boundary(FUNCTION_NAME_BYTES_MAX + '…'.len_utf8())].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names() {
        for (mangled, plain) in [
            ("malloc", "malloc"),
            ("_start", "_start"),
            ("main", "main"),
            ("i", "i"),
            ("_ZN4core9panicking9panic_fmt17h5f1a6fd39197ad62E", "core::panicking::panic_fmt"),
            ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
            ("_RNvMs_NtCskzmLF2bgoRd_4core6optionINtB4_6OptionpE6unwrap", "<core::option::Option<_>>::unwrap"),
            ("_ZNSt6vectorIiSaIiEE9push_backERKi", "std::vector<int, std::allocator<int> >::push_back(int const&)"),
            ("_Z3foov.cold", "foo() [clone .cold]"),
            ("_Znot_a_name", "_Znot_a_name"),
            ("do_work.constprop.0", "do_work.constprop.0"),
        ] {
            assert_eq!(demangle(mangled), plain);
        }
    }

    #[test]
    fn long_and_hostile_names() {
        let long = demangle(&"x".repeat(5_000));
        assert!(long.len() <= FUNCTION_NAME_BYTES_MAX && long.ends_with('…'));
        // Each substitution doubles what is written: a short name that expands to a huge one.
        let mut bomb = "_Z1f".to_owned();
        bomb.push_str("St4pairIiiE");
        for level in 0..60 {
            bomb.push_str(&format!(
                "St4pairIS{0}_S{0}_E",
                if level == 0 { String::new() } else { to_base_36(level - 1) }
            ));
        }
        assert!(demangle(&bomb).len() <= bomb.len().max(FUNCTION_NAME_BYTES_MAX));
        let deep = format!("_Z1f{}i", "P".repeat(100_000));
        assert!(demangle(&deep).len() <= FUNCTION_NAME_BYTES_MAX);
        assert_eq!(demangle("a\nb\tc"), "a?b?c");
        assert_eq!(presentable(&"é".repeat(2_000)).chars().last(), Some('…'));
    }

    fn to_base_36(number: u32) -> String {
        char::from_digit(number % 36, 36).unwrap().to_ascii_uppercase().to_string()
    }
}
