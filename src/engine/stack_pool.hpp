// The pool of the stacks on which guests run. The engine maps it when it is made, and gives back a
// stack when its guest is over; linked with --wrap=mmap64, --wrap=mprotect and --wrap=madvise these
// calls come here:
// - The guard pages, one below each stack, are made by a few system calls in place of one each
//   (Linux 6.13: MADV_GUARD_INSTALL), and the pool stays one mapping; its page tables, 2 KiB for
//   each stack, are all there from the start.
// - Where memories are reset by PAGEMAP_SCAN: a stack stays as it is for the next guest, unless one
//   page below what is kept was written (which a frame of more than a page may step over): each one
//   on which a guest has recursed to its limit would keep 516 KiB. Looking costs a small guest 1.5
//   %. Not to look at a stack that is used again and again would leave it deep when it is put aside
//   after that.
#pragma once

#include <cstddef>
#include <optional>

#include "base/result.hpp"

namespace mik::engine {

// What always stays of a stack. Small guests of JavaScript and Python use 8 and 12 KiB.
inline constexpr std::size_t kStackKept = 64 << 10;

// From here to stacks_made(), on this thread: a mapping of `count` stacks of `bytes` and a guard
// page each is the pool. False: there is a pool already, and only one is seen at a time; stacks of
// the others stay as they are.
bool expect_stacks(std::size_t count, std::size_t bytes) noexcept;

// The guards are in place. The pool is `owner`'s; null: nothing was made after all. False: no pool
// was seen. kSystem: the kernel refuses guards; nobody may run on these stacks.
base::Result<bool> stacks_made(const void* owner);

// Before the pool is unmapped: its addresses may be others' then. Does nothing for other owners.
void forget_stacks(const void* owner) noexcept;

// How much at the start of the range is to be given back, if the range is a stack of the pool whose
// guest is over; none if it is anything else. Any thread.
std::optional<std::size_t> stack_bytes_to_drop(const void* start, std::size_t bytes) noexcept;

}  // namespace mik::engine
