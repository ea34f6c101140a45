//! What the CPU can do, as far as kernels care.

/// The instruction sets that decide which kernels there are, of those that this CPU has; AMX too wants the system's leave.
#[allow(unused_macros, unused_mut, reason = "elsewhere there is nothing to detect")]
pub fn features() -> Vec<&'static str> {
    let mut found = Vec::new();
    macro_rules! detect {
        ($detect:ident: $($feature:tt)*) => {
            $(if std::arch::$detect!($feature) { found.push($feature); })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    detect!(is_x86_feature_detected:
        "avx2" "fma" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512vnni");
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    if crate::arch::Amx::new().is_some() {
        found.push("amx-int8");
    }
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "dotprod");
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    found.push("simd128");
    found
}
