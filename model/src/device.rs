//! Devices by the name that the command line gives them.

use burn::tensor::Device;

/// A device that this build has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What `--device` takes.
    pub name: &'static str,
    /// What it runs on.
    pub description: &'static str,
}

/// No device has that name.
#[derive(Debug, thiserror::Error)]
#[error("there is no device `{name}`; this build has {known}")]
pub struct UnknownDevice {
    name: String,
    known: String,
}

/// Every device of this build, the default first.
pub fn devices() -> Vec<DeviceInfo> {
    vec![DeviceInfo {
        name: "cpu",
        description: "Burn's Flex backend with Tern's fused operations",
    }]
}

/// The device of a name, without autodiff.
///
/// # Errors
///
/// Lists the names there are.
pub fn find(name: &str) -> Result<Device, UnknownDevice> {
    match name {
        "cpu" => Ok(Device::flex()),
        _ => {
            let known: Vec<&str> = devices().iter().map(|device| device.name).collect();
            Err(UnknownDevice { name: name.into(), known: known.join(", ") })
        }
    }
}
