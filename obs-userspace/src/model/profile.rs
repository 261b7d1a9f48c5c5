//! A symbolized profile: what every export format and the page are made from.

use std::{borrow::Cow, sync::Arc};

use serde::Serialize;

use super::{process::ProcessInfo, stack::StackEnd};

/// What a number in a profile means, by the names that pprof readers know (`cpu`/`nanoseconds`, `samples`/`count`, …).
///
/// A collector's are constants; those of a profile that was read back from disk are owned. Both parts consist of ASCII letters,
/// digits, `_`, `-` and `.` only, so that no format needs to escape them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct ValueType {
    /// What is measured, e.g. `cpu`.
    pub name: Cow<'static, str>,
    /// In which unit, e.g. `nanoseconds`.
    pub unit: Cow<'static, str>,
}

impl ValueType {
    /// A value type that is known when obs is built.
    #[must_use]
    pub const fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), unit: Cow::Borrowed(unit) }
    }
}

/// Where code lives: an ELF file, the vDSO, the kernel, a JIT's region.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// The path as the process sees it, or `[vdso]`, `[kernel]`, `[jit]`.
    pub path: Arc<str>,
    /// The build id in hexadecimal digits, if it has one.
    pub build_id: Option<Arc<str>>,
}

impl Module {
    /// The last part of the path.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Which side a frame belongs to, and how it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrameKind {
    /// Native code of the process.
    User,
    /// Native code inlined into the next frame outwards.
    UserInlined,
    /// Code that a just-in-time compiler made, named by a perf map.
    Jit,
    /// The kernel.
    Kernel,
    /// Kernel code inlined into the next frame outwards.
    KernelInlined,
    /// No code, but what the stack waited for: the innermost frame of a wait.
    Wait,
}

impl FrameKind {
    /// What the frame's name ends in, in folded output and in flame graphs.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::User | Self::Wait => "",
            Self::UserInlined | Self::KernelInlined => "_[i]",
            Self::Jit => "_[j]",
            Self::Kernel => "_[k]",
        }
    }

    /// Whether the frame was inlined into the next one outwards.
    #[must_use]
    pub fn is_inlined(self) -> bool {
        match self {
            Self::UserInlined | Self::KernelInlined => true,
            Self::User | Self::Jit | Self::Kernel | Self::Wait => false,
        }
    }

    /// Whether the frame is kernel code.
    #[must_use]
    pub fn is_kernel(self) -> bool {
        match self {
            Self::Kernel | Self::KernelInlined => true,
            Self::User | Self::UserInlined | Self::Jit | Self::Wait => false,
        }
    }
}

/// What distinguishes two frames of a profile besides function, module and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameDetail {
    /// Nothing: one frame per function.
    Functions,
    /// The source line, where it is known.
    Lines,
    /// The source line and the address.
    Addresses,
}

/// One frame with its name. Equal frames are kept once.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The function's demangled name; without one, [`Profile::label`] falls back to file and offset.
    pub function: Option<Arc<str>>,
    /// Which side it belongs to.
    pub kind: FrameKind,
    /// Index into [`Profile::modules`] of where its code lives, if that is known.
    pub module: Option<u32>,
    /// The address in the module's own address space (as `readelf` shows it), or the absolute address without a module.
    /// 0 in profiles that leave addresses out so that more frames are equal.
    pub address: u64,
    /// Source file and line, if known.
    pub source: Option<(Arc<str>, u32)>,
}

/// One stack of one thread name of one process, with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileSample {
    /// Index into [`Profile::processes`].
    pub process: u32,
    /// The thread's name.
    pub thread_name: Arc<str>,
    /// Indices into [`Profile::frames`], innermost first, inlined frames expanded, kernel frames before user frames.
    pub stack: Arc<[u32]>,
    /// Why the stack does not reach the thread's first frame, if it does not.
    pub cut: Option<StackEnd>,
    /// One value per [`Profile::value_types`].
    pub values: Vec<u64>,
}

/// What a recording found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// The collector's name, e.g. `cpu`: ASCII letters, digits, `_`, `-` and `.` only.
    pub collector: Cow<'static, str>,
    /// What the values of each sample mean. The last one is the default to show.
    pub value_types: Vec<ValueType>,
    /// How far apart samples were, in the unit of the given type (e.g. 10,101,010 `cpu`/`nanoseconds`).
    pub period: Option<(ValueType, u64)>,
    /// When the recording began, in nanoseconds since 1970 (UTC).
    pub started_unix_ns: u64,
    /// How long it took, in nanoseconds.
    pub duration_ns: u64,
    /// Where code lives.
    pub modules: Vec<Module>,
    /// Every different frame.
    pub frames: Vec<Frame>,
    /// Every process image that has a sample.
    pub processes: Vec<ProcessInfo>,
    /// Every different (process, thread name, stack).
    pub samples: Vec<ProfileSample>,
}

impl Profile {
    /// The name to show for a frame, without the suffix of its kind: the function, else `[file+0xoffset]`, else
    /// `[0xaddress]`.
    #[must_use]
    pub fn label(&self, frame: &Frame) -> String {
        if let Some(function) = &frame.function {
            return function.to_string();
        }
        match frame.module.and_then(|index| self.modules.get(index as usize)) {
            Some(module) => format!("[{}+{:#x}]", module.file_name(), frame.address),
            None => format!("[{:#x}]", frame.address),
        }
    }
}
