//! Devices by the name that the command line gives them.

#[cfg(feature = "wgpu")]
mod adapters;
mod lost;

use burn::tensor::Device;

pub use lost::guarded;

/// A device that this build has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What `--device` takes.
    pub name: String,
    /// What it runs on.
    pub description: String,
}

/// Why there is no such device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// No device has that name.
    #[error(
        "there is no device `{name}`; there are cpu, ndarray, wgpu and wgpu:N, of which this build has {built}"
    )]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The kinds of devices that this build has.
        built: String,
    },
    /// The build lacks its backend.
    #[error("this build has no `{name}`, only {built}; build with `--features {feature}`")]
    NotBuilt {
        /// The name that was asked for.
        name: String,
        /// The cargo feature that brings it.
        feature: &'static str,
        /// The kinds of devices that this build has.
        built: String,
    },
    /// A list of devices.
    #[error(
        "`{name}` names several devices, but a process trains on one: of Burn 0.22.1's backends CUDA's alone sums gradients \
         between devices, and this build has {built}; start a process for each device with mpirun, see \
         docs/distributed.md"
    )]
    Several {
        /// The names that were asked for.
        name: String,
        /// The kinds of devices that this build has.
        built: String,
    },
    /// The machine has no adapter at all.
    #[error("no GPU adapter was found; {advice}")]
    NoAdapter {
        /// What to install.
        advice: &'static str,
    },
    /// The machine has fewer adapters.
    #[error(
        "there is no adapter `{name}`: this machine has {count}, from wgpu:0 on; `tern devices` lists them"
    )]
    NoSuchAdapter {
        /// The name that was asked for.
        name: String,
        /// Adapters there are.
        count: usize,
    },
    /// The adapter is there but cannot be used.
    #[error("{name}: {message}; {advice}")]
    Unusable {
        /// The name that was asked for.
        name: String,
        /// What the graphics driver said.
        message: String,
        /// What to install.
        advice: &'static str,
    },
    /// The device failed while it computed.
    #[error("{name} failed while computing: {message}; {advice}")]
    Lost {
        /// Its name.
        name: String,
        /// What Burn said.
        message: String,
        /// What to install.
        advice: &'static str,
    },
}

/// What a machine needs for wgpu.
const ADVICE: &str = if cfg!(target_os = "macos") {
    "Metal comes with macOS 12 and later: update the system, and do not run inside a virtual machine without a GPU"
} else if cfg!(target_os = "windows") {
    "install the vendor's current display driver; it brings DX12 and Vulkan"
} else {
    "install a Vulkan driver: the vendor's for NVIDIA, `mesa-vulkan-drivers` and `libvulkan1` (Debian, Ubuntu; \
     `mesa-vulkan-drivers` and `vulkan-loader` on Fedora) for AMD, Intel and for Mesa's software renderer"
};

/// Every device of this build and machine, the default first.
pub fn devices() -> Vec<DeviceInfo> {
    let mut all = vec![DeviceInfo {
        name: "cpu".into(),
        description: "Burn's Flex backend with Tern's fused operations".into(),
    }];
    if cfg!(feature = "ndarray") {
        all.push(DeviceInfo {
            name: "ndarray".into(),
            description: "Burn's ndarray backend, on the CPU; slow, to compare with".into(),
        });
    }
    #[cfg(feature = "wgpu")]
    all.extend(adapters::describe());
    all
}

/// The kinds of devices of this build.
fn built() -> String {
    let kinds =
        [("cpu", true), ("ndarray", cfg!(feature = "ndarray")), ("wgpu", cfg!(feature = "wgpu"))];
    let built: Vec<&str> =
        kinds.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    built.join(", ")
}

/// The device of a name, without autodiff; `wgpu` is `wgpu:0`, the best adapter.
///
/// # Errors
///
/// [`DeviceError`], with what to do about it.
pub fn find(name: &str) -> Result<Device, DeviceError> {
    let not_built = |feature| DeviceError::NotBuilt { name: name.into(), feature, built: built() };
    match name {
        "cpu" => Ok(Device::flex()),
        #[cfg(feature = "ndarray")]
        "ndarray" => Ok(ndarray()),
        #[cfg(not(feature = "ndarray"))]
        "ndarray" => Err(not_built("ndarray")),
        _ if name.contains(',') => Err(DeviceError::Several { name: name.into(), built: built() }),
        _ => {
            let unknown = || DeviceError::Unknown { name: name.into(), built: built() };
            let index = match name.strip_prefix("wgpu").ok_or_else(unknown)? {
                "" => 0,
                rest => rest.strip_prefix(':').and_then(|n| n.parse().ok()).ok_or_else(unknown)?,
            };
            open_adapter(name, index, not_built)
        }
    }
}

/// Burn 0.23 drops this backend; nothing else names it.
#[cfg(feature = "ndarray")]
#[allow(deprecated, reason = "a second CPU backend to compare with, for as long as there is one")]
fn ndarray() -> Device {
    Device::ndarray()
}

#[cfg(feature = "wgpu")]
fn open_adapter(
    name: &str,
    index: usize,
    _not_built: impl Fn(&'static str) -> DeviceError,
) -> Result<Device, DeviceError> {
    adapters::open(name, index)
}

#[cfg(not(feature = "wgpu"))]
fn open_adapter(
    _name: &str,
    _index: usize,
    not_built: impl Fn(&'static str) -> DeviceError,
) -> Result<Device, DeviceError> {
    Err(not_built("wgpu"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &str) -> String {
        find(name).err().map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn names_that_are_none_are_refused_with_those_there_are() {
        for name in ["gpu", "wgpu1", "wgpu:", "wgpu:x", "wgpu:-1", ""] {
            let message = refusal(name);
            assert!(
                message.starts_with(&format!("there is no device `{name}`; there are cpu")),
                "{message}"
            );
        }
        assert!(find("cpu").is_ok());
        let message = refusal("wgpu:0,wgpu:1");
        assert!(
            message.contains("names several devices") && message.contains("mpirun"),
            "{message}"
        );
    }

    #[test]
    fn an_adapter_that_is_not_there_is_refused() {
        let message = refusal("wgpu:99");
        let rules = [
            "there is no adapter `wgpu:99`",
            "no GPU adapter was found; install",
            "this build has no `wgpu:99`",
        ];
        assert!(rules.iter().any(|rule| message.contains(rule)), "{message}");
    }
}
