//! The adapters that wgpu finds: GPUs, and software that stands in for one.

use std::sync::Mutex;

use burn::backend::{CubeDevice, DispatchDevice, WgpuDeviceKind};
use burn::tensor::{Device, DeviceKind, DeviceType};

use super::{ADVICE, DeviceError, DeviceInfo};

/// Adapters that are open; Burn opens each once for the life of the process.
static OPEN: Mutex<Vec<(DeviceKind, Device)>> = Mutex::new(Vec::new());

/// Adapters by kind, the best first: `wgpu:0`, `wgpu:1`, …
fn adapters() -> Vec<DeviceKind> {
    let mut all: Vec<DeviceKind> =
        Device::enumerate(DeviceType::Wgpu).into_vec().iter().filter_map(kind).collect();
    all.sort_by_key(|kind| match kind {
        DeviceKind::DiscreteGpu(_) => 0,
        DeviceKind::IntegratedGpu(_) => 1,
        DeviceKind::VirtualGpu(_) => 2,
        DeviceKind::Cpu => 4,
        _ => 3,
    });
    all
}

fn kind(device: &Device) -> Option<DeviceKind> {
    let DispatchDevice::Cube(CubeDevice::Wgpu(device)) = device.as_dispatch() else { return None };
    match device.kind {
        WgpuDeviceKind::DiscreteGpu(n) => Some(DeviceKind::DiscreteGpu(n)),
        WgpuDeviceKind::IntegratedGpu(n) => Some(DeviceKind::IntegratedGpu(n)),
        WgpuDeviceKind::VirtualGpu(n) => Some(DeviceKind::VirtualGpu(n)),
        WgpuDeviceKind::Cpu => Some(DeviceKind::Cpu),
        _ => None,
    }
}

/// Every adapter with its name; they are opened for that.
pub(super) fn describe() -> Vec<DeviceInfo> {
    let describe = |(index, kind): (usize, DeviceKind)| {
        let name = format!("wgpu:{index}");
        let what = match kind {
            DeviceKind::DiscreteGpu(_) => "discrete GPU",
            DeviceKind::IntegratedGpu(_) => "integrated GPU",
            DeviceKind::VirtualGpu(_) => "virtual GPU",
            DeviceKind::Cpu => "software renderer on the CPU",
            _ => "unknown kind",
        };
        let description = match open(&name, index) {
            Ok(device) => {
                let name = device.identity().map_or_else(|| "unnamed".into(), |id| id.name);
                format!("{name} ({what})")
            }
            Err(error) => error.to_string(),
        };
        DeviceInfo { name, description }
    };
    adapters().into_iter().enumerate().map(describe).collect()
}

/// Opens adapter number `index`, which the user called `name`.
pub(super) fn open(name: &str, index: usize) -> Result<Device, DeviceError> {
    let all = adapters();
    let Some(kind) = all.get(index) else {
        return Err(match all.len() {
            0 => DeviceError::NoAdapter { advice: ADVICE },
            count => DeviceError::NoSuchAdapter { name: name.into(), count },
        });
    };
    // A thread that panicked while it held the lock left the list whole.
    let mut open = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, device)) = open.iter().find(|(other, _)| other == kind) {
        return Ok(device.clone());
    }
    let device = Device::wgpu_options().device_kind(kind.clone()).init().map_err(|error| {
        DeviceError::Unusable { name: name.into(), message: error.to_string(), advice: ADVICE }
    })?;
    open.push((kind.clone(), device.clone()));
    Ok(device)
}
