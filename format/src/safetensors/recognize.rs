//! What a file is that is not the one expected.

/// Names a kind of file by its first bytes, for the error that refuses it.
pub(super) fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 9] = [
        (b"GGUF", "GGUF (llama.cpp)"),
        (b"PK\x03\x04", "a zip archive (PyTorch's .pt and .bin files are such)"),
        (b"\x80\x02", "a Python pickle (an old PyTorch file)"),
        (b"\x89HDF", "HDF5 (Keras)"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"version https://git-lfs", "a Git LFS pointer, not the file that it points to"),
        (b"<!DOCTYPE", "an HTML page"),
        (b"<html", "an HTML page"),
    ];
    if bytes.is_empty() {
        return Some("an empty file");
    }
    if let Some((_, kind)) = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Some(kind);
    }
    // The start is enough, and may cut the last character.
    let start = &bytes[..bytes.len().min(1024)];
    let text = match std::str::from_utf8(start) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&start[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    if text.is_empty() || text.chars().any(|c| c.is_control() && !c.is_whitespace()) {
        return None;
    }
    Some(if text.trim_start().starts_with(['{', '[']) { "JSON text" } else { "text" })
}
