//! Where tensors live and operations run.

use herd_kernels::Cpu;
use herd_kernels::buffer::Buffer;
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
    /// Keys and values of packed documents, laid for attention: one layer at a time.
    keys: Mutex<Buffer>,
}

impl Device {
    /// A CPU of this numeric class and number of threads.
    ///
    /// Panics if the machine cannot run the class.
    pub fn cpu(class: herd_kernels::Class, threads: usize) -> Device {
        let keys = Mutex::new(Buffer::zeroed(0));
        let device = CpuDevice { cpu: Cpu::new(class, threads), free: Mutex::default(), keys };
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

    /// Calls `task` on each item, on all threads; in which order and on which is not said.
    pub fn for_each<T: Send>(&self, items: &mut [T], task: impl Fn(&mut T) + Sync) {
        herd_kernels::cpu::for_rows(self.kernels(), items, 1, |_, item| task(&mut item[0]));
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
                // A new buffer takes the place of the largest that is too small, so no more are
                // kept than were in use at once.
                let largest = (0..free.len()).max_by_key(|&i| free[i].len());
                let outgrown = largest.map(|i| free.swap_remove(i));
                drop((free, outgrown));
                vec![0.0; len]
            }
        }
    }

    /// Bytes of all buffers that wait for reuse: those of a step, when no tensor is left of it.
    pub fn buffer_bytes(&self) -> u64 {
        let Device::Cpu(device) = self;
        let free = device.free.lock().unwrap_or_else(|e| e.into_inner());
        free.iter().map(|buffer| 4 * buffer.len() as u64).sum()
    }

    /// Gives back the memory of all buffers that wait for reuse: what comes next has other sizes.
    pub fn free_buffers(&self) {
        let Device::Cpu(device) = self;
        device.free.lock().unwrap_or_else(|e| e.into_inner()).clear();
    }

    /// Lends `f` memory for keys and values, which outlives the call.
    pub(crate) fn with_keys<T>(&self, bytes: usize, f: impl FnOnce(&mut [u8]) -> T) -> T {
        let Device::Cpu(device) = self;
        let mut keys = device.keys.lock().unwrap_or_else(|e| e.into_inner());
        if keys.len() < bytes {
            *keys = Buffer::zeroed(bytes);
        }
        f(&mut keys.bytes_mut()[..bytes])
    }

    pub(crate) fn give_back(&self, buffer: Vec<f32>) {
        let Device::Cpu(device) = self;
        let mut free = device.free.lock().unwrap_or_else(|e| e.into_inner());
        free.push(buffer);
    }
}
