//! What another program needs to repeat a run: its first weights and its exact batches.

use crate::error::TrainError;
use crate::step::Packed;
use crate::trainer::Trainer;
use herd_data::Batch;
use herd_tensor::Format;
use herd_tensor::files::{DType, SafetensorsWriter, TensorInfo};
use std::path::{Path, PathBuf};

/// Writes `checkpoints/step-0` of a run that has done no step, and `batches.safetensors` into its
/// folder: the batches of the first `steps` steps and those of each measurement of held-out text.
/// Nothing is trained; the run can be begun afterwards. All batches are in memory at once, 20 bytes
/// a token.
///
/// Errors: the run has begun, the data ends before the steps, the disk.
pub fn export(run: &mut Trainer<'_>, steps: u64) -> Result<PathBuf, TrainError> {
    if run.step() > 0 {
        return Err(TrainError::Begun { step: run.step() });
    }
    run.save_first()?;
    let mask = run.config.data.document_mask;
    let mut train = Flat::default();
    let mut loader = run.first_loader()?;
    for step in 0..steps {
        let batch = loader.next_batch()?.ok_or(TrainError::DataEnded { step, steps })?;
        train.push(&batch, mask);
    }
    let mut validation = Flat::default();
    let held = run.held_out()?;
    for source in held.sources() {
        for batch in held.batches(source) {
            validation.push(&batch?, mask);
        }
    }
    let path = run.folder().join("batches.safetensors");
    write(&path, [("train", &train), ("validation", &validation)])?;
    Ok(path)
}

/// Batches end to end.
#[derive(Default)]
struct Flat {
    /// Of each batch: rows, places of a row, runs that see only themselves.
    sizes: Vec<u32>,
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
    positions: Vec<u32>,
    /// Lengths of the runs that see only themselves.
    lengths: Vec<u32>,
}

impl Flat {
    fn push(&mut self, batch: &Batch, mask: bool) {
        let packed = Packed::of(batch, mask);
        let rows = packed.rows(batch, 0, batch.rows);
        let micro = rows.borrow();
        let sizes = [batch.rows, batch.seq_len, micro.documents.len()];
        self.sizes.extend(sizes.map(|n| n as u32));
        self.tokens.extend(micro.tokens);
        self.targets.extend(micro.targets);
        self.weights.extend(micro.weights);
        self.positions.extend(micro.positions);
        self.lengths.extend(micro.documents.iter().map(|d| d.len() as u32));
    }

    /// Name, type, and little-endian bytes of each tensor.
    fn tensors(&self) -> [(&'static str, DType, Vec<u8>); 6] {
        let bytes = |ids: &[u32]| ids.iter().flat_map(|x| x.to_le_bytes()).collect();
        let weights = self.weights.iter().flat_map(|x| x.to_le_bytes()).collect();
        [
            ("sizes", DType::I32, bytes(&self.sizes)),
            ("tokens", DType::I32, bytes(&self.tokens)),
            ("targets", DType::I32, bytes(&self.targets)),
            ("weights", DType::Format(Format::F32), weights),
            ("positions", DType::I32, bytes(&self.positions)),
            ("lengths", DType::I32, bytes(&self.lengths)),
        ]
    }
}

/// Writes each part's tensors as PART.NAME, one-dimensional but `sizes` [batches, 3].
fn write(path: &Path, parts: [(&str, &Flat); 2]) -> Result<(), TrainError> {
    let mut infos = Vec::new();
    let mut data = Vec::new();
    for (part, flat) in parts {
        for (name, dtype, bytes) in flat.tensors() {
            let items = bytes.len() / 4;
            let shape = if name == "sizes" { vec![items / 3, 3] } else { vec![items] };
            infos.push(TensorInfo { name: format!("{part}.{name}"), dtype, shape });
            data.push(bytes);
        }
    }
    let mut writer = SafetensorsWriter::create(path, &[], &infos)?;
    for (info, bytes) in infos.iter().zip(&data) {
        writer.write_tensor(&info.name, bytes)?;
    }
    writer.finish()?;
    Ok(())
}
