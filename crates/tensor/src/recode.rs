//! Numbers of one format written in another, on all threads.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use herd_kernels::blocks::{self, QuantiseError};
use herd_kernels::{Format, cpu};

use crate::Device;

/// What [`recode`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Recoded {
    /// The numbers in the new format.
    pub bytes: Vec<u8>,
    /// Some number is not what it was.
    pub rounded: bool,
}

/// Numbers in rows of `cols`, stored in `from`, written in `to`; the same bytes for any number of
/// threads. Beside the result, a row of floats for each thread is all the memory it takes.
///
/// Errors: the first number that is not finite or too large for `to`; formats that are equal are
/// copied unseen. Panics if `raw` is not whole rows of `from`, or a row not whole blocks of `to`.
pub fn recode(
    device: &Device,
    from: Format,
    raw: &[u8],
    to: Format,
    cols: usize,
) -> Result<Recoded, QuantiseError> {
    if from == to {
        return Ok(Recoded { bytes: raw.to_vec(), rounded: false });
    }
    let sizes = [from, to].map(|format| format.bytes(cols).filter(|bytes| *bytes > 0));
    let [Some(from_bytes), Some(to_bytes)] = sizes else {
        panic!("recode: a row of {cols} is no whole blocks of {from:?} and {to:?}");
    };
    assert!(raw.len().is_multiple_of(from_bytes), "recode: {} bytes of {from:?}", raw.len());
    let mut bytes = vec![0; raw.len() / from_bytes * to_bytes];
    let rounded = AtomicBool::new(false);
    let first_error: Mutex<Option<(usize, QuantiseError)>> = Mutex::default();
    cpu::for_rows(device.kernels(), &mut bytes, to_bytes, |i, out| {
        let mut x = vec![0.0; cols];
        blocks::unpack(from, &raw[i * from_bytes..][..from_bytes], &mut x);
        if let Err(error) = blocks::quantise(to, &x, out) {
            let mut first = first_error.lock().unwrap_or_else(|e| e.into_inner());
            if first.is_none_or(|(row, _)| i < row) {
                *first = Some((i, error));
            }
            return;
        }
        if !rounded.load(Ordering::Relaxed) {
            let mut y = vec![0.0; cols];
            blocks::unpack(to, out, &mut y);
            if x != y {
                rounded.store(true, Ordering::Relaxed);
            }
        }
    });
    match first_error.into_inner().unwrap_or_else(|e| e.into_inner()) {
        Some((row, error)) => Err(at_row(error, row * cols)),
        None => Ok(Recoded { bytes, rounded: rounded.into_inner() }),
    }
}

/// The error with its index counted from the first row.
fn at_row(error: QuantiseError, start: usize) -> QuantiseError {
    match error {
        QuantiseError::NotFinite { index, value } => {
            QuantiseError::NotFinite { index: start + index, value }
        }
        QuantiseError::TooLarge { format, index, value } => {
            QuantiseError::TooLarge { format, index: start + index, value }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Class;

    fn stored(numbers: &[f32]) -> Vec<u8> {
        numbers.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    #[test]
    fn rows_are_quantised_as_they_are_alone() {
        let x: Vec<f32> = (0..40 * 64).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let mut alone = vec![0; Format::Q4_1.bytes(x.len()).unwrap()];
        blocks::quantise(Format::Q4_1, &x, &mut alone).unwrap();
        for threads in [1, 3] {
            let device = Device::cpu(Class::Portable, threads);
            let recoded = recode(&device, Format::F32, &stored(&x), Format::Q4_1, 64).unwrap();
            assert_eq!(recoded, Recoded { bytes: alone.clone(), rounded: true });
        }
    }

    #[test]
    fn exact_numbers_are_not_rounded() {
        let device = Device::cpu(Class::Portable, 1);
        let halves = recode(&device, Format::F32, &stored(&[0.5, -3.0]), Format::BF16, 2).unwrap();
        assert!(!halves.rounded);
        assert!(
            recode(&device, Format::F32, &stored(&[0.1, 1.0]), Format::F16, 2).unwrap().rounded
        );
    }

    #[test]
    fn the_first_bad_number_is_named_by_its_place() {
        let device = Device::cpu(Class::Portable, 2);
        let mut x = vec![1.0; 8];
        (x[5], x[7]) = (f32::INFINITY, f32::NAN);
        let error = recode(&device, Format::F32, &stored(&x), Format::F16, 2).unwrap_err();
        assert_eq!(error, QuantiseError::NotFinite { index: 5, value: f32::INFINITY });
        x[5] = 1e9;
        let error = recode(&device, Format::F32, &stored(&x), Format::F16, 2).unwrap_err();
        assert!(matches!(error, QuantiseError::TooLarge { index: 5, .. }));
    }
}
