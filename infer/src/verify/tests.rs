#![allow(clippy::unwrap_used, reason = "tests")]

use tern_format::packed::{Check, FloatTensor, FloatType, TernaryTensor};
use tern_kernels::ternarize::{collapse_floor, ternarize};

use super::*;
use crate::reference::{config, packed};

const MATRIX: &str = "model.layers.1.mlp.up_proj.weight";

fn healthy() -> PackedModel {
    packed(&config(Architecture::Bitlm), 11)
}

fn report(packed: &PackedModel) -> Report {
    verify_bytes(&packed.to_bytes().unwrap()).unwrap()
}

/// Replaces every declared matrix by floats made of its trits and scale.
fn with_floats(mut packed: PackedModel, value: impl Fn(usize, i8, f32) -> f32) -> PackedModel {
    for tensor in packed.tensors.values_mut() {
        if let Tensor::Ternary(ternary) = tensor {
            let trits = ternary.trits().unwrap();
            let values = trits.iter().enumerate().map(|(i, &t)| value(i, t, ternary.scale));
            let shape = vec![ternary.d_output, ternary.d_input];
            *tensor =
                Tensor::Float(FloatTensor::new(shape, FloatType::F32, &values.collect::<Vec<_>>()));
        }
    }
    packed
}

/// What training projects after each step, and what export stores in the end.
fn ternarized(mut packed: PackedModel) -> PackedModel {
    let config = packed.config().clone();
    for (name, tensor) in &mut packed.tensors {
        if let Tensor::Float(float) = tensor
            && config.is_block_linear(name)
        {
            let (trits, scale) = ternarize(&float.values(), 0.0);
            *tensor = Tensor::Ternary(TernaryTensor::from_trits(&trits, float.shape[1], scale));
        }
    }
    packed
}

#[test]
fn two_four_is_read_from_the_trits() {
    let mut model = healthy();
    assert_eq!(report(&model).two_four, None, "rows of 37 inputs end inside a group");
    model.metadata.config.hidden_size = 40;
    model.metadata.config.intermediate_size = 52;
    let mut model = packed(model.config(), 13);
    let two_four = report(&model).two_four.unwrap();
    let groups = report(&model).ternary_parameters / 4;
    // Of four random trits three or four are not zero in 48 of 81 cases, and none in one.
    assert_eq!((two_four.groups, two_four.holds()), (groups, false));
    let share = two_four.broken as f64 / groups as f64;
    assert!((share - 48.0 / 81.0).abs() < 0.05 && two_four.zero > 0, "{two_four:?}");
    for tensor in model.tensors.values_mut() {
        if let Tensor::Ternary(ternary) = tensor {
            let count = ternary.d_output * ternary.d_input / 4;
            let trits: Vec<i8> =
                (0..count).flat_map(|g| tern_format::s24::PATTERNS[1 + g * 5 % 32]).collect();
            *ternary = TernaryTensor::from_trits(&trits, ternary.d_input, ternary.scale);
        }
    }
    for encoding in Encoding::ALL {
        let report = report(&model.clone().encode_as(encoding).unwrap());
        assert_eq!(report.verdict, Verdict::Packed);
        assert_eq!(report.two_four, Some(TwoFour { groups, broken: 0, zero: 0 }));
        assert_eq!((report.encoding, report.tensors[2].stored), (encoding, encoding.name()));
        let bits = report.bits_per_ternary_weight.unwrap();
        // Scales, and what fills up rows of 24, 40 and 52 inputs.
        let most = match encoding {
            Encoding::T2 => 2.0..2.1,
            Encoding::T5 => 1.6..1.75,
            Encoding::S24 => 1.33..1.65,
            Encoding::S24n => 1.25..1.5,
        };
        assert!(most.contains(&bits), "{encoding:?}: {bits}");
    }
}

#[test]
fn trits_are_packed_and_counted() {
    let mut model = healthy();
    let trits = [[1, 0, -1, 0, 1].as_slice(), &[0; 32]].concat();
    let all = [trits.repeat(2), vec![0; 49 * 37]].concat();
    model.tensors.insert(MATRIX.into(), Tensor::Ternary(TernaryTensor::from_trits(&all, 37, 0.25)));
    let report = report(&model);
    assert_eq!((report.verdict, report.is_ternary()), (Verdict::Packed, true));
    // Ternary, but nobody knows whether it is the trainer's model.
    assert_eq!((&report.loss, report.passes()), (&LossReport::Absent, false));
    let tensor = report.tensors.iter().find(|tensor| tensor.name == MATRIX).unwrap();
    assert_eq!((tensor.stored, tensor.scale), ("t2", Some(0.25)));
    let trits = tensor.trits.unwrap();
    assert_eq!((trits.negative, trits.zero, trits.positive), (2, 51 * 37 - 6, 4));
    assert_eq!((trits.rows, trits.dead_rows), (51, 49));
    assert!((trits.sign_balance - 1.0 / 3.0).abs() < 1e-12);
    // 51 rows of 10 bytes and a scale.
    assert_eq!(tensor.size_bytes, 514);
    assert!((tensor.bits_per_weight - 514.0 * 8.0 / (51.0 * 37.0)).abs() < 1e-12);
    assert!(!report.tensors[0].declared && report.tensors[0].trits.is_none());
}

#[test]
fn a_tokenizer_that_is_broken_or_does_not_fit_is_refused() {
    let refused = |change: &dyn Fn(&mut PackedModel)| {
        let mut model = healthy();
        change(&mut model);
        verify_bytes(&model.to_bytes().unwrap()).unwrap_err().to_string()
    };
    let json = |text: &str| tern_format::tokenizer::TokenizerSource::Json(text.into());
    let error = refused(&|model| model.metadata.tokenizer = json("{\"model\": {}}"));
    assert!(error.starts_with("tokenizer.json: "), "{error}");
    let one = r#"{"version":"1.0","model":{"type":"WordLevel","unk_token":"a","vocab":{"a":0}}}"#;
    let error = refused(&|model| {
        model.metadata.tokenizer = json(one);
        model.metadata.bos = Some(257);
    });
    let expected = "metadata `bos_token_id`: must be a token of the tokenizer, which has 1, is 257";
    assert_eq!(error, expected);
}

#[test]
fn bits_count_every_byte_of_the_file() {
    let bytes = healthy().to_bytes().unwrap();
    let report = verify_bytes(&bytes).unwrap();
    assert_eq!(report.size_bytes, bytes.len() as u64);
    assert_eq!(report.parameters, config(Architecture::Bitlm).parameters());
    assert_eq!(report.ternary_parameters, healthy().ternary_parameters());
    assert!(
        (report.bits_per_weight - bytes.len() as f64 * 8.0 / report.parameters as f64).abs() < 1e-9
    );
    let per_ternary = report.bits_per_ternary_weight.unwrap();
    assert!((2.0..2.4).contains(&per_ternary), "{per_ternary}");
    let trits = report.trits.unwrap();
    assert!((1.58..1.585).contains(&trits.entropy_bits), "{trits:?}");
    assert!((trits.zeros_share - 1.0 / 3.0).abs() < 0.02 && trits.sign_balance.abs() < 0.05);
    assert_eq!(trits.negative + trits.zero + trits.positive, report.ternary_parameters);
}

#[test]
fn exact_floats_are_projected() {
    let report = report(&with_floats(healthy(), |_, trit, scale| f32::from(trit) * scale));
    assert_eq!((report.verdict, report.is_ternary()), (Verdict::Projected, true));
    assert_eq!(report.trits.unwrap(), super::tests::report(&healthy()).trits.unwrap());
    assert_eq!(report.bits_per_ternary_weight, Some(32.0));
}

#[test]
fn one_float_among_trits_is_projected_by_name() {
    let mut model = healthy();
    let exact = with_floats(healthy(), |_, trit, scale| f32::from(trit) * scale);
    model.tensors.insert(MATRIX.into(), exact.tensors[MATRIX].clone());
    let report = report(&model);
    assert_eq!((report.verdict, report.because), (Verdict::Projected, vec![MATRIX.into()]));
}

#[test]
fn what_rounds_to_ternary_is_not_ternary() {
    // Every value is within 1e-3 of s times -1, 0 or 1: a tolerance of 1 % calls it ternary.
    let near = |i: usize, trit: i8, scale: f32| {
        let off = if i.is_multiple_of(2) { 1e-3 } else { -1e-3 };
        scale * (f32::from(trit) + off)
    };
    let report = report(&with_floats(healthy(), near));
    assert_eq!((report.verdict, report.passes()), (Verdict::NotTernary, false));
    assert_eq!(report.because.len(), 14);
    assert_eq!((report.ternary_parameters, report.trits), (0, None));
}

#[test]
fn one_bit_off_in_one_weight_is_not_ternary() {
    let exact = with_floats(healthy(), |_, trit, scale| f32::from(trit) * scale);
    for direction in [-1i32, 1] {
        let mut model = exact.clone();
        let Some(Tensor::Float(float)) = model.tensors.get_mut(MATRIX) else { unreachable!() };
        let mut values = float.values();
        let weight = values.iter_mut().find(|value| **value != 0.0).unwrap();
        *weight = f32::from_bits(weight.to_bits().wrapping_add_signed(direction));
        *float = FloatTensor::new(float.shape.clone(), FloatType::F32, &values);
        let report = report(&model);
        assert_eq!((report.verdict, report.because), (Verdict::NotTernary, vec![MATRIX.into()]));
    }
}

#[test]
fn floats_of_many_magnitudes_are_latent() {
    let spread = |i: usize, _, scale: f32| scale * ((i * 7919 % 2003) as f32 / 1000.0 - 1.0);
    let latent = with_floats(healthy(), spread);
    let found = report(&latent);
    assert_eq!((found.verdict, found.passes()), (Verdict::Latent, false));
    assert_eq!(report(&ternarized(latent.clone())).verdict, Verdict::Packed);
    // Some matrices packed and one latent: not ternary, and it is named.
    let mut mixed = healthy();
    mixed.tensors.insert(MATRIX.into(), latent.tensors[MATRIX].clone());
    let found = report(&mixed);
    assert_eq!((found.verdict, found.because), (Verdict::NotTernary, vec![MATRIX.into()]));
}

#[test]
fn a_float_model_is_not_ternary() {
    let report = report(&packed(&config(Architecture::Llama), 1));
    assert_eq!((report.verdict, report.because), (Verdict::NotTernary, vec![]));
    assert!(report.tensors.iter().all(|tensor| !tensor.declared && tensor.verdict.is_none()));
}

#[test]
fn projecting_again_and_again_collapses() {
    // The trits survive, the scale shrinks by the share of non-zero weights each time: about 0.69 for Gaussian
    // weights, and exactly that share from the second time on.
    let gaussian = |i: usize, _, scale: f32| {
        let sum: f32 = (0..12u64)
            .map(|k| {
                let hash = (i as u64 * 12 + k + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                ((hash ^ hash >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32
                    / 2f32.powi(24)
            })
            .sum();
        scale * (sum - 6.0)
    };
    let mut model = ternarized(with_floats(healthy(), gaussian));
    let scale = |model: &PackedModel| match &model.tensors[MATRIX] {
        Tensor::Ternary(ternary) => ternary.scale,
        Tensor::Float(_) => unreachable!(),
    };
    let first = report(&model);
    assert_eq!(first.verdict, Verdict::Packed);
    let share = |report: &Report| {
        let trits = report.tensors.iter().find(|tensor| tensor.name == MATRIX).unwrap().trits;
        1.0 - trits.unwrap().zeros_share
    };
    let mut times = 0;
    let collapsed = loop {
        let before = scale(&model);
        model = ternarized(with_floats(model, |_, trit, scale| f32::from(trit) * scale));
        let shrunk = f64::from(scale(&model) / before);
        assert!((shrunk - share(&first)).abs() < 1e-3, "{shrunk}");
        times += 1;
        let report = report(&model);
        assert_eq!(report.trits, first.trits);
        if report.verdict != Verdict::Packed {
            break report;
        }
    };
    assert!((0.66..0.72).contains(&share(&first)), "{}", share(&first));
    assert_eq!((collapsed.verdict, collapsed.passes()), (Verdict::Collapsed, false));
    // From 1 / sqrt(d_input) to a hundredth of it: ln 100 / -ln 0.69 = 12.4 times.
    assert!((11..=14).contains(&times), "{times}");
    // Stored as floats it is as dead, and a checker with a tolerance of 1e-3 would call all of it zero.
    let floats = with_floats(model, |_, trit, scale| f32::from(trit) * scale);
    assert_eq!(report(&floats).verdict, Verdict::Collapsed);
}

#[test]
fn dead_scales_and_dead_trits_are_collapsed() {
    for (scale, trit) in [(0.0, 1), (-0.1, 1), (1e-9, 1), (0.1, 0), (-0.0, -1)] {
        let mut model = healthy();
        let dead = TernaryTensor::from_trits(&[trit; 51 * 37], 37, scale);
        model.tensors.insert(MATRIX.into(), Tensor::Ternary(dead));
        let report = report(&model);
        assert_eq!((report.verdict, report.because), (Verdict::Collapsed, vec![MATRIX.into()]));
    }
    // The floor itself is alive.
    let mut model = healthy();
    let floor = (collapse_floor(37) * 1.000_001) as f32;
    let alive = TernaryTensor::from_trits(&[1; 51 * 37], 37, floor);
    model.tensors.insert(MATRIX.into(), Tensor::Ternary(alive));
    assert_eq!(report(&model).verdict, Verdict::Packed);
}

#[test]
fn the_loss_is_held_against_the_trainers() {
    let mut model = healthy();
    let windows = vec![vec![1, 2, 3, 4, 5], vec![9, 8, 7]];
    let loss = mean_loss(&Model::load(model.clone()).unwrap(), &windows).unwrap();
    for (off, expected) in [(0.0, true), (9e-4, true), (2e-3, false), (-2e-3, false)] {
        model.metadata.check = Some(Check { windows: windows.clone(), loss: loss + off });
        let report = report(&model);
        assert_eq!((report.verdict, report.passes()), (Verdict::Packed, expected));
        let LossReport::Measured { difference, agrees, predictions, file, .. } = report.loss else {
            panic!("measured");
        };
        assert_eq!((agrees, predictions), (expected, 6));
        assert!((difference - f64::abs(off)).abs() < 1e-9 && (file - loss).abs() < 1e-12);
    }
}

#[test]
fn names_in_the_report_are_stable() {
    let mut model = healthy();
    model.metadata.check = Some(Check { windows: vec![vec![1, 2]], loss: 5.0 });
    let json = serde_json::to_value(report(&model)).unwrap();
    assert_eq!(json["verdict"], "packed");
    assert_eq!(json["loss"]["status"], "measured");
    for key in ["parameters", "ternary_parameters", "size_bytes", "bits_per_weight", "because"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    for key in ["name", "shape", "stored", "declared", "verdict", "scale", "trits"] {
        assert!(json["tensors"][2].get(key).is_some(), "{key}");
    }
    let verdicts = [Verdict::Projected, Verdict::Latent, Verdict::Collapsed, Verdict::NotTernary];
    let names = serde_json::to_string(&verdicts).unwrap();
    assert_eq!(names, r#"["projected","latent","collapsed","not_ternary"]"#);
}

#[test]
fn a_file_that_is_none_is_an_error_that_names_it() {
    let error = verify(Path::new("/nowhere/model.safetensors")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/model.safetensors"), "{error}");
    let bytes = healthy().to_bytes().unwrap();
    assert!(verify_bytes(&bytes[..bytes.len() - 1]).is_err());
    assert!(verify_bytes(&[]).is_err());
}
