//! For which machines an image is (OCI image specification 1.1, image index, `platform`).

use serde::{Deserialize, Serialize};

/// What nodes run.
pub const OS: &str = "linux";
pub const ARCHITECTURE: &str = "amd64";

/// What an x86-64 processor can, as the x86-64 psABI counts it ("Micro-Architecture Levels"). Each has what
/// those before it have.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Any.
    #[default]
    V1,
    V2,
    V3,
    V4,
}

/// What each level adds, as Linux names it (`arch/x86/include/asm/cpufeatures.h`).
const ADDED: [(Level, &[&str]); 3] = [
    (
        Level::V2,
        &[
            "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3",
        ],
    ),
    (
        Level::V3,
        &[
            "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave",
        ],
    ),
    (
        Level::V4,
        &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
    ),
];

impl Level {
    /// Of the machine whose `/proc/cpuinfo` this is: the lowest of its processors'.
    pub fn of_cpuinfo(text: &str) -> Self {
        let flags = text.lines().filter_map(|line| {
            let (key, flags) = line.split_once(':')?;
            (key.trim() == "flags").then_some(flags)
        });
        flags.map(Self::of_flags).min().unwrap_or_default()
    }

    fn of_flags(flags: &str) -> Self {
        let has = |flag: &&str| flags.split_whitespace().any(|other| other == *flag);
        let reached = ADDED
            .iter()
            .take_while(|(_, added)| added.iter().all(has))
            .last();
        reached.map_or(Self::V1, |(level, _)| *level)
    }

    fn of_variant(variant: &str) -> Option<Self> {
        match variant {
            "" | "v1" => Some(Self::V1),
            "v2" => Some(Self::V2),
            "v3" => Some(Self::V3),
            "v4" => Some(Self::V4),
            _ => None,
        }
    }
}

/// What an index says about one of its images.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default)]
    variant: Option<String>,
    /// What the image needs of the operating system. The specification names some for Windows alone, and
    /// others name what unpacks their layers (`nydus.remoteimage.v1`).
    #[serde(default, rename = "os.features")]
    os_features: Option<Vec<String>>,
}

impl Platform {
    /// What a processor must have to run it; `None` if no node does.
    pub fn level(&self) -> Option<Level> {
        let needs_more = self.os_features.iter().flatten().next().is_some();
        if self.os != OS || self.architecture != ARCHITECTURE || needs_more {
            return None;
        }
        Level::of_variant(self.variant.as_deref().unwrap_or_default())
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = self.variant.as_deref().filter(|text| !text.is_empty()) {
            write!(f, "/{variant}")?;
        }
        match self.os_features.as_deref() {
            None | Some([]) => Ok(()),
            Some(features) => write!(f, " with {}", features.join(" and ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3";
    const V3: &str = "avx avx2 bmi1 bmi2 f16c fma abm movbe xsave";
    const V4: &str = "avx512f avx512bw avx512cd avx512dq avx512vl";

    fn level(processors: &[&str]) -> Level {
        let of_one =
            |flags: &&str| format!("processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n\n");
        Level::of_cpuinfo(&processors.iter().map(of_one).collect::<String>())
    }

    #[test]
    fn a_processor_s_level_is_what_it_has_all_of() {
        let v3 = format!("{V2} {V3}");
        let v4 = format!("{v3} {V4}");
        assert_eq!(level(&[]), Level::V1);
        assert_eq!(level(&["fpu sse2"]), Level::V1);
        assert_eq!(level(&[V2]), Level::V2);
        assert_eq!(level(&[&v3]), Level::V3);
        assert_eq!(level(&[&v4]), Level::V4);
        // As QEMU's `-cpu max,-cx16`.
        assert_eq!(level(&[&v4.replace("cx16 ", "")]), Level::V1);
        assert_eq!(level(&[&v4.replace("avx2", "avx2x")]), Level::V2);
        // Threads of a machine go from one to another.
        assert_eq!(level(&[&v4, V2, &v3]), Level::V2);
    }
}
