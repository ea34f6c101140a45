//! The Burn model and the optimizer against independent PyTorch code, on every device: logits, loss, every gradient, and
//! the weights after one and five steps.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor, TensorData};
use tern_format::config::{ActivationQuantizer, Architecture, ModelConfig, Quantizer};
use tern_model::Decoder;
use tern_model::Precision;
use tern_model::fused::{self, Activation};
use tern_model::parameters::{export, import, values};
use tern_tests::names::ours;
use tern_tests::{Golden, device, golden, golden_directory, max_difference, relative_difference};
use tern_train::gradients::Gradients;
use tern_train::optimizer::{Optimizer, OptimizerConfig};
use tern_train::schedule::{ScheduleConfig, Shares};

struct Case {
    name: &'static str,
    model: Decoder,
    io: BTreeMap<String, Golden>,
    settings: serde_json::Value,
    device: Device,
}

impl Case {
    /// `config` makes the model of the preset and sizes that the golden states.
    fn new(
        name: &'static str,
        architecture: Architecture,
        config: impl FnOnce(ModelConfig) -> ModelConfig,
        device: &Device,
    ) -> Self {
        let text = std::fs::read_to_string(golden_directory(name).join("config.json")).unwrap();
        let settings: serde_json::Value = serde_json::from_str(&text).unwrap();
        let config = config(sizes(architecture, &settings["config"]));
        config.validate().unwrap();
        let device = device.clone().autodiff();
        let weights = ours(golden(name, "model.safetensors"))
            .into_iter()
            .map(|(name, tensor)| (name, (tensor.shape.clone(), tensor.f32())))
            .collect();
        let model = import(Decoder::init(&config, 0, &device), weights).unwrap();
        Self { name, model, io: golden(name, "io.safetensors"), settings, device }
    }

    /// Inputs and targets of one step.
    fn batch(&self, step: usize) -> (Tensor<2, Int>, Tensor<2, Int>) {
        let tokens = &self.io["tokens"];
        let (rows, length) = (tokens.shape[1], tokens.shape[2]);
        let step = &tokens.values[step * rows * length..][..rows * length];
        let half = |offset: usize| {
            let ids: Vec<i32> = step
                .chunks_exact(length)
                .flat_map(|row| &row[offset..offset + length - 1])
                .map(|&id| id as i32)
                .collect();
            Tensor::from_data(TensorData::new(ids, [rows, length - 1]), &self.device)
        };
        (half(0), half(1))
    }

    /// The golden's own difference between fp32 and fp64.
    fn noise(&self, key: &str) -> f64 {
        self.settings["fp32_vs_fp64_maxdiff"][key].as_f64().unwrap()
    }

    fn logits_loss_and_gradients(&self, logits_bound: f64, gradient_bound: f64) {
        let (ids, targets) = self.batch(0);
        let logits = values(self.model.forward(ids.clone()).inner());
        let difference = relative_difference(&logits, &self.io["logits"].values);
        assert!(difference <= logits_bound, "{}: logits differ by {difference:e}", self.name);

        let loss = self.model.loss(ids, targets);
        let found = values(loss.clone().inner());
        let difference = relative_difference(&found, &self.io["loss"].values);
        assert!(difference <= logits_bound, "{}: loss differs by {difference:e}", self.name);

        let mut gradients = Gradients::default();
        gradients.add(&self.model, loss.backward());
        let expected_norm = self.io["grad_norms"].values[0];
        let difference = (gradients.norm() - expected_norm).abs() / expected_norm;
        assert!(difference <= gradient_bound, "{}: norm differs by {difference:e}", self.name);
        for (name, expected) in ours(golden(self.name, "grads.safetensors")) {
            let found = values(gradients.get(&name).unwrap().clone());
            if is_key_bias(&name) {
                assert!(max_difference(&found, &expected.values) <= 1e-6, "{} {name}", self.name);
                continue;
            }
            let difference = relative_difference(&found, &expected.values);
            assert!(difference <= gradient_bound, "{} {name}: {difference:e}", self.name);
        }
    }

    /// Five steps; weights after the first and the last. The last has bounds of its own.
    fn optimizer_steps(
        self,
        clip: Option<f64>,
        schedule: Option<ScheduleConfig>,
        bounds: Bounds,
        last: Bounds,
    ) {
        let learning_rate = if schedule.is_some() { 3e-3 } else { 1e-3 };
        let config =
            OptimizerConfig { learning_rate, weight_decay: 0.1, ..OptimizerConfig::default() };
        let mut optimizer = Optimizer::new(config);
        let mut model = self.model.clone();
        for step in 1..=5 {
            let bounds = if step == 5 { last } else { bounds };
            let (ids, targets) = self.batch(step - 1);
            let loss = model.loss(ids, targets);
            let found = f64::from(loss.clone().inner().into_scalar::<f32>());
            let expected = self.io["losses"].values[step - 1];
            let difference = (found - expected).abs() / expected;
            assert!(difference <= bounds.loss, "step {step}: loss {found} against {expected}");
            let mut gradients = Gradients::default();
            gradients.add(&model, loss.backward());
            let norm = gradients.norm();
            let expected = self.io["grad_norms"].values[step - 1];
            let difference = (norm - expected).abs() / expected;
            assert!(difference <= bounds.norm, "step {step}: norm {norm} against {expected}");
            if let Some(clip) = clip {
                gradients.clip(norm, clip);
            }
            let shares = schedule.as_ref().map_or(Shares::default(), |s| s.at(step as u64, 8));
            model = optimizer.step(model, gradients, shares);
            if step == 1 || step == 5 {
                let found = export(&model);
                let expected = ours(golden(self.name, &format!("step{step}.safetensors")));
                for (name, expected) in expected.into_iter().filter(|(name, _)| !is_key_bias(name))
                {
                    let difference = max_difference(&found[&name].1, &expected.values);
                    assert!(
                        difference <= bounds.weights,
                        "{} step {step} {name}: {difference:e}",
                        self.name
                    );
                }
            }
        }
    }

    /// Losses to 1e-5, norms to 1e-4, weights to ten times the golden's own difference between fp32 and fp64.
    fn bounds(&self) -> Bounds {
        let weights = 10.0 * self.noise("w1").max(self.noise("w5"));
        Bounds { loss: 1e-5, norm: 1e-4, weights }
    }
}

/// The preset, in the sizes of a golden's configuration: BitLM's and BitGPT's own keys, GPT-2's, or those of LLaMA.
fn sizes(architecture: Architecture, settings: &serde_json::Value) -> ModelConfig {
    let size = |keys: [&str; 4]| {
        keys.iter().find_map(|key| settings[*key].as_u64()).map(|size| size as usize)
    };
    let hidden = size(["d_model", "embed_dim", "n_embd", "hidden_size"]).unwrap();
    let heads = size(["n_heads", "num_heads", "n_head", "num_attention_heads"]).unwrap();
    let inner = size(["d_ff", "ffn_dim", "n_inner", "intermediate_size"]);
    let preset = ModelConfig::preset(architecture);
    let float = |keys: [&str; 2], preset: f64| {
        keys.iter().find_map(|key| settings[*key].as_f64()).unwrap_or(preset)
    };
    ModelConfig {
        vocab_size: settings["vocab_size"].as_u64().unwrap() as usize,
        hidden_size: hidden,
        intermediate_size: inner.unwrap_or(4 * hidden),
        num_hidden_layers: size(["n_layers", "num_layers", "n_layer", "num_hidden_layers"])
            .unwrap(),
        num_attention_heads: heads,
        num_key_value_heads: settings["num_key_value_heads"].as_u64().map_or(heads, |n| n as usize),
        head_dim: hidden / heads,
        max_position_embeddings: size([
            "max_seq",
            "max_pos",
            "n_positions",
            "max_position_embeddings",
        ])
        .unwrap(),
        rope_theta: settings["rope_parameters"]["rope_theta"].as_f64().unwrap_or(preset.rope_theta),
        rms_norm_eps: float(["rms_eps", "rms_norm_eps"], preset.rms_norm_eps),
        layer_norm_eps: float(["ln_eps", "layer_norm_epsilon"], preset.layer_norm_eps),
        ..preset
    }
}

/// Whether a tensor is the bias of GPT-2's keys. Softmax takes no notice of it: its gradient is rounding, of which Adam makes
/// steps of full size.
fn is_key_bias(name: &str) -> bool {
    name.ends_with("k_proj.bias")
}

/// Largest differences from the golden: losses and norms relative, weights absolute.
#[derive(Clone, Copy)]
struct Bounds {
    loss: f64,
    norm: f64,
    weights: f64,
}

/// By the fifth step the weights differ by 1e-7, and a code may flip: the loss moves by 2e-4 (1e-3 is what a flipped code may cost), and no
/// entry can move further than Adam's one step with the changed gradient, the learning rate of 1e-3.
const FLIPPED: Bounds = Bounds { loss: 1e-3, norm: 1e-2, weights: 1e-3 };

/// The golden states its noise with the key biases, which are left out here: every other entry has less than 1e-5 of it.
const GPT2: Bounds = Bounds { loss: 1e-5, norm: 1e-4, weights: 1e-5 };

/// Each test once on every device.
macro_rules! on_every_device {
    ($($test:ident)*) => {
        mod cpu {
            $(#[test] fn $test() { super::$test(&super::device("cpu").unwrap()) })*
        }
        mod ndarray {
            $(#[test] fn $test() { super::$test(&super::device("ndarray").unwrap()) })*
        }
        mod wgpu {
            $(#[test] fn $test() { if let Some(device) = super::device("wgpu") { super::$test(&device) } })*
        }
    };
}

on_every_device! {
    float_bitlm_meets_its_golden
    ternary_bitlm_meets_its_golden
    bitlm_with_int8_activations_meets_its_golden
    clipping_and_the_schedule_meet_their_golden
    bitgpt_meets_its_golden
    bitgpt_with_a_float_head_meets_its_golden
    float_gpt2_meets_its_golden
    ternary_gpt2_meets_its_golden
    float_bitnet_meets_its_golden
    bitnet_meets_its_golden
    llama_meets_its_golden
    the_quantizers_meet_their_golden
    a_quantized_product_is_exact_before_it_is_scaled
    gradients_go_straight_through
    the_operations_meet_their_golden
}

/// BitLM with other quantizers.
fn bitlm(
    name: &'static str,
    quantizer: Quantizer,
    activation_quantizer: ActivationQuantizer,
    device: &Device,
) -> Case {
    let config = |bitlm| ModelConfig { quantizer, activation_quantizer, ..bitlm };
    Case::new(name, Architecture::Bitlm, config, device)
}

fn float_bitlm_meets_its_golden(device: &Device) {
    let case = bitlm("bitlm_fp", Quantizer::None, ActivationQuantizer::None, device);
    // Ten times the golden's own fp32-against-fp64 difference would be 4e-5 absolute; 1e-5 relative is stricter.
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn ternary_bitlm_meets_its_golden(device: &Device) {
    let case = bitlm("bitlm_w", Quantizer::B158, ActivationQuantizer::None, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn bitlm_with_int8_activations_meets_its_golden(device: &Device) {
    let case = bitlm("bitlm_wa", Quantizer::B158, ActivationQuantizer::Int8, device);
    // The golden's seed was chosen so that no code of the first step stands at a rounding boundary: the float bounds hold.
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let (bounds, last) = (case.bounds(), FLIPPED);
    case.optimizer_steps(None, None, bounds, last);
}

fn clipping_and_the_schedule_meet_their_golden(device: &Device) {
    let case = bitlm("bitlm_w_clip_sched", Quantizer::B158, ActivationQuantizer::None, device);
    let schedule = ScheduleConfig { warmup_steps: 2, final_ratio: 0.1, ..Default::default() };
    let bounds = case.bounds();
    case.optimizer_steps(Some(0.5), Some(schedule), bounds, bounds);
}

fn bitgpt_meets_its_golden(device: &Device) {
    let config = |preset| ModelConfig { quantizer: Quantizer::MiniLm, ..preset };
    let case = Case::new("bitgpt_seed000", Architecture::Bitgpt, config, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn bitgpt_with_a_float_head_meets_its_golden(device: &Device) {
    let config =
        |preset| ModelConfig { quantizer: Quantizer::MiniLm, ternary_head: false, ..preset };
    let case = Case::new("bitgpt_seed000_fphead", Architecture::Bitgpt, config, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn float_gpt2_meets_its_golden(device: &Device) {
    let config = |preset| ModelConfig { quantizer: Quantizer::None, ..preset };
    let case = Case::new("gpt2_fp", Architecture::Gpt2, config, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    case.optimizer_steps(None, None, GPT2, GPT2);
}

fn ternary_gpt2_meets_its_golden(device: &Device) {
    let case = Case::new("bitgpt2_w", Architecture::Gpt2, |preset| preset, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    case.optimizer_steps(None, None, GPT2, GPT2);
}

fn float_bitnet_meets_its_golden(device: &Device) {
    let config = |preset| ModelConfig {
        quantizer: Quantizer::None,
        activation_quantizer: ActivationQuantizer::None,
        ..preset
    };
    let case = Case::new("bitnet_hf_fp", Architecture::Bitnet, config, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn bitnet_meets_its_golden(device: &Device) {
    let case = Case::new("bitnet_hf_online", Architecture::Bitnet, |preset| preset, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn llama_meets_its_golden(device: &Device) {
    let case = Case::new("llama_fp", Architecture::Llama, |preset| preset, device);
    case.logits_loss_and_gradients(1e-5, 1e-5);
    let bounds = case.bounds();
    case.optimizer_steps(None, None, bounds, bounds);
}

fn matrix(golden: &Golden, device: &Device) -> Tensor<2> {
    let shape = [golden.shape[0], golden.shape[1]];
    Tensor::from_data(TensorData::new(golden.f32(), shape), device)
}

/// Both paths: fused for the CPU, composed of Burn's operations for the rest.
fn the_quantizers_meet_their_golden(device: &Device) {
    let io = golden("quant_units", "io.safetensors");
    // Each value is one product of a trit or code and a scale that was rounded twice.
    let near = |name: &str, found: Tensor<2>, expected: &[f64]| {
        let difference = relative_difference(&values(found), expected);
        assert!(difference <= 3e-7, "{name}: {difference:e}");
    };
    for (prefix, quantizer, w) in [
        ("b158", Quantizer::B158, "w"),
        ("seed1", Quantizer::Seed1, "w"),
        ("tie", Quantizer::B158, "tie_w"),
        ("zero", Quantizer::B158, "zero_w"),
    ] {
        let extra_eps = quantizer.extra_eps();
        let trits = &io[&format!("{prefix}_q")].values;
        let k = io[&format!("{prefix}_k")].values[0];
        let dequantized: Vec<f64> = trits.iter().map(|trit| trit / k).collect();
        let latent = || matrix(&io[w], device);
        near(prefix, fused::fake_ternarize(latent(), extra_eps), &dequantized);
        near(prefix, fused::plain_fake_ternarize(latent(), extra_eps), &dequantized);

        // The slice function that export calls.
        let (found, scale) = tern_kernels::ternarize::ternarize(&io[w].f32(), extra_eps);
        let found: Vec<f32> = found.into_iter().map(f32::from).collect();
        assert_eq!(max_difference(&found, trits), 0.0, "{prefix}");
        assert!((f64::from(scale) * k - 1.0).abs() <= 3e-7, "{prefix}: scale {scale}, k {k}");
    }
    let x = || matrix(&io["x"], device);
    near("int8", fused::fake_quantize_int8(x()), &io["x_dq"].values);
    near("int8", fused::plain_fake_quantize_int8(x()), &io["x_dq"].values);
}

fn a_quantized_product_is_exact_before_it_is_scaled(device: &Device) {
    let io = golden("quant_units", "io.safetensors");
    let (x, w) = (|| matrix(&io["x"], device), || matrix(&io["w"], device));
    for product in [
        fused::quantized_linear(x(), w(), 0.0, Precision::F32),
        fused::plain_quantized_linear(x(), w(), 0.0),
    ] {
        let product = values(product);
        assert!(relative_difference(&product, &io["y_from_int"].values) <= 3e-7);
        // Undoing both scales must land on the golden's integers.
        let w_k = io["b158_k"].values[0];
        let columns = io["acc_i32"].shape[1];
        for (place, (found, exact)) in product.iter().zip(&io["acc_i32"].values).enumerate() {
            let sum = f64::from(*found) * io["x_k"].values[place / columns] * w_k;
            assert_eq!(sum.round(), *exact, "entry {place}");
        }
    }
}

fn gradients_go_straight_through(device: &Device) {
    let io = golden("quant_units", "io.safetensors");
    let device = &device.clone().autodiff();
    let w = matrix(&io["w"], device).require_grad();
    let x = matrix(&io["ste_x"], device).require_grad();
    let fake =
        fused::ternary_linear(fused::fake_quantize_int8(x.clone()), w.clone(), 0.0, Precision::F32);
    for y in [fake, fused::quantized_linear(x.clone(), w.clone(), 0.0, Precision::F32)] {
        let gradients = (y * matrix(&io["ste_g"], device)).sum().backward();
        for (tensor, expected) in [(&x, "ste_dx"), (&w, "ste_dw")] {
            let found = values(tensor.grad(&gradients).unwrap());
            let difference = relative_difference(&found, &io[expected].values);
            assert!(difference <= 1e-6, "{expected}: {difference:e}");
        }
    }
}

fn the_operations_meet_their_golden(device: &Device) {
    let io = golden("unit_ops", "io.safetensors");
    let y = || matrix(&io["y"], device);
    let near = |name: &str, found: Tensor<2>| {
        let difference = relative_difference(&values(found), &io[name].values);
        assert!(difference <= 1e-6, "{name}: {difference:e}");
    };
    let gain = Tensor::<1>::ones([16], device);
    near("rms_eps1e-6", fused::rms_norm(y(), gain, 1e-6));
    near("silu", fused::activate(Activation::Silu, y()));

    let targets = Tensor::<1, Int>::from_data(TensorData::new(vec![0i32, 5, 15, 3], [4]), device);
    let loss = values(fused::cross_entropy(y(), targets));
    assert!(relative_difference(&loss, &io["ce"].values) <= 1e-6);

    // RoPE and softmax exist on the host for inference; in training they live inside attention, which the models above
    // hold to their goldens.
    let (cos, sin) = tern_kernels::rope::rope_tables(6, 8, 10_000.0);
    assert!(max_difference(&cos, &io["cos"].values) <= 1e-7);
    assert!(max_difference(&sin, &io["sin"].values) <= 1e-7);
}
