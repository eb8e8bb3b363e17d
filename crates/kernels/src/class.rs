//! Numeric classes: the instruction-set path that a machine runs, chosen at run time.
//!
//! Bits are promised within one class (ARCHITECTURE.md, "Numbers that do not move").

use std::fmt;
use std::sync::OnceLock;

/// An instruction-set path. Ordered from the plainest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Plain Rust, on any machine.
    Portable,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL, DQ, VNNI and BF16.
    Avx512,
    /// AVX-512 as above, and AMX tiles for bf16 and int8.
    Amx,
}

impl Class {
    /// Every class, from the plainest to the fastest.
    pub const ALL: [Class; 4] = [Class::Portable, Class::Avx2, Class::Avx512, Class::Amx];

    /// The name used in flags, reports and checkpoints.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Portable => "portable",
            Class::Avx2 => "avx2",
            Class::Avx512 => "avx512",
            Class::Amx => "amx",
        }
    }

    /// The class with this name.
    pub fn from_name(name: &str) -> Option<Class> {
        Class::ALL.into_iter().find(|c| c.name() == name)
    }

    /// The fastest class of this machine.
    pub fn best() -> Class {
        static BEST: OnceLock<Class> = OnceLock::new();
        *BEST
            .get_or_init(|| Class::ALL.into_iter().rfind(|c| c.runs_here()).expect("portable runs"))
    }

    /// The classes that this machine can run, from the plainest to the fastest.
    pub fn available() -> Vec<Class> {
        Class::ALL.into_iter().filter(|c| c.runs_here()).collect()
    }

    /// Whether this machine has the instructions, and the system lets us use them.
    pub fn runs_here(self) -> bool {
        match self {
            Class::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Class::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Class::Avx512 => has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Class::Amx => has_avx512() && has_amx(),
            #[cfg(not(target_arch = "x86_64"))]
            Class::Avx2 | Class::Avx512 | Class::Amx => false,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bf16")
}

/// CPUID leaf 7 names the tile unit (EDX bits 22, 24, 25); Linux must then grant its state.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn has_amx() -> bool {
    let edx = std::arch::x86_64::__cpuid_count(7, 0).edx;
    let wanted = 1 << 22 | 1 << 24 | 1 << 25;
    if edx & wanted != wanted {
        return false;
    }
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call reads no memory of ours; it asks the kernel for the tile state.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn has_amx() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_portable_class_always_runs_and_the_best_is_available() {
        assert!(Class::available().contains(&Class::Portable));
        assert!(Class::available().contains(&Class::best()));
    }

    #[test]
    fn names_come_back() {
        for class in Class::ALL {
            assert_eq!(Class::from_name(class.name()), Some(class));
        }
    }
}
