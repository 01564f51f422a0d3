//! Memory shared with other libraries, through DLPack. The one file with `unsafe`.

use std::cell::{Cell, UnsafeCell};
use std::ffi::c_void;
use std::sync::Arc;

use dlpark::allocation::dynamic::Allocation;
use dlpark::ffi::{DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::python::{DlpackExporter, ExportRequest, export_dlpack, from_dlpack};
use dlpark::{DlpackElement, DlpackFlags, Managed, ManagedTensorBase, TensorRef};
use easyroutine::give_back;
use half::{bf16, f16};
use pyo3::exceptions::{PyBufferError, PyException, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::errors::Failure;
use crate::tensor::Tensor;

/// DLPack's name for main memory.
pub(crate) const CPU: (u32, i32) = (1, 0);
/// The newest version of DLPack that is read.
const NEWEST: (u32, u32) = (1, 0);

/// Numbers of one type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Numbers {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

impl Numbers {
    pub(crate) fn len(&self) -> usize {
        match self {
            Numbers::F32(values) => values.len(),
            Numbers::I64(values) => values.len(),
        }
    }

    /// Bytes of one number.
    pub(crate) fn width(&self) -> usize {
        match self {
            Numbers::F32(_) => 4,
            Numbers::I64(_) => 8,
        }
    }
}

/// Numbers at an address that stays valid until the last tensor that uses them is gone.
pub(crate) struct Storage {
    numbers: UnsafeCell<Numbers>,
    address: usize,
    width: usize,
}

// SAFETY: a storage is plain numbers on the heap, which any thread may free.
unsafe impl Send for Storage {}
// SAFETY: the vector itself is never changed or moved. Its numbers may be written through pointers that were handed
// out, like those of any array in Python. Writing while another thread reads can only tear numbers, and the engine
// itself reads them only to copy them, under the GIL.
unsafe impl Sync for Storage {}

impl Storage {
    pub(crate) fn new(numbers: Numbers) -> Self {
        let address = match &numbers {
            Numbers::F32(values) => values.as_ptr() as usize,
            Numbers::I64(values) => values.as_ptr() as usize,
        };
        Storage { width: numbers.width(), address, numbers: UnsafeCell::new(numbers) }
    }

    /// Lends the numbers to `look`, which copies what it needs.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&Numbers) -> R) -> R {
        // SAFETY: the vector is never changed or moved after `new`, and the reference ends with the call.
        look(unsafe { &*self.numbers.get() })
    }

    pub(crate) fn address(&self) -> usize {
        self.address
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    pub(crate) fn dtype(&self) -> &'static str {
        if self.width == 4 { "float32" } else { "int64" }
    }

    /// The type as numpy's array interface spells it.
    pub(crate) fn typestr(&self) -> &'static str {
        match (self.width, cfg!(target_endian = "little")) {
            (4, true) => "<f4",
            (4, false) => ">f4",
            (_, true) => "<i8",
            (_, false) => ">i8",
        }
    }

    fn data_type(&self) -> DLDataType {
        if self.width == 4 { f32::DTYPE } else { i64::DTYPE }
    }

    fn pointer(&self) -> *mut c_void {
        // SAFETY: only the address is taken; the vector is never changed or moved after `new`.
        unsafe {
            match &mut *self.numbers.get() {
                Numbers::F32(values) => values.as_mut_ptr().cast(),
                Numbers::I64(values) => values.as_mut_ptr().cast(),
            }
        }
    }
}

/// Returns a cache's memory to the pool, for the next run.
impl Drop for Storage {
    fn drop(&mut self) {
        if let Numbers::F32(values) = self.numbers.get_mut() {
            give_back(std::mem::take(values));
        }
    }
}

/// A capsule of the tensor. It shares the tensor's memory, except with a negative step: few libraries accept one, so
/// those numbers are copied.
///
/// # Errors
/// A device other than main memory; `copy=false` where a copy is unavoidable.
pub(crate) fn export(
    tensor: &Tensor,
    py: Python<'_>,
    stream: Option<&Bound<'_, PyAny>>,
    max_version: Option<(u32, u32)>,
    device: Option<(u32, i32)>,
    copy: Option<bool>,
) -> Result<Py<PyAny>, Failure> {
    let is_reversed = tensor.strides.iter().any(|stride| *stride < 0);
    if is_reversed && copy == Some(false) {
        return Err(Failure::exchange(
            "a tensor with a negative step is handed over as a copy, and copy=False",
        ));
    }
    let request =
        ExportRequest::parse(stream, max_version, device, None).map_err(|error| refused(py, error))?;
    let exported = if is_reversed || copy == Some(true) {
        export_dlpack(&Tensor::new(tensor.numbers(), tensor.shape.clone()), py, request)
    } else {
        export_dlpack(tensor, py, request)
    };
    exported.map_err(|error| refused(py, error))
}

impl DlpackExporter for Tensor {
    fn device(&self) -> DLDevice {
        DLDevice::CPU
    }

    fn flags(&self) -> DlpackFlags {
        DlpackFlags::empty()
    }

    fn prepare_export(&self, _: Python<'_>, _: &ExportRequest<'_>) -> PyResult<()> {
        Ok(())
    }

    fn export_legacy(&self, _: Python<'_>) -> PyResult<Managed<DLManagedTensor>> {
        managed(self)
    }

    fn export_versioned(&self, _: Python<'_>) -> PyResult<Managed<DLManagedTensorVersioned>> {
        managed(self)
    }
}

fn managed<M: ManagedTensorBase>(tensor: &Tensor) -> PyResult<Managed<M>> {
    let failed = |e: dlpark::allocation::Error| PyBufferError::new_err(e.to_string());
    let axes = tensor.shape.len();
    let mut allocation = Allocation::<M>::allocate(2 * axes).map_err(failed)?;
    let (shape, strides) = allocation.extra_mut().split_at_mut(axes);
    shape.iter_mut().zip(&tensor.shape).for_each(|(to, size)| *to = *size as i64);
    strides.iter_mut().zip(&tensor.strides).for_each(|(to, stride)| *to = *stride as i64);
    let mut initialized = allocation.initialize(Arc::clone(&tensor.storage), axes).map_err(failed)?;
    let extra = initialized.extra_mut().as_mut_ptr();
    let descriptor = initialized.tensor_mut();
    descriptor.shape = extra;
    // SAFETY: `extra` has twice as many values as there are axes.
    descriptor.strides = unsafe { extra.add(axes) };
    initialized.set_device(DLDevice::CPU).set_dtype(tensor.storage.data_type());
    // The pointer, not the byte offset, says where a view begins, as in torch and numpy: torch before 2.8 ignores byte
    // offsets.
    let first = tensor.storage.pointer().cast::<u8>().wrapping_add(tensor.offset * tensor.storage.width());
    initialized.set_data(first.cast());
    // SAFETY: the context holds the storage, so the numbers live as long as the capsule; shape and strides lie in the
    // allocation itself and keep every number within the storage, as all views do; the memory may be written.
    Ok(unsafe { initialized.finish() })
}

/// Copies the numbers of another library's array in the order of its shape, whatever its strides: whole numbers and
/// booleans as int64, all others as float32.
///
/// # Errors
/// An array that is not in main memory or that its library refuses to export; complex numbers; numbers that float32 or
/// int64 cannot hold.
pub(crate) fn read(array: &Bound<'_, PyAny>) -> Result<(Numbers, Vec<usize>), Failure> {
    let py = array.py();
    let dtype = array.getattr("dtype").map_or_else(|_| "this type".to_owned(), |dtype| dtype.to_string());
    let capsule = capsule(array)?;
    let imported = from_dlpack(capsule.as_borrowed(), None, None).map_err(|error| refused(py, error))?;
    let tensor = imported.validate().map_err(invalid)?;
    if tensor.device() != DLDevice::CPU {
        return Err(elsewhere(tensor.device().device_type.0));
    }
    let shape = tensor.shape().iter().map(|size| *size as usize).collect();
    let beyond = Cell::new(None);
    let narrowed = |x: f64| {
        if x.is_finite() && !(x as f32).is_finite() {
            beyond.set(Some(x.to_string()));
        }
        x as f32
    };
    let signed = |x: u64| {
        i64::try_from(x).unwrap_or_else(|_| {
            beyond.set(Some(x.to_string()));
            0
        })
    };
    let is = |dtype: DLDataType| tensor.dtype().matches(dtype);
    let numbers = if is(DLDataType::F32) {
        Numbers::F32(copied(&tensor, |x: f32| x)?)
    } else if is(DLDataType::F64) {
        Numbers::F32(copied(&tensor, narrowed)?)
    } else if is(DLDataType::F16) {
        Numbers::F32(copied(&tensor, f16::to_f32)?)
    } else if is(DLDataType::BF16) {
        Numbers::F32(copied(&tensor, bf16::to_f32)?)
    } else if is(DLDataType::I64) {
        Numbers::I64(copied(&tensor, |x: i64| x)?)
    } else if is(DLDataType::I32) {
        Numbers::I64(copied(&tensor, |x: i32| x.into())?)
    } else if is(DLDataType::I16) {
        Numbers::I64(copied(&tensor, |x: i16| x.into())?)
    } else if is(DLDataType::I8) {
        Numbers::I64(copied(&tensor, |x: i8| x.into())?)
    } else if is(DLDataType::U64) {
        Numbers::I64(copied(&tensor, signed)?)
    } else if is(DLDataType::U32) {
        Numbers::I64(copied(&tensor, |x: u32| x.into())?)
    } else if is(DLDataType::U16) {
        Numbers::I64(copied(&tensor, |x: u16| x.into())?)
    } else if is(DLDataType::U8) || is(DLDataType::BOOL) {
        Numbers::I64(copied(&tensor, |x: u8| x.into())?)
    } else {
        return Err(Failure::exchange(format!(
            "an array of {dtype} cannot be read; real numbers, whole numbers and booleans can"
        )));
    };
    if let Some(number) = beyond.take() {
        let kind = if matches!(numbers, Numbers::F32(_)) { "float32" } else { "int64" };
        return Err(Failure::exchange(format!("the array holds {number}, which is beyond {kind}")));
    }
    Ok((numbers, shape))
}

/// What another library exports, requested in the version of DLPack it speaks: before 1.0 `__dlpack__` takes no
/// version.
fn capsule<'py>(array: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Failure> {
    let py = array.py();
    let refused = |error| refused(py, error);
    if let Ok(device) = array.call_method0("__dlpack_device__") {
        let (kind, _): (i64, i64) = device.extract().map_err(refused)?;
        if kind != i64::from(CPU.0) {
            return Err(elsewhere(kind));
        }
    }
    let version = PyDict::new(py);
    version.set_item("max_version", NEWEST).map_err(Failure::Python)?;
    match array.call_method("__dlpack__", (), Some(&version)) {
        Err(error) if error.is_instance_of::<PyTypeError>(py) => {
            array.call_method0("__dlpack__").map_err(refused)
        }
        other => other.map_err(refused),
    }
}

/// The numbers in the order of the shape.
fn copied<T: Copy, R>(tensor: &TensorRef<'_>, read: impl Fn(T) -> R) -> Result<Vec<R>, Failure> {
    let mut numbers = Vec::new();
    if tensor.num_elements() == 0 {
        return Ok(numbers);
    }
    let fits = numbers.try_reserve_exact(tensor.num_elements());
    fits.map_err(|_| {
        Failure::memory(format!("no memory for the {} numbers of an array", tensor.num_elements()))
    })?;
    let strides = tensor.strides_or_compact().map_err(invalid)?;
    // The stride along an axis of length one is never taken and may be anything.
    let axes: Vec<(i64, isize)> = std::iter::zip(tensor.shape(), strides.iter())
        .map(|(size, stride)| (*size, if *size == 1 { 0 } else { *stride as isize }))
        .collect();
    let (&(inner, step), outer) = axes.split_last().unwrap_or((&(1, 1), &[]));
    // SAFETY: the array is not empty and lies in main memory, so its producer vouches for the pointer.
    let first = unsafe { tensor.offset_bytes_ptr() }.map_err(invalid)?.cast::<T>();
    let mut index = vec![0; outer.len()];
    let mut at: isize = 0;
    loop {
        let row = first.wrapping_offset(at);
        for number in 0..inner as isize {
            // SAFETY: the producer vouches for every place that shape and strides name, for as long as `tensor` lives.
            // An array of bytes may place its numbers anywhere, so the read assumes no alignment.
            numbers.push(read(unsafe { row.wrapping_offset(number * step).read_unaligned() }));
        }
        let Some(axis) = (0..outer.len()).rev().find(|axis| index[*axis] + 1 < outer[*axis].0) else {
            return Ok(numbers);
        };
        index[axis] += 1;
        at += outer[axis].1;
        for ended in axis + 1..outer.len() {
            at -= index[ended] as isize * outer[ended].1;
            index[ended] = 0;
        }
    }
}

/// An error from another library or from DLPack itself. Signals pass unchanged.
fn refused(py: Python<'_>, error: PyErr) -> Failure {
    if !error.is_instance_of::<PyException>(py) {
        return Failure::Python(error);
    }
    Failure::exchange(format!("the array is not handed over: {}", error.value(py)))
}

fn invalid(error: dlpark::tensor::Error) -> Failure {
    Failure::exchange(format!("the array's description is wrong: {error}"))
}

fn elsewhere(device: impl std::fmt::Display) -> Failure {
    Failure::exchange(format!(
        "the array is not in main memory but on another device (DLPack calls it {device})"
    ))
    .hint("copy it first: array.cpu()")
}
