//! The adapters that wgpu finds: GPUs, and software that stands in for one.

use std::sync::{Mutex, PoisonError};

use burn::tensor::wgpu::WgpuBackend;
use burn::tensor::wgpu::wgpu::{Backend, Backends, DeviceType, Instance, InstanceDescriptor};
use burn::tensor::{Device, DeviceKind};

use super::{ADVICE, DeviceError, DeviceInfo};

/// An adapter as one graphics API offers it.
#[derive(Clone, Debug, PartialEq)]
struct Adapter {
    name: String,
    kind: DeviceKind,
    api: WgpuBackend,
}

/// Adapters that are open; Burn opens each once for the life of the process.
static OPEN: Mutex<Vec<(Adapter, Device)>> = Mutex::new(Vec::new());

/// Every adapter of Vulkan, Metal and DX12, the best first: `wgpu:0`, `wgpu:1`, …
///
/// OpenGL is left out: its compute shaders are too limited, and asking for it makes some systems complain on the terminal.
fn adapters() -> Vec<Adapter> {
    let backends = Backends::VULKAN | Backends::METAL | Backends::DX12;
    let instance = Instance::new(InstanceDescriptor {
        backends,
        ..InstanceDescriptor::new_without_display_handle()
    });
    let mut all: Vec<Adapter> = Vec::new();
    for found in pollster::block_on(instance.enumerate_adapters(backends)) {
        let info = found.get_info();
        let api = match info.backend {
            Backend::Vulkan => WgpuBackend::Vulkan,
            Backend::Metal => WgpuBackend::Metal,
            _ => WgpuBackend::Dx12,
        };
        // Burn numbers the adapters of each API and kind by themselves, in the order in which they are found.
        let numbered = |make: fn(usize) -> DeviceKind| {
            let same = |n: &usize| all.iter().any(|a| a.api == api && a.kind == make(*n));
            make((0..).take_while(same).count())
        };
        let kind = match info.device_type {
            DeviceType::DiscreteGpu => numbered(DeviceKind::DiscreteGpu),
            DeviceType::IntegratedGpu => numbered(DeviceKind::IntegratedGpu),
            DeviceType::VirtualGpu => numbered(DeviceKind::VirtualGpu),
            DeviceType::Cpu => DeviceKind::Cpu,
            // Burn has no name for what does not say what it is.
            DeviceType::Other => continue,
        };
        all.push(Adapter { name: info.name, kind, api });
    }
    all.sort_by_key(|adapter| match adapter.kind {
        DeviceKind::DiscreteGpu(_) => 0,
        DeviceKind::IntegratedGpu(_) => 1,
        DeviceKind::VirtualGpu(_) => 2,
        _ => 3,
    });
    all
}

/// Every adapter under the name that opens it.
pub(super) fn describe() -> Vec<DeviceInfo> {
    let describe = |(index, Adapter { name, kind, api }): (usize, Adapter)| {
        let what = match kind {
            DeviceKind::DiscreteGpu(_) => "discrete GPU",
            DeviceKind::IntegratedGpu(_) => "integrated GPU",
            DeviceKind::VirtualGpu(_) => "virtual GPU",
            _ => "software renderer on the CPU",
        };
        DeviceInfo {
            name: format!("wgpu:{index}"),
            description: format!("{name}, {what}, through {api:?}"),
        }
    };
    adapters().into_iter().enumerate().map(describe).collect()
}

/// Opens adapter number `index`, which the user called `name`.
pub(super) fn open(name: &str, index: usize) -> Result<Device, DeviceError> {
    let all = adapters();
    let Some(adapter) = all.get(index) else {
        return Err(match all.len() {
            0 => DeviceError::NoAdapter { advice: ADVICE },
            count => DeviceError::NoSuchAdapter { name: name.into(), count },
        });
    };
    // A thread that panicked while it held the lock left the list whole.
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = open.iter().find(|(other, _)| other == adapter) {
        return Ok(device.clone());
    }
    let options =
        Device::wgpu_options().device_kind(adapter.kind.clone()).graphics_api(adapter.api);
    let device = options.init().map_err(|error| DeviceError::Unusable {
        name: name.into(),
        message: error.to_string(),
        advice: ADVICE,
    })?;
    open.push((adapter.clone(), device.clone()));
    Ok(device)
}
