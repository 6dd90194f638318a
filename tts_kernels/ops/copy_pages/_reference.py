from torch import Tensor


def copy_pages(k_pages: Tensor, v_pages: Tensor, src: Tensor, dst: Tensor) -> None:
    for pages in (k_pages, v_pages):
        for layer in pages:
            for i, j in zip(src.tolist(), dst.tolist(), strict=True):
                layer[j] = layer[i]
