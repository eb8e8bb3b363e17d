//! Embedding: the rows of a table that token ids name, as f32.

use half::{bf16, f16};

use crate::class::Class;
use crate::convert;
use crate::cpu::{Cpu, Parts};

/// Row t of `out` is row `ids[t]` of a table that only `unpack` knows: `unpack(row, out_row)`.
///
/// Shapes: `out` is [T, `dim`], `ids` is `[T]`, the table [`rows`, `dim`].
/// Panics if an id lies outside the table or `out` is not one row an id.
pub fn embed_rows(
    out: &mut [f32],
    ids: &[u32],
    rows: usize,
    dim: usize,
    mut unpack: impl FnMut(usize, &mut [f32]),
) {
    assert!(dim > 0, "embed: rows have no width");
    assert_eq!(out.len(), ids.len() * dim, "embed: out is not one row an id");
    for (out, id) in out.chunks_exact_mut(dim).zip(ids) {
        let row = *id as usize;
        assert!(row < rows, "embed: id {row} of a table of {rows} rows");
        unpack(row, out);
    }
}

/// [`embed_rows`] of a plain f32 table.
pub fn embed_f32(out: &mut [f32], ids: &[u32], table: &[f32], dim: usize) {
    let rows = whole_rows(table.len(), dim);
    embed_rows(out, ids, rows, dim, |row, out| out.copy_from_slice(&table[row * dim..][..dim]));
}

/// [`embed_rows`] of an f16 table.
pub fn embed_f16(class: Class, out: &mut [f32], ids: &[u32], table: &[f16], dim: usize) {
    let rows = whole_rows(table.len(), dim);
    embed_rows(out, ids, rows, dim, |row, out| {
        convert::f16_to_f32(class, out, &table[row * dim..][..dim]);
    });
}

/// [`embed_rows`] of a bf16 table.
pub fn embed_bf16(class: Class, out: &mut [f32], ids: &[u32], table: &[bf16], dim: usize) {
    let rows = whole_rows(table.len(), dim);
    embed_rows(out, ids, rows, dim, |row, out| {
        convert::bf16_to_f32(class, out, &table[row * dim..][..dim]);
    });
}

/// Row `ids[t]` of `dw` += row t of `dx`, t ascending: the gradient of [`embed_f32`].
///
/// Shapes: `dw` is [V, `dim`], `dx` is [T, `dim`], `ids` is `[T]`. Panics as `embed_rows`.
pub fn embed_backward(cpu: &Cpu, dw: &mut [f32], dx: &[f32], ids: &[u32], dim: usize) {
    let rows = whole_rows(dw.len(), dim);
    assert_eq!(dx.len(), ids.len() * dim, "embed: dx is not one row an id");
    for id in ids {
        assert!((*id as usize) < rows, "embed: id {id} of a table of {rows} rows");
    }
    let parts = Parts::new(dw);
    // Threads take columns, so that all rows of an id are added by one thread in their order.
    cpu.pool.run_ranges(dim, 16, |a, b| {
        for (dx, id) in dx.chunks_exact(dim).zip(ids) {
            // SAFETY: the row exists; columns a..b belong to this task.
            let dw = unsafe { parts.part(*id as usize * dim + a, b - a) };
            for (dw, dx) in dw.iter_mut().zip(&dx[a..b]) {
                *dw += dx;
            }
        }
    });
}

fn whole_rows(len: usize, dim: usize) -> usize {
    assert!(dim > 0, "embed: rows have no width");
    assert_eq!(len % dim, 0, "embed: the table is not whole rows");
    len / dim
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_in_the_order_of_the_ids_from_every_format() {
        let table: Vec<f32> = (0..12).map(|i| i as f32 - 5.5).collect();
        let halves: Vec<f16> = table.iter().map(|x| f16::from_f32(*x)).collect();
        let brains: Vec<bf16> = table.iter().map(|x| bf16::from_f32(*x)).collect();
        let want = [3.5, 4.5, 5.5, -5.5, -4.5, -3.5, 3.5, 4.5, 5.5];
        let mut out = [0.0; 9];
        embed_f32(&mut out, &[3, 0, 3], &table, 3);
        assert_eq!(out, want);
        for class in Class::available() {
            out.fill(0.0);
            embed_f16(class, &mut out, &[3, 0, 3], &halves, 3);
            assert_eq!(out, want);
            out.fill(0.0);
            embed_bf16(class, &mut out, &[3, 0, 3], &brains, 3);
            assert_eq!(out, want);
        }
        embed_f32(&mut [], &[], &table, 3);
    }

    #[test]
    fn gradients_of_an_id_that_comes_again_add_in_token_order() {
        // In f32, 1e8 + 1 - 1e8 is 0 from the left and 1 in any other order.
        let dx: Vec<f32> = [1e8, 1.0, -1e8, 7.0].iter().flat_map(|x| [*x; 40]).collect();
        for threads in [1, 2, 3] {
            let cpu = Cpu::new(Class::best(), threads);
            let mut dw = vec![0.0; 4 * 40];
            embed_backward(&cpu, &mut dw, &dx, &[2, 2, 2, 0], 40);
            let row = |i: usize| &dw[i * 40..][..40];
            assert!(row(2).iter().all(|x| *x == 0.0) && row(0).iter().all(|x| *x == 7.0));
            assert!(row(1).iter().chain(row(3)).all(|x| *x == 0.0));
            embed_backward(&cpu, &mut dw, &dx[..40], &[1], 40);
            assert!(dw[40..80].iter().all(|x| *x == 1e8));
        }
    }

    #[test]
    #[should_panic(expected = "id 4 of a table of 4 rows")]
    fn an_id_outside_the_table_is_refused() {
        embed_f32(&mut [0.0; 3], &[4], &[0.0; 12], 3);
    }
}
