//! Memory of process and device while training: flat.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, which say what they measured")]

use tern_tests::device;
use tern_tests::training::{Training, small_with_int8};

/// Resident memory of this process, where the system tells it.
fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// `TERN_STEPS=2000 cargo test --release --workspace --test memory -- --nocapture` is the long form.
fn memory(name: &str) {
    let Some(device) = device(name) else { return };
    let steps = std::env::var("TERN_STEPS").ok().and_then(|n| n.parse().ok()).unwrap_or(200).max(4);
    let mut training = Training::new(&small_with_int8(), device.clone());
    let measure = || {
        device.sync().unwrap();
        let reserved = device.memory_pool_usage().map(|usage| usage.bytes_reserved);
        (resident_bytes(), reserved)
    };
    // Pools fill and shaders compile in the first quarter.
    let mut quarters = Vec::new();
    for step in 1..=steps {
        training.step(step);
        if step % (steps / 4) == 0 {
            quarters.push(measure());
        }
    }
    println!(
        "{name}: resident and reserved bytes after each quarter of {steps} steps: {quarters:?}"
    );
    let (settled, end) = (quarters[0], quarters[quarters.len() - 1]);
    // The activations of one layer are 32 KiB: one of them lost in every step would come to more.
    let slack = 4 << 20;
    if let (Some(settled), Some(end)) = (settled.0, end.0) {
        assert!(end <= settled + slack, "the process grew from {settled} to {end} bytes");
    }
    if let (Some(settled), Some(end)) = (settled.1, end.1) {
        assert!(end <= settled + slack, "the device's pools grew from {settled} to {end} bytes");
    }
}

/// One test, and the only one of its process, because a process has one memory.
#[test]
fn memory_stays_flat() {
    for name in ["cpu", "ndarray", "wgpu"] {
        memory(name);
    }
}
