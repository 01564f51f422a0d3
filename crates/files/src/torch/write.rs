//! Files that `torch.load(…, weights_only=True)` reads: a zip archive of stored members with a pickle of protocol 2.

use super::{Item, TorchTensor};
use crate::{Encoding, Error, Result};

/// Alignment of numbers in the file, in bytes, as in torch.
const ALIGN: usize = 64;

/// Writes a value as `torch.save` would.
///
/// # Errors
/// If the value contains an instance of a class or a type that torch does not store, or exceeds 4 GiB, the limit of
/// such an archive.
pub fn write(item: &Item) -> Result<Vec<u8>> {
    let mut pickle = Pickle { program: vec![0x80, 2], storages: Vec::new() };
    pickle.item(item)?;
    pickle.program.push(b'.');
    let mut zip = Zip { file: Vec::new(), directory: Vec::new(), members: 0 };
    zip.add("archive/data.pkl", &pickle.program)?;
    zip.add("archive/byteorder", b"little")?;
    for (number, bytes) in pickle.storages.iter().enumerate() {
        zip.add(&format!("archive/data/{number}"), bytes)?;
    }
    zip.add("archive/version", b"3\n")?;
    zip.finish()
}

struct Pickle<'a> {
    program: Vec<u8>,
    storages: Vec<&'a [u8]>,
}

impl<'a> Pickle<'a> {
    fn item(&mut self, item: &'a Item) -> Result<()> {
        match item {
            Item::None => self.program.push(b'N'),
            Item::Bool(value) => self.program.push(if *value { 0x88 } else { 0x89 }),
            Item::Int(value) => self.whole(*value),
            Item::Float(value) => {
                self.program.push(b'G');
                self.program.extend(value.to_be_bytes());
            }
            Item::Text(text) => self.text(text)?,
            Item::List(items) => {
                self.program.extend(b"](");
                items.iter().try_for_each(|item| self.item(item))?;
                self.program.push(b'e');
            }
            Item::Map(entries) => {
                self.program.extend(b"}(");
                for (key, value) in entries {
                    self.item(key)?;
                    self.item(value)?;
                }
                self.program.push(b'u');
            }
            Item::Tensor(tensor) => self.tensor(tensor)?,
            Item::Object { class, .. } => {
                return Err(Error::unsupported(format!("an instance of {class} is not written")));
            }
        }
        Ok(())
    }

    /// BININT, or LONG1 if the number is too large.
    fn whole(&mut self, value: i64) {
        match i32::try_from(value) {
            Ok(value) => {
                self.program.push(b'J');
                self.program.extend(value.to_le_bytes());
            }
            Err(_) => {
                self.program.extend([0x8a, 8]);
                self.program.extend(value.to_le_bytes());
            }
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let length = u32::try_from(text.len()).map_err(|_| Error::unsupported("a text of 4 GiB"))?;
        self.program.push(b'X');
        self.program.extend(length.to_le_bytes());
        self.program.extend(text.as_bytes());
        Ok(())
    }

    /// `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks)`
    fn tensor(&mut self, tensor: &'a TorchTensor) -> Result<()> {
        let kind = storage_name(tensor.encoding)
            .ok_or_else(|| Error::unsupported(format!("{:?} is not stored by torch", tensor.encoding)))?;
        let numel = tensor.shape.iter().product::<usize>();
        self.program.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        self.text("storage")?;
        self.program.extend(format!("ctorch\n{kind}\n").bytes());
        self.text(&self.storages.len().to_string())?;
        self.text("cpu")?;
        self.whole(numel as i64);
        self.program.extend(b"tQ");
        self.whole(0);
        self.tuple(&tensor.shape);
        let mut strides = vec![1; tensor.shape.len()];
        for axis in (1..strides.len()).rev() {
            strides[axis - 1] = strides[axis] * tensor.shape[axis];
        }
        self.tuple(&strides);
        self.program.extend(b"\x89ccollections\nOrderedDict\n)RtR");
        self.storages.push(&tensor.bytes);
        Ok(())
    }

    fn tuple(&mut self, values: &[usize]) {
        self.program.push(b'(');
        values.iter().for_each(|value| self.whole(*value as i64));
        self.program.push(b't');
    }
}

/// The class of a storage in `torch`.
fn storage_name(encoding: Encoding) -> Option<&'static str> {
    Some(match encoding {
        Encoding::F64 => "DoubleStorage",
        Encoding::F32 => "FloatStorage",
        Encoding::F16 => "HalfStorage",
        Encoding::Bf16 => "BFloat16Storage",
        Encoding::I64 => "LongStorage",
        Encoding::I32 => "IntStorage",
        _ => return None,
    })
}

/// An archive of uncompressed members (PKWARE's APPNOTE.TXT 6.3.10, section 4.3).
struct Zip {
    file: Vec<u8>,
    directory: Vec<u8>,
    members: u16,
}

impl Zip {
    fn add(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let too_large = || Error::unsupported("such an archive holds 4 GiB and 65,535 members at most");
        let offset = u32::try_from(self.file.len()).map_err(|_| too_large())?;
        let size = u32::try_from(content.len()).map_err(|_| too_large())?;
        self.members = self.members.checked_add(1).filter(|n| *n < u16::MAX).ok_or_else(too_large)?;
        // As in torch's writer, an extra field moves the numbers to an aligned offset.
        let start = self.file.len() + 30 + name.len() + 4;
        let padding = start.next_multiple_of(ALIGN) - start;
        let mut common = Vec::new();
        // Version 2.0, no flags, stored, midnight of 1 January 1980.
        for value in [20u16, 0, 0, 0, 0x21] {
            common.extend(value.to_le_bytes());
        }
        for value in [crc32fast::hash(content), size, size] {
            common.extend(value.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        self.file.extend(b"PK\x03\x04");
        self.file.extend(&common);
        self.file.extend((padding as u16 + 4).to_le_bytes());
        self.file.extend(name.as_bytes());
        self.file.extend(b"FB");
        self.file.extend((padding as u16).to_le_bytes());
        self.file.extend(std::iter::repeat_n(b'Z', padding));
        self.file.extend(content);
        self.directory.extend(b"PK\x01\x02\x14\x00");
        self.directory.extend(&common);
        // No extra field, no comment, the first disk, no attributes.
        self.directory.extend([0; 12]);
        self.directory.extend(offset.to_le_bytes());
        self.directory.extend(name.as_bytes());
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<u8>> {
        let too_large = |_| Error::unsupported("such an archive holds 4 GiB at most");
        let offset = u32::try_from(self.file.len()).map_err(too_large)?;
        let size = u32::try_from(self.directory.len()).map_err(too_large)?;
        self.file.append(&mut self.directory);
        self.file.extend(b"PK\x05\x06\0\0\0\0");
        self.file.extend(self.members.to_le_bytes());
        self.file.extend(self.members.to_le_bytes());
        self.file.extend(size.to_le_bytes());
        self.file.extend(offset.to_le_bytes());
        self.file.extend([0; 2]);
        Ok(self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = |text: &str| Item::Text(text.to_owned());
        let tensor = |shape: &[usize]| {
            let n = shape.iter().product::<usize>();
            let bytes = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
            Item::Tensor(TorchTensor { encoding: Encoding::F32, shape: shape.to_vec(), bytes })
        };
        let item = Item::Map(vec![
            (text("J"), Item::Map(vec![(Item::Int(0), tensor(&[2, 3])), (Item::Int(1), tensor(&[4]))])),
            (text("n"), Item::Int(-7)),
            (text("large"), Item::Int(1 << 40)),
            (text("list"), Item::List(vec![Item::None, Item::Bool(true), Item::Float(0.25), text("Ä")])),
        ]);
        let file = write(&item).unwrap();
        assert_eq!(super::super::read(&file, &[]).unwrap(), item);
        assert_eq!(file, write(&item).unwrap());
        let object = Item::Object { class: "a.B".to_owned(), state: Box::new(Item::None) };
        assert!(write(&object).unwrap_err().to_string().contains("a.B"));
    }
}
