//! Arguments of the kernels, as `kernels/*.cuh` declare them.

use cudarc::driver::sys::CUdeviceptr;

/// Weights; `Matrix` there.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct MatrixArgument {
    pub(crate) values: CUdeviceptr,
    pub(crate) scales: CUdeviceptr,
    pub(crate) subs: CUdeviceptr,
    pub(crate) blocks: i32,
    pub(crate) panels: i32,
}

/// Quantised activations that are read.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Activations {
    pub(crate) q: CUdeviceptr,
    pub(crate) scale: CUdeviceptr,
    pub(crate) sum: CUdeviceptr,
}

/// Quantised activations that are written.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quantised {
    pub(crate) to: Activations,
    pub(crate) blocks: i32,
}

/// Where a product goes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) out: CUdeviceptr,
    /// What the product is added to; 0 for nothing.
    pub(crate) base: CUdeviceptr,
    pub(crate) stride: i32,
    pub(crate) tokens: i32,
}

/// Keys and values.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) halves: CUdeviceptr,
    pub(crate) layers: i32,
    pub(crate) heads: i32,
    pub(crate) width: i32,
}

/// What the rows of a batch are.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    pub(crate) positions: CUdeviceptr,
    pub(crate) sequences: CUdeviceptr,
    pub(crate) tables: CUdeviceptr,
    pub(crate) table_stride: CUdeviceptr,
}

/// What happens to queries and keys before attention; absent vectors are 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rotation {
    pub(crate) bias: CUdeviceptr,
    pub(crate) query_gain: CUdeviceptr,
    pub(crate) key_gain: CUdeviceptr,
    pub(crate) eps: f32,
    pub(crate) turns: CUdeviceptr,
    pub(crate) pairs: i32,
    pub(crate) halves: i32,
    pub(crate) heads: i32,
}

/// One attention.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    pub(crate) queries: CUdeviceptr,
    pub(crate) stride: i32,
    pub(crate) out: CUdeviceptr,
    pub(crate) heads: i32,
    pub(crate) scale: f32,
    pub(crate) capped: i32,
    pub(crate) cap: f32,
    pub(crate) window: i32,
    pub(crate) layer: i32,
    /// Scores in device memory; 0 when they fit into shared memory.
    pub(crate) scores: CUdeviceptr,
    pub(crate) span: i32,
    /// Rows to attend for; 0 for all.
    pub(crate) listed: CUdeviceptr,
    /// Where the result goes instead, if it is quantised.
    pub(crate) to: Quantised,
    pub(crate) quantises: i32,
}

/// Tiles of rows of one sequence.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiles {
    pub(crate) items: CUdeviceptr,
    pub(crate) heads: i32,
    pub(crate) scores: CUdeviceptr,
    pub(crate) span: i32,
}

// The kernels assert the same.
const _: () = {
    assert!(size_of::<MatrixArgument>() == 32 && size_of::<Activations>() == 24 && size_of::<Target>() == 24);
    assert!(size_of::<Quantised>() == 32 && size_of::<Pages>() == 24 && size_of::<Rows>() == 32);
    assert!(size_of::<Rotation>() == 56 && size_of::<Attention>() == 112);
    assert!(size_of::<Tiles>() == 32);
};
