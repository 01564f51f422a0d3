//! The header of a safetensors file.
//!
//! The format: the header's length in 8 bytes, the header as JSON, the numbers without gaps
//! (github.com/huggingface/safetensors). That crate is not used here because our files must be the same to the byte
//! each time: metadata and tensors keep the order given.

use serde_json::{Map, Value, json};

/// One tensor in the header.
#[derive(Debug, Clone)]
pub struct HeaderEntry<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its type, as the format writes it: `F32`.
    pub dtype: String,
    /// Its shape.
    pub shape: &'a [usize],
    /// Size of its numbers in bytes.
    pub bytes: usize,
}

/// Everything before the numbers: length and header, padded with spaces so that the numbers start at a multiple of
/// `align` bytes. The entries' numbers follow in order. List the widest types first, so that every tensor starts at a
/// multiple of its own width.
pub fn safetensors_head<'a>(
    metadata: Map<String, Value>,
    entries: impl IntoIterator<Item = HeaderEntry<'a>>,
    align: usize,
) -> Vec<u8> {
    let mut header = Map::from_iter([("__metadata__".to_owned(), Value::Object(metadata))]);
    let mut offset = 0;
    for HeaderEntry { name, dtype, shape, bytes } in entries {
        let end = offset + bytes;
        header
            .insert(name.to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat((8 + text.len()).next_multiple_of(align) - 8 - text.len()));
    let mut head = (text.len() as u64).to_le_bytes().to_vec();
    head.extend_from_slice(text.as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_the_reference_parser_reads() {
        let metadata = Map::from_iter([("b".to_owned(), json!("1")), ("a".to_owned(), json!("2"))]);
        for align in [8, 64] {
            let entry = |name, shape, bytes| HeaderEntry { name, dtype: "F32".to_owned(), shape, bytes };
            let entries = [entry("z", &[2, 3][..], 24), entry("y", &[][..], 4)];
            let mut file = safetensors_head(metadata.clone(), entries, align);
            assert_eq!(file.len() % align, 0);
            file.extend([0; 28]);
            let read = safetensors::SafeTensors::deserialize(&file).unwrap();
            assert_eq!(read.tensor("z").unwrap().shape(), [2, 3]);
            assert_eq!(read.tensor("y").unwrap().data().len(), 4);
            let text = String::from_utf8_lossy(&file[8..]).into_owned();
            assert!(text.starts_with(r#"{"__metadata__":{"b":"1","a":"2"},"z":"#), "{text}");
        }
    }
}
