//! What the CPU can do, as far as kernels care.

/// The instruction sets that kernels here or to come can use, of those that this CPU has.
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
        "sse4.1" "avx2" "fma" "avxvnni" "avx512f" "avx512bw" "avx512vnni" "avx512bf16");
    #[cfg(target_arch = "aarch64")]
    detect!(is_aarch64_feature_detected: "neon" "dotprod" "i8mm" "bf16");
    #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
    found.push("simd128");
    found
}
