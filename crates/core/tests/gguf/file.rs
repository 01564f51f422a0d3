//! Files of the tests, written plainly: GGUF, safetensors.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::Values;

/// Writes a GGUF file of f32 tensors: whole numbers as 64 bits, others as f32.
pub(crate) fn gguf(path: &Path, metadata: &Map<String, Value>, tensors: &Values) {
    let mut file = b"GGUF".to_vec();
    file.extend(3u32.to_le_bytes());
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut file, key);
        file.extend(kind(value).to_le_bytes());
        written(&mut file, value);
    }
    let mut offset = 0u64;
    for (name, (shape, values)) in tensors {
        text(&mut file, name);
        file.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|size| file.extend((*size as u64).to_le_bytes()));
        file.extend(0u32.to_le_bytes());
        file.extend(offset.to_le_bytes());
        offset = (offset + 4 * values.len() as u64).next_multiple_of(32);
    }
    for (_, values) in tensors.values() {
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(values.iter().flat_map(|x| x.to_le_bytes()));
    }
    std::fs::write(path, file).unwrap();
}

fn kind(value: &Value) -> u32 {
    match value {
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::Number(number) if number.is_u64() => 10,
        Value::Number(number) if number.is_i64() => 11,
        Value::Number(_) => 6,
        other => panic!("{other} is no metadata"),
    }
}

fn written(file: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Bool(flag) => file.push(u8::from(*flag)),
        Value::String(string) => text(file, string),
        Value::Array(list) => {
            file.extend(list.first().map_or(10, kind).to_le_bytes());
            file.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|value| written(file, value));
        }
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) => file.extend(whole.to_le_bytes()),
            (_, Some(whole)) => file.extend(whole.to_le_bytes()),
            _ => file.extend((number.as_f64().unwrap() as f32).to_le_bytes()),
        },
        other => panic!("{other} is no metadata"),
    }
}

fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

/// Writes a safetensors file of f32 tensors.
pub(crate) fn safetensors(path: &Path, tensors: &Values) {
    let (mut header, mut offset) = (Map::new(), 0);
    for (name, (shape, values)) in tensors {
        let end = offset + 4 * values.len();
        header.insert(name.clone(), json!({"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}));
        offset = end;
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(tensors.values().flat_map(|(_, values)| values).flat_map(|x| x.to_le_bytes()));
    std::fs::write(path, file).unwrap();
}

/// CRC-32 of the numbers' bytes, as zlib has it.
pub(crate) fn checksum(values: &[f32]) -> String {
    let mut sum = u32::MAX;
    for byte in values.iter().flat_map(|x| x.to_le_bytes()) {
        sum ^= u32::from(byte);
        for _ in 0..8 {
            sum = if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 };
        }
    }
    format!("{:08x}", !sum)
}
