// Passing an accepted socket to another worker, before anything was read from it (docs/adr/0008).
// Each worker has an inbox: a SOCK_SEQPACKET pair whose sending end everybody holds and whose
// receiving end its owner reads. The supervisor keeps both, so that sockets in the inbox of a dead
// worker reach its successor. Confined to the loop thread of their process.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "base/result.hpp"

namespace mik::shared {

struct InboxPair {
  base::Fd sending;
  base::Fd receiving;
};
// Non-blocking, close-on-exec. Errors: kSystem.
base::Result<InboxPair> make_inbox();

// Passes a duplicate of `socket`; the caller closes its own. False: it could not be passed (the
// inbox is full, too many descriptors are under way), so the caller keeps it.
bool pass_socket(int sending, int socket) noexcept;

// The next socket, close-on-exec; an invalid one when there is none (or none could be had: this
// process has no descriptor left, and the kernel closed the socket).
base::Fd take_socket(int receiving) noexcept;

// The sending ends of all inboxes.
class Outbox {
 public:
  Outbox() = default;
  explicit Outbox(std::vector<base::Fd> peers);

  std::size_t size() const noexcept { return peers_.size(); }
  bool pass(std::size_t slot, int socket) noexcept;
  // How many sockets lie unread in the inbox of that slot, whoever sent them: told by the kernel,
  // so that it is right whatever died.
  std::uint64_t queued(std::size_t slot) const noexcept;

 private:
  std::vector<base::Fd> peers_;
  std::uint64_t bytes_per_message_ = 0;  // of kernel memory
};

}  // namespace mik::shared
