"""A small network as `onnx-image` exports it, without training: the mean of each color decides."""

import json
from functools import cache
from io import BytesIO

from PIL import Image

from service.states import CheckpointPart
from tests.support.api import Api
from tests.support.predictions import finish_with_parts

COLORS = ("red", "green", "blue")


@cache
def make_color_network(*, has_names: bool = True) -> bytes:
    """image_HWC uint8 -> logits_3, a fiftieth of the mean bytes."""
    # It takes half a second to import.
    import onnx  # noqa: PLC0415
    from onnx import TensorProto, helper  # noqa: PLC0415

    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "colors",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [3])],
        [
            helper.make_tensor("axes", TensorProto.INT64, [2], [0, 1]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [0.02]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    if has_names:
        onnx.helper.set_model_props(model, {"class_names": json.dumps(COLORS)})
    serialized: bytes = model.SerializeToString()
    return serialized


def make_picture(
    *color: int,
    size: tuple[int, int] = (40, 30),
    format: str = "PNG",  # noqa: A002 - Pillow's name
) -> bytes:
    """The file of an image of one color."""
    return encode_image(Image.new("RGB", size, color), format)


def encode_image(image: Image.Image, format: str = "PNG") -> bytes:  # noqa: A002 - Pillow's name
    file = BytesIO()
    image.save(file, format)
    return file.getvalue()


def finish_with_network(api: Api, network: bytes) -> str:
    """The id of a new job that has finished and has exported this network."""
    return finish_with_parts(api, api.core.run(), {CheckpointPart.ONNX_IMAGE: network})
