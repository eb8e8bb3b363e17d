//! AdamW over all parameters of a model, its gradient clipped by its global norm.

use herd_model::llama::{Llama, Named};
use herd_tensor::ops::{AdamW, Moments, adamw, gradient_square};

/// The constants of AdamW; LLaMA's where Llama 3 publishes none (spec: pretraining, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OptimizerConfig {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled decay: each step takes this share, times the learning rate, of a matrix.
    pub weight_decay: f64,
    /// The gradient's norm is cut to this; infinite for no clipping.
    pub max_grad_norm: f64,
}

impl OptimizerConfig {
    /// LLaMA's: 0.9, 0.95, decay 0.1, clip 1.
    pub const LLAMA: OptimizerConfig = OptimizerConfig {
        beta1: 0.9,
        beta2: 0.95,
        eps: 1e-8,
        weight_decay: 0.1,
        max_grad_norm: 1.0,
    };
}

/// The optimiser's memory: the moments of each parameter, in the order of the model.
pub struct Optimizer {
    /// Its constants.
    pub config: OptimizerConfig,
    /// Steps done.
    pub step: u64,
    moments: Vec<Moments>,
}

impl Optimizer {
    /// One that has done no step.
    pub fn new(model: &Llama, config: OptimizerConfig) -> Optimizer {
        let moments = model.params().iter().map(|named| Moments::zeroed(named.param)).collect();
        Optimizer { config, step: 0, moments }
    }

    /// The moments of each parameter, in the order of [`Llama::params`].
    pub fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// The same, to be restored.
    pub fn moments_mut(&mut self) -> &mut [Moments] {
        &mut self.moments
    }

    /// The norm of the gradient of all parameters, in the order of the model; joins their sums.
    ///
    /// NaN or infinite if a number is: then no step should be made.
    pub fn grad_norm(&self, model: &Llama) -> f64 {
        let square = |named: &Named<'_>| {
            named.param.join_gradients();
            gradient_square(named.param)
        };
        model.params().iter().map(square).sum::<f64>().sqrt()
    }

    /// One step at learning rate `lr` with a gradient of norm `grad_norm`; clears the gradient.
    ///
    /// Panics if the norm is not finite: what it would write over the weights is lost for good.
    pub fn step(&mut self, model: &Llama, lr: f64, grad_norm: f64) {
        assert!(grad_norm.is_finite(), "a step with a gradient of norm {grad_norm}");
        self.step += 1;
        let OptimizerConfig { beta1, beta2, eps, weight_decay, max_grad_norm } = self.config;
        // PyTorch's clip_grad_norm_, its 1e-6 included.
        let grad_scale = (max_grad_norm / (grad_norm + 1e-6)).min(1.0) as f32;
        for (named, moments) in model.params().iter().zip(&mut self.moments) {
            let weight_decay = if named.param.is_vector() { 0.0 } else { weight_decay };
            let step = AdamW { lr, beta1, beta2, eps, weight_decay, step: self.step, grad_scale };
            adamw(named.param, moments, &step);
            named.param.clear_gradient();
        }
    }
}
