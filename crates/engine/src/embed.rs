//! A vector for a text: the mean of its tokens' hidden states, gathered over steps.

use herd_tensor::Tensor;

/// The sum of hidden states, D numbers, that were seen, in the order of positions.
///
/// It is kept in f64 and grows row by row, so the pieces in which a prompt is computed change no bit.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    sum_d: Vec<f64>,
    rows: usize,
}

impl Pool {
    /// Adds rows `first` to `first + rows` of hidden states [T, D].
    pub fn add(&mut self, x_td: &Tensor, first: usize, rows: usize) {
        for row in first..first + rows {
            let x_d = x_td.row(row);
            self.sum_d.resize(x_d.len(), 0.0);
            for (sum, &x) in self.sum_d.iter_mut().zip(x_d) {
                *sum += f64::from(x);
            }
        }
        self.rows += rows;
    }

    /// The mean, D numbers; nothing before the first row.
    pub fn mean(&self) -> Vec<f32> {
        self.sum_d.iter().map(|sum| (sum / self.rows as f64) as f32).collect()
    }
}
