"""A GGUF file again with every matrix in another block type, to measure types that no published file at hand has.

    python -P bench/requantise.py IN.gguf OUT.gguf [--type Q8_0]

Needs the package gguf, which `-P` keeps apart from the script of that name beside this one. Vectors stay as they are; a
matrix is widened to float32 and rounded once more, so the model is a little worse than one made from the original weights:
good for measuring speed and memory.
"""

import argparse

import gguf


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--type", default="Q8_0", choices=["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
    given = parser.parse_args()
    reader = gguf.GGUFReader(given.source)
    writer = gguf.GGUFWriter(given.target, reader.get_field("general.architecture").contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(name, field.contents(), kind, field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
    wanted = gguf.GGMLQuantizationType[given.type]
    for tensor in reader.tensors:
        kind = wanted if len(tensor.shape) > 1 else tensor.tensor_type
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
