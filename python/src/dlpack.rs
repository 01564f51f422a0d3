//! Memory that other libraries read and write, and DLPack, by which they get at it. The one file with `unsafe`.

use std::cell::UnsafeCell;
use std::ffi::c_void;
use std::sync::Arc;

use dlpark::allocation::dynamic::Allocation;
use dlpark::ffi::{DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned};
use dlpark::python::{DlpackExporter, ExportRequest, export_dlpack, from_dlpack};
use dlpark::{DlpackElement, DlpackFlags, Managed, ManagedTensorBase};
use easyroutine::give_back;
use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

use crate::tensor::Tensor;

/// DLPack's name for main memory.
pub(crate) const CPU: (u32, i32) = (1, 0);

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

/// Numbers at an address that stays the same until the last tensor is gone, whoever holds it.
pub(crate) struct Storage {
    numbers: UnsafeCell<Numbers>,
    address: usize,
    width: usize,
}

// SAFETY: a storage is plain numbers on the heap, which any thread may free.
unsafe impl Send for Storage {}
// SAFETY: the vector itself is never changed or moved. Its numbers may be written through pointers that were handed out,
// as those of any array in Python may: whoever writes while another thread reads gets torn numbers, nothing else is at
// stake, and the engine itself reads them only to copy them, under the GIL.
unsafe impl Sync for Storage {}

impl Storage {
    pub(crate) fn new(numbers: Numbers) -> Self {
        let address = match &numbers {
            Numbers::F32(values) => values.as_ptr() as usize,
            Numbers::I64(values) => values.as_ptr() as usize,
        };
        Storage { width: numbers.width(), address, numbers: UnsafeCell::new(numbers) }
    }

    /// Looks at the numbers, to copy some out.
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

    /// The type in the spelling of numpy's array interface.
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

/// What a cache held, the next run has room for.
impl Drop for Storage {
    fn drop(&mut self) {
        if let Numbers::F32(values) = self.numbers.get_mut() {
            give_back(std::mem::take(values));
        }
    }
}

/// A capsule of the tensor, sharing its memory.
pub(crate) fn export(
    tensor: &Tensor,
    py: Python<'_>,
    stream: Option<&Bound<'_, PyAny>>,
    max_version: Option<(u32, u32)>,
    device: Option<(u32, i32)>,
) -> PyResult<Py<PyAny>> {
    let request = ExportRequest::parse(stream, max_version, device, None)?;
    export_dlpack(tensor, py, request)
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
    let offset = (tensor.offset * tensor.storage.width()) as u64;
    initialized.set_device(DLDevice::CPU).set_dtype(tensor.storage.data_type()).set_byte_offset(offset);
    initialized.set_data(tensor.storage.pointer());
    // SAFETY: the context holds the storage, so the numbers live as long as the capsule; shape and strides lie in the
    // allocation itself and keep every number within the storage, as all views do; the memory may be written.
    Ok(unsafe { initialized.finish() })
}

/// Copies the numbers of a tensor of another library.
pub(crate) fn read(array: &Bound<'_, PyAny>) -> PyResult<(Numbers, Vec<usize>)> {
    let imported = from_dlpack(array.as_borrowed(), None, None)?;
    let wrong = |e: dlpark::tensor::Error| PyBufferError::new_err(e.to_string());
    let tensor = imported.validate().map_err(wrong)?;
    let shape = tensor.shape().iter().map(|size| *size as usize).collect();
    // SAFETY: the producer vouches for its descriptor; type, device and layout are checked by the call.
    let numbers = unsafe {
        if tensor.dtype() == f32::DTYPE {
            Numbers::F32(tensor.cpu_slice::<f32>().map_err(wrong)?.to_vec())
        } else if tensor.dtype() == i64::DTYPE {
            Numbers::I64(tensor.cpu_slice::<i64>().map_err(wrong)?.to_vec())
        } else {
            return Err(PyTypeError::new_err("a tensor is float32 or int64"));
        }
    };
    Ok((numbers, shape))
}
