from torch import Tensor


def write_kv(k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor) -> None:
    page_size = k_pages.shape[2]
    for n, slot in enumerate(slots.tolist()):
        k_pages[slot // page_size, :, slot % page_size] = k[n]
        v_pages[slot // page_size, :, slot % page_size] = v[n]
