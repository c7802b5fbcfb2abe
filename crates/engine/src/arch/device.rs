//! Decoders on a device other than the processor: the only place that knows which devices there are.

use super::{Ask, Given, Row, decoder::Decoder};
use crate::{
    EngineError,
    kv::{KvCache, PagePool},
    trace::LayerDigests,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Where an engine computes. None of this changes a bit of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This machine's processor.
    #[default]
    Cpu,
    /// The NVIDIA GPU of this number. Needs a program built with the feature `cuda`. Encoders stay on the processor.
    Cuda(usize),
}

/// Runs whole passes of one decoder on some device.
pub(crate) trait Accelerator: Send {
    /// What is asked for of the rows that want logits, and the digests `[layer][row]`. `tables` has the numbers of the pages of every sequence.
    fn forward(&mut self, rows: &[Row], tables: &[Vec<u32>], ask: Ask<'_>) -> Result<Passed, EngineError>;
}

/// What a pass gives.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) given: Vec<Given>,
    pub(crate) digests: Vec<LayerDigests>,
}

/// A device with a decoder's weights.
pub(crate) struct Device {
    accelerator: Mutex<Box<dyn Accelerator>>,
    /// Its pages of keys and values.
    pub(crate) pages: Arc<PagePool>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Device({:?})", self.pages)
    }
}

impl Device {
    /// The device that `choice` names with the weights of `decoder` and room for `pages` pages; `None` is the processor.
    pub(crate) fn open(
        choice: DeviceChoice,
        decoder: &Decoder,
        pages: usize,
    ) -> Result<Option<Self>, EngineError> {
        let DeviceChoice::Cuda(ordinal) = choice else { return Ok(None) };
        let accelerator = Mutex::new(open_cuda(ordinal, decoder, pages)?);
        Ok(Some(Self { accelerator, pages: PagePool::new(pages) }))
    }

    pub(crate) fn forward(
        &self,
        rows: &[Row],
        caches: &mut [&mut KvCache],
        ask: Ask<'_>,
    ) -> Result<Passed, EngineError> {
        for row in rows {
            caches[row.sequence].reserve(row.position + 1);
        }
        let tables: Vec<_> = caches.iter().map(|c| c.device_pages()).collect();
        self.accelerator.lock().unwrap_or_else(PoisonError::into_inner).forward(rows, &tables, ask)
    }
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_: usize, _: &Decoder, _: usize) -> Result<Box<dyn Accelerator>, EngineError> {
    Err(EngineError::Device("this program was built without GPUs; build it with `--features cuda`".into()))
}

#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize, decoder: &Decoder, pages: usize) -> Result<Box<dyn Accelerator>, EngineError> {
    let fault = |e: cuda::CudaError| EngineError::Device(e.to_string());
    let gpu = cuda::Gpu::open(ordinal).map_err(fault)?;
    Ok(Box::new(cuda::Decoder::new(&gpu, &decoder.for_device(), pages).map_err(fault)?))
}

#[cfg(feature = "cuda")]
impl Accelerator for cuda::Decoder {
    fn forward(&mut self, rows: &[Row], tables: &[Vec<u32>], ask: Ask<'_>) -> Result<Passed, EngineError> {
        let row = |r: &Row| {
            let Row { token, position, sequence, wants_logits } = *r;
            cuda::StepRow { token, position, sequence, wants_logits }
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        let few =
            |biases: &[&[(u32, f32)]]| biases.iter().map(|b| b.len()).sum::<usize>() <= cuda::BIASES_MAX;
        let largest = match ask {
            Ask::Largest(biases) if few(biases) => Some(biases),
            _ => None,
        };
        let output = cuda::Decoder::forward(self, &cuda::Step { rows: &rows, tables, largest })
            .map_err(|e| EngineError::Device(e.to_string()))?;
        let digests = output.digests.into_iter().map(|[kv, x]| LayerDigests { kv, x }).collect();
        let chosen = output.chosen.into_iter().map(Given::Largest);
        Ok(Passed { given: output.logits.into_iter().map(Given::Logits).chain(chosen).collect(), digests })
    }
}
