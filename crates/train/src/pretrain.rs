//! Pretraining: next tokens of a mix of texts (arXiv 2407.21783, section 3.4.1).

use crate::error::TrainError;
use crate::trainer::Trainer;

/// Runs to the last step, or until it is asked to stop; either way a checkpoint stands at the end.
///
/// Errors: the data ended before the steps, the loss, gradient or a weight is no number, the disk.
pub fn pretrain(run: &mut Trainer<'_>) -> Result<(), TrainError> {
    while run.goes_on() {
        let Some(batch) = run.next_batch()? else {
            run.save_done()?;
            return Err(TrainError::DataEnded { step: run.step(), steps: run.config.optim.steps });
        };
        let gradient = run.gradient(&batch);
        if let Some(spike) = run.judge(&gradient)
            && !run.answer(spike, &batch)?
        {
            continue;
        }
        run.update(&gradient, &batch)?;
        run.validate_when_due()?;
        run.sample_when_due()?;
        run.save_when_due()?;
    }
    Ok(())
}
