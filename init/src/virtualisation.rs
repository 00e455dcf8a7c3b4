//! Whether machines can run here at all: what the processor has, and whether the firmware lets it.

use std::{fs, path::Path};

const KVM: &str = "/dev/kvm";

/// Why no machine can run here, and what a farmer can do about it. Nothing once one could.
#[derive(Debug, Default)]
pub struct Virtualisation {
    /// Whether the processor has it; it does not change while it runs.
    has: Option<bool>,
}

impl Virtualisation {
    pub fn trouble(&mut self) -> Option<&'static str> {
        if Path::new(KVM).exists() {
            return None;
        }
        let has = self.has.get_or_insert_with(|| {
            // What cannot be read is told as what most likely is the matter.
            fs::read_to_string("/proc/cpuinfo").is_ok_and(|info| has_extensions(&info))
        });
        Some(match has {
            true => {
                "virtualisation is switched off in this machine's firmware, so that no machine of a tenant can \
                 run: switch on VT-x (Intel) or SVM (AMD) in its setup"
            }
            false => {
                "this processor has no virtualisation, so that no machine of a tenant can run: use another \
                 machine"
            }
        })
    }
}

/// Whether a processor's flags name Intel's or AMD's (`arch/x86/include/asm/cpufeatures.h`). The firmware hides
/// neither when it switches them off.
fn has_extensions(cpuinfo: &str) -> bool {
    let mut flags = cpuinfo.lines().filter_map(|line| {
        let (name, flags) = line.split_once(':')?;
        (name.trim_end() == "flags").then_some(flags)
    });
    flags.any(|flags| {
        flags
            .split_whitespace()
            .any(|flag| ["vmx", "svm"].contains(&flag))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions_are_told_by_their_flags() {
        let info = |flags: &str| {
            format!("processor\t: 0\nflags\t\t: fpu {flags} lm\nvmx flags\t: vnmi\nbugs\t: svm\n")
        };
        assert!(has_extensions(&info("vmx")));
        assert!(has_extensions(&info("svm")));
        assert!(!has_extensions(&info("svme")));
        assert!(!has_extensions(""));
    }
}
