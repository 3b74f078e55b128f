"""Writes what the onnx and onnxruntime packages know of operators, for `npm run coverage`.

    python collect.py FOLDER

FOLDER/operators.json: operators, and the opsets that changed them.
FOLDER/cases.jsonl: ONNX's backend tests of single nodes, and cases of ONNX Runtime's own operators; one a line.
"""

import base64
import json
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as native

import contrib

# Tensors above are left out: they test sizes, not operators.
MAX_BYTES = 1 << 20


def operators():
    """Each operator: the opsets that changed it, and whether it is deprecated."""
    standard = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            entry = standard.setdefault(schema.name, {"since": []})
            entry["since"].append(schema.since_version)
            entry["deprecated"] = schema.deprecated
    own = {schema.name for schema in native.get_all_operator_schema() if schema.domain == "com.microsoft"}
    return {
        "onnx": onnx.__version__,
        "opset": onnx.defs.onnx_opset_version(),
        "onnxruntime": onnxruntime.__version__,
        "ai.onnx": {
            name: {
                "since": sorted(entry["since"]),
                **({"deprecated": True} if entry["deprecated"] else {}),
            }
            for name, entry in sorted(standard.items())
        },
        "com.microsoft": sorted(own),
    }


def tensor(value):
    """A TensorProto, or None for a sequence or an absent value."""
    if isinstance(value, onnx.TensorProto):
        return value
    if isinstance(value, np.ndarray) or np.isscalar(value):
        return numpy_helper.from_array(np.asarray(value))
    return None


def text(message):
    return None if message is None else base64.b64encode(message.SerializeToString(deterministic=True)).decode()


def backend_cases():
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        inputs, outputs = case.data_sets[0]
        values = [tensor(v) for v in inputs], [tensor(v) for v in outputs]
        if sum(v.ByteSize() for side in values for v in side if v is not None) > MAX_BYTES:
            continue
        yield {
            "name": case.name.removeprefix("test_"),
            "rtol": case.rtol,
            "atol": case.atol,
            "model": text(case.model),
            "inputs": [text(v) for v in values[0]],
            "outputs": [text(v) for v in values[1]],
        }


def runtime_cases():
    """Cases of ONNX Runtime's own operators; what is expected is what it computes."""
    for name, node, feeds in contrib.cases():
        info = lambda n, v: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        graph = helper.make_graph(
            [node],
            name,
            [info(n, v) for n, v in feeds.items()],
            # Keys and values are what a next step would need.
            [helper.make_empty_tensor_value_info(n) for n in node.output if n in ("y", "sum")],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        results = session.run(None, feeds)
        for value, result in zip(model.graph.output, results):
            value.CopyFrom(info(value.name, result))
        yield {
            "name": f"com.microsoft/{name}",
            "rtol": 1e-3,
            "atol": 1e-5,
            **({"tokens": contrib.TOKENS} if node.op_type == "GroupQueryAttention" else {}),
            "model": text(model),
            "inputs": [text(tensor(v)) for v in feeds.values()],
            "outputs": [text(tensor(v)) for v in results],
        }


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "operators.json").write_text(json.dumps(operators()))
    with open(folder / "cases.jsonl", "w") as out:
        for case in [*backend_cases(), *runtime_cases()]:
            out.write(json.dumps(case) + "\n")
