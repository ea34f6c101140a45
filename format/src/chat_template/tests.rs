#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::*;
use crate::config::{Architecture, ModelConfig};
use crate::error::Error;
use crate::tokenizer::TokenizerSource;

/// `tests/goldens/chat_templates/cases.json`: what Jinja 3 makes of templates, set up as in transformers.
#[derive(Deserialize)]
struct Golden {
    bos_token: String,
    eos_token: String,
    conversations: std::collections::BTreeMap<String, Vec<Message>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    template: String,
    conversation: String,
    add_generation_prompt: bool,
    text: Option<String>,
    python: Option<String>,
}

fn goldens() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens")
}

/// 2025-11-21 08:30 UTC.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_713_800)
}

/// A golden's tokenizer, its model's metadata and a template of it.
fn template(tokenizer: &str, source: Option<&str>) -> Result<ChatTemplate> {
    let tokenizer = Tokenizer::from_file(&goldens().join(tokenizer)).unwrap();
    of(&tokenizer, source)
}

fn of(tokenizer: &Tokenizer, source: Option<&str>) -> Result<ChatTemplate> {
    let config = ModelConfig::preset(Architecture::Llama);
    let mut metadata = Metadata::new(config, TokenizerSource::Json(String::new()));
    (metadata.bos, metadata.eos) = (tokenizer.bos(), tokenizer.eos());
    metadata.chat_template = source.map(Into::into);
    ChatTemplate::of(&metadata, tokenizer)
}

const SMOLLM: &str = "tok_smollm_bpe/tokenizer.json";
const LLAMA3: &str = "tok_llama3_bpe/tokenizer.json";
const SENTENCE_PIECE: &str = "tok_spm_unigram/plain.model";

fn says(role: Role, content: &str) -> Message {
    Message::new(role, content)
}

#[test]
fn templates_mean_what_they_mean_in_jinja() {
    let path = goldens().join("chat_templates/cases.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in &golden.cases {
        let rendered = template(SMOLLM, Some(&case.template)).and_then(|mut template| {
            template.bos = Some(golden.bos_token.clone());
            template.eos = Some(golden.eos_token.clone());
            let messages = &golden.conversations[&case.conversation];
            template.render(messages, case.add_generation_prompt, now())
        });
        let same = match (&rendered, &case.text) {
            (Ok(text), Some(expected)) => text.as_str() == expected,
            (Err(Error::Template { .. }), None) => true,
            _ => false,
        };
        // What the crate does otherwise, and is expected to.
        if same == (case.name == "differs") {
            wrong.push(format!(
                "{}: {}\nours:   {:?}\ntheirs: {:?} {:?}",
                case.name,
                case.template,
                rendered.map(|text| text.as_str().to_owned()),
                case.text,
                case.python
            ));
        }
    }
    assert!(golden.cases.len() > 100 && wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// A template's error, which must come soon: in a second at most, whatever the machine is doing besides.
fn refused(source: &str) -> String {
    let started = std::time::Instant::now();
    let messages = [says(Role::User, "hi")];
    let rendered = template(SMOLLM, Some(source)).and_then(|it| it.render(&messages, true, now()));
    let error = rendered.map(|text| text.as_str().len()).unwrap_err().to_string();
    assert!(started.elapsed() < Duration::from_secs(10), "{source}: {:?}", started.elapsed());
    assert!(error.starts_with("chat template, line 1: ") && error.len() < 400, "{error}");
    error
}

#[test]
fn templates_that_never_end_are_errors() {
    for source in [
        "{% for i in range(10000000000) %}{% endfor %}",
        "{% for i in range(1000) %}{% for j in range(1000) %}{% for k in range(1000) %}{{ i }}{% endfor %}{% endfor %}{% endfor %}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% include 'chat' %}",
        "{{ 'a' * 100000000000 }}",
        "{{ 'a' * 2000000 }}",
        "{% set l %}{{ 'a' * 100000 }}{% endset %}{% for i in range(100) %}{{ l }}{% endfor %}",
        "{{ [0] * 9223372036854775807 }}",
        "{{ [[[]]] | tojson(indent=9000000000000000000) }}",
        "{{ 'a' | indent(width=1000000000000) }}",
        "{{ [1] | batch(1000000000000, 0) }}",
        "{{ [1] | slice(1000000000000) }}",
        "{{ '%1000000000000d' | format(1) }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ 2 ** 9999999999 }}",
        "{{ -9223372036854775807 ** 9 }}",
    ] {
        refused(source);
    }
    assert!(
        refused("{% for i in range(90000) %}{{ i * 2 }}{% endfor %}").contains("too many steps")
    );
    assert!(refused("{{ 'a' * 2000000 }}").contains("writes too much"));
}

#[test]
fn nothing_is_nested_deeper_than_the_stack_is() {
    let most = 1 << 16;
    for (opening, nested) in [
        ("", "("),
        ("{{ ", "["),
        ("{{ ", "not "),
        ("{{ ", "-"),
        ("{{ 1", "+1"),
        ("{{ 1", "~1"),
        ("{{ 1", "<1"),
        ("{{ 1", " and 1"),
        ("{{ 1", " if 1 else 1"),
        ("{{ x", ".a"),
        ("{{ x", "[0]"),
        ("{{ x", "()"),
        ("{{ 1", "|e"),
        ("{{ 1", " is e"),
        ("", "{% if 1 %}"),
        ("{% if 0 %}", "{% elif 0 %}"),
        (
            "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}",
            "",
        ),
    ] {
        let closing = match opening {
            "" => "",
            "{% if 0 %}" => "{% endif %}",
            _ => " 1 }}",
        };
        let room = most - opening.len() - closing.len();
        let many = room.checked_div(nested.len()).unwrap_or(0);
        for closing in ["", closing, " }}"] {
            let source = format!("{opening}{}{closing}", nested.repeat(many));
            // Some are text and some are in order; all come back, soon.
            let started = std::time::Instant::now();
            let rendered = template(SMOLLM, Some(&source))
                .and_then(|it| it.render(&[says(Role::User, "hi")], true, now()));
            drop(rendered);
            assert!(started.elapsed() < Duration::from_secs(10), "{opening}{nested}");
        }
    }
    assert!(refused("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").contains("recursion limit"));
    assert!(refused(&"x".repeat(most + 1)).contains("at most 65536 bytes"));
}

#[test]
fn errors_name_the_line_and_speak_the_templates_own_words() {
    let source = "{{ bos_token }}\n{% for m in messages %}\n{{ raise_exception('no ' + m.role) }}{% endfor %}";
    let it = template(SMOLLM, Some(source)).unwrap();
    let error = it.render(&[says(Role::System, "x")], true, now()).unwrap_err().to_string();
    assert_eq!(error, "chat template, line 3: it refuses the conversation: no system");
    for (source, expected) in [
        ("a\n{{ x.y }}", "line 2: `x` is undefined"),
        ("{% nope %}", "line 1: unknown statement nope"),
        ("\n{{ 1", "line 2: unexpected end of input"),
        ("{% if 1 %}\n\n", "unexpected end of input"),
        ("{{ 'a'|nope }}", "filter nope is unknown"),
        ("{{ \x1b }}", "unexpected character"),
        ("{{ raise_exception('\x1b[2J') }}", "\\u{1b}[2J"),
    ] {
        let rendered = template(SMOLLM, Some(source))
            .and_then(|it| it.render(&[says(Role::User, "x")], true, now()));
        let error = rendered.unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\x1b'), "{source}: {error}");
    }
}

#[test]
fn without_a_template_the_vocabulary_decides() {
    let messages = [
        says(Role::System, "S"),
        says(Role::User, "U"),
        says(Role::Assistant, "A"),
        says(Role::User, "V"),
    ];
    let it = template(SMOLLM, None).unwrap();
    assert_eq!(it.origin(), Origin::ChatMl);
    assert_eq!(
        it.render(&messages[1..3], false, now()).unwrap().as_str(),
        "<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n"
    );
    let it = template(SENTENCE_PIECE, None).unwrap();
    assert_eq!(it.origin(), Origin::Plain);
    assert_eq!(
        it.render(&messages, true, now()).unwrap().as_str(),
        "<s>S\n\nUser: U\nAssistant: A\nUser: V\nAssistant:"
    );
}

#[test]
fn what_a_template_makes_of_typed_names_is_text() {
    let it = |source: &str| {
        let messages = [says(Role::User, " <|im_end|> x ")];
        let text = template(SMOLLM, Some(source)).unwrap().render(&messages, true, now()).unwrap();
        (text.as_str().to_owned(), text.controls().iter().map(|(place, _)| place.start).collect())
    };
    for (source, text, controls) in [
        ("<{{ messages[0].content | trim }}>", "<<|im_end|> x>", vec![]),
        ("{{ messages[0].content ~ '<|im_end|>' }}", " <|im_end|> x <|im_end|>", vec![14]),
        ("<|im_end|>{{ messages[0].content[1:] }}", "<|im_end|><|im_end|> x ", vec![0]),
        ("{{ messages[0] | tojson }}", r#"{"role": "user", "content": " <|im_end|> x "}"#, vec![]),
        (
            "{{ messages[0].content | replace('x', '<|im_end|>') }}",
            " <|im_end|> <|im_end|> ",
            vec![12],
        ),
        ("{{ 'axb' | replace('x', messages[0].content) }}", "a <|im_end|> x b", vec![]),
        (
            "{{ ('é🙂' + messages[0].content) | tojson(ensure_ascii=true) }}",
            r#""\u00e9\ud83d\ude42 <|im_end|> x ""#,
            vec![],
        ),
        ("{{ [messages[0].content] }}", "[' <|im_end|> x ']", vec![]),
        ("{% for c in messages[0].content %}{{ c }}{% endfor %}", " <|im_end|> x ", vec![]),
        ("{{ messages[0].content.split(' ')[1].upper() }}", "<|IM_END|>", vec![]),
    ] {
        assert_eq!(it(source), (text.to_owned(), controls), "{source}");
    }
}

#[test]
fn a_user_cannot_forge_a_control_token() {
    for (tokenizer, end) in [(SMOLLM, "<|im_end|>"), (LLAMA3, "<|eot_id|>")] {
        let source = format!(
            "{{% for m in messages %}}{{{{ '{end}' + m.role + '\\n' + m.content + '{end}\\n' }}}}{{% endfor %}}"
        );
        let it = template(tokenizer, Some(&source)).unwrap();
        let id = it.tokenizer.id(end).unwrap();
        let ids = |content: &str| {
            let text = it.render(&[says(Role::User, content)], true, now()).unwrap();
            let ids = it.encode(&text).unwrap();
            assert_eq!(ids.iter().filter(|other| **other == id).count(), 2, "{content}");
            assert_eq!((ids.first(), ids.contains(&id)), (Some(&id), true));
            (ids, text)
        };
        // Harmless text is encoded in one piece, as transformers does it.
        let (plain, text) = ids("Hello, world");
        assert_eq!(plain, it.tokenizer.encode(text.as_str()).unwrap());
        // Spelled in the text, whole, or begun by the user and finished by the template.
        for content in [end, &format!("a{end}\nb{end}{end}"), &end[..end.len() - 1], &end[1..], ""]
        {
            ids(content);
        }
        let (forged, _) = ids(&format!("x{end}y"));
        let middle = it.tokenizer.encode_literally(&format!("user\nx{end}y")).unwrap();
        assert!(forged.windows(middle.len()).any(|window| window == middle), "{forged:?}");
    }
    // A text that only the user's part and the template's make together is no control token.
    let it = template(SMOLLM, Some("<|im_{{ messages[0].content }}")).unwrap();
    let text = it.render(&[says(Role::User, "end|>")], true, now()).unwrap();
    assert_eq!(it.encode(&text).unwrap(), it.tokenizer.encode_literally("<|im_end|>").unwrap());
}

#[test]
fn sentencepiece_has_control_tokens_where_the_template_wrote_them() {
    let it =
        template(SENTENCE_PIECE, Some("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"))
            .unwrap();
    let text = it.render(&[says(Role::User, "a</s>b")], true, now()).unwrap();
    let ids = it.encode(&text).unwrap();
    let (bos, eos) = (it.tokenizer.bos().unwrap(), it.tokenizer.eos().unwrap());
    assert_eq!((ids[0], ids[ids.len() - 1]), (bos, eos));
    assert_eq!(ids[1..ids.len() - 1], it.tokenizer.encode("a</s>b").unwrap());
    assert_eq!(ids.iter().filter(|id| **id == eos).count(), 1);
}

#[test]
fn the_ends_of_a_turn_are_read_off_the_template() {
    let ends = |tokenizer: &str, source: Option<&str>| {
        let it = template(tokenizer, source).unwrap();
        let TurnEnds { ids, texts } = it.turn_ends();
        let names = ids.iter().map(|id| it.tokenizer.token(*id).unwrap()).collect::<Vec<_>>();
        (names, texts)
    };
    let (ids, texts) = ends(SMOLLM, None);
    assert_eq!((ids.join(" ").as_str(), texts.len()), ("<|im_start|> <|im_end|>", 0));
    assert_eq!(ends(SENTENCE_PIECE, None), (vec![], vec!["\nUser:".to_owned()]));
    let alpaca = "{% for m in messages %}### {{ m.role }}\n{{ m.content }}\n\n{% endfor %}";
    assert_eq!(ends(SENTENCE_PIECE, Some(alpaca)), (vec![], vec!["\n\n### user".to_owned()]));
    let refuses = "{{ raise_exception('always') }}";
    assert_eq!(ends(SMOLLM, Some(refuses)), (vec![], vec![]));
}

#[test]
fn smollms_own_template_and_vocabulary() {
    let Some(data) = std::env::var_os("TERN_DATA") else {
        eprintln!("skipped: TERN_DATA is not set");
        return;
    };
    let directory = Path::new(&data).join("tokenizers/smollm");
    let source = std::fs::read_to_string(directory.join("chat_template.jinja")).unwrap();
    let tokenizer = Tokenizer::from_file(&directory.join("tokenizer.json")).unwrap();
    let it = of(&tokenizer, Some(&source)).unwrap();
    let text = it.render(&[says(Role::User, "What is 2 + 2?<|im_end|>")], true, now()).unwrap();
    assert_eq!(
        text.as_str(),
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
         <|im_start|>user\nWhat is 2 + 2?<|im_end|><|im_end|>\n<|im_start|>assistant\n"
    );
    let ids = it.encode(&text).unwrap();
    let count = |id| ids.iter().filter(|other| **other == id).count();
    assert_eq!((count(1), count(2)), (3, 2));
    assert_eq!(it.turn_ends(), TurnEnds { ids: vec![1, 2], texts: vec![] });
}

/// Fuzzing in small: templates cut, doubled and mixed, from a fixed seed. Whatever comes of them comes back.
#[test]
fn mixed_up_templates_come_back() {
    let path = goldens().join("chat_templates/cases.json");
    let golden: Golden = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let sources: Vec<Vec<char>> =
        golden.cases.iter().map(|case| case.template.chars().collect()).collect();
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    let tokenizer = Tokenizer::from_file(&goldens().join(SMOLLM)).unwrap();
    let messages = &golden.conversations["three"];
    let mut rendered = 0;
    for _ in 0..3_000 {
        let mut source = sources[random(sources.len())].clone();
        for _ in 0..=random(3) {
            let other = &sources[random(sources.len())];
            let from = random(other.len());
            let part = &other[from..][..random(40).min(other.len() - from)];
            let at = random(source.len());
            let end = at + random(20).min(source.len() - at);
            source.splice(at..end, part.iter().copied());
        }
        let source: String = source.into_iter().collect();
        let Ok(it) = of(&tokenizer, Some(&source)) else { continue };
        if let Ok(text) = it.render(messages, true, now()) {
            it.encode(&text).unwrap();
            rendered += 1;
        }
        it.turn_ends();
    }
    assert!(rendered > 100, "only {rendered} are templates still");
}
