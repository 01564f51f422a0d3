//! One safetensors file.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, Metadata};

use crate::{Encoding, Error, MappedFile, Result, StoredTensor};

/// Longest accepted header, in bytes. The format's own limit (100 MB) would let a small download demand gigabytes for
/// parsed JSON; the largest released checkpoints need less than a tenth of this.
const MAX_HEADER: u64 = 25_000_000;

/// One mapped safetensors file whose header has been checked.
#[derive(Debug)]
pub(crate) struct SafeTensorsFile {
    map: MappedFile,
    data_start: usize,
    header: Metadata,
    metadata: BTreeMap<String, String>,
}

impl SafeTensorsFile {
    pub(crate) fn new(map: MappedFile) -> Result<Self> {
        let read = read_header(map.bytes());
        // The header is void if the file changed while it was read.
        map.check_unchanged()?;
        match read {
            Ok((data_start, header)) => {
                let metadata = header.metadata().clone().unwrap_or_default().into_iter().collect();
                Ok(SafeTensorsFile { map, data_start, header, metadata })
            }
            Err(error) => Err(error.within(map.path().display())),
        }
    }

    pub(crate) fn map(&self) -> &MappedFile {
        &self.map
    }

    pub(crate) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    pub(crate) fn tensor<'a>(&'a self, name: &'a str) -> Option<StoredTensor<'a>> {
        let info = self.header.info(name)?;
        let (start, end) = info.data_offsets;
        let range = self.data_start.checked_add(start)?..self.data_start.checked_add(end)?;
        StoredTensor::in_file(&self.map, range, name, &info.shape, encoding_of(info.dtype)?)
    }
}

/// The start of the data, and the header.
///
/// `safetensors::SafeTensors::read_metadata` does the same, but adds the file's own offsets unchecked, which overflows
/// in a debug build. The crate itself parses and validates the header (`Metadata`'s `Deserialize`).
pub(crate) fn read_header(file: &[u8]) -> Result<(usize, Metadata)> {
    let Some((length, rest)) = file.split_first_chunk::<8>() else {
        return Err(Error::malformed(format!(
            "{} bytes are not a safetensors file: the length of its header alone takes 8. Is the download complete?",
            file.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER {
        return Err(Error::malformed(format!(
            "claims a header of {length} bytes; {MAX_HEADER} is the limit. Is it a safetensors file?"
        )));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length)).ok_or_else(|| {
        Error::malformed(format!(
            "claims a header of {length} bytes, but the file has {}. Is the download complete?",
            file.len()
        ))
    })?;
    let text = std::str::from_utf8(header)
        .map_err(|e| Error::malformed(format!("the header is not UTF-8 at byte {}", e.valid_up_to())))?;
    let parsed: Metadata =
        serde_json::from_str(text).map_err(|e| Error::malformed(format!("header: {e}")))?;
    let data = rest.len() - header.len();
    if parsed.data_len() != data {
        return Err(Error::malformed(format!(
            "the header describes {} bytes of tensors, the file holds {data}. Is the download complete?",
            parsed.data_len()
        )));
    }
    for (name, info) in parsed.tensors() {
        encoding_of(info.dtype).ok_or_else(|| {
            Error::unsupported(format!("dtype {:?} is not one that is read", info.dtype))
                .within(format_args!("tensor `{name}`"))
        })?;
        crate::tensor::stored_bytes(&info.shape, Encoding::U8)
            .map_err(|e| e.within(format_args!("tensor `{name}`")))?;
    }
    Ok((8 + header.len(), parsed))
}

fn encoding_of(dtype: Dtype) -> Option<Encoding> {
    Some(match dtype {
        Dtype::F64 => Encoding::F64,
        Dtype::F32 => Encoding::F32,
        Dtype::F16 => Encoding::F16,
        Dtype::BF16 => Encoding::Bf16,
        Dtype::I64 => Encoding::I64,
        Dtype::I32 => Encoding::I32,
        Dtype::I16 => Encoding::I16,
        Dtype::I8 => Encoding::I8,
        Dtype::U64 => Encoding::U64,
        Dtype::U32 => Encoding::U32,
        Dtype::U16 => Encoding::U16,
        Dtype::U8 => Encoding::U8,
        Dtype::BOOL => Encoding::Bool,
        Dtype::F8_E4M3 | Dtype::F8_E5M2 | Dtype::F8_E8M0 | Dtype::F8_E4M3FNUZ | Dtype::F8_E5M2FNUZ => {
            Encoding::F8
        }
        Dtype::C64 => Encoding::Complex64,
        // Less than a byte per element: rows are not whole bytes.
        _ => return None,
    })
}
