//! Talking with a model: through pipes, and on a terminal.
#![allow(clippy::unwrap_used, reason = "tests")]

mod workplace;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use workplace::{Workplace, json, stderr};

/// One token for each printable character of ASCII and for each of these.
const SPECIAL: [&str; 5] = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"];

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn tokenizer(special: &[&str]) -> Value {
    let characters = (' '..='~').chain(['\n']).map(String::from);
    let tokens: Vec<String> = special.iter().map(|&name| name.into()).chain(characters).collect();
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, name)| {
            json!({"id": id, "content": name, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        })
        .collect();
    json!({"version": "1.0", "added_tokens": added, "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": {"type": "Fuse"},
        "model": {"type": "BPE", "unk_token": "<unk>", "vocab": vocab, "merges": []}})
}

/// A random model with a context, imported into `model.safetensors`.
fn place(context: usize, special: &[&str], template: Option<&str>) -> Workplace {
    let place = Workplace::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/hf_llama_ckpt");
    let source = place.path("source");
    fs::create_dir(&source).unwrap();
    fs::copy(golden.join("model.safetensors"), source.join("model.safetensors")).unwrap();
    let mut config = json(&fs::read_to_string(golden.join("config.json")).unwrap());
    config["max_position_embeddings"] = context.into();
    fs::write(source.join("config.json"), config.to_string()).unwrap();
    fs::write(source.join("tokenizer.json"), tokenizer(special).to_string()).unwrap();
    if let Some(template) = template {
        fs::write(source.join("chat_template.jinja"), template).unwrap();
    }
    place.done(&["import", "source", "--out", "model.safetensors"]);
    place
}

/// Runs the binary with this standard input.
fn piped(place: &Workplace, arguments: &[&str], input: impl AsRef<[u8]>) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tern"))
        .args(arguments)
        .current_dir(place.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_ref());
    child.wait_with_output().unwrap()
}

fn answers(place: &Workplace, arguments: &[&str], input: &str) -> Vec<Value> {
    let all = [&["--json", "chat", "model.safetensors"], arguments].concat();
    let output = piped(place, &all, input);
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap().lines().map(json).collect()
}

fn number(answer: &Value, key: &str) -> u64 {
    answer[key].as_u64().unwrap_or_else(|| panic!("{key}: {answer}"))
}

#[test]
fn a_script_gets_an_object_a_line_and_the_cache_is_kept() {
    let place = place(400, &SPECIAL, Some(CHATML));
    let all = answers(
        &place,
        &["--max-tokens", "9", "--temperature", "0"],
        "one\n\ntwo\\\nlines\n\"\"\"\na\n\nb\n\"\"\"\n",
    );
    assert_eq!(all.len(), 3);
    let messages: Vec<&str> =
        all.iter().map(|answer| answer["message"].as_str().unwrap()).collect();
    assert_eq!(messages, ["one", "two\nlines", "a\n\nb"]);
    // <|im_start|>user\n…<|im_end|>\n<|im_start|>assistant\n
    assert_eq!(
        (number(&all[0], "prompt_tokens"), number(&all[0], "cached_tokens")),
        (6 + 3 + 2 + 11, 0)
    );
    for (before, after) in all.iter().zip(&all[1..]) {
        assert!(number(after, "cached_tokens") >= number(before, "prompt_tokens"), "{after}");
        assert_eq!(number(after, "dropped_turns"), 0);
    }
    assert_eq!(all[0]["stop_reason"], "max_tokens");
    // The same again is the same, another seed is not.
    let texts = |all: &[Value]| all.iter().map(|answer| answer["text"].clone()).collect::<Vec<_>>();
    let again =
        |seed| texts(&answers(&place, &["--max-tokens", "9", "--seed", seed], "one\ntwo\n"));
    assert_eq!(again("1"), again("1"));
    assert_ne!(again("1"), again("2"));
    // As text: the same words, and what is said besides is on standard error.
    let output = piped(
        &place,
        &["chat", "model.safetensors", "--max-tokens", "9", "--temperature", "0", "--timings"],
        "one\n",
    );
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.trim(), all[0]["text"].as_str().unwrap());
    let said = stderr(&output);
    assert!(
        said.contains("cut after 9 tokens") && said.contains("prefill") && said.contains("tok/s"),
        "{said}"
    );
}

#[test]
fn a_user_cannot_type_control_tokens() {
    let place = place(400, &SPECIAL, Some(CHATML));
    let all = answers(&place, &["--max-tokens", "1"], "<|im_end|>\n");
    let harmless = answers(&place, &["--max-tokens", "1"], "aaaaaaaaaa\n");
    assert_eq!(number(&all[0], "prompt_tokens"), number(&harmless[0], "prompt_tokens"));
}

#[test]
fn a_full_context_drops_turns_and_says_so() {
    let place = place(120, &SPECIAL, Some(CHATML));
    let input = "a question\n".repeat(6);
    let arguments = ["--max-tokens", "10", "--system", "be kind"];
    let all = answers(&place, &arguments, &input);
    assert_eq!(all.len(), 6);
    assert!(all.iter().map(|answer| number(answer, "dropped_turns")).sum::<u64>() >= 3, "{all:?}");
    assert!(all.iter().all(|answer| number(answer, "prompt_tokens") <= 110));
    let command = [&["chat", "model.safetensors"][..], &arguments].concat();
    let output = piped(&place, &command, &input);
    let said = stderr(&output);
    assert!(
        said.contains("(the context is full: the oldest turn is no longer shown to the model)"),
        "{said}"
    );
    // A message that does not fit alone ends a script, with the line and the counts.
    let output = piped(&place, &command, format!("short\n{}\nshort\n", "x".repeat(100)));
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in ["standard input, line 2", "does not fit", "136 tokens", "room for 10", "has 120"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
}

#[test]
fn a_file_without_a_template_gets_one_and_it_is_said() {
    for (special, said) in [(&SPECIAL[..], "ChatML"), (&SPECIAL[..3], "User: and Assistant:")] {
        let place = place(200, special, None);
        let output = piped(&place, &["chat", "model.safetensors", "--max-tokens", "3"], "hi\n");
        assert!(output.status.success() && stderr(&output).contains(said), "{}", stderr(&output));
    }
}

#[test]
fn a_hostile_template_is_an_error_in_words() {
    for (template, words) in [
        ("{% for i in range(90000) %}x{% endfor %}", "a loop without end?"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion limit exceeded"),
        (
            "{{ raise_exception('\x1b[2J roles must alternate') }}",
            "\\u{1b}[2J roles must alternate",
        ),
        ("\n{% if %}", "chat template, line 2"),
        ("{{ messages | explode }}", "filter explode is unknown"),
        ("", "there must be a token to go on from"),
    ] {
        let place = place(200, &SPECIAL, Some(template));
        let output = piped(&place, &["chat", "model.safetensors"], "hi\n");
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(words) && !said.contains('\x1b') && !said.contains("panicked"),
            "{words}: {said}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn bad_input_is_refused() {
    let place = place(200, &SPECIAL, Some(CHATML));
    let said = stderr(&piped(&place, &["chat", "model.safetensors"], b"fine\n\xff\n"));
    assert!(said.contains("standard input, line 2") && said.contains("utf-8"), "{said}");
    let message = place.failed(&["chat", "model.safetensors", "--temperature", "-1"]);
    assert!(message.contains("temperature must be"), "{message}");
    let message = place.failed(&["chat", "nothing.safetensors"]);
    assert!(message.contains("nothing.safetensors"), "{message}");
}

#[test]
fn generate_takes_its_prompt_from_anywhere() {
    let place = place(200, &SPECIAL, None);
    let common = ["--max-tokens", "7"];
    let expected =
        place.done(&[&["generate", "model.safetensors", "Once upon"][..], &common].concat());
    assert!(expected.starts_with("Once upon"), "{expected}");
    fs::write(place.path("prompt.txt"), "Once upon\n").unwrap();
    let from_file = ["generate", "model.safetensors", "--prompt-file", "prompt.txt"];
    assert_eq!(place.done(&[&from_file[..], &common].concat()), expected);
    let output = piped(
        &place,
        &[&["generate", "model.safetensors", "-", "--timings"][..], &common].concat(),
        "Once upon\r\n",
    );
    assert_eq!(String::from_utf8(output.stdout.clone()).unwrap(), expected);
    let said = stderr(&output);
    assert!(said.contains("prompt 9 tokens") && said.contains("decode"), "{said}");
    let both = place.tern(&[&from_file[..], &["text"]].concat());
    assert_eq!(both.status.code(), Some(2));
    let message = place.failed(&["generate", "model.safetensors", "--prompt-file", "nothing.txt"]);
    assert!(message.contains("nothing.txt"), "{message}");
}

/// A pseudo-terminal, which `script` of util-linux makes.
#[cfg(target_os = "linux")]
mod on_a_terminal {
    use std::io::Read;
    use std::process::{Child, ChildStdin};
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, Instant};

    use super::*;

    struct Terminal {
        child: Child,
        typed: ChildStdin,
        said: Arc<Mutex<String>>,
    }

    impl Terminal {
        /// Starts `tern chat`; none as [`Workplace::on_a_terminal`].
        fn chat(place: &Workplace, options: &str) -> Option<Self> {
            let command = format!("chat model.safetensors {options}");
            let mut child = place.on_a_terminal(100, &command)?;
            let mut out = child.stdout.take().unwrap();
            let said = Arc::new(Mutex::new(String::new()));
            let heard = Arc::clone(&said);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = out.read(&mut bytes) {
                    *heard.lock().unwrap() += &String::from_utf8_lossy(&bytes[..read]);
                }
            });
            let typed = child.stdin.take().unwrap();
            Some(Self { child, typed, said })
        }

        fn said(&self) -> String {
            self.said.lock().unwrap().clone()
        }

        /// Waits for these words after what was said up to `from`; returns where they end.
        fn wait_for(&self, words: &str, from: usize) -> usize {
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(60) {
                if let Some(at) = self.said()[from..].find(words) {
                    return from + at + words.len();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            panic!("{words:?} did not come: {}", self.said());
        }

        /// Types, and waits for these words.
        fn typing(&mut self, keys: &[u8], words: &str, from: usize) -> usize {
            self.typed.write_all(keys).unwrap();
            self.typed.flush().unwrap();
            self.wait_for(words, from)
        }

        /// Waits for the end, which must be this exit code with the terminal as it was.
        fn ends(mut self, code: i32, from: usize) -> String {
            let at = self.wait_for(&format!("code={code}"), from);
            self.wait_for("same modes", at);
            self.child.wait().unwrap();
            self.said()
        }
    }

    #[test]
    fn control_c_stops_the_answer_and_then_leaves() {
        let place = place(1_000_000, &SPECIAL, Some(CHATML));
        let Some(mut terminal) =
            Terminal::chat(&place, "--max-tokens 900000 --temperature 0 --timings")
        else {
            return;
        };
        let at = terminal.wait_for("a context of 1,000,000 tokens", 0);
        let at = terminal.wait_for("> ", at);
        // It goes on for minutes unless it is stopped.
        let at = terminal.typing(b"hello\r", "\n", at);
        std::thread::sleep(Duration::from_millis(500));
        let at = terminal.typing(b"\x03", "(stopped)", at);
        let at = terminal.wait_for("decode", at);
        let at = terminal.wait_for("> ", at);
        let at = terminal.typing(b"/reset\r", "(a new conversation)", at);
        let at = terminal.typing(b"\x03", "(Ctrl-C again leaves", at);
        let at = terminal.wait_for("> ", at);
        terminal.typing(b"\x03", "", at);
        terminal.ends(0, at);
    }

    #[test]
    fn commands_errors_and_several_lines() {
        let place = place(300, &SPECIAL, Some(CHATML));
        fs::write(place.path("there.json"), "").unwrap();
        let Some(mut terminal) =
            Terminal::chat(&place, "--max-tokens 5 --temperature 0 --system 'Be kind.'")
        else {
            return;
        };
        let long = format!("{}\r", "x".repeat(300));
        let mut at = terminal.wait_for("> ", 0);
        for (keys, words) in [
            ("/system\r", "Be kind."),
            ("/sytsem\r", "there is no command /sytsem"),
            ("/save there.json\r", "is there already"),
            ("one\\\rtwo\r", "(cut after 5 tokens"),
            ("\"\"\"\rthree\r\"\"\"\r", "(cut after 5 tokens"),
            ("/save talk.json\r", "(saved to talk.json)"),
            (long.as_str(), "does not fit"),
            ("/help\r", "/quit"),
        ] {
            at = terminal.typing(keys.as_bytes(), words, at);
            at = terminal.wait_for("> ", at);
        }
        // Ctrl-D leaves.
        terminal.typing(b"\x04", "", at);
        terminal.ends(0, at);
        let talk = json(&fs::read_to_string(place.path("talk.json")).unwrap());
        let messages = talk["messages"].as_array().unwrap();
        let roles: Vec<&str> =
            messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
        assert_eq!(
            (&messages[1]["content"], &messages[3]["content"]),
            (&"one\ntwo".into(), &"three".into())
        );
    }
}
