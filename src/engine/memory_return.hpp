// Gives large memories of ended guests back to the kernel in pieces, between a loop's other work:
// 60 MiB in one madvise hold a loop for more than 4 ms (15,000 pages). Linked with --wrap=madvise.
// State of the calling thread: a memory is given back by the loop whose guest had it.
#pragma once

#include <cstdint>

namespace mik::engine {

// From now on madvise(MADV_DONTNEED) of a large range by this thread moves the pages aside (mremap
// with MREMAP_DONTUNMAP, Linux 5.7: the range reads as if they had been dropped) for return_some()
// to free, while no more than `bytes_max` wait for it. 0, the default: pages are freed at once.
void return_in_pieces(std::uint64_t bytes_max) noexcept;

// Frees a piece of what waits, some 0.1 ms of work or more where much waits. True: more is left.
bool return_some() noexcept;

std::uint64_t bytes_to_return() noexcept;

// How much was moved aside since this was asked last.
std::uint64_t take_bytes_moved() noexcept;

}  // namespace mik::engine
