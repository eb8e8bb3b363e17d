//! The greatest elements of a row.
//!
//! Order: the greater first, NaN last, and among equals (0 equals -0) the smaller index first.

use std::cmp::Ordering;

use crate::class::Class;
use crate::dispatch::for_class;
use crate::math::maximum;

/// Elements that are compared with the threshold at once: one or two cache lines.
const BLOCK: usize = 32;

/// The `k` greatest elements of `row` and their indices, in the order of this module.
///
/// `k` is the length of `values` and of `indices`. The outputs hold a heap of the best so far;
/// its least is the threshold that most blocks of the row fail at once. For elements in random
/// order the work is O(n + k log k log(n/k)); at worst (a rising row) it is O(n log k).
/// Panics if `values` and `indices` differ in length, `k` is above n, or n is 2^32 or more.
pub fn top_k(class: Class, values: &mut [f32], indices: &mut [u32], row: &[f32]) {
    assert_eq!(values.len(), indices.len(), "top_k: values and indices differ in length");
    assert!(values.len() <= row.len(), "top_k: k = {} of {}", values.len(), row.len());
    assert!(u32::try_from(row.len()).is_ok(), "top_k: the row is too long for u32 indices");
    for_class!(class, top_k_body(values: &mut [f32], indices: &mut [u32], row: &[f32]));
}

#[inline(always)]
fn top_k_body<const FMA: bool>(values: &mut [f32], indices: &mut [u32], row: &[f32]) {
    let k = values.len();
    if k == 0 {
        return;
    }
    let (first, rest) = row.split_at(k);
    values.copy_from_slice(first);
    for (i, index) in indices.iter_mut().enumerate() {
        *index = i as u32;
    }
    let mut heap = Heap { values, indices };
    for root in (0..k / 2).rev() {
        heap.sink(root, k);
    }
    let (blocks, tail) = rest.as_chunks::<BLOCK>();
    for (b, block) in blocks.iter().enumerate() {
        let threshold = heap.values[0];
        // The threshold is NaN only while the heap holds one: then nothing may be passed over.
        let any = block.iter().fold(threshold.is_nan(), |any, x| any | (*x > threshold));
        if any {
            heap.offer_all(block, k + b * BLOCK);
        }
    }
    heap.offer_all(tail, row.len() - tail.len());
    for end in (1..k).rev() {
        heap.swap(0, end);
        heap.sink(0, end);
    }
}

/// A heap with its last in order at the root.
struct Heap<'a> {
    values: &'a mut [f32],
    indices: &'a mut [u32],
}

impl Heap<'_> {
    /// Offers elements that stand in the row from `start` on.
    fn offer_all(&mut self, x: &[f32], start: usize) {
        for (i, x) in x.iter().enumerate() {
            // An equal comes later in the row than all in the heap, so only a greater enters.
            let root = self.values[0];
            if *x > root || (root.is_nan() && !x.is_nan()) {
                self.values[0] = *x;
                self.indices[0] = (start + i) as u32;
                self.sink(0, self.values.len());
            }
        }
    }

    /// Restores the heap `..end` below `root`.
    fn sink(&mut self, mut root: usize, end: usize) {
        loop {
            let mut child = 2 * root + 1;
            if child >= end {
                return;
            }
            if child + 1 < end && self.order(child + 1, child) == Ordering::Greater {
                child += 1;
            }
            if self.order(child, root) != Ordering::Greater {
                return;
            }
            self.swap(root, child);
            root = child;
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.values.swap(a, b);
        self.indices.swap(a, b);
    }

    fn order(&self, a: usize, b: usize) -> Ordering {
        order((self.values[a], self.indices[a]), (self.values[b], self.indices[b]))
    }
}

/// The order of this module: `Less` comes first.
pub(crate) fn order(a: (f32, u32), b: (f32, u32)) -> Ordering {
    let by_value = b.0.partial_cmp(&a.0).unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan()));
    by_value.then(a.1.cmp(&b.1))
}

/// The index of the greatest element, or `None` of an empty row; the first of equals.
///
/// NaN is passed over, unless there is nothing else: then it is 0.
pub fn argmax(class: Class, row: &[f32]) -> Option<usize> {
    for_class!(class, argmax_body(row: &[f32]) -> Option<usize>)
}

#[inline(always)]
fn argmax_body<const FMA: bool>(row: &[f32]) -> Option<usize> {
    let greatest = maximum(row);
    let (blocks, tail) = row.as_chunks::<BLOCK>();
    for (b, block) in blocks.iter().enumerate() {
        if block.iter().fold(false, |any, x| any | (*x == greatest)) {
            return block.iter().position(|x| *x == greatest).map(|i| b * BLOCK + i);
        }
    }
    let in_tail = tail.iter().position(|x| *x == greatest).map(|i| row.len() - tail.len() + i);
    in_tail.or((!row.is_empty()).then_some(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::naive;
    use crate::sample::Sample;

    fn check(row: &[f32], k: usize) {
        let want = naive::top_k(row, k);
        for class in Class::available() {
            let (mut values, mut indices) = (vec![0.0; k], vec![0; k]);
            top_k(class, &mut values, &mut indices, row);
            let got: Vec<_> = values.iter().map(|x| x.to_bits()).zip(indices).collect();
            let want: Vec<_> = want.iter().map(|(x, i)| (x.to_bits(), *i)).collect();
            assert_eq!(got, want, "{class}, k = {k} of {}", row.len());
            let first = naive::top_k(row, row.len().min(1)).first().map(|(_, i)| *i as usize);
            assert_eq!(argmax(class, row), first, "{class}");
        }
    }

    #[test]
    fn top_k_is_the_front_of_the_sorted_row() {
        let mut sample = Sample::new(7);
        for n in [0, 1, 2, 17, 31, 32, 33, 97, 1009] {
            let row = sample.normals(n);
            let few_values: Vec<f32> = row.iter().map(|x| x.round()).collect();
            let rising: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let nan_first: Vec<f32> = row
                .iter()
                .enumerate()
                .map(|(i, x)| if i % 3 == 0 { f32::NAN } else { *x })
                .collect();
            for k in [0, 1, 2, 5, 40, n / 2, n] {
                if k <= n {
                    check(&row, k);
                    check(&few_values, k);
                    check(&rising, k);
                    check(&nan_first, k);
                }
            }
        }
    }

    #[test]
    fn extremes_have_their_place() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let row = [nan, -inf, 0.0, -0.0, inf, -0.0, nan, inf];
        for k in 0..=row.len() {
            check(&row, k);
        }
        check(&[nan; 70], 3);
        check(&[-inf; 70], 3);
    }
}
