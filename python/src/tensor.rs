//! Numbers that the engine computed, in memory that Python owns: other libraries take them without a copy.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyIndexError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyEllipsis, PyList, PySlice, PyTuple, PyType};

use crate::dlpack::{self, Numbers, Storage};
use crate::errors::Failure;

/// An array of float32 or int64 numbers, a view into shared memory.
///
/// Operators, comparisons, `mean`, `sum`, `min`, `max`, `argmin` and `argmax` use numpy, or torch if numpy is not installed.
/// Both libraries take it without a copy: `numpy()`, `torch()`.
#[pyclass(frozen, module = "easyroutine")]
pub(crate) struct Tensor {
    pub(crate) storage: Arc<Storage>,
    pub(crate) shape: Vec<usize>,
    /// Strides in elements, one per axis.
    pub(crate) strides: Vec<isize>,
    pub(crate) offset: usize,
}

impl Tensor {
    /// A tensor with memory of its own.
    pub(crate) fn new(numbers: Numbers, shape: Vec<usize>) -> Self {
        Tensor { strides: compact(&shape), storage: Arc::new(Storage::new(numbers)), shape, offset: 0 }
    }

    pub(crate) fn f32(values: Vec<f32>, shape: Vec<usize>) -> Self {
        Tensor::new(Numbers::F32(values), shape)
    }

    /// A copy of the numbers in the order of the shape; whole numbers stay whole.
    pub(crate) fn numbers(&self) -> Numbers {
        let places = self.places();
        self.storage.read(|all| match all {
            Numbers::F32(all) => Numbers::F32(places.map(|at| all[at]).collect()),
            Numbers::I64(all) => Numbers::I64(places.map(|at| all[at]).collect()),
        })
    }

    /// Like [`Tensor::numbers`], as float32.
    pub(crate) fn floats(&self) -> Vec<f32> {
        match self.numbers() {
            Numbers::F32(values) => values,
            Numbers::I64(values) => values.into_iter().map(|x| x as f32).collect(),
        }
    }

    fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The place of each number in memory, in the order of the shape.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.count()).map(|number| {
            let mut rest = number;
            let mut at = self.offset as isize;
            for (size, stride) in self.shape.iter().zip(&self.strides).rev() {
                at += (rest % size) as isize * stride;
                rest /= size;
            }
            at as usize
        })
    }

    fn with(&self, shape: Vec<usize>, strides: Vec<isize>, offset: usize) -> Tensor {
        Tensor { storage: Arc::clone(&self.storage), shape, strides, offset }
    }

    /// The numbers at `at` of one axis, copied.
    fn gathered(&self, axis: usize, at: &[usize]) -> Tensor {
        let mut shape = self.shape.clone();
        shape[axis] = at.len();
        let inner: usize = self.shape[axis + 1..].iter().product();
        let outer: usize = self.shape[..axis].iter().product();
        let places: Vec<usize> = self.places().collect();
        let size = self.shape[axis];
        let chosen = (0..outer)
            .flat_map(|o| at.iter().flat_map(move |a| (0..inner).map(move |i| (o * size + a) * inner + i)));
        let numbers = self.storage.read(|all| match all {
            Numbers::F32(all) => Numbers::F32(chosen.map(|n| all[places[n]]).collect()),
            Numbers::I64(all) => Numbers::I64(chosen.map(|n| all[places[n]]).collect()),
        });
        Tensor::new(numbers, shape)
    }

    /// One element, or the list of what is below an axis.
    fn listed<'py>(
        &self,
        py: Python<'py>,
        axis: usize,
        at: isize,
        all: &Numbers,
    ) -> PyResult<Bound<'py, PyAny>> {
        if axis == self.shape.len() {
            return match all {
                Numbers::F32(all) => all[at as usize].into_bound_py_any(py),
                Numbers::I64(all) => all[at as usize].into_bound_py_any(py),
            };
        }
        let list = PyList::empty(py);
        for i in 0..self.shape[axis] {
            list.append(self.listed(py, axis + 1, at + i as isize * self.strides[axis], all)?)?;
        }
        Ok(list.into_any())
    }
}

#[pymethods]
impl Tensor {
    /// A tensor of these bytes (native order), in row-major order; `dtype` is "float32" or "int64".
    #[staticmethod]
    fn from_bytes(data: &[u8], shape: Vec<usize>, dtype: &str) -> Result<Tensor, Failure> {
        let numbers = match dtype {
            "float32" => Numbers::F32(data.as_chunks().0.iter().map(|b| f32::from_ne_bytes(*b)).collect()),
            "int64" => Numbers::I64(data.as_chunks().0.iter().map(|b| i64::from_ne_bytes(*b)).collect()),
            _ => return Err(Failure::exchange(format!("a tensor is float32 or int64, not {dtype}"))),
        };
        let count = shape.iter().try_fold(1usize, |n, size| n.checked_mul(*size));
        if count != Some(numbers.len()) || data.len() != numbers.len() * numbers.width() {
            return Err(Failure::exchange(format!("{} bytes do not make {shape:?} of {dtype}", data.len())));
        }
        Ok(Tensor::new(numbers, shape))
    }

    /// A copy of another library's array, whatever its strides: whole numbers and booleans become int64, all others
    /// float32. It must be in main memory.
    #[staticmethod]
    fn from_dlpack(array: &Bound<'_, PyAny>) -> Result<Tensor, Failure> {
        let (numbers, shape) = dlpack::read(array)?;
        Ok(Tensor::new(numbers, shape))
    }

    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.shape.len()
    }

    /// "float32" or "int64".
    #[getter]
    fn dtype(&self) -> &'static str {
        self.storage.dtype()
    }

    /// Always "cpu".
    #[getter]
    fn device(&self) -> &'static str {
        "cpu"
    }

    /// The number of elements.
    fn numel(&self) -> usize {
        self.count()
    }

    /// Their size in bytes.
    #[getter]
    fn nbytes(&self) -> usize {
        self.count() * self.storage.width()
    }

    /// Address of the first number.
    fn data_ptr(&self) -> usize {
        self.storage.address() + self.offset * self.storage.width()
    }

    /// As nested lists.
    fn tolist<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.storage.read(|all| self.listed(py, 0, self.offset as isize, all))
    }

    /// The only number.
    fn item<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        if self.count() != 1 {
            return Err(PyValueError::new_err(format!(
                "a tensor of shape {:?} is not one number",
                self.shape
            )));
        }
        let flat = self.with(Vec::new(), Vec::new(), self.places().next().unwrap_or(0));
        flat.tolist(py)
    }

    /// As `numpy.ndarray`, sharing memory.
    fn numpy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        needed(slf.py(), "numpy")?.call_method1("asarray", (slf,))
    }

    /// As `torch.Tensor`, sharing memory.
    fn torch<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        needed(slf.py(), "torch")?.call_method1("from_dlpack", (slf,))
    }

    /// The numbers as bytes, in row-major order.
    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes: Vec<u8> = match self.numbers() {
            Numbers::F32(values) => values.into_iter().flat_map(f32::to_ne_bytes).collect(),
            Numbers::I64(values) => values.into_iter().flat_map(i64::to_ne_bytes).collect(),
        };
        PyBytes::new(py, &bytes)
    }

    /// The numbers as float32; the tensor itself if it is float32 already.
    fn float(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        let this = slf.get();
        if this.dtype() == "float32" {
            return Ok(slf);
        }
        Bound::new(slf.py(), Tensor::f32(this.floats(), this.shape.clone()))
    }

    /// A view without the axes of length one.
    fn squeeze(&self) -> Tensor {
        let kept = self.shape.iter().zip(&self.strides).filter(|(size, _)| **size != 1);
        let (shape, strides) = kept.map(|(size, stride)| (*size, *stride)).unzip();
        self.with(shape, strides, self.offset)
    }

    /// The tensor itself, which is in main memory already.
    fn cpu(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    fn __len__(&self) -> PyResult<usize> {
        let first = self.shape.first().copied();
        first.ok_or_else(|| PyTypeError::new_err("a tensor without axes has no length"))
    }

    fn __float__(&self, py: Python<'_>) -> PyResult<f64> {
        self.item(py)?.extract()
    }

    fn __int__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py.get_type::<pyo3::types::PyInt>().call1((self.item(py)?,))
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        self.item(py)?.is_truthy()
    }

    fn __getitem__(&self, py: Python<'_>, index: &Bound<'_, PyAny>) -> PyResult<Tensor> {
        let parts: Vec<Bound<'_, PyAny>> = match index.cast::<PyTuple>() {
            Ok(tuple) => tuple.iter().collect(),
            Err(_) => vec![index.clone()],
        };
        let is_ellipsis = |part: &Bound<'_, PyAny>| part.is(PyEllipsis::get(py));
        let named = parts.iter().filter(|part| !part.is_none() && !is_ellipsis(part)).count();
        if named > self.shape.len() {
            return Err(PyIndexError::new_err(format!(
                "{named} indices for a tensor of shape {:?}",
                self.shape
            )));
        }
        let mut found = self.with(self.shape.clone(), self.strides.clone(), self.offset);
        let mut axis = 0;
        let mut ellipses = 0;
        for part in &parts {
            if is_ellipsis(part) {
                axis += self.shape.len() - named;
                ellipses += 1;
            } else if part.is_none() {
                found.shape.insert(axis, 1);
                found.strides.insert(axis, 0);
                axis += 1;
            } else {
                found = found.at(axis, part, &mut axis)?;
            }
        }
        if ellipses > 1 {
            return Err(PyIndexError::new_err("an index has at most one ellipsis"));
        }
        Ok(found)
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        other.cast::<Tensor>().is_ok_and(|other| {
            let other = other.get();
            self.shape == other.shape && self.numbers() == other.numbers()
        })
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        if this.count() > 64 {
            return Ok(format!("Tensor(shape={}, dtype={})", this.shape(slf.py())?.repr()?, this.dtype()));
        }
        Ok(format!("Tensor({}, dtype={})", this.tolist(slf.py())?.repr()?, this.dtype()))
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let width = self.storage.width();
        let strides: Vec<isize> = self.strides.iter().map(|s| s * width as isize).collect();
        let interface = PyDict::new(py);
        interface.set_item("version", 3)?;
        interface.set_item("shape", PyTuple::new(py, &self.shape)?)?;
        interface.set_item("strides", PyTuple::new(py, strides)?)?;
        interface.set_item("typestr", self.storage.typestr())?;
        interface.set_item("data", (self.data_ptr(), false))?;
        Ok(interface)
    }

    #[pyo3(signature = (dtype=None, copy=None))]
    fn __array__<'py>(
        slf: &Bound<'py, Self>,
        dtype: Option<Bound<'py, PyAny>>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let array = Tensor::numpy(slf)?;
        let array = match dtype {
            Some(dtype) => array.call_method1("astype", (dtype,))?,
            None => array,
        };
        if copy == Some(true) { array.call_method0("copy") } else { Ok(array) }
    }

    fn __dlpack_device__(&self) -> (u32, i32) {
        dlpack::CPU
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__(
        slf: &Bound<'_, Self>,
        stream: Option<Bound<'_, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(u32, i32)>,
        copy: Option<bool>,
    ) -> Result<Py<PyAny>, Failure> {
        dlpack::export(slf.get(), slf.py(), stream.as_ref(), max_version, dl_device, copy)
    }

    /// Makes torch functions accept these tensors.
    #[classmethod]
    #[pyo3(signature = (func, types, args=None, kwargs=None))]
    fn __torch_function__<'py>(
        cls: &Bound<'py, PyType>,
        func: &Bound<'py, PyAny>,
        types: &Bound<'py, PyAny>,
        args: Option<&Bound<'py, PyAny>>,
        kwargs: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let tensors = cls.py().import("easyroutine.tensors")?;
        tensors.call_method1("_torch_function", (func, types, args, kwargs))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let make = py.get_type::<Tensor>().getattr("from_bytes")?;
        let shape = PyTuple::new(py, &self.shape)?;
        Ok((
            make,
            PyTuple::new(
                py,
                [self.tobytes(py).into_any(), shape.into_any(), self.dtype().into_bound_py_any(py)?],
            )?,
        ))
    }
}

impl Tensor {
    /// One index along an axis; moves `next` past the remaining axis, if one remains.
    fn at(&self, axis: usize, index: &Bound<'_, PyAny>, next: &mut usize) -> PyResult<Tensor> {
        let size = self.shape[axis];
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        if let Ok(slice) = index.cast::<PySlice>() {
            let slice = slice.indices(size as isize)?;
            let offset = if slice.slicelength == 0 { 0 } else { slice.start * strides[axis] };
            shape[axis] = slice.slicelength;
            strides[axis] *= slice.step;
            *next += 1;
            return Ok(self.with(shape, strides, (self.offset as isize + offset) as usize));
        }
        let resolve = |i: isize| {
            let resolved = if i < 0 { i + size as isize } else { i };
            if (0..size as isize).contains(&resolved) {
                return Ok(resolved as usize);
            }
            Err(PyIndexError::new_err(format!("index {i} is out of range for axis {axis} of size {size}")))
        };
        if let Ok(list) = index.cast::<PyList>() {
            let at = list.iter().map(|i| resolve(i.extract()?)).collect::<PyResult<Vec<usize>>>()?;
            *next += 1;
            return Ok(self.gathered(axis, &at));
        }
        let number = index.call_method0("__index__").and_then(|i| i.extract::<isize>()).map_err(|_| {
            let kind = index.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            PyTypeError::new_err(format!(
                "a tensor is indexed by whole numbers, slices, lists of numbers, ... and None, not by {kind}; \
                 numpy and torch can do more: `.numpy()`, `.torch()`"
            ))
        })?;
        let offset = resolve(number)? as isize * strides[axis];
        shape.remove(axis);
        strides.remove(axis);
        Ok(self.with(shape, strides, (self.offset as isize + offset) as usize))
    }
}

/// A library, or an error saying that it is not installed.
fn needed<'py>(py: Python<'py>, package: &str) -> PyResult<Bound<'py, PyAny>> {
    let tensors = py.import("easyroutine.tensors")?;
    tensors.call_method1("needed", (package, format!("Tensor.{package}()")))
}

/// Strides of a row-major array, in elements.
fn compact(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis].max(1) as isize;
    }
    strides
}
