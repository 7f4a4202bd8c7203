"""Lets the public (CUDA) build of torchvision be imported beside a CPU build of torch.

Its compiled operators cannot load there. torchvision tolerates that, all but ``torchvision._meta_registrations``, which
names two of them unconditionally: ``RuntimeError: operator torchvision::nms does not exist``. Declaring the two (they
stay without an implementation, and none of our models calls them) is enough.

An import hook, started from a ``.pth`` file, because vLLM inspects models in a child process of its own, where nothing
that our package does beforehand would be seen. It costs nothing until torchvision is imported.
"""

import sys

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


class DeclareMissingOps:
    """Declares what is missing at the one moment when it is known: after torchvision tried to load its operators,
    before the module that needs them. With a torchvision that matches torch, nothing is missing and nothing is done."""

    library = None  # torch forgets the declarations when this object goes

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == "torchvision._meta_registrations" and cls.library is None:
            import torch

            missing = [schema for op, schema in SCHEMAS.items() if not hasattr(torch.ops.torchvision, op)]
            if missing:
                cls.library = torch.library.Library("torchvision", "FRAGMENT")
                for schema in missing:
                    cls.library.define(schema)
        return None  # the import goes on as usual


sys.meta_path.insert(0, DeclareMissingOps)
