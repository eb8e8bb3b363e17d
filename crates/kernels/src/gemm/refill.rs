//! Weights that change: new f32 numbers into the layout of products, in place.

use super::layout::{self, GROUP};
use super::{Buffer, Packed};
use crate::{Cpu, Format};
use half::bf16;

impl Packed {
    /// A matrix of zeros.
    ///
    /// Panics if `cols` is not whole blocks.
    pub fn zeroed(cpu: &Cpu, format: Format, rows: usize, cols: usize) -> Packed {
        assert!(format.bytes(cols).is_some(), "{cols} columns of {}", format.name());
        let data: Buffer = cpu.arena.zeroed(Packed::bytes_of(format, rows, cols));
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

    /// Replaces all numbers by `x`, row by row, rounded to the nearest, ties to even.
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
        let group_bytes = layout::group_bytes(format, cols);
        crate::cpu::for_rows(cpu, self.data.bytes_mut(), group_bytes, |g, out| {
            for (n, row) in x[g * GROUP * cols..].chunks_exact(cols).take(GROUP).enumerate() {
                for (k, x) in row.iter().enumerate() {
                    if format == Format::F32 {
                        out[(k * GROUP + n) * 4..][..4].copy_from_slice(&x.to_le_bytes());
                    } else {
                        let at = k / 2 * 64 + n * 4 + k % 2 * 2;
                        out[at..at + 2].copy_from_slice(&bf16::from_f32(*x).to_le_bytes());
                    }
                }
            }
        });
    }
}
