"""Where each stored tensor of an exported graph comes from, found by value: random weights are all different."""

import numpy as np
import onnx
from onnx import numpy_helper


def stored_tensors(model):
    """Float tensors of the graph and its Constant nodes, by the name of the value they are."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return {name: a for name, a in found.items() if a.dtype == np.float32 and a.size > 1}


def mapping(model, parameters):
    """
    {initializer: {param, layout, shape}} and, where the layout is neither `same` nor `transposed`, the places of its
    elements in the flat parameter as `map/<initializer>`. A parameter with something added keeps its gradient.
    """
    index = []
    for name, value in parameters.items():
        flat = value.detach().float().numpy().ravel()
        if flat.size > 1:
            order = np.argsort(flat, kind="stable")
            index.append((name, value.shape, flat, order))
    entries, maps = {}, {}
    for name, array in stored_tensors(model).items():
        flat = array.ravel()
        for shift in (0.0, 1.0):
            found = next((e for e in (look_up(flat - np.float32(shift), p, shift) for p in index) if e), None)
            if found is None:
                continue
            param, places, shape = found
            entry = {"param": param, "layout": "same", "shape": list(array.shape)}
            if not (len(places) == int(np.prod(shape)) and (places == np.arange(len(places))).all()):
                turned = (
                    array.ndim == 2
                    and len(shape) == 2
                    and array.shape == tuple(shape)[::-1]
                    and (places == np.arange(flat.size).reshape(shape).T.ravel()).all()
                )
                entry["layout"] = "transposed" if turned else "mapped"
                if not turned:
                    maps[f"map/{name}"] = places.astype(np.int32)
            entries[name] = entry
            break
        else:
            places = spread_over(array, index)
            if places is not None:
                entries[name] = {"param": "", "layout": "spread", "shape": list(array.shape)}
                maps[f"map/{name}"] = places.astype(np.int32)
    return entries, maps


def spread_over(array, index):
    """Places of the elements of a matrix whose columns come from several parameters, in all of them end to end."""
    if array.ndim != 2:
        return None
    starts = np.cumsum([0] + [p[2].size for p in index])
    columns = []
    for column in array.T:
        found = next(((look_up(column, p, 0), start) for p, start in zip(index, starts) if look_up(column, p, 0)), None)
        if found is None:
            return None
        columns.append(found[0][1] + found[1])
    return np.stack(columns, 1).ravel()


def look_up(flat, parameter, shift):
    """(parameter, place of every element in it, its shape), if all of them are there."""
    name, shape, values, order = parameter
    if flat.size > values.size:
        return None
    tolerance = 0 if shift == 0 else 2e-7
    at = np.searchsorted(values, flat[:8], sorter=order)
    near = [values[order[np.clip(at + d, 0, values.size - 1)]] for d in (-1, 0)]
    if not (np.minimum(*[np.abs(n - flat[:8]) for n in near]) <= tolerance).all():
        return None
    # The plain layouts first: values of a parameter may be equal by accident.
    if flat.size == values.size:
        if np.allclose(flat, values, rtol=0, atol=tolerance):
            return name, np.arange(flat.size), shape
        if len(shape) == 2:
            places = np.arange(flat.size).reshape(tuple(shape)).T.ravel()
            if np.allclose(flat, values[places], rtol=0, atol=tolerance):
                return name, places, shape
    at = np.searchsorted(values, flat, sorter=order)
    candidates = [order[np.clip(at + d, 0, values.size - 1)] for d in (-1, 0)]
    errors = [np.abs(values[c] - flat) for c in candidates]
    places = np.where(errors[0] < errors[1], candidates[0], candidates[1])
    good = np.minimum(*errors) <= tolerance
    return (name, places, shape) if good.all() and np.unique(places).size == places.size else None


def strip(model):
    """Drops stack traces and metadata, which are most of the bytes of a tiny export."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    del model.graph.value_info[:]
    for part in [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, *model.functions]:
        part.doc_string = ""
        del part.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]
    return model
