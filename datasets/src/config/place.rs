//! Where a file named in a configuration is: on this machine, or on the Hugging Face hub.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::hub::Address;

/// A resolved name of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A path.
    Local(PathBuf),
    /// Files of the hub.
    Hub(Address),
}

impl Place {
    /// Reads `hf://…` as an address, and anything else as a path: puts the environment's values for `${VAR}` and
    /// `$VAR`, the home directory for `~`, and the config's directory before a relative path.
    ///
    /// # Errors
    ///
    /// A variable that is not set, or a faulty address; `key` is the one of `[data]` that they stand under.
    pub fn resolve(key: &'static str, name: &str, base: &Path) -> Result<Self> {
        if name.starts_with(Address::SCHEME) {
            return Ok(Self::Hub(name.parse()?));
        }
        let expanded = shellexpand::full(name).map_err(|error| Error::Variable {
            key,
            path: name.to_owned(),
            variable: error.var_name,
        })?;
        Ok(Self::Local(base.join(expanded.as_ref())))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn paths_start_at_the_config_and_know_the_environment() {
        let resolve = |name| Place::resolve("train", name, Path::new("/base"));
        let local = |path: &str| Place::Local(path.into());
        assert_eq!(resolve("a.txt").unwrap(), local("/base/a.txt"));
        assert_eq!(resolve("/b.txt").unwrap(), local("/b.txt"));
        assert_eq!(resolve("${CARGO_PKG_NAME}/c").unwrap(), local("/base/tern-datasets/c"));
        let error = resolve("${TERN_NO_SUCH_VARIABLE}/a").unwrap_err().to_string();
        let expected = "data.train: the environment variable TERN_NO_SUCH_VARIABLE in \"${TERN_NO_SUCH_VARIABLE}/a\" is not set";
        assert_eq!(error, expected);
    }

    #[test]
    fn the_hub_has_a_scheme_of_its_own() {
        let place = Place::resolve("train", "hf://datasets/o/n/a.txt", Path::new("/base")).unwrap();
        assert_eq!(place, Place::Hub("hf://datasets/o/n/a.txt".parse().unwrap()));
        assert!(Place::resolve("train", "hf://datasets/o", Path::new("/")).is_err());
    }
}
