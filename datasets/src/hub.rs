//! Files of the Hugging Face hub, by name and revision: fetched once, resumed, and checked.
//!
//! The crate `hf-hub` speaks to the hub and keeps its cache, which other programs share. It checks nothing that it
//! fetched, so that is done here: the hub states a checksum for each file, under which the cache files it.

mod address;
mod checksum;
mod patience;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo};

use crate::error::{Error, Result};
use checksum::Checksum;
use patience::{Ended, Tell, patiently};

pub use address::Address;

/// How often a transfer that breaks off is taken up again.
const ATTEMPTS: u32 = 5;
/// How long a server may say nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// The hub as the environment names it.
#[derive(Clone, Debug)]
pub struct Hub {
    endpoint: String,
    cache: Cache,
    token: Option<String>,
    offline: bool,
    /// Before the second attempt; later ones wait longer.
    pause: Duration,
    patience: Duration,
}

/// A file of the hub on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// Its full name, `hf://…`.
    pub name: String,
    /// Where it lies in the cache.
    pub path: PathBuf,
}

/// How far a file has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// Its full name, `hf://…`.
    pub name: &'a str,
    /// Bytes that are here, those of an earlier attempt included.
    pub bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl Hub {
    /// As `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` say, or the hub's own defaults: the public hub, the
    /// cache in `~/.cache/huggingface`, and the token that a login left there.
    pub fn from_env() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let home = || std::env::home_dir().unwrap_or_default().join(".cache/huggingface");
        let home = variable("HF_HOME").map_or_else(home, PathBuf::from);
        // Paths in the cache's links are taken relative to each other, for which all must be absolute.
        let cache = Cache::new(std::path::absolute(&home).unwrap_or(home).join("hub"));
        let endpoint =
            variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: variable("HF_TOKEN")
                .or_else(|| cache.token())
                .map(|token| token.trim().to_owned()),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            cache,
            pause: Duration::from_secs(1),
            patience: PATIENCE,
        }
    }

    /// The same hub; with `offline`, files come from the cache alone.
    pub fn with_offline(self, offline: bool) -> Self {
        Self { offline: self.offline || offline, ..self }
    }

    /// All files of an address, in the order of their names: from the cache where they are whole, else from the hub.
    ///
    /// A file in the cache is used though its branch may have moved on; an address with a commit as its revision
    /// always means the same bytes.
    ///
    /// # Errors
    ///
    /// A file, repository or revision that does not exist or asks for a token, a transfer that breaks off again and
    /// again, a hub that says nothing for a minute, a file that is not what the hub states (which is then removed), and,
    /// offline, one not in the cache.
    pub fn fetch(
        &self,
        address: &Address,
        on_progress: &mut dyn FnMut(Transfer<'_>),
    ) -> Result<Vec<HubFile>> {
        let mut files = Vec::new();
        for path in self.paths(address)? {
            let name = address.name(&path);
            let found = self.cached(address, &path, &name)?;
            let path = match found {
                Some(path) => path,
                None if self.offline => return Err(Error::HubOffline { name }),
                None => self.download(address, &path, &name, on_progress)?,
            };
            files.push(HubFile { name, path });
        }
        Ok(files)
    }

    /// The paths in the repository that an address stands for.
    fn paths(&self, address: &Address) -> Result<Vec<String>> {
        if let Some(path) = address.single() {
            return Ok(vec![path.to_owned()]);
        }
        let mut all = if self.offline { self.cached_paths(address) } else { self.listed(address)? };
        all.sort();
        let found: Vec<String> = all.iter().filter(|path| address.matches(path)).cloned().collect();
        if found.is_empty() {
            let some = all.iter().take(8).map(String::as_str).collect::<Vec<_>>().join(", ");
            let rule = if self.offline {
                "no file in the cache matches, and this is offline".to_owned()
            } else {
                format!("no file matches; the repository has: {some}")
            };
            return Err(Error::HubAddress { address: address.to_string(), rule });
        }
        Ok(found)
    }

    fn listed(&self, address: &Address) -> Result<Vec<String>> {
        let name = address.to_string();
        let repository = self.repository(address)?;
        let info = self.ask(&name, move || repository.info())?;
        let paths = info.siblings.into_iter().map(|file| file.rfilename);
        // The names become paths in the cache.
        paths
            .map(|path| match address::path_fault(&path) {
                None => Ok(path),
                Some(rule) => {
                    Err(Error::HubAddress { address: address.name(&path), rule: rule.to_owned() })
                }
            })
            .collect()
    }

    fn cached_paths(&self, address: &Address) -> Vec<String> {
        let root = self.cache.repo(repo(address)).get("");
        let mut directories: Vec<PathBuf> = root.iter().cloned().collect();
        let mut paths = Vec::new();
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    directories.push(path);
                } else if let Some(root) = &root
                    && let Some(path) = path.strip_prefix(root).ok().and_then(Path::to_str)
                {
                    paths.push(path.to_owned());
                }
            }
        }
        paths
    }

    /// The file in the cache, if it is there and is what its name in the cache says.
    fn cached(&self, address: &Address, path: &str, name: &str) -> Result<Option<PathBuf>> {
        let Some(pointer) = self.cache.repo(repo(address)).get(path) else {
            return Ok(None);
        };
        let blob = fs::canonicalize(&pointer).map_err(Error::io(&pointer))?;
        let stated = blob.file_name().and_then(|name| name.to_str()).and_then(Checksum::parse);
        // Where a system has no links, the cache holds the file itself and no longer knows its checksum.
        if let Some(fault) = stated.map(|stated| stated.fault(&blob)).transpose()?.flatten() {
            return Err(self.remove(name, &blob, &pointer, fault));
        }
        Ok(Some(pointer))
    }

    fn download(
        &self,
        address: &Address,
        path: &str,
        name: &str,
        on_progress: &mut dyn FnMut(Transfer<'_>),
    ) -> Result<PathBuf> {
        let wrong = |rule: &str| Error::HubFile { name: name.to_owned(), rule: rule.to_owned() };
        let repository = self.repository(address)?;
        let (api, url) = (self.api()?, repository.url(path));
        let stated = self.ask(name, move || api.metadata(&url))?;
        // Both become names in the cache.
        let checksum = Checksum::parse(stated.etag()).ok_or_else(|| {
            wrong("the hub must state a SHA-256 or the hash of a git blob, and states neither")
        })?;
        if !stated.commit_hash().bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("the hub must state a commit, and does not"));
        }
        let blob = self.cache.repo(repo(address)).blob_path(stated.etag());
        let part = blob.with_extension("part");
        let mut attempt = 1;
        loop {
            let begun = resumable(&part, stated.size() as u64)?;
            let again = attempt < ATTEMPTS;
            let total_bytes = stated.size() as u64;
            let (repository, file) = (self.repository(address)?, path.to_owned());
            let mut on_bytes =
                |bytes, total_bytes| on_progress(Transfer { name, bytes, total_bytes });
            match patiently(self.patience, &mut on_bytes, move |tell| {
                repository.download_with_progress(&file, Report { bytes: 0, total_bytes, tell })
            }) {
                Ended::Silent => return Err(self.silent(name)),
                // The crate copies until the server ends, and knows no other way to stop it than a panic of the report.
                Ended::Panicked(fault) => {
                    let fault = self.remove(name, &part, &part, fault);
                    if begun == 0 || !again {
                        return Err(fault);
                    }
                }
                Ended::Well(Ok(pointer)) => {
                    let fault = match fs::metadata(&blob).map_err(Error::io(&blob))?.len() {
                        size if size != stated.size() as u64 => {
                            Some(format!("must be {} bytes, is {size}", stated.size()))
                        }
                        _ => checksum.fault(&blob)?,
                    };
                    match fault {
                        None => return Ok(pointer),
                        // Its beginning may be an older file's, or the server may not know how to go on.
                        Some(fault) if begun == 0 || !again => {
                            return Err(self.remove(name, &blob, &pointer, fault));
                        }
                        Some(fault) => drop(self.remove(name, &blob, &pointer, fault)),
                    }
                }
                Ended::Well(Err(error)) if again && may_pass(&error) => {
                    tracing::info!(name, attempt, %error, "the transfer broke off");
                    std::thread::sleep(self.pause * attempt);
                }
                Ended::Well(Err(error)) => return Err(refused(name.to_owned(), error)),
            }
            attempt += 1;
        }
    }

    /// Asks the hub a question that has a short answer.
    fn ask<T: Send + 'static>(
        &self,
        name: &str,
        question: impl FnOnce() -> std::result::Result<T, ApiError> + Send + 'static,
    ) -> Result<T> {
        match patiently(self.patience, &mut |_, _| (), |_| question()) {
            Ended::Well(answer) => answer.map_err(|error| refused(name.to_owned(), error)),
            Ended::Panicked(rule) => Err(Error::HubFile { name: name.to_owned(), rule }),
            Ended::Silent => Err(self.silent(name)),
        }
    }

    fn silent(&self, name: &str) -> Error {
        Error::HubSilent { name: name.to_owned(), seconds: self.patience.as_secs() }
    }

    /// Removes a file that is not what it should be, and says so.
    fn remove(&self, name: &str, blob: &Path, pointer: &Path, fault: String) -> Error {
        let _ = fs::remove_file(pointer);
        let _ = fs::remove_file(blob);
        let rule = format!("{fault}; it was removed from the cache, fetch it again");
        Error::HubFile { name: name.to_owned(), rule }
    }

    fn api(&self) -> Result<Api> {
        ApiBuilder::from_cache(self.cache.clone())
            .with_endpoint(self.endpoint.clone())
            .with_token(self.token.clone())
            .with_progress(false)
            .build()
            .map_err(|error| refused(self.endpoint.clone(), error))
    }

    fn repository(&self, address: &Address) -> Result<ApiRepo> {
        Ok(self.api()?.repo(repo(address)))
    }
}

/// As the hub's own tools read their switches.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
}

fn repo(address: &Address) -> Repo {
    Repo::with_revision(address.repository.clone(), address.kind, address.revision.clone())
}

/// Makes what an earlier attempt left fit for `hf-hub` to go on with, and returns its length. The crate asks for the
/// bytes behind the end, which a server refuses where nothing is missing, and gives up where there is too much.
fn resumable(part: &Path, size: u64) -> Result<u64> {
    let begun = fs::metadata(part).map_or(0, |metadata| metadata.len());
    let keep = if begun > size { 0 } else { begun.min(size.saturating_sub(1)) };
    if keep != begun {
        let file = fs::OpenOptions::new().write(true).open(part).map_err(Error::io(part))?;
        file.set_len(keep).map_err(Error::io(part))?;
    }
    Ok(keep)
}

/// Whether the same request may succeed later.
fn may_pass(error: &ApiError) -> bool {
    match error {
        ApiError::IoError(_) => true,
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(status) => *status == 429 || *status >= 500,
            ureq::Error::Io(_) | ureq::Error::Protocol(_) | ureq::Error::Timeout(_) => true,
            ureq::Error::ConnectionFailed => true,
            _ => false,
        },
        _ => false,
    }
}

fn refused(name: String, error: ApiError) -> Error {
    let status = match &error {
        ApiError::RequestError(error) => match error.as_ref() {
            ureq::Error::StatusCode(status) => Some(*status),
            _ => None,
        },
        _ => None,
    };
    match status {
        Some(status) => Error::HubStatus { name, status, hint: hint(status) },
        None => Error::HubTransfer { name, source: Box::new(error) },
    }
}

/// What a user can do about an answer.
fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => {
            "it does not exist, or is private or gated: accept its terms on its page, and set HF_TOKEN to a token of yours"
        }
        404 => "no such repository, revision or file: check the spelling",
        416 => "the file is empty",
        429 => "too many requests: wait, or set HF_TOKEN to a token of yours",
        500.. => "the hub has a fault: try again later; what has come so far is kept",
        _ => "see HF_ENDPOINT, or the proxy's settings",
    }
}

/// Tells how far a transfer has come.
struct Report {
    bytes: u64,
    total_bytes: u64,
    tell: Tell,
}

/// # Panics
///
/// Where more comes than was announced.
impl Progress for Report {
    fn init(&mut self, size: usize, _: &str) {
        // Called again before a resumed transfer tells how much is there.
        (self.bytes, self.total_bytes) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.bytes += size as u64;
        let (bytes, total_bytes) = (self.bytes, self.total_bytes);
        assert!(bytes <= total_bytes, "must be {total_bytes} bytes, and more came");
        (self.tell)(bytes, total_bytes);
    }

    fn finish(&mut self) {}
}

#[cfg(test)]
mod tests;
