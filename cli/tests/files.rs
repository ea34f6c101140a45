//! Files of other programs through the binary: `import`, `inspect` and `verify`.
#![allow(clippy::unwrap_used, reason = "tests")]

mod workplace;

use std::fs;
use std::path::{Path, PathBuf};

use workplace::{Workplace, json, stderr};

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn seed(path: &str) -> String {
    repository("fuzz/corpus").join(path).display().to_string()
}

#[test]
fn every_kind_of_file_is_told_with_its_tensors_and_tokenizer() {
    let place = Workplace::new();
    for (file, kind, tensors, tokens) in [
        (seed("gguf/seed-llama"), "GGUF file", 11, Some(6)),
        (seed("gguf/seed-bitnet"), "GGUF file", 13, Some(6)),
        (seed("packed_model/seed-full"), "packed model", 18, Some(6)),
        (seed("packed_model/seed-pieces"), "packed model", 20, Some(10)),
        (seed("safetensors/seed-f32"), "safetensors file", 2, None),
        (seed("pytorch/seed-state_dict"), "PyTorch state dict", 11, None),
        (seed("tokenizer_json/seed-bpe"), "tokenizer.json", 0, Some(9)),
        (seed("sentence_piece/seed-unigram"), "SentencePiece model", 0, Some(10)),
        (seed("token_file/seed-pairs"), "token file", 0, None),
        (seed("huggingface_config/seed-gpt2"), "configuration of transformers", 0, None),
        (
            repository("tests/goldens/bitnet_hf_packed").display().to_string(),
            "directory of transformers",
            38,
            None,
        ),
    ] {
        let report = json(&place.done(&["--json", "inspect", &file]));
        assert_eq!(report["kind"], kind, "{file}");
        assert_eq!(report["tensors"].as_array().unwrap().len(), tensors, "{file}");
        assert_eq!(report["tokenizer"]["vocab_size"].as_u64(), tokens, "{file}");
        assert!(report["size_bytes"].as_u64().unwrap() > 0);
        let text = place.done(&["inspect", &file]);
        assert!(text.starts_with(&format!("kind        {kind}\n")), "{text}");
    }
    let report = json(&place.done(&["--json", "inspect", &seed("gguf/seed-bitnet")]));
    assert_eq!(report["config"]["sub_norm"], true);
    assert_eq!(report["parameters"], 1968);
    assert!(report["tensors"].as_array().unwrap().iter().any(|tensor| tensor["stored"] == "i2_s"));
    let report = json(&place.done(&["--json", "inspect", &seed("token_file/seed-pairs")]));
    assert_eq!(
        (&report["metadata"]["tokens"], &report["metadata"]["vocab_size"]),
        (&4.into(), &300.into())
    );
}

#[test]
fn what_is_of_no_kind_or_damaged_is_refused_with_its_name() {
    let place = Workplace::new();
    let gguf = fs::read(seed("gguf/seed-llama")).unwrap();
    for (bytes, words) in [
        (&b""[..], "an empty file"),
        (b"words", "text"),
        (b"{\"a\": 1}", "JSON of no kind"),
        (&gguf[..100], "do not fit"),
        (b"\0\0\0\0\0\0\0\0\0\0", "bytes of no kind"),
        (b"TERNTOK\0\0", "bytes"),
    ] {
        fs::write(place.path("file"), bytes).unwrap();
        let message = place.failed(&["inspect", "file"]);
        assert!(message.contains("file: "), "{message}");
        assert!(message.contains(words), "lacks {words:?}: {message}");
    }
    let message = place.failed(&["inspect", "absent"]);
    assert!(message.contains("absent: No such file"), "{message}");
    fs::create_dir(place.path("empty")).unwrap();
    assert!(place.failed(&["inspect", "empty"]).contains("empty: holds no config.json"));
}

#[test]
fn names_in_a_file_are_no_commands_for_the_terminal() {
    let place = Workplace::new();
    let name = "\x1b[2Jtensor";
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name.as_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 4, 0);
    fs::write(place.path("file"), bytes).unwrap();
    assert!(place.done(&["inspect", "file"]).ends_with("\n1 tensors, 4 B; -v lists them\n"));
    let text = place.done(&["inspect", "-v", "file"]);
    assert!(text.contains("\\u{1b}[2Jtensor") && !text.contains('\x1b'), "{text:?}");
}

#[test]
fn a_gguf_file_imports_verifies_and_overwrites_only_models() {
    let place = Workplace::new();
    let file = seed("gguf/seed-bitnet");
    let report = json(&place.done(&["--json", "import", &file, "--out", "model.safetensors"]));
    assert_eq!(report["ternary_parameters"], 7 * 256);
    place.done(&["import", &file, "--out", "model.safetensors", "--replace"]);
    assert!(
        place.failed(&["import", &file, "--out", "model.safetensors"]).contains("is there already")
    );
    fs::write(place.path("letter.txt"), "Dear reader").unwrap();
    let message = place.failed(&["import", &file, "--out", "letter.txt", "--replace"]);
    assert!(message.contains("is not overwritten"), "{message}");
    assert_eq!(fs::read_to_string(place.path("letter.txt")).unwrap(), "Dear reader");
    for path in [&file, "model.safetensors"] {
        let report = json(&place.done(&["--json", "verify", "--allow-unchecked-loss", path]));
        assert_eq!(report["verdict"], "packed", "{path}");
    }
    // The scales there are 0.5, but nothing is checked that the file does not carry.
    assert_eq!(place.tern(&["verify", &file]).status.code(), Some(3));
    let float = json(
        &String::from_utf8(place.tern(&["--json", "verify", &seed("gguf/seed-llama")]).stdout)
            .unwrap(),
    );
    assert_eq!(float["verdict"], "not_ternary");
    let message = place.failed(&["import", &file, "--out", "x", "--tokenizer", "letter.txt"]);
    assert!(message.contains("carries a tokenizer"), "{message}");
}

#[test]
fn verify_judges_the_weights_as_the_file_has_them() {
    let place = Workplace::new();
    let directory = |name: &str| {
        let source = repository("tests/goldens").join(name);
        fs::create_dir(place.path(name)).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(source.join(file), place.path(name).join(file)).unwrap();
        }
        let tokenizer =
            r#"{"version":"1.0","model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2},"merges":[]}}"#;
        fs::write(place.path(name).join("tokenizer.json"), tokenizer).unwrap();
    };
    directory("bitnet_hf_packed");
    let report =
        json(&place.done(&["--json", "verify", "--allow-unchecked-loss", "bitnet_hf_packed"]));
    assert_eq!(report["verdict"], "packed");
    let plain = place.failed(&["verify", "bitnet_hf_packed/model.safetensors"]);
    assert!(plain.contains("weights of transformers; `tern import"), "{plain}");
    // Made of floats that the model ternarizes when it runs.
    directory("bitnet_hf_online");
    let config = place.path("bitnet_hf_online/config.json");
    // A golden of training has the model's configuration in a part of its own.
    let mut value = json(&fs::read_to_string(&config).unwrap())["config"].take();
    value["quantization_config"] = serde_json::json!({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"});
    fs::write(&config, value.to_string()).unwrap();
    let output = place.tern(&["--json", "verify", "bitnet_hf_online"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert_eq!(json(&String::from_utf8(output.stdout).unwrap())["verdict"], "latent");
    let best = repository("tests/goldens/pytorch/bitlm_w.pt").display().to_string();
    let tokenizer = "bitnet_hf_packed/tokenizer.json";
    let latent = place.tern(&["--json", "verify", &best, "--tokenizer", tokenizer]);
    assert_eq!(json(&String::from_utf8(latent.stdout).unwrap())["verdict"], "latent");
    let import = ["import", &best, "--tokenizer", tokenizer, "--out", "bitlm.safetensors"];
    place.done(&[&import[..], &["--set", "max_position_embeddings=64"]].concat());
    let report =
        json(&place.done(&["--json", "verify", "--allow-unchecked-loss", "bitlm.safetensors"]));
    assert_eq!(report["verdict"], "packed");
    let message = place.failed(&["verify", &seed("pytorch/seed-state_dict")]);
    assert!(message.contains("carries no tokenizer"), "{message}");
}
