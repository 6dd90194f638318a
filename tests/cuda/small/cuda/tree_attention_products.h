#pragma once

// tests/cuda/small_hopper has another.
constexpr bool kBySmallWarpgroups = false;
