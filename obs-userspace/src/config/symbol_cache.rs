//! Where names are kept from run to run.

use std::{convert::Infallible, env, ffi::OsString, path::PathBuf, str::FromStr};

/// Most bytes of names on disk, unless the user says otherwise: the indexes of about twenty large programs with DWARF, or of hundreds without.
pub const BYTES_MAX_DEFAULT: u64 = 256 << 20;

/// Where the system keeps what can be made anew.
const SYSTEM_FOLDER: &str = "/var/cache/obs";

/// Whether names are kept on disk, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SymbolCache {
    /// They are not kept.
    Off,
    /// In this folder.
    Folder(PathBuf),
}

impl SymbolCache {
    /// The system's folder for root; for others the folder that they keep such things in, if that can be told.
    #[must_use]
    pub fn usual(is_root: bool) -> Self {
        let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self::of_user(is_root, absolute("XDG_CACHE_HOME"), absolute("HOME"))
    }

    fn of_user(is_root: bool, cache_home: Option<PathBuf>, home: Option<PathBuf>) -> Self {
        if is_root {
            return Self::Folder(SYSTEM_FOLDER.into());
        }
        let folder = cache_home.or_else(|| home.map(|home| home.join(".cache")));
        folder.map_or(Self::Off, |folder| Self::Folder(folder.join("obs")))
    }
}

impl FromStr for SymbolCache {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(if text == "none" { Self::Off } else { Self::Folder(OsString::from(text).into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_folder_of_their_own() {
        let folder = |path: &str| SymbolCache::Folder(path.into());
        let of_user = |cache_home: Option<&str>, home: Option<&str>| {
            SymbolCache::of_user(false, cache_home.map(PathBuf::from), home.map(PathBuf::from))
        };
        assert_eq!(SymbolCache::of_user(true, Some("/home/a".into()), None), folder("/var/cache/obs"));
        assert_eq!(of_user(Some("/c"), Some("/home/a")), folder("/c/obs"));
        assert_eq!(of_user(None, Some("/home/a")), folder("/home/a/.cache/obs"));
        assert_eq!(of_user(None, None), SymbolCache::Off);
    }

    #[test]
    fn none_is_no_folder() {
        assert_eq!("none".parse(), Ok(SymbolCache::Off));
        assert_eq!("./none".parse(), Ok(SymbolCache::Folder("./none".into())));
    }
}
