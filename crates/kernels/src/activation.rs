//! Activations, element by element: silu, swiglu, and gelu in both its forms.

use crate::class::Class;
use crate::cpu::{Cpu, Parts};
use crate::dispatch::for_class;
use crate::math::{exp, mul_add, polynomial};

/// y = x / (1 + e^-x), also called swish.
///
/// Panics if lengths differ, as all functions here. Source: arXiv 1702.03118.
pub fn silu(class: Class, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "silu: y and x differ in length");
    for_class!(class, silu_body(y: &mut [f32], x: &[f32]));
}

#[inline(always)]
fn silu_body<const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = silu_of::<FMA>(*x);
    }
}

/// y = silu(gate) * up: the gate of Llama's feed-forward layer.
///
/// Source: arXiv 2002.05202.
pub fn swiglu(class: Class, y: &mut [f32], gate: &[f32], up: &[f32]) {
    assert_eq!(y.len(), gate.len(), "swiglu: y and gate differ in length");
    assert_eq!(y.len(), up.len(), "swiglu: y and up differ in length");
    for_class!(class, swiglu_body(y: &mut [f32], gate: &[f32], up: &[f32]));
}

#[inline(always)]
fn swiglu_body<const FMA: bool>(y: &mut [f32], gate: &[f32], up: &[f32]) {
    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
        *y = silu_of::<FMA>(*gate) * up;
    }
}

/// y = x P(N <= x) = x (1 + erf(x / sqrt 2)) / 2: the exact form.
///
/// Source: arXiv 1606.08415.
pub fn gelu(class: Class, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "gelu: y and x differ in length");
    for_class!(class, gelu_body(y: &mut [f32], x: &[f32]));
}

#[inline(always)]
fn gelu_body<const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        let tail = normal_tail::<FMA>(*x);
        *y = x * if *x < 0.0 { tail } else { 1.0 - tail };
    }
}

/// y = x (1 + tanh(u)) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3): gelu's approximate form.
///
/// Written as x / (1 + e^-2u), the same function: nothing cancels where x is far below 0.
pub fn gelu_tanh(class: Class, y: &mut [f32], x: &[f32]) {
    assert_eq!(y.len(), x.len(), "gelu_tanh: y and x differ in length");
    for_class!(class, gelu_tanh_body(y: &mut [f32], x: &[f32]));
}

/// -2 sqrt(2 / pi), the slope of -2u at 0.
const LINEAR: f32 = -1.595_769;
/// 0.044715 of it.
const CUBIC: f32 = -0.071_354_814;

#[inline(always)]
fn gelu_tanh_body<const FMA: bool>(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = x / (1.0 + exp::<FMA>(x * mul_add::<FMA>(x * x, CUBIC, LINEAR)));
    }
}

/// The gradient of [`silu`]: dx = dy s (1 + x (1 - s)), s = 1 / (1 + e^-x).
pub fn silu_backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], x: &[f32]) {
    map_backward(cpu, dx, dy, x, |class, dx, dy, x| {
        for_class!(class, silu_backward_body(dx: &mut [f32], dy: &[f32], x: &[f32]));
    });
}

#[inline(always)]
fn silu_backward_body<const FMA: bool>(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = dy * silu_slope::<FMA>(*x);
    }
}

/// The gradient of [`swiglu`]: dgate = dy up silu'(gate), dup = dy silu(gate).
pub fn swiglu_backward(
    cpu: &Cpu,
    dgate: &mut [f32],
    dup: &mut [f32],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    let lengths = [dup.len(), dy.len(), gate.len(), up.len()];
    assert_eq!(lengths, [dgate.len(); 4], "swiglu_backward: lengths differ");
    let (dgates, dups) = (Parts::new(dgate), Parts::new(dup));
    cpu.pool.run_ranges(dy.len(), GRAIN, |from, to| {
        // SAFETY: each element is given to one task.
        let (dgate, dup) = unsafe { (dgates.part(from, to - from), dups.part(from, to - from)) };
        let (dy, gate, up) = (&dy[from..to], &gate[from..to], &up[from..to]);
        for_class!(cpu.lanes(), swiglu_backward_body(
            dgate: &mut [f32],
            dup: &mut [f32],
            dy: &[f32],
            gate: &[f32],
            up: &[f32],
        ));
    });
}

#[inline(always)]
fn swiglu_backward_body<const FMA: bool>(
    dgate: &mut [f32],
    dup: &mut [f32],
    dy: &[f32],
    gate: &[f32],
    up: &[f32],
) {
    for ((((dgate, dup), dy), gate), up) in dgate.iter_mut().zip(dup).zip(dy).zip(gate).zip(up) {
        let s = 1.0 / (1.0 + exp::<FMA>(-gate));
        *dgate = dy * up * (s * mul_add::<FMA>(*gate, 1.0 - s, 1.0));
        *dup = dy * (gate * s);
    }
}

/// The gradient of [`gelu`]: dx = dy (P(N <= x) + x e^(-x^2 / 2) / sqrt(2 pi)).
pub fn gelu_backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], x: &[f32]) {
    map_backward(cpu, dx, dy, x, |class, dx, dy, x| {
        for_class!(class, gelu_backward_body(dx: &mut [f32], dy: &[f32], x: &[f32]));
    });
}

#[inline(always)]
fn gelu_backward_body<const FMA: bool>(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = dy * gelu_slope::<FMA>(*x);
    }
}

/// The gradient of [`gelu_tanh`]: dx = dy s (1 + 2 x u' (1 - s)), s = 1 / (1 + e^-2u).
pub fn gelu_tanh_backward(cpu: &Cpu, dx: &mut [f32], dy: &[f32], x: &[f32]) {
    map_backward(cpu, dx, dy, x, |class, dx, dy, x| {
        for_class!(class, gelu_tanh_backward_body(dx: &mut [f32], dy: &[f32], x: &[f32]));
    });
}

#[inline(always)]
fn gelu_tanh_backward_body<const FMA: bool>(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    for ((dx, dy), x) in dx.iter_mut().zip(dy).zip(x) {
        *dx = dy * gelu_tanh_slope::<FMA>(*x);
    }
}

/// Elements that a thread takes at least: a few microseconds of work.
const GRAIN: usize = 4096;

/// Calls `map(class, dx, dy, x)` for pieces of the slices, on all threads.
fn map_backward(
    cpu: &Cpu,
    dx: &mut [f32],
    dy: &[f32],
    x: &[f32],
    map: impl Fn(Class, &mut [f32], &[f32], &[f32]) + Sync,
) {
    assert_eq!(dx.len(), x.len(), "the gradient of an activation: dx and x differ in length");
    assert_eq!(dy.len(), x.len(), "the gradient of an activation: dy and x differ in length");
    let parts = Parts::new(dx);
    cpu.pool.run_ranges(x.len(), GRAIN, |from, to| {
        // SAFETY: each element is given to one task.
        let dx = unsafe { parts.part(from, to - from) };
        map(cpu.lanes(), dx, &dy[from..to], &x[from..to]);
    });
}

#[inline(always)]
fn silu_slope<const FMA: bool>(x: f32) -> f32 {
    let s = 1.0 / (1.0 + exp::<FMA>(-x));
    s * mul_add::<FMA>(x, 1.0 - s, 1.0)
}

#[inline(always)]
fn gelu_slope<const FMA: bool>(x: f32) -> f32 {
    const DENSITY: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
    let tail = normal_tail::<FMA>(x);
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    mul_add::<FMA>(x, DENSITY * exp::<FMA>(-0.5 * x * x), below)
}

#[inline(always)]
fn gelu_tanh_slope<const FMA: bool>(x: f32) -> f32 {
    let x = x.clamp(-20.0, 20.0); // the slope is 0 and 1 beyond
    let s = 1.0 / (1.0 + exp::<FMA>(x * mul_add::<FMA>(x * x, CUBIC, LINEAR)));
    let turn = x * mul_add::<FMA>(x * x, 3.0 * CUBIC, LINEAR);
    s * mul_add::<FMA>(-turn, 1.0 - s, 1.0)
}

#[inline(always)]
fn silu_of<const FMA: bool>(x: f32) -> f32 {
    x / (1.0 + exp::<FMA>(-x))
}

/// P(N > |x|) of a standard normal N.
///
/// e^(-x^2 / 2) t Q(t) / 2 with t = 1 / (1 + 0.4 z), z = |x| / sqrt 2; Q is fitted for the least
/// greatest relative error over z in [0, 10]: 6e-8.
#[inline(always)]
fn normal_tail<const FMA: bool>(x: f32) -> f32 {
    const C: [f32; 9] = [
        0.112_817_116,
        0.113_221_54,
        0.100_943_9,
        0.096_696_176,
        0.039_879_286,
        0.043_980_602,
        0.041_995_052,
        -0.070_160_314,
        0.020_626_666,
    ];
    let t = 1.0 / mul_add::<FMA>(x.abs(), 0.282_842_7, 1.0);
    t * polynomial::<FMA, 9>(&C, t) * exp::<FMA>(-0.5 * x * x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::sample::Sample;

    type Map = fn(&mut [f32], &[f32]);
    type FastMap = fn(Class, &mut [f32], &[f32]);

    /// Each activation with its twin, and its relative error's bound in ulp where x > -4.
    const MAPS: [(&str, FastMap, Map, f64); 3] = [
        ("silu", silu, naive::silu, 4.0),
        ("gelu", gelu, naive::gelu, 20.0),
        ("gelu_tanh", gelu_tanh, naive::gelu_tanh, 20.0),
    ];

    #[test]
    fn activations_agree_with_naive_in_every_class() {
        let mut sample = Sample::new(1);
        let steps = (-8000..8000).map(|i| i as f32 / 400.0);
        let x: Vec<f32> = steps.chain(sample.normals(1009)).collect();
        let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for (name, fast, naive, ulps) in MAPS {
            naive(&mut want, &x);
            for class in Class::available() {
                fast(class, &mut got, &x);
                for ((x, got), want) in x.iter().zip(&got).zip(&want) {
                    // The exponent's rounding grows with x^2; far below 0 the value is tiny.
                    let scale = f64::from(want.abs()).max(if *x < -4.0 { 1e-3 } else { 0.0 });
                    let tolerance = scale * ulps * f64::from(f32::EPSILON);
                    let off = f64::from(got - want).abs();
                    assert!(off <= tolerance, "{class} {name}({x}) = {got}, not {want}");
                }
            }
        }
    }

    #[test]
    fn swiglu_agrees_with_naive_at_every_length() {
        let mut sample = Sample::new(2);
        for n in (0..70).chain([149, 1009]) {
            let (gate, up) = (sample.normals(n), sample.normals(n));
            let (mut got, mut want) = (vec![0.0; n], vec![0.0; n]);
            naive::swiglu(&mut want, &gate, &up);
            for class in Class::available() {
                swiglu(class, &mut got, &gate, &up);
                for (got, want) in got.iter().zip(&want) {
                    assert!((got - want).abs() <= want.abs() * 5.0 * f32::EPSILON, "{class}");
                }
            }
        }
    }

    #[test]
    fn an_element_has_the_same_bits_at_every_place() {
        let x = Sample::new(3).normals(149);
        for (name, fast, _, _) in MAPS {
            for class in Class::available() {
                let mut many = vec![0.0; x.len()];
                fast(class, &mut many, &x);
                for (x, many) in x.iter().zip(many) {
                    let mut alone = [0.0];
                    fast(class, &mut alone, &[*x]);
                    assert_eq!(alone[0].to_bits(), many.to_bits(), "{class} {name}({x})");
                }
            }
        }
    }

    #[test]
    fn large_numbers_and_nan_are_as_in_the_formulas() {
        for (name, fast, _, _) in MAPS {
            for class in Class::available() {
                let mut y = [1.0; 7];
                let inf = f32::INFINITY;
                fast(class, &mut y, &[0.0, -0.0, inf, 1e30, -1e30, -200.0, f32::NAN]);
                assert_eq!(y[..6], [0.0, 0.0, inf, 1e30, 0.0, 0.0], "{class} {name}");
                assert!(y[6].is_nan(), "{class} {name}");
            }
        }
    }

    type Slope = fn(&mut [f32], &[f32], &[f32]);
    type FastSlope = fn(&Cpu, &mut [f32], &[f32], &[f32]);

    /// Each gradient with its twin and the f64 function whose slope it is.
    const SLOPES: [(&str, FastSlope, Slope, fn(f64) -> f64); 3] = [
        ("silu", silu_backward, naive::silu_backward, |x| x / (1.0 + (-x).exp())),
        ("gelu", gelu_backward, naive::gelu_backward, |x| {
            // P(N <= x) by Simpson's rule from -12 on.
            let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let step = (x + 12.0) / 2000.0;
            let weight = |i: u32| if i == 0 || i == 2000 { 1.0 } else { f64::from(2 + i % 2 * 2) };
            let area = (0..=2000).map(|i| weight(i) * density(-12.0 + step * f64::from(i)));
            x * area.sum::<f64>() * step / 3.0
        }),
        ("gelu_tanh", gelu_tanh_backward, naive::gelu_tanh_backward, |x| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }),
    ];

    #[test]
    fn slopes_agree_with_naive_and_central_differences() {
        let x: Vec<f32> = (-900..900).map(|i| i as f32 / 90.0).collect();
        let dy = Sample::new(5).normals(x.len());
        let (mut got, mut want) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for (name, fast, naive, f) in SLOPES {
            naive(&mut want, &dy, &x);
            for class in Class::available() {
                fast(&Cpu::new(class, 2), &mut got, &dy, &x);
                for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                    let (x, dy) = (f64::from(x[i]), f64::from(dy[i]));
                    // The slope is at most 1.13, its terms are at most |x|.
                    let tolerance = dy.abs() * (1.0 + x.abs()) * 8.0 * f64::from(f32::EPSILON);
                    let off = f64::from(got - want).abs();
                    assert!(off <= tolerance, "{class} {name}'({x}): {got}, not {want}");
                    let slope = dy * (f(x + 1e-4) - f(x - 1e-4)) / 2e-4;
                    let off = (f64::from(*got) - slope).abs();
                    assert!(off <= tolerance + 2e-7 * dy.abs(), "{class} {name}'({x}): {slope}");
                }
            }
        }
    }

    #[test]
    fn far_out_slopes_are_zero_and_one() {
        for (name, fast, _, _) in SLOPES {
            for class in Class::available() {
                let mut dx = [9.0; 5];
                let x = [1e30, 200.0, -1e30, -200.0, f32::NAN];
                fast(&Cpu::new(class, 1), &mut dx, &[1.0; 5], &x);
                assert_eq!(dx[..4], [1.0, 1.0, 0.0, 0.0], "{class} {name}");
                assert!(dx[4].is_nan(), "{class} {name}");
            }
        }
    }

    #[test]
    fn swiglu_gradients_agree_with_naive_and_central_differences() {
        let mut sample = Sample::new(6);
        for n in (0..70).chain([149, 10_007]) {
            let (gate, up, dy) = (sample.normals(n), sample.normals(n), sample.normals(n));
            let run = |cpu: &Cpu| {
                let (mut dgate, mut dup) = (vec![9.0; n], vec![9.0; n]);
                swiglu_backward(cpu, &mut dgate, &mut dup, &dy, &gate, &up);
                (dgate, dup)
            };
            let (mut dgate, mut dup) = (vec![9.0; n], vec![9.0; n]);
            naive::swiglu_backward(&mut dgate, &mut dup, &dy, &gate, &up);
            for class in Class::available() {
                let got = run(&Cpu::new(class, 1));
                assert_eq!(run(&Cpu::new(class, 3)), got, "{class} threads");
                for i in 0..n {
                    let [g, u, d] = [gate[i], up[i], dy[i]].map(f64::from);
                    let tolerance = 8.0 * f64::from(f32::EPSILON) * d.abs() * (1.0 + g.abs());
                    let near = |got: f32, want: f64, tolerance: f64| {
                        assert!((f64::from(got) - want).abs() <= tolerance, "{class} {n}: {got}");
                    };
                    near(got.0[i], f64::from(dgate[i]), tolerance * u.abs());
                    near(got.1[i], f64::from(dup[i]), tolerance);
                    let y = |g: f64, u: f64| d * u * g / (1.0 + (-g).exp());
                    let rough = 1e-8 + tolerance * (1.0 + u.abs());
                    near(got.0[i], (y(g + 1e-4, u) - y(g - 1e-4, u)) / 2e-4, rough);
                    near(got.1[i], (y(g, u + 1e-4) - y(g, u - 1e-4)) / 2e-4, rough);
                }
            }
        }
    }
}
