//! Golden vectors of PyTorch and Hugging Face transformers, in every class of this machine.

use std::collections::HashMap;

use herd_kernels::rope::{Layout, Scaling, cos_sin, inverse_frequencies, rope};
use herd_kernels::{Class, activation, norm, softmax, top_k};

const ROPE: &str = include_str!("../../../testdata/rope.txt");
const ELEMENTWISE: &str = include_str!("../../../testdata/elementwise.txt");

fn floats(words: &str) -> Vec<f32> {
    let bits = |word| u32::from_str_radix(word, 16).expect("golden numbers are hex");
    words.split_whitespace().map(|word| f32::from_bits(bits(word))).collect()
}

/// The head width, theta and scaling of a case of `record_elementwise.py`.
fn rope_case(name: &str) -> (usize, f32, Scaling) {
    let llama3 = |factor| Scaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    let yarn = |factor, length, beta_fast, beta_slow, attention_factor| Scaling::Yarn {
        factor,
        original_max_position_embeddings: length,
        beta_fast,
        beta_slow,
        attention_factor,
        truncate: true,
    };
    let dynamic = Scaling::DynamicNtk {
        factor: 2.0,
        original_max_position_embeddings: 2048,
        current_len: 100_001,
    };
    match name {
        "plain" => (64, 1e4, Scaling::None),
        "smollm2" => (64, 1e5, Scaling::None),
        "llama3" => (128, 5e5, Scaling::None),
        "linear" => (128, 1e4, Scaling::Linear { factor: 4.0 }),
        "llama31" => (128, 5e5, llama3(8.0)),
        "llama32" => (64, 5e5, llama3(32.0)),
        "yarn" => (128, 1e4, yarn(16.0, 4096, 32.0, 1.0, None)),
        "yarn_set" => (64, 1e6, yarn(8.0, 8192, 24.0, 2.0, Some(1.25))),
        "dynamic" => (128, 1e4, dynamic),
        _ => panic!("the golden file has an unknown case {name}"),
    }
}

/// transformers takes dynamic NTK's power with a tensor for its base, which rounds differently.
fn ulps_max(name: &str) -> u32 {
    u32::from(name == "dynamic")
}

#[test]
fn frequencies_and_tables_agree_with_transformers() {
    let (mut freqs, mut factor, mut position, mut name) = (vec![], 0.0, 0, "");
    let mut cases = 0;
    for line in ROPE.lines() {
        let (key, value) = line.split_once(' ').expect("golden lines have a key");
        match key {
            "case" => {
                cases += 1;
                name = value;
                let (head_dim, theta, scaling) = rope_case(name);
                (freqs, factor) = inverse_frequencies(head_dim, theta, &scaling);
            }
            "factor" => assert_eq!(floats(value), [factor], "{name}"),
            "inv_freq" => {
                let want = floats(value);
                assert_eq!(freqs.len(), want.len(), "{name}");
                for (i, (got, want)) in freqs.iter().zip(&want).enumerate() {
                    let ulps = got.to_bits().abs_diff(want.to_bits());
                    assert!(ulps <= ulps_max(name), "{name}: frequency {i} is {got}, not {want}");
                }
            }
            "position" => position = value.parse().expect("positions are numbers"),
            "cos" | "sin" => {
                let mut row = vec![0.0; 2 * freqs.len()];
                cos_sin(&mut row, &[position], &freqs, factor);
                let (cos, sin) = row.split_at(freqs.len());
                let got = if key == "cos" { cos } else { sin };
                for ((got, want), f) in got.iter().zip(floats(value)).zip(&freqs) {
                    // The cosine's own rounding, and the last bit of a frequency times position.
                    let angle = position as f32 * f * ulps_max(name) as f32;
                    let tolerance = (1.0 + angle) * f32::EPSILON * factor;
                    assert!((got - want).abs() <= tolerance, "{name} {position}: {got}, {want}");
                }
            }
            _ => panic!("the golden file has an unknown key {key}"),
        }
    }
    assert_eq!(cases, 9);
}

fn goldens() -> HashMap<&'static str, Vec<f32>> {
    let entry = |line: &'static str| {
        let (name, words) = line.split_once(' ').expect("golden lines have a name");
        (name, floats(words))
    };
    ELEMENTWISE.lines().map(entry).collect()
}

/// PyTorch rounds in its own order: a few ulp of the value, and of 1 where terms cancel.
fn assert_close(name: &str, class: Class, got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(want) {
        let tolerance = (4.0 + 8.0 * want.abs()) * f32::EPSILON;
        assert!((got - want).abs() <= tolerance, "{class} {name}: {got}, not {want}");
    }
}

#[test]
fn operations_agree_with_pytorch() {
    let golden = goldens();
    let (x, gate, w, b) = (&golden["x"], &golden["gate"], &golden["w"], &golden["b"]);
    let width = w.len();
    let mut y = vec![0.0; x.len()];
    for class in Class::available() {
        let check = |name: &str, got: &[f32]| assert_close(name, class, got, &golden[name]);
        norm::rms_norm(class, &mut y, x, w, 1e-5);
        check("rms_norm", &y);
        norm::layer_norm(class, &mut y, x, w, b, 1e-5);
        check("layer_norm", &y);
        activation::silu(class, &mut y, x);
        check("silu", &y);
        activation::gelu(class, &mut y, x);
        check("gelu", &y);
        activation::gelu_tanh(class, &mut y, x);
        check("gelu_tanh", &y);
        activation::swiglu(class, &mut y, gate, x);
        check("swiglu", &y);
        softmax::softmax(class, &mut y, x, width);
        check("softmax", &y);
        softmax::log_softmax(class, &mut y, x, width);
        check("log_softmax", &y);
        let mut sums = [0.0; 3];
        softmax::log_sum_exp(class, &mut sums, x, width);
        check("log_sum_exp", &sums);
        let (mut values, mut indices) = ([0.0; 20], [0; 20]);
        top_k::top_k(class, &mut values, &mut indices, &x[..width]);
        assert_eq!(values[..], golden["top_k_values"]);
        assert_eq!(indices.map(|i| i as f32)[..], golden["top_k_indices"]);
    }
}

#[test]
fn rotation_agrees_with_transformers_in_both_layouts() {
    let golden = goldens();
    let (x, want) = (&golden["x"][..24], &golden["rope_half_split"]);
    let (freqs, factor) = inverse_frequencies(8, 1e4, &Scaling::None);
    let mut table = [0.0; 8];
    cos_sin(&mut table, &[5], &freqs, factor);
    // Interleaved, the pair (i, i + 4) of a head lies at (2i, 2i + 1).
    let interleave = |x: &[f32]| -> Vec<f32> {
        (0..x.len()).map(|i| x[i / 8 * 8 + i % 2 * 4 + i % 8 / 2]).collect()
    };
    for class in Class::available() {
        let mut got = x.to_vec();
        rope(class, &mut got, &[0], &table, 3, 8, Layout::HalfSplit);
        assert_close("half-split", class, &got, want);
        let mut got = interleave(x);
        rope(class, &mut got, &[0], &table, 3, 8, Layout::Interleaved);
        assert_close("interleaved", class, &got, &interleave(want));
    }
}
