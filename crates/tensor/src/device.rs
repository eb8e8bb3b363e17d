//! Where tensors live and operations run.

use herd_kernels::Cpu;
use std::sync::{Arc, Mutex};

/// A device; clones are the same device.
#[derive(Clone)]
pub enum Device {
    /// The CPU.
    Cpu(Arc<CpuDevice>),
}

/// The CPU and the memory of tensors that are no longer used.
pub struct CpuDevice {
    /// What the kernels run on.
    pub cpu: Cpu,
    /// Buffers for reuse: a step asks for the sizes of the step before, so that nothing is
    /// allocated after the first.
    free: Mutex<Vec<Vec<f32>>>,
}

/// Buffers kept; a forward pass holds fewer at once.
const KEPT: usize = 64;

impl Device {
    /// A CPU of this numeric class and number of threads.
    ///
    /// Panics if the machine cannot run the class.
    pub fn cpu(class: herd_kernels::Class, threads: usize) -> Device {
        let device = CpuDevice { cpu: Cpu::new(class, threads), free: Mutex::default() };
        Device::Cpu(Arc::new(device))
    }

    /// The same with the fastest class and all threads that the process may use.
    pub fn best() -> Device {
        Device::cpu(herd_kernels::Class::best(), herd_kernels::pool::allowed_threads())
    }

    /// The CPU that kernels run on.
    pub fn kernels(&self) -> &Cpu {
        match self {
            Device::Cpu(device) => &device.cpu,
        }
    }

    /// The numeric class, which decides the bits.
    pub fn class(&self) -> herd_kernels::Class {
        self.kernels().class
    }

    /// Compute threads, which do not.
    pub fn threads(&self) -> usize {
        self.kernels().pool.threads()
    }

    /// A buffer of at least `len` numbers, of any value.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        let Device::Cpu(device) = self;
        let mut free = device.free.lock().unwrap_or_else(|e| e.into_inner());
        // The smallest that is large enough; few are kept, so looking at all is cheap.
        let fits = free.iter().enumerate().filter(|(_, b)| b.len() >= len);
        match fits.min_by_key(|(_, b)| b.len()).map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => {
                drop(free);
                vec![0.0; len]
            }
        }
    }

    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        let Device::Cpu(device) = self;
        let mut free = device.free.lock().unwrap_or_else(|e| e.into_inner());
        free.push(buffer);
        if free.len() > KEPT {
            // The smallest is the cheapest to make anew.
            let smallest = (0..free.len()).min_by_key(|&i| free[i].len()).unwrap_or(0);
            free.swap_remove(smallest);
        }
    }
}
