//! What a `tokenizer.json` may ask of its reader.
//!
//! The crate `tokenizers` believes the file: parts that double a text forty times over, a table of four billion units,
//! a token as deep as the stack, padding to any length. Each is bounded here, before the crate sees the file, with
//! room for every published tokenizer.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::charsmap;

/// The most values of all kinds in the JSON: each costs up to 72 bytes of memory and as little as two of the file.
/// Gemma 3, with half a million merges, has 1.8 million.
const MOST_VALUES: usize = 4 << 20;
/// The most parts of normalizer, pre-tokenizer and decoder together.
const MOST_PARTS: usize = 64;
/// The deepest that sequences of parts may be nested.
const DEEPEST: usize = 8;
/// The most bytes of patterns: a regular expression of one byte may compile to ten thousand.
const MOST_PATTERN_BYTES: usize = 16 << 10;
/// The largest product of the counted repetitions in one pattern: `a{30}{30}` is `a` 900 times.
const MOST_REPETITIONS: u64 = 1000;
/// How many times as long a normalizer, a pre-tokenizer or a decoder may make a text. Unicode's own tables need 33.
const MOST_GROWTH: f64 = 512.0;
/// The longest token of a unigram model, which is a path in a tree that is dropped by recursion.
const MOST_TOKEN_BYTES: usize = 1024;
/// The most nodes of that tree, of up to 700 bytes each, and at most one for two bytes of the file.
const MOST_NODES: usize = 2 << 20;

/// The JSON of a tokenizer that is safe to build, without the parts that Tern has no use for: what cuts or fills up
/// the ids of a text, and special tokens around it.
///
/// # Errors
///
/// The place, the rule and the value found.
pub(crate) fn checked(json: &str) -> Result<String, String> {
    serde_json::from_str::<Counted>(json).map_err(|error| error.to_string())?;
    let mut value: Value = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let Some(object) = value.as_object_mut() else { return Err("must be an object".to_owned()) };
    for key in ["truncation", "padding", "post_processor"] {
        object.remove(key);
    }
    let part = |key: &str| object.get(key).unwrap_or(&Value::Null);
    let mut parts = Parts::default();
    for key in ["normalizer", "pre_tokenizer", "decoder"] {
        let growth = parts.growth(part(key), 0).map_err(|rule| format!("{key}: {rule}"))?;
        if growth > MOST_GROWTH {
            return Err(format!(
                "{key}: must make a text at most {MOST_GROWTH} times as long, may {growth:e} times"
            ));
        }
    }
    check_model(part("model"), json.len()).map_err(|rule| format!("model: {rule}"))?;
    // Written anew, so that the crate sees of two equal keys the one that was checked.
    Ok(value.to_string())
}

fn check_model(model: &Value, bytes: usize) -> Result<(), String> {
    if model.get("dropout").and_then(Value::as_f64).is_some_and(|dropout| dropout != 0.0) {
        return Err(
            "dropout must be 0 or absent: the ids of a text would be drawn at random".to_owned()
        );
    }
    match model.get("vocab") {
        Some(Value::Object(vocab)) => {
            let largest = vocab.values().filter_map(Value::as_u64).max().unwrap_or(0);
            // Tables are allocated by the largest id, so a small file may not name a large one.
            if largest >= bytes as u64 {
                return Err(format!("vocab: ids reach {largest}, in a file of only {bytes} bytes"));
            }
            Ok(())
        }
        Some(Value::Array(vocab)) => check_tree(vocab, MOST_NODES.min(bytes / 2)),
        _ => Ok(()),
    }
}

/// Checks the tree that a unigram model makes of its tokens.
fn check_tree(vocab: &[Value], most_nodes: usize) -> Result<(), String> {
    let token = |entry: &Value| entry.get(0).and_then(Value::as_str).map(str::to_owned);
    let mut tokens: Vec<String> = vocab.iter().filter_map(token).collect();
    if let Some(long) = tokens.iter().map(String::len).find(|&size| size > MOST_TOKEN_BYTES) {
        return Err(format!(
            "vocab: a token must have at most {MOST_TOKEN_BYTES} bytes, one has {long}"
        ));
    }
    tokens.sort_unstable();
    let mut before = "";
    let mut nodes = 0;
    for token in &tokens {
        let shared = token.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        nodes += token.len() - shared;
        before = token;
    }
    if nodes > most_nodes {
        return Err(format!(
            "vocab: its tokens must begin in at most {most_nodes} ways, begin in {nodes}"
        ));
    }
    Ok(())
}

/// The parts seen so far.
#[derive(Default)]
struct Parts {
    count: usize,
    pattern_bytes: usize,
}

impl Parts {
    /// How many times as long a part can make a text, at most.
    fn growth(&mut self, part: &Value, depth: usize) -> Result<f64, String> {
        let Some(part) = part.as_object() else { return Ok(1.0) };
        self.count += 1;
        if self.count > MOST_PARTS {
            return Err(format!("there must be at most {MOST_PARTS} parts, are more"));
        }
        if depth > DEEPEST {
            return Err(format!("sequences must be nested at most {DEEPEST} deep, are deeper"));
        }
        let text = |key: &str| part.get(key).and_then(Value::as_str);
        let mut growth = match text("type") {
            Some("ByteLevel" | "BertNormalizer" | "BPEDecoder" | "CTC" | "WordPiece") => 2.0,
            // A part without a type may be any, of an old file.
            Some("Metaspace") | None => 4.0,
            _ => 1.0,
        };
        if let Some(pattern) = part.get("pattern") {
            let shortest = self.shortest_match(pattern)?;
            let content = text("content").map_or(0, str::len) as f64;
            growth *=
                if shortest == 0 { 1.0 + content } else { (content / shortest as f64).max(1.0) };
        }
        if let Some(prefix) = text("prepend") {
            growth *= 1.0 + prefix.len() as f64;
        }
        if let Some(table) = text("precompiled_charsmap") {
            let table =
                STANDARD.decode(table).map_err(|error| format!("precompiled_charsmap: {error}"))?;
            growth *= charsmap::check(&table)? as f64;
        }
        for key in ["normalizers", "pretokenizers", "decoders"] {
            for part in part.get(key).and_then(Value::as_array).into_iter().flatten() {
                growth *= self.growth(part, depth + 1)?;
            }
        }
        Ok(growth)
    }

    /// The fewest bytes that a pattern matches, as far as that is known without compiling it.
    fn shortest_match(&mut self, pattern: &Value) -> Result<usize, String> {
        let literal = pattern.as_str().or_else(|| pattern.get("String")?.as_str());
        let regex = pattern.get("Regex").and_then(Value::as_str);
        self.pattern_bytes += literal.or(regex).map_or(0, str::len);
        if self.pattern_bytes > MOST_PATTERN_BYTES {
            return Err(format!(
                "the patterns must have at most {MOST_PATTERN_BYTES} bytes, have more"
            ));
        }
        let repetitions = regex.map_or(1, repetitions);
        if repetitions > MOST_REPETITIONS {
            return Err(format!(
                "a pattern may repeat its parts at most {MOST_REPETITIONS} times, repeats {repetitions}"
            ));
        }
        Ok(literal.map_or(0, str::len))
    }
}

/// The product of the upper bounds of all counted repetitions: `{3}`, `{1,3}`, `{3,}`.
fn repetitions(pattern: &str) -> u64 {
    let counts = pattern.split('{').skip(1).filter_map(|rest| {
        let numbers = rest.split('}').next()?.split(',').map(str::trim);
        numbers.filter_map(|number| number.parse::<u64>().ok()).max()
    });
    counts.fold(1, |product, count| product.saturating_mul(count.max(1)))
}

/// Any JSON of at most [`MOST_VALUES`] values, counted and forgotten.
struct Counted(usize);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl<'de> Visitor<'de> for CountVisitor {
    type Value = Counted;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_str<E>(self, _: &str) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_unit<E>(self) -> Result<Counted, E> {
        Ok(Counted(1))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Counted, A::Error> {
        let mut count = Counted(1);
        while let Some(value) = values.next_element::<Counted>()? {
            count.add(&value)?;
        }
        Ok(count)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Counted, A::Error> {
        let mut count = Counted(1);
        while let Some((_, value)) = values.next_entry::<de::IgnoredAny, Counted>()? {
            count.add(&value)?;
        }
        Ok(count)
    }
}

impl Counted {
    fn add<E: de::Error>(&mut self, other: &Self) -> Result<(), E> {
        self.0 += other.0;
        if self.0 <= MOST_VALUES {
            return Ok(());
        }
        Err(de::Error::custom(format_args!("there must be at most {MOST_VALUES} values, are more")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenizer::{Tokenizer, TokenizerSource};

    /// Three words, and whatever else is set.
    fn tokenizer(key: &str, value: &Value) -> Value {
        let mut all = json!({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"},
            "model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 1, "c": 2}}});
        all[key] = value.clone();
        all
    }

    fn load(json: &Value) -> crate::Result<Tokenizer> {
        Tokenizer::from_source(&TokenizerSource::Json(json.to_string()))
    }

    fn refused(key: &str, value: &Value, rule: &str) {
        let error = load(&tokenizer(key, value)).unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: ") && error.contains(rule), "{error}");
    }

    #[test]
    fn what_cuts_or_fills_up_the_ids_of_a_text_is_left_out() {
        let padding = json!({"strategy": {"Fixed": 4_000_000_000u32}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"});
        let truncation =
            json!({"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 0});
        let doubled = json!({"type": "TemplateProcessing", "special_tokens": {},
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": []});
        for (key, value) in
            [("padding", padding), ("truncation", truncation), ("post_processor", doubled)]
        {
            let ids = load(&tokenizer(key, &value)).unwrap().encode("c b a").unwrap();
            assert_eq!(ids, [2, 1, 0], "{key}");
        }
    }

    #[test]
    fn parts_that_make_a_text_grow_without_end_are_refused() {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        let forty = |key: &str| json!({"type": "Sequence", key: vec![double.clone(); 40]});
        let rule = "must make a text at most 512 times as long, may 1.099511627776e12 times";
        refused("normalizer", &forty("normalizers"), rule);
        refused("decoder", &forty("decoders"), rule);
        let nothing =
            json!({"type": "Replace", "pattern": {"Regex": "x*"}, "content": "y".repeat(600)});
        refused("normalizer", &nothing, "may 6.01e2 times");
        refused("normalizer", &json!({"type": "Prepend", "prepend": "x".repeat(512)}), "5.13e2");
        let levels =
            json!({"type": "Sequence", "pretokenizers": vec![json!({"type": "ByteLevel"}); 10]});
        refused("pre_tokenizer", &levels, "1.024e3");
        // Nine times as long is in order.
        let some = json!({"type": "Sequence", "normalizers": vec![double; 3]});
        load(&tokenizer("normalizer", &some)).unwrap();
    }

    #[test]
    fn more_or_deeper_parts_than_any_tokenizer_has_are_refused() {
        let many = json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 64]});
        refused("normalizer", &many, "at most 64 parts");
        let mut deep = json!({"type": "NFC"});
        for _ in 0..9 {
            deep = json!({"type": "Sequence", "normalizers": [deep]});
        }
        refused("normalizer", &deep, "nested at most 8 deep");
        let deeper = format!("{{\"normalizer\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
        assert!(checked(&deeper).unwrap_err().contains("recursion limit"));
    }

    #[test]
    fn patterns_that_compile_to_more_than_memory_are_refused() {
        let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        refused("pre_tokenizer", &split("((a{99}){99}){99}"), "at most 1000 times, repeats 970299");
        refused("pre_tokenizer", &split(&"a".repeat(20_000)), "at most 16384 bytes");
        load(&tokenizer("pre_tokenizer", &split(r"\p{N}{1,3}|\s+(?!\S)"))).unwrap();
    }

    #[test]
    fn vocabularies_that_cost_more_than_they_hold_are_refused() {
        let words = |id: u64| json!({"type": "WordLevel", "unk_token": "a", "vocab": {"a": id}});
        refused(
            "model",
            &words(4_294_967_295),
            "model: vocab: ids reach 4294967295, in a file of only",
        );
        let pieces = |vocab: Value| json!({"type": "Unigram", "unk_id": 0, "vocab": vocab});
        let long = pieces(json!([["a", 0.0], ["x".repeat(1025), 0.0]]));
        refused("model", &long, "at most 1024 bytes, one has 1025");
        let many: Vec<_> =
            (0..2100).map(|i| json!([format!("{i:0>4}{}", "x".repeat(1000)), 0.0])).collect();
        refused("model", &pieces(many.into()), "ways, begin in 210");
        let values = format!("{{\"x\":[{}0]}}", "0,".repeat(MOST_VALUES));
        assert!(checked(&values).unwrap_err().contains("at most 4194304 values"));
    }

    #[test]
    fn ids_drawn_at_random_are_refused() {
        let mut model = json!({"type": "BPE", "dropout": 0.1, "vocab": {"a": 0}, "merges": []});
        refused("model", &model, "model: dropout must be 0 or absent");
        model["dropout"] = json!(null);
        load(&tokenizer("model", &model)).unwrap();
    }

    #[test]
    fn of_two_equal_keys_the_crate_sees_the_one_that_was_checked() {
        let good = tokenizer("normalizer", &json!({"type": "NFC"})).to_string();
        let twice = good.replacen('{', "{\"padding\":{},\"normalizer\":{\"type\":\"None\"},", 1);
        assert!(Tokenizer::from_source(&TokenizerSource::Json(twice)).is_ok());
    }

    #[test]
    fn a_table_that_misleads_the_crate_is_refused() {
        let table = |bytes: &[u8]| json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)});
        refused("normalizer", &table(&[255; 4]), "trie must fit 0 bytes, says 4294967295");
        let error = json!({"type": "Precompiled", "precompiled_charsmap": "?"});
        refused("normalizer", &error, "precompiled_charsmap: Invalid");
    }

    #[test]
    fn what_the_crate_panics_on_is_an_error() {
        // Chunks of nothing.
        let part = json!({"type": "FixedLength", "length": 0});
        let tokenizer = load(&tokenizer("pre_tokenizer", &part)).unwrap();
        let error = tokenizer.encode("abc").unwrap_err().to_string();
        assert!(error.starts_with("tokenizer.json: ") && error.contains("chunk size"), "{error}");
    }
}
