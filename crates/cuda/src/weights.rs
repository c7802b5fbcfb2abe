//! Weights in device memory.

use crate::{
    CudaError, Gpu,
    arguments::MatrixArgument,
    driver::{Buffer, FORMATS},
};
use kernels::{Format, Linear, Matrix, PANEL};
use std::{ffi::c_void, sync::Arc};

/// Bytes of weights that are repacked at once.
const STAGE_BYTES: usize = 64 << 20;

/// A pointer to an argument of a kernel.
pub(crate) fn pointer<T>(argument: &T) -> *mut c_void {
    std::ptr::from_ref(argument).cast_mut().cast()
}

/// Number of a format in the kernels.
pub(crate) fn number(format: Format) -> i32 {
    match format {
        Format::Q8_0 => 0,
        Format::Q4_0 => 1,
        Format::Q4K => 2,
        Format::Q6K => 3,
    }
}

/// One matrix.
#[derive(Debug)]
pub(crate) struct DeviceMatrix {
    pub(crate) format: Format,
    values: Buffer,
    scales: Buffer,
    subs: Buffer,
    blocks: usize,
    pub(crate) panels: usize,
}

impl DeviceMatrix {
    fn new(gpu: &Arc<Gpu>, m: &Matrix) -> Result<Self, CudaError> {
        let parts = m.parts();
        let (blocks, panels) = (m.k() / kernels::BLOCK, m.padded_rows() / PANEL);
        let each = match m.format() {
            Format::Q8_0 | Format::Q6K => 16,
            Format::Q4_0 | Format::Q4K => 8,
        };
        let values = Buffer::new(gpu, panels * blocks * 32 * each)?;
        // Bytes of a block of a panel before and after.
        let (source, target) = (parts.values.len() / (panels * blocks), 32 * each);
        let stage_blocks = (STAGE_BYTES / source).min(panels * blocks);
        let stage = Buffer::new(gpu, stage_blocks * source)?;
        let format = number(m.format());
        for from in (0..panels * blocks).step_by(stage_blocks) {
            let count = stage_blocks.min(panels * blocks - from);
            stage.write(&parts.values[from * source..(from + count) * source])?;
            let (input, output) = (stage.address(), values.address() + (from * target) as u64);
            let lanes = count as u64 * 32;
            // SAFETY: `count` blocks were copied to the stage and have their place in `values`; both live until the device is done.
            unsafe {
                let grid = (lanes.div_ceil(256) as usize, 1, 1);
                gpu.launch(
                    "og_repack_values",
                    grid,
                    256,
                    0,
                    &mut [pointer(&format), pointer(&input), pointer(&output), pointer(&lanes)],
                )?;
            }
            gpu.synchronise()?;
        }
        let scales = if m.format() == Format::Q4K { 32 } else { 16 };
        Ok(Self {
            format: m.format(),
            values,
            scales: neighbours(gpu, parts.scales, scales)?,
            subs: neighbours(gpu, parts.subs, 32)?,
            blocks,
            panels,
        })
    }

    pub(crate) fn argument(&self) -> MatrixArgument {
        MatrixArgument {
            values: self.values.address(),
            scales: self.scales.address(),
            subs: self.subs.address(),
            blocks: self.blocks as i32,
            panels: self.panels as i32,
        }
    }

    pub(crate) fn ending(&self) -> &'static str {
        FORMATS[number(self.format) as usize]
    }

    pub(crate) fn bytes(&self) -> usize {
        self.values.bytes() + self.scales.bytes() + self.subs.bytes()
    }
}

/// Uploads groups of `each` scales with those of rows g and g+8 side by side.
fn neighbours<T: Copy>(gpu: &Arc<Gpu>, data: &[T], each: i32) -> Result<Buffer, CudaError> {
    let (stage, out) = (Buffer::of(gpu, data)?, Buffer::new(gpu, size_of_val(data))?);
    if data.is_empty() {
        return Ok(out);
    }
    let (input, output, size, count) =
        (stage.address(), out.address(), size_of::<T>() as i32, data.len() as u64);
    // SAFETY: both buffers have `count` elements of `size` bytes, whole groups of `each`; the stage lives until the device is done.
    unsafe {
        let grid = (count.div_ceil(256) as usize, 1, 1);
        gpu.launch(
            "og_repack_scales",
            grid,
            256,
            0,
            &mut [pointer(&input), pointer(&output), pointer(&each), pointer(&size), pointer(&count)],
        )?;
    }
    gpu.synchronise()?;
    Ok(out)
}

/// Matrices side by side, as [`Linear`].
#[derive(Debug)]
pub(crate) struct DeviceLinear {
    /// Each with the first output that is its.
    pub(crate) parts: Vec<(usize, DeviceMatrix)>,
    pub(crate) width: usize,
}

impl DeviceLinear {
    pub(crate) fn new(gpu: &Arc<Gpu>, linear: &Linear) -> Result<Self, CudaError> {
        let parts = linear.parts().map(|(offset, m)| Ok((offset, DeviceMatrix::new(gpu, m)?)));
        let parts = parts.collect::<Result<_, CudaError>>()?;
        Ok(Self { parts, width: linear.width() })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.parts.iter().map(|(_, m)| m.bytes()).sum()
    }
}
