//! Block types against the output of the Python package `gguf` on the same bytes (`data/make_blocks.py`).

use easyroutine_files::{Container, Encoding, GgufFile, ShardedSafeTensors, StoredTensor};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

#[test]
fn every_block_type_decodes_to_the_bits_of_the_python_package() {
    let blocks = GgufFile::open(format!("{DATA}/blocks.gguf")).unwrap();
    let answers = ShardedSafeTensors::open(format!("{DATA}/answers.safetensors")).unwrap();
    let names: Vec<_> = answers.names().collect();
    let known = [
        "BF16", "F16", "IQ4_NL", "IQ4_XS", "MXFP4", "Q2_K", "Q3_K", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1",
        "Q5_K", "Q6_K", "Q8_0", "TQ1_0", "TQ2_0",
    ];
    assert_eq!(names, known);
    for name in names {
        let (stored, answer) = (blocks.tensor(name).unwrap(), answers.tensor(name).unwrap());
        assert_eq!(stored.encoding().to_string(), name);
        assert_eq!(stored.shape(), answer.shape());
        assert_eq!(bits(&stored.read_all().unwrap()), bits(&answer.read_all().unwrap()), "{name}");
    }
}

#[test]
fn a_row_is_the_same_alone_and_among_all() {
    let blocks = Container::open(format!("{DATA}/blocks.gguf")).unwrap();
    for name in blocks.names() {
        let tensor = blocks.tensor(name).unwrap();
        let all = tensor.read_all().unwrap();
        let mut row = vec![0.0; tensor.row_len()];
        for (i, expected) in all.chunks_exact(tensor.row_len()).enumerate() {
            tensor.read_row(i, &mut row).unwrap();
            assert_eq!(bits(&row), bits(expected), "{name} row {i}");
            tensor.drop_rows(i..i + 1);
        }
        assert_eq!(bits(&tensor.read_all().unwrap()), bits(&all), "{name} after its pages were dropped");
    }
}

#[test]
fn a_request_that_a_tensor_cannot_meet_is_an_error() {
    let numbers: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
    let tensor = StoredTensor::new("w", vec![2, 2], Encoding::F32, &numbers).unwrap();
    let mut row = [0.0; 2];
    tensor.read_row(1, &mut row).unwrap();
    assert_eq!(row, [3.0, 4.0]);
    assert_eq!(tensor.read_row(2, &mut row).unwrap_err().to_string(), "tensor `w`: no rows 2..3: it has 2");
    assert!(tensor.read_row(usize::MAX, &mut row).is_err());
    assert!(tensor.read_row(0, &mut [0.0; 3]).is_err());
    let integers = StoredTensor::new("ids", vec![2], Encoding::I64, &numbers).unwrap();
    assert!(integers.read_all().unwrap_err().to_string().contains("`ids`: holds I64"));
}

#[test]
fn bytes_must_be_what_shape_and_encoding_need() {
    let cases = [
        (vec![2], Encoding::F32, 7),
        (vec![16], Encoding::Q4_0, 9),
        (vec![1 << 40, 1 << 40], Encoding::F32, 0),
        (vec![0, 1 << 40, 1 << 40], Encoding::F32, 0),
    ];
    for (shape, encoding, length) in cases {
        assert!(StoredTensor::new("w", shape.clone(), encoding, &vec![0; length]).is_err(), "{shape:?}");
    }
    let empty = StoredTensor::new("w", vec![0, 3], Encoding::F32, &[]).unwrap();
    assert_eq!((empty.elements(), empty.rows(), empty.read_all().unwrap().len()), (0, 0, 0));
    let scalar = StoredTensor::new("w", vec![], Encoding::F16, &[0, 0x3C]).unwrap();
    assert_eq!((scalar.rows(), scalar.row_len(), scalar.read_all().unwrap()), (1, 1, vec![1.0]));
}

fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
