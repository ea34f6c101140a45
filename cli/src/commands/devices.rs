//! `tern devices`

use anyhow::Result;
use serde::Serialize;
use tern_kernels::ternary::Kernel;

use crate::Ending;
use crate::terminal::Terminal;

/// List the devices that `--device` knows, and the kernels chosen here.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tern devices
  tern --json devices")]
pub(crate) struct Arguments {}

#[derive(Serialize)]
struct Report {
    devices: Vec<Device>,
    threads: usize,
    cpu_features: Vec<&'static str>,
    inference_kernel: &'static str,
    inference_kernels: Vec<&'static str>,
    memory_bytes: Option<u64>,
}

#[derive(Serialize)]
struct Device {
    name: String,
    description: String,
}

pub(crate) fn run(_: &Arguments, terminal: &Terminal) -> Result<Ending> {
    let report = Report {
        devices: devices(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_features: tern_kernels::cpu::features(),
        inference_kernel: Kernel::detect()?.name(),
        inference_kernels: Kernel::available().iter().map(Kernel::name).collect(),
        memory_bytes: memory(),
    };
    let mut text = String::from("devices for --device\n");
    for device in &report.devices {
        text.push_str(&format!("  {:<10}{}\n", device.name, device.description));
    }
    if report.devices.is_empty() {
        text.push_str("  none: this build only runs models (feature `train` is off)\n");
    }
    text.push_str(&format!("cpu\n  threads   {}\n", report.threads));
    if let Some(memory) = report.memory_bytes {
        text.push_str(&format!("  memory    {}\n", crate::terminal::bytes(memory)));
    }
    text.push_str(&format!("  features  {}\n", report.cpu_features.join(" ")));
    text.push_str(&format!(
        "inference kernel\n  {} (of {}; TERN_KERNEL=name forces one)\n",
        report.inference_kernel,
        report.inference_kernels.join(", ")
    ));
    terminal.result(&report, &text)?;
    Ok(Ending::Done)
}

#[cfg(feature = "train")]
fn devices() -> Vec<Device> {
    let all = tern_model::device::devices();
    all.into_iter().map(|d| Device { name: d.name, description: d.description }).collect()
}

#[cfg(not(feature = "train"))]
fn devices() -> Vec<Device> {
    Vec::new()
}

/// Physical memory, where the system says it in a file.
pub(crate) fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
