//! Weights that change: new f32 numbers into the layout of products, in place.

use super::Packed;
use super::activations::Kind;
use super::backward::lay::{Compiled, Matrix, Place, steps};
use super::layout::GROUP;
use crate::lanes::Plain;
use crate::{Class, Cpu, Format};

#[cfg(target_arch = "x86_64")]
use crate::lanes::{Avx2, Avx512};

impl Packed {
    /// A matrix of zeros.
    ///
    /// Panics if `cols` is not whole blocks.
    pub fn zeroed(cpu: &Cpu, format: Format, rows: usize, cols: usize) -> Packed {
        assert!(format.bytes(cols).is_some(), "{cols} columns of {}", format.name());
        let data = cpu.arena.zeroed(Packed::bytes_of(format, rows, cols));
        Packed { format, rows, cols, data }
    }

    /// A matrix of f32 or bf16 from f32 numbers, row by row.
    ///
    /// Panics as `refill`.
    pub fn from_f32(cpu: &Cpu, format: Format, rows: usize, cols: usize, x: &[f32]) -> Packed {
        let mut packed = Packed::zeroed(cpu, format, rows, cols);
        packed.refill(cpu, x);
        packed
    }

    /// Replaces all numbers by `x`, row by row, rounded to the nearest, ties to even; subnormal
    /// ones may become zero.
    ///
    /// Panics if the format is neither F32 nor BF16, or `x` is not rows x cols numbers.
    pub fn refill(&mut self, cpu: &Cpu, x: &[f32]) {
        let (rows, cols, format) = (self.rows, self.cols, self.format);
        assert_eq!(x.len(), rows * cols, "refill: x is not {rows} x {cols}");
        assert!(
            matches!(format, Format::F32 | Format::BF16),
            "refill: {} holds no plain numbers",
            format.name()
        );
        if x.is_empty() {
            return;
        }
        // A group is a tile of sixteen rows along which a sum would run.
        let kind = if format == Format::F32 { Kind::Floats } else { Kind::Pairs };
        let place = Place { kind, rows: GROUP, steps: steps(kind, cols) };
        let words: &mut [u32] = bytemuck::cast_slice_mut(self.data.bytes_mut());
        crate::cpu::for_rows(cpu, words, place.words(), |g, out| {
            let x = &x[g * GROUP * cols..x.len().min((g + 1) * GROUP * cols)];
            let x = Matrix { x, stride: cols };
            // SAFETY: `Cpu` checked the class.
            unsafe { by_compiled!(cpu, lay_along(out, x, cols, place)) }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::noise;

    #[test]
    fn refilled_weights_are_those_packed_from_a_file() {
        for class in Class::available() {
            let cpu = Cpu::new(class, 2);
            for (rows, cols) in [(1, 1), (16, 32), (17, 33), (40, 7), (33, 100), (5, 0), (0, 5)] {
                for format in [Format::F32, Format::BF16] {
                    let x = noise(3, rows * cols);
                    let mut raw = vec![0; format.bytes(rows * cols).expect("whole blocks")];
                    crate::blocks::quantise(format, &x, &mut raw).expect("finite numbers");
                    let want = Packed::new(&cpu, format, rows, cols, &raw);
                    let mut got = Packed::from_f32(&cpu, format, rows, cols, &vec![9.0; x.len()]);
                    got.refill(&cpu, &x);
                    assert_eq!(got.data.bytes(), want.data.bytes(), "{class} {rows} x {cols}");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "refill: Q4_0 holds no plain numbers")]
    fn codes_are_not_refilled() {
        let cpu = Cpu::new(Class::Portable, 1);
        Packed::zeroed(&cpu, Format::Q4_0, 1, 32).refill(&cpu, &[0.0; 32]);
    }
}
