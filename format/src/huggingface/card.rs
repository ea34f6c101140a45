//! The model card: what the file says of itself, for people.

use super::Storage;
use crate::harmless::escaped;
use crate::packed::{FloatType, PackedModel};

/// What every card says: by this a directory may be told from one that others wrote.
pub const SIGNATURE: &str = "Written by Tern.";

/// The text of `README.md`.
pub(super) fn card(model: &PackedModel, model_type: &str, storage: Storage) -> String {
    let config = model.config();
    let provenance = model.metadata.provenance.as_ref();
    let run = provenance.map_or_else(|| "A ternary model".to_owned(), |p| text(&p.run));
    let kind = if config.is_ternary() { "ternary (1.58-bit)" } else { "float" };
    let layout = match storage {
        Storage::Packed => "trits, four to a byte, with a scale for each matrix",
        Storage::Float(FloatType::F32) => "32-bit floats",
        Storage::Float(FloatType::F16) => "16-bit floats (f16)",
        Storage::Float(FloatType::BF16) => "16-bit floats (bf16)",
    };
    let mut card = format!(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n\
         - ternary\n- 1.58-bit\n- tern\n---\n\n# {run}\n\nA {kind} language model of the kind `{model_type}`, {} parameters, {} \
         of them ternary, stored as {layout}. {SIGNATURE}\n\n```python\nfrom transformers import AutoModelForCausalLM, \
         AutoTokenizer\n\nmodel = AutoModelForCausalLM.from_pretrained(\".\")\ntokenizer = AutoTokenizer.from_pretrained(\".\")\n\
         inputs = tokenizer({}, return_tensors=\"pt\")\nprint(tokenizer.decode(model.generate(**inputs)[0]))\n```\n",
        model.parameters(),
        model.ternary_parameters(),
        serde_json::to_string(&model.metadata.generation.prompt).unwrap_or_default(),
    );
    card.push_str("\n## Training\n\n");
    match provenance {
        Some(p) => {
            card.push_str(&format!("- {} optimizer steps, {} tokens\n", p.step, p.tokens));
            if let Some(loss) = p.val_loss {
                card.push_str(&format!("- validation loss {loss:.4} nats/token at that step\n"));
            }
            if let Some(check) = &model.metadata.check {
                let tokens = check.predictions();
                card.push_str(&format!(
                    "- loss {:.4} nats/token on {tokens} tokens of the validation text, by the trainer\n",
                    check.loss
                ));
            }
            card.push_str(&format!(
                "- data: `{}`, trained by commit `{}`\n",
                text(&p.data_identity),
                text(&p.commit)
            ));
        }
        None => card.push_str("The file does not say: it was imported.\n"),
    }
    card.push_str("\n## Licences\n\n");
    let licence =
        |licence: Option<&String>| licence.map_or_else(|| "not stated".to_owned(), |l| text(l));
    card.push_str(&format!(
        "- training text: {}\n- teacher: {}\n- the model itself: its owner has not stated any here\n",
        licence(provenance.and_then(|p| p.data_licence.as_ref())),
        match provenance.and_then(|p| p.teacher_licence.as_ref()) {
            Some(teacher) => text(teacher),
            None => "none was named".to_owned(),
        },
    ));
    card.push_str(&format!(
        "\n## Limits\n\nAt most {} tokens at a time. It repeats what is in its training text, errors included, and nothing \
         was done to make it safe or truthful.\n",
        config.max_position_embeddings
    ));
    card
}

/// A text of the file on one line, that opens and closes nothing.
fn text(found: &str) -> String {
    escaped(found, &[]).replace(['`', '<', '\n'], " ")
}
