// A number of rows that is only known at run time, as a constant. Internal linkage, as in float_kernels.hpp.
#pragma once

#include <type_traits>

namespace vlapack {
namespace {

// Calls `product` with a tile's rows, at most `Most`, as a constant: so many sums stand in registers.
template <int Most, typename Product>
void with_rows(int rows, const Product& product) {
  if (rows == Most) return product(std::integral_constant<int, Most>());
  if constexpr (Most > 1) with_rows<Most - 1>(rows, product);
}

}  // namespace
}  // namespace vlapack
