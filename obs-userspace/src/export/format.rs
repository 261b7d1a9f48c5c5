//! Which formats there are: the one table that option parsing and help text are made from.

use std::{ffi::OsStr, fmt, path::Path, str::FromStr};

/// A format that a profile can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One line per stack, for flame graph tools and `grep`.
    Folded,
    /// The protocol-buffer format of `go tool pprof`, compressed with gzip.
    Pprof,
    /// A flame graph.
    Svg,
    /// The file format of speedscope.app.
    Speedscope,
    /// The whole profile as obs keeps it.
    Json,
}

/// What users see of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatSpec {
    /// Which format this describes.
    pub format: Format,
    /// Its name for `--format`, in lower case.
    pub name: &'static str,
    /// How the names of its files end, in lower case, with the leading dot.
    pub ending: &'static str,
    /// What it is for, in a few words.
    pub summary: &'static str,
}

/// Every format, in the order of [`Format`].
pub const FORMATS: [FormatSpec; 5] = [
    FormatSpec {
        format: Format::Folded,
        name: "folded",
        ending: ".folded",
        summary: "one line per stack with its count, for flame graph tools and grep",
    },
    FormatSpec {
        format: Format::Pprof,
        name: "pprof",
        ending: ".pb.gz",
        summary: "pprof, for `go tool pprof` and profiling back-ends",
    },
    FormatSpec { format: Format::Svg, name: "svg", ending: ".svg", summary: "flame graph to open in a browser" },
    FormatSpec {
        format: Format::Speedscope,
        name: "speedscope",
        ending: ".speedscope.json",
        summary: "for speedscope.app, one view per process and thread name",
    },
    FormatSpec {
        format: Format::Json,
        name: "json",
        ending: ".json",
        summary: "everything that the profile holds, for scripts",
    },
];

impl Format {
    /// What users see of it.
    #[must_use]
    pub fn spec(self) -> &'static FormatSpec {
        &FORMATS[self as usize]
    }

    /// The format that the file's name asks for by its ending, in any case. The longest ending that fits wins.
    ///
    /// # Errors
    /// [`UnknownFormat::Ending`] if no ending fits.
    pub fn from_path(path: &Path) -> Result<Self, UnknownFormat> {
        let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default().to_ascii_lowercase();
        FORMATS
            .iter()
            .filter(|spec| name.ends_with(spec.ending))
            .max_by_key(|spec| spec.ending.len())
            .map(|spec| spec.format)
            .ok_or_else(|| UnknownFormat::Ending(path.display().to_string()))
    }

    /// One line per format for help texts: name, ending, summary.
    #[must_use]
    pub fn help() -> String {
        let lines = FORMATS.iter().map(|spec| format!("{:<10}  {:<16}  {}", spec.name, spec.ending, spec.summary));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.spec().name)
    }
}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// The format of that name, in any case.
    fn from_str(name: &str) -> Result<Self, UnknownFormat> {
        FORMATS
            .iter()
            .find(|spec| spec.name.eq_ignore_ascii_case(name))
            .map(|spec| spec.format)
            .ok_or_else(|| UnknownFormat::Name(name.to_owned()))
    }
}

/// Nothing is known by that name or ending.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownFormat {
    /// From `--format`.
    #[error("there is no format named `{}`; there are: {}", .0.escape_debug(), list(|spec| spec.name))]
    Name(String),
    /// From the name of the output file.
    #[error(
        "the ending of `{}` does not tell in which format to write; end it in one of {}, or name the format with \
         --format ({})",
        .0.escape_debug(), list(|spec| spec.ending), list(|spec| spec.name)
    )]
    Ending(String),
}

fn list(part: fn(&FormatSpec) -> &'static str) -> String {
    FORMATS.iter().map(part).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_enum_and_complete() {
        for (index, spec) in FORMATS.iter().enumerate() {
            assert_eq!(spec.format as usize, index);
            assert_eq!(spec.format.spec(), spec);
            assert_eq!(spec.name, spec.name.to_ascii_lowercase());
            assert_eq!(spec.ending, spec.ending.to_ascii_lowercase());
        }
        assert_eq!(Format::Json as usize + 1, FORMATS.len());
    }

    #[test]
    fn endings_choose_the_format_in_any_case_and_the_longest_wins() {
        for (path, format) in [
            ("out.folded", Format::Folded),
            ("/tmp/a.b/OUT.PB.GZ", Format::Pprof),
            ("x.svg", Format::Svg),
            ("x.speedscope.json", Format::Speedscope),
            ("x.SpeedScope.Json", Format::Speedscope),
            ("x.json", Format::Json),
            ("speedscope.json", Format::Json),
        ] {
            assert_eq!(Format::from_path(Path::new(path)), Ok(format), "{path}");
        }
        for path in ["", "/", "-", "out", "svg", "out.pb", "out.gz", "out.svg.txt", "out.svg/", "dir.svg/out"] {
            let found = Format::from_path(Path::new(path));
            // A trailing slash is not part of the file's name.
            if path == "out.svg/" {
                assert_eq!(found, Ok(Format::Svg));
            } else {
                assert_eq!(found, Err(UnknownFormat::Ending(path.to_owned())), "{path}");
            }
        }
    }

    #[test]
    fn names_choose_the_format_in_any_case() {
        for spec in FORMATS {
            assert_eq!(spec.name.parse(), Ok(spec.format));
            assert_eq!(spec.name.to_ascii_uppercase().parse(), Ok(spec.format));
            assert_eq!(spec.format.to_string(), spec.name);
        }
        assert_eq!("perf".parse::<Format>(), Err(UnknownFormat::Name("perf".to_owned())));
    }

    #[test]
    fn errors_list_what_is_known() {
        assert_eq!(
            UnknownFormat::Name("a\nb".to_owned()).to_string(),
            "there is no format named `a\\nb`; there are: folded, pprof, svg, speedscope, json"
        );
        let ending = UnknownFormat::Ending("out.txt".to_owned()).to_string();
        for spec in FORMATS {
            assert!(ending.contains(spec.ending) && ending.contains(spec.name), "{ending}");
        }
    }

    #[test]
    fn help_has_a_line_per_format() {
        let help = Format::help();
        assert_eq!(help.lines().count(), FORMATS.len());
        assert!(help.starts_with("folded      .folded           one line per stack"));
    }
}
