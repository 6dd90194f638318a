#pragma once

// As tests/cuda/small, but multiplied by warpgroups.
constexpr bool kBySmallWarpgroups = true;
