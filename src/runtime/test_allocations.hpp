// How often this test binary has called operator new, in all threads together. For tests of paths
// that must allocate nothing. Under TSan nothing is counted.
#pragma once

#include <cstddef>

namespace mik::runtime {

std::size_t test_allocations() noexcept;

}  // namespace mik::runtime
